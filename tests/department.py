"""A node that has worked for a while, for its pages: patients who never were, drawn radiographs, many troubles.

Everything is written as the stages write it. With `hostile` each text that came from outside is that text instead.
"""

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from cxr_node.cli.phantom import draw_phantom
from cxr_node.findings import (
    Exclusion,
    ImageAnalysis,
    ImageReference,
    OrderedPriority,
    Score,
    StudyOutcome,
    effective_priority,
)
from cxr_node.findings.priority import parse_ordered, rank
from cxr_node.reporting import encode
from cxr_node.settings import Settings
from cxr_node.worklist.stage import WorklistServer
from cxr_node.worklist.web.access import COOKIE
from storage import (
    Database,
    InstanceFiles,
    deliveries,
    feedback,
    instances,
    jobs,
    results,
    sessions,
    studies,
    users,
)
from storage.studies import PatientContext
from tests.builders import make_material, make_objects, make_radiograph_dataset, to_part_10
from tests.department_site import destinations, operations, people, senders, tried_images

if TYPE_CHECKING:
    from tests.browser.watch import Window

NOON = datetime(2026, 3, 2, 11, 0, tzinfo=UTC)  # noon in Berlin
DIGEST = "3f" * 32
HAND = Exclusion("body-part", "the body part is not the chest", "(0018,0015) Body Part Examined", "HAND")
LATERAL = Exclusion("view", "a lateral view; the model reads frontal ones", "(0018,5101) View Position", "LL")


