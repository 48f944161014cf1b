"""A study on a real database, analysed by hand: images come, scores are given, everything else is the node's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from cxr_node.analyze.analyzer import Analyzed, Prepared
from cxr_node.analyze.settle import GivenUp, settlement
from cxr_node.analyze.study import conclude, load_study, reference
from cxr_node.findings import Exclusion, ImageAnalysis, Score
from cxr_node.findings.priority import rank_of
from cxr_node.reporting import Device, Notice, read_notice
from cxr_node.settings import Destination
from storage import Database, InstanceFiles, deliveries, instances, jobs, results, studies
from tests.databases import migrated

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEVICE = Device("cxr-node", "cxr-node project", "cxr-node", "1", "0.1.0", "2.25.1")
DIGEST = "ab" * 32
UID = "1.2"
WAIT_S = 300.0
DESTINATIONS = (
    Destination(name="pacs", ae_title="PACS", host="127.0.0.1", objects=("sr",), settle_s=5.0),
    Destination(name="ris", kind="webhook", url="http://127.0.0.1/"),
)


def header_of(patient: str, **attributes: str) -> Dataset:
    """What the images say of their patient."""
    header = Dataset()
    header.PatientID, header.Modality = patient, "DX"
    header.PatientName = f"{patient}^NAME"
    for keyword, value in attributes.items():
        setattr(header, keyword, value)
    return header


@dataclass
class Line:
    """The steps of a study, at a clock that only `pass_time` moves."""

    database: Database
    files: InstanceFiles
    destinations: Sequence[Destination] = DESTINATIONS
    now: datetime = NOON
    images: dict[str, tuple[float | None, Dataset]] = field(default_factory=dict)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def arrive(
        self,
        number: int,
        probability: float | None = 0.1,
        *,
        patient: str = "P1",
        ordered: str = "ROUTINE",
        uid: str = UID,
        calling: str = "CR",
        **attributes: str,
    ) -> None:
        """An image comes; None for a probability is an excluded one."""
        sop = f"{uid}.{number}"
        self.images[sop] = (probability, header_of(patient, **attributes))
        with self.database.begin() as connection:
            if not instances.by_sop_instance_uid(connection, sop):
                instances.add(
                    connection,
                    sop_instance_uid=sop,
                    series_instance_uid=f"{uid}.0",
                    study_instance_uid=uid,
                    sop_class_uid=DigitalXRayImageStorageForPresentation,
                    transfer_syntax_uid="1.2.840.10008.1.2.1",
                    variant=0,
                    size=1,
                    location=f"instances/aa/{sop}",
                    calling_ae_title=calling,
                    called_ae_title="CXR_NODE",
                    peer_address="127.0.0.1",
                    association_id=calling,
                    received_at=self.now,
                )
            context = studies.PatientContext(
                patient_id=patient, accession_number="A1", ordered_priority=ordered, patient_name=f"{patient}^NAME"
            )
            studies.touch(
                connection, uid, context, ordered_rank=rank_of(ordered), calling_ae_title=calling, now=self.now
            )
            jobs.schedule(connection, "analyze", uid, run_at=self.now, now=self.now, priority=rank_of(ordered))
        path = self.files.path(f"instances/aa/{sop}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")

    def claim(self, uid: str = UID):
        with self.database.begin() as connection:
            claimed = jobs.claim(connection, ["analyze"], owner="t:1:", now=self.now, limit=9)
            for job in claimed:
                if job.key != uid:
                    jobs.retry(connection, job, run_at=self.now, reason="", now=self.now)
        return next((job for job in claimed if job.key == uid), None)

    def analyse(self, uid: str = UID, between=lambda: None) -> None:
        """Do the analysis job if it is due; `between` happens after the study was read."""
        job = self.claim(uid)
        if job is None:
            return
        opened = load_study(self.database, self.files, job)
        assert opened is not None
        between()
        analyzed = [self._analyzed(reference(item)) for item in opened.images]
        concluded = conclude(
            opened, analyzed, device=DEVICE, content_time=self.now, kinds=("sr", "priority"), manifest_wait_s=WAIT_S
        )
        apply = settlement(
            opened,
            concluded,
            files=self.files,
            destinations=self.destinations,
            now=lambda: self.now,
            manifest_wait_s=WAIT_S,
        )
        with self.database.begin() as connection:
            apply(connection)
            assert jobs.complete(connection, job, now=self.now)

    def fail(self, uid: str = UID, reason: str = "PoisonJob") -> None:
        """The analysis job, if it is due, is given up."""
        job = self.claim(uid)
        if job is None:
            return
        with self.database.begin() as connection:
            assert jobs.fail(connection, job, reason=reason, now=self.now)
            GivenUp(self.files, self.destinations, now=lambda: self.now)(connection, job, reason)

    def _analyzed(self, image) -> Analyzed:
        probability, header = self.images[image.sop_instance_uid]
        if probability is None:
            excluded = Exclusion("lateral", "a lateral view", "(0018,5101) View Position")
            return Analyzed(Prepared(image, header, excluded), ImageAnalysis(image, exclusion=excluded))
        score = Score("pneumonia", "m", "1", DIGEST, probability, 0.5, "locked", probability >= 0.5)
        raw = {DIGEST: {"pneumonia": probability}}
        return Analyzed(Prepared(image, header), ImageAnalysis(image, (score,)), raw=raw)

    def deliver(self) -> None:
        """Every delivery that waits arrives."""
        with self.database.begin() as connection:
            for item in deliveries.in_state(connection, "SCHEDULED", before=datetime.max.replace(tzinfo=UTC), limit=99):
                deliveries.set_state(
                    connection, item.id, "DELIVERED", now=self.now, sop_instance_uid=self._sent(connection, item)
                )

    @staticmethod
    def _sent(connection, item) -> str:
        return next(
            stored.sop_instance_uid
            for stored in results.objects(connection, item.result_id)
            if stored.kind == item.kind
        )

    def study(self, uid: str = UID):
        with self.database.read() as connection:
            found = studies.get(connection, uid)
        assert found is not None
        return found

    def deliveries(self, uid: str = UID) -> list[tuple[int, str, str]]:
        """(revision, kind, state) of all."""
        with self.database.read() as connection:
            return [(item.revision, item.kind, item.state) for item in deliveries.of_study(connection, uid)]

    def notices(self, uid: str = UID) -> list[Notice]:
        """What was told of the priority, oldest first."""
        with self.database.read() as connection:
            stored = [
                item
                for result in results.revisions(connection, uid)
                for item in results.objects(connection, result.id)
                if item.kind == "priority"
            ]
        return [read_notice(self.files.read(item.location)) for item in stored]

    def due_in_s(self, kind: str, key: str) -> float:
        with self.database.read() as connection:
            job = jobs.get(connection, kind, key)
        assert job is not None
        return (job.run_at - self.now).total_seconds()

    def report_due_in_s(self, uid: str = UID) -> float:
        """When the newest report may leave."""
        with self.database.read() as connection:
            sent = [item for item in deliveries.of_study(connection, uid) if item.kind == "sr"]
        return self.due_in_s("deliver", str(sent[-1].id))


@pytest.fixture
def line(tmp_path):
    database = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield Line(database, InstanceFiles(tmp_path / "files"))
    database.dispose()
