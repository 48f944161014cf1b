"""What is concluded of a study, from images as the analyzer leaves them."""

from datetime import UTC, datetime

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from cxr_node.analyze.analyzer import Analyzed, Prepared
from cxr_node.analyze.record import to_json
from cxr_node.analyze.settle import settlement
from cxr_node.analyze.study import OpenStudy, conclude
from cxr_node.findings import ImageAnalysis, ImageReference, Score, StudyOutcome
from cxr_node.imaging import is_image
from cxr_node.reporting import Device
from cxr_node.settings import Destination
from storage import InstanceFiles, deliveries, instances, jobs, results, studies
from storage.results import Result
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-ANA-002")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEVICE = Device("cxr-node", "cxr-node project", "cxr-node", "1", "0.1.0", "2.25.1")
DIGEST = "ab" * 32


@pytest.fixture
def database(tmp_path):
    database = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield database
    database.dispose()


@pytest.fixture
def files(tmp_path):
    return InstanceFiles(tmp_path / "files")


def _header(patient: str) -> Dataset:
    header = Dataset()
    header.PatientID, header.Modality = patient, "DX"
    return header


def _analyzed(number: int, probability: float, patient: str = "P1") -> Analyzed:
    reference = ImageReference(f"1.2.{number}", DigitalXRayImageStorageForPresentation, "1.3")
    score = Score("pneumonia", "m", "1", DIGEST, probability, 0.5, "locked", probability >= 0.5)
    return Analyzed(
        Prepared(reference, _header(patient)),
        ImageAnalysis(reference, (score,)),
        raw={DIGEST: {"pneumonia": probability}},
    )


def _open(database, images: int = 1, current: Result | None = None) -> OpenStudy:
    context = studies.PatientContext(patient_id="P1", ordered_priority="ROUTINE")
    with database.begin() as connection:
        studies.touch(connection, "1.2", context, ordered_rank=1, calling_ae_title="CR", now=NOON)
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        (job,) = jobs.claim(connection, ["analyze"], owner="t:1:", now=NOON)
        kept = tuple(
            instances.add(
                connection,
                sop_instance_uid=f"1.2.{number}",
                series_instance_uid="1.3",
                study_instance_uid="1.2",
                sop_class_uid=DigitalXRayImageStorageForPresentation,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=1,
                location=f"instances/aa/{number}",
                calling_ae_title="CR",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="a",
                received_at=NOON,
            )
            for number in range(images)
        )
        study = studies.get(connection, "1.2")
    assert study is not None
    return OpenStudy(job, study, kept, (), {}, current, {})


def test_images_of_two_patients_get_no_score_and_no_report(database):
    """One patient's scores would stand under the other's name."""
    concluded = conclude(
        _open(database, 2), [_analyzed(0, 0.9), _analyzed(1, 0.1, "P2")], device=DEVICE, content_time=NOON
    )
    assert concluded is not None
    assert not concluded.objects
    assert not concluded.outcome.flagged
    assert {item.exclusion.reason for item in concluded.outcome.exclusions if item.exclusion} == {"two-patients"}


def test_an_analysis_that_says_the_same_is_no_new_revision(database):
    """A resend, or a report that comes back from the PACS, must not start a loop."""
    analyzed = [_analyzed(0, 0.9)]
    outcome = StudyOutcome("1.2", tuple(item.analysis for item in analyzed))
    current = Result(1, "1.2", 1, NOON, "analysed", True, "HIGH", to_json(outcome), None)
    assert conclude(_open(database, 1, current), analyzed, device=DEVICE, content_time=NOON) is None


@pytest.mark.parametrize(
    ("probability", "priority", "rank"), [(0.9, "HIGH", 3), (0.1, "ROUTINE", 1)], ids=["flagged", "not flagged"]
)
def test_a_conclusion_is_settled_whole(database, files, probability, priority, rank):
    """Result, report, priority, deliveries and their jobs appear together."""
    opened = _open(database)
    concluded = conclude(opened, [_analyzed(0, probability)], device=DEVICE, content_time=NOON)
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1")
    apply = settlement(opened, concluded, files=files, destinations=(destination,), now=lambda: NOON)
    with database.begin() as connection:
        apply(connection)
    with database.read() as connection:
        study = studies.get(connection, "1.2")
        result = results.current(connection, "1.2")
        assert study is not None
        assert result is not None
        assert (study.effective_priority, study.priority_rank, study.revision) == (priority, rank, 1)
        stored, notice = results.objects(connection, result.id)
        assert (stored.kind, notice.kind) == ("sr", "priority")
        assert files.path(stored.location).is_file()
        (delivery,) = deliveries.of_study(connection, "1.2")
        assert (delivery.destination, delivery.state) == ("pacs", "SCHEDULED")
        assert jobs.counts(connection)["deliver", "SCHEDULED"] == 1
        (prediction,) = results.predictions(connection, opened.images[0].id)
        assert prediction.score == probability


def test_a_settlement_that_does_not_commit_leaves_no_row(database, files):
    """The report's bytes may lie there; nothing names them, and the next attempt is free."""
    opened = _open(database)
    concluded = conclude(opened, [_analyzed(0, 0.9)], device=DEVICE, content_time=NOON)
    apply = settlement(opened, concluded, files=files, destinations=(), now=lambda: NOON)

    def die_before_the_commit():
        with database.begin() as connection:
            apply(connection)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        die_before_the_commit()
    with database.read() as connection:
        assert results.current(connection, "1.2") is None
        assert studies.get(connection, "1.2").status == "pending"


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.1", True),
        ("1.2.840.10008.5.1.4.1.1.7", True),
        ("1.2.840.10008.5.1.4.1.1.12.2", True),
        ("1.2.840.10008.5.1.4.1.1.88.34", False),
        ("1.2.840.10008.5.1.4.1.1.88.59", False),
        ("1.2.840.10008.5.1.4.1.1.104.1", False),
        ("1.2.3", False),
    ],
)
def test_reports_and_documents_are_no_images(sop_class, expected):
    """They are kept, and no image to exclude."""
    assert is_image(sop_class) is expected