@dataclass
class Clock:
    """Stands until it is moved."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Case:
    """A study to come. `probability` None: not analysed, for `exclusion`, or pending or failed as `state` says."""

    name: str
    minutes: float
    ordered: str = "ROUTINE"
    probability: float | None = None
    exclusion: Exclusion | None = None
    state: str = ""
    delivery: str = deliveries.DELIVERED
    verdict: str = ""
    age: str = "061Y"
    sex: str = "F"
    view: str = "PA"
    modality: str = "DX"
    sender: str = "CR_ROOM_1"


CASES = (
    Case("Muster^Anna", 4, probability=0.71, age="058Y"),
    Case("Yamada^Tarou", 11, probability=0.83, age="074Y", sex="M", verdict="agree", sender="DX_WARD"),
    Case("Müller^Jürgen", 133, probability=0.04, age="066Y", sex="M"),
    Case("Ejemplo^Pilar", 41, probability=0.12, verdict="disagree", delivery=deliveries.FAILED),
    Case("Nováková^Jana", 26, exclusion=HAND, age="031Y"),
    Case("Dupont^Luc", 22, exclusion=LATERAL, sex="M", view="LL"),
    Case("Kowalska^Ewa", 17, state=studies.FAILED, age="045Y"),
    Case("Smith^John^^Mr", 1, ordered="STAT", state=studies.PENDING, age="081Y", sex="M", sender="DX_WARD"),
    Case("Rossi^Carla", 75, probability=0.08, delivery=deliveries.SCHEDULED),
    Case("Иванов^Иван", 58, ordered="HIGH", probability=0.21, age="052Y", sex="M", modality="CR"),
)


@dataclass
class Department:
    """A database, its files, and the server of its pages. `uids` are the studies, in the order of CASES."""

    folder: Path
    profile: str = "triage"
    hostile: str = ""
    clock: Clock = field(default_factory=Clock)
    token: str = field(default_factory=secrets.token_urlsafe)
    worklist: dict[str, Any] = field(default_factory=dict)  # further keys of the section
    uids: list[str] = field(default_factory=list)
    server: WorklistServer | None = None

    def __post_init__(self) -> None:
        self.settings = Settings.model_validate(
            {
                "base_dir": str(self.folder),
                "node": {"profile": self.profile, "station_name": "Radiology North"},
                "worklist": {
                    "port": 0,
                    "dicom_port": 0,
                    "time_zone": "Europe/Berlin",
                    "viewer_url": "https://viewer.example/?study={study_instance_uid}",
                    **self.worklist,
                },
                "destination": [
                    {"name": "pacs", "kind": "c-store", "ae_title": "PACS", "host": "127.0.0.1", "port": 1},
                    {"name": "ehr", "kind": "hl7-oru", "host": "127.0.0.1", "port": 2, "dry_run": True},
                    {"name": "archive", "kind": "folder", "path": str(self.folder / "archive")},
                ],
                "caller": [{"ae_title": "CR_ROOM_1", "hosts": ["10.0.0.11"]}, {"ae_title": "DX_WARD", "hosts": ["*"]}],
            }
        )
        self.settings.data_dir.mkdir(parents=True, exist_ok=True)
        self.database = Database(self.settings.database_url)
        self.files = InstanceFiles(self.settings.instances_dir)

    @property
    def url(self) -> str:
        """Where the pages are."""
        assert self.server is not None
        return self.server.url

    def start(self) -> None:
        """Serve the pages."""
        self.server = WorklistServer(self.settings, self.database, self.clock)
        self.server.start()

    def stop(self) -> None:
        """End."""
        if self.server is not None:
            self.server.stop()
        self.database.dispose()
        shutil.rmtree(self.folder, ignore_errors=True)

    def furnish(self) -> None:
        """Put everything in."""
        self.database.migrate()
        people(self)
        for number, case in enumerate(CASES):
            self.add(case, number)
        senders(self)
        destinations(self)
        operations(self)
        tried_images(self)

    def session(self, role: str = "admin") -> str:
        """Begin a session of the user of that role, and return its secret."""
        secret, now = secrets.token_urlsafe(32), self.clock.now
        with self.database.begin() as connection:
            user = users.find(connection, f"{role}.person")
            assert user is not None
            sessions.open_session(
                connection,
                user.id,
                secret=secret,
                csrf_token=secrets.token_urlsafe(32),
                address="127.0.0.1",
                now=now,
                ends=now + timedelta(hours=12),
            )
        return secret

    def sign_in(self, window: "Window", role: str = "admin") -> None:
        """Give the window the session of a user of that role."""
        window.sign_in(self.url, self.session(role), COOKIE)

    def add(self, case: Case, number: int) -> str:
        """Add a study with one image, its result, report and deliveries; return its Study Instance UID."""
        at, told = self.clock.now - timedelta(minutes=case.minutes), self.told
        dataset = _image(case, number, at, told)
        uid = f"{dataset.StudyInstanceUID}{self.hostile}"
        context = PatientContext(
            patient_name=told(case.name),
            patient_id=told(dataset.PatientID),
            issuer_of_patient_id=told("HOSPITAL"),
            birth_date=told("19650102"),
            sex=told(case.sex),
            age=told(case.age),
            accession_number=told(dataset.AccessionNumber),
            study_id=told("1"),
            study_date=at.strftime("%Y%m%d"),
            study_time=at.strftime("%H%M%S"),
            study_description=told("Chest"),
            referring_physician_name=told("Hausarzt^Heike"),
            modality=told(case.modality),
            body_part=told("CHEST"),
            view=told(case.view),
            ordered_priority=case.ordered,
        )
        temporary = self.files.new_temporary()
        temporary.write_bytes(to_part_10(dataset))
        location = self.files.keep(temporary, str(dataset.SOPInstanceUID), 0)
        with self.database.begin() as connection:
            instances.add(
                connection,
                sop_instance_uid=f"{dataset.SOPInstanceUID}{self.hostile}",
                series_instance_uid=f"{dataset.SeriesInstanceUID}{self.hostile}",
                study_instance_uid=uid,
                sop_class_uid=told(dataset.SOPClassUID),
                transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
                variant=0,
                size=(self.settings.instances_dir / location).stat().st_size,
                location=location,
                calling_ae_title=told(case.sender),
                called_ae_title=told("CXR_NODE"),
                peer_address="10.0.0.11",
                association_id=told(f"assoc-{number}"),
                received_at=at,
            )
            studies.touch(
                connection,
                uid,
                context,
                ordered_rank=rank(parse_ordered(case.ordered)),
                ordered_reason=told("HL7 order from the RIS") if case.ordered != "ROUTINE" else self.hostile,
                calling_ae_title=told(case.sender),
                now=at,
            )
            if case.state == studies.FAILED:
                self._fail(connection, uid, at)
            elif case.state != studies.PENDING:
                self._analyse(connection, case, dataset, uid, at)
        self.uids.append(uid)
        return uid

    def told(self, text: str) -> str:
        """Return what somebody outside wrote."""
        return self.hostile or str(text)

    def _analyse(self, connection: Any, case: Case, dataset: Dataset, uid: str, at: datetime) -> None:
        told = self.told
        exclusion = case.exclusion and Exclusion(
            *(told(getattr(case.exclusion, name)) for name in vars(case.exclusion))
        )
        flagged = (case.probability or 0) >= 0.5
        scores = () if case.probability is None else (_score(case.probability, told, flagged),)
        (instance,) = instances.of_study(connection, uid)
        image = ImageReference(instance.sop_instance_uid, instance.sop_class_uid, instance.series_instance_uid)
        analysis = ImageAnalysis(image, scores, exclusion, (told("window of the sender was not used"),))
        from cxr_node.analyze.record import to_json

        outcome = to_json(StudyOutcome(uid, (analysis,)), notes=[told("one announced image has not arrived")])
        ai = OrderedPriority.HIGH if flagged else None
        effective = effective_priority(parse_ordered(case.ordered), ai)
        status = studies.ANALYSED if scores else studies.NOT_ANALYSED
        done = at + timedelta(seconds=0.4)
        result = results.add(
            connection, uid, status=status, flagged=flagged, ai_priority=str(ai or ""), outcome=outcome, now=done
        )
        for score in scores:
            prediction = results.Prediction(
                *(instance.id, score.model, score.model_version, score.model_digest, score.finding),
                *(score.probability, score.probability, done),
            )
            results.add_prediction(connection, prediction)
        if scores and not self.hostile:
            self._report(connection, result.id, dataset, scores, done)
        studies.set_outcome(
            connection,
            uid,
            status=status,
            flagged=flagged,
            ai_priority=str(ai or ""),
            effective_priority=str(effective),
            priority_rank=rank(effective),
            notified_at=done,
            revision=result.revision,
        )
        reason = told("the association was refused: Called AE Title not recognised")
        for name in ("pacs", "archive") if not self.hostile else (self.hostile,):
            state = case.delivery if name != "archive" else deliveries.DELIVERED
            delivery = deliveries.add(connection, result.id, kind="sr", destination=name, now=done)
            why = reason if state != deliveries.DELIVERED else ""
            deliveries.set_state(connection, delivery.id, state, reason=why, now=done + timedelta(seconds=6))
        if case.verdict:
            self._verdict(connection, result.id, uid, case.verdict)

    def _report(self, connection: Any, result_id: int, dataset: Dataset, scores: Any, now: datetime) -> None:
        report = make_objects(make_material(dataset, probability=scores[0].probability))["sr"]
        results.add_object(
            connection,
            result_id,
            kind="sr",
            sop_class_uid=str(report.SOPClassUID),
            sop_instance_uid=str(report.SOPInstanceUID),
            location=self.files.write_object(str(report.SOPInstanceUID), encode(report)),
            now=now,
        )

    def _verdict(self, connection: Any, result_id: int, uid: str, verdict: str) -> None:
        feedback.add(
            connection,
            result_id,
            verdict=verdict,
            reader="reader.person",
            finding="pneumonia",
            comment=self.told("seen on the lateral view too"),
            now=self.clock.now - timedelta(minutes=1),
        )
        studies.mark_opened(connection, uid, by="reader.person", now=self.clock.now - timedelta(minutes=2))
        studies.set_verdict(connection, uid, verdict)

    def _fail(self, connection: Any, uid: str, at: datetime) -> None:
        jobs.schedule(connection, "analyze", uid, run_at=at, now=at)
        (claimed,) = jobs.claim(connection, ["analyze"], owner="analyze:1", now=self.clock.now)
        reason = self.told("the pixel data ends after 812,204 of 2,097,152 bytes")
        assert jobs.fail(connection, claimed, reason=reason, now=self.clock.now)
        studies.set_outcome(
            connection,
            uid,
            status=studies.FAILED,
            flagged=False,
            ai_priority="",
            effective_priority="ROUTINE",
            priority_rank=rank(OrderedPriority.ROUTINE),
            notified_at=at,
            revision=0,
        )


def _score(probability: float, told: Callable[[str], str], flagged: bool) -> Score:
    return Score(
        *(told("pneumonia"), told("pneumonia-adult"), told("1.0.0"), DIGEST),
        *(probability, 0.5, told("sensitive"), flagged),
    )


def _image(case: Case, number: int, at: datetime, told: Callable[[str], str]) -> Dataset:
    uid = generate_uid(entropy_srcs=[f"{case.name}{number}"])
    return make_radiograph_dataset(
        _drawing(0.9 if (case.probability or 0) >= 0.5 else 0.1),
        StudyInstanceUID=uid,
        SeriesInstanceUID=generate_uid(entropy_srcs=[uid, "series"]),
        SOPInstanceUID=generate_uid(entropy_srcs=[uid, "instance"]),
        SpecificCharacterSet="ISO_IR 192",
        PatientName=case.name,
        PatientID=f"P-{4711 + 97 * number}",
        AccessionNumber=f"R-{8120 + 7 * number}",
        StudyDate=at.strftime("%Y%m%d"),
        StudyTime=at.strftime("%H%M%S"),
        WindowCenter=2048,
        WindowWidth=4096,
    )


@cache
def _drawing(opacity: float) -> np.ndarray:
    return draw_phantom(np.random.default_rng(7), opacity=opacity)
