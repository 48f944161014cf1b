"""What the intake sets going with the first image of a study, and how a back-catalogue run is told from live images."""

from datetime import timedelta

import pytest

from cxr_node.receive.intake import Intake, Requested
from cxr_node.receive.records import BACKFILL_RANK, Sender
from storage import backfills, jobs, manifests, studies
from storage.manifests import COMPLETED, Listed
from tests.builders import make_radiograph_dataset, to_part_10
from tests.cxr_node.receive.test_intake import NOON, QUIET_PERIOD_S, UIDS, Desk

STUDY = UIDS["StudyInstanceUID"]


@pytest.fixture
def desk(tmp_path):
    found = Desk(tmp_path)
    yield found
    found.database.dispose()


def _asking(desk) -> Intake:
    return Intake(
        desk.database,
        desk.files,
        desk.doorbell,
        quiet_period_s=QUIET_PERIOD_S,
        min_free_bytes=0,
        asks_for_orders=True,
    )


def _image(number: int = 1, **attributes):
    return make_radiograph_dataset(**{**UIDS, "SOPInstanceUID": f"1.2.3.1.{number}", **attributes})


def _accept(desk, dataset, *, at_s: float = 0.0, intake: Intake | None = None) -> None:
    """Take an image in, that long after noon."""
    path = desk.files.new_temporary()
    path.write_bytes(to_part_10(dataset))
    requested = Requested(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.file_meta.TransferSyntaxUID)
    )
    sender = Sender("CR_ROOM_1", "CXR_NODE", "192.0.2.1", "a1")
    at = NOON + timedelta(seconds=at_s)
    assert (intake or desk.intake).accept(path, requested, sender, now=lambda: at).answer.status == 0


def _job(desk, kind: str):
    with desk.database.read() as connection:
        return jobs.get(connection, kind, STUDY)


@pytest.mark.requirement("SRS-ORD-011")
def test_orders_are_asked_for_once_with_the_first_image_and_only_where_there_is_somebody_to_ask(desk):
    """A study of two hundred images is asked about once; a site without a RIS has no such jobs."""
    _accept(desk, _image(1))
    assert _job(desk, "order") is None
    other = Desk(desk.root / "other")
    intake, bell = _asking(other), other.doorbell.listen("orders")
    try:
        _accept(other, _image(1), intake=intake)
        assert bell.wait(30)
        _accept(other, _image(2), at_s=1, intake=intake)
        job = _job(other, "order")
        assert (job.state, job.wanted) == ("SCHEDULED", 1)
        assert not bell.wait(0)
    finally:
        bell.close()
        other.database.dispose()


@pytest.mark.requirement("SRS-RCV-007")
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ("ROUTINE", "")),
        ({"RequestedProcedurePriority": "STAT"}, ("STAT", "request in the images")),
        ({"RequestedProcedurePriority": "ROUTINE"}, ("ROUTINE", "request in the images")),
    ],
)
def test_a_priority_in_the_images_says_so_and_the_default_is_nobodys_order(desk, attributes, expected):
    """The worklist shows where a priority comes from."""
    _accept(desk, _image(1, **attributes))
    study = desk.study()
    assert (study.ordered_priority, study.ordered_reason) == expected


@pytest.mark.requirement("SRS-RCV-201")
def test_the_last_announced_image_is_not_waited_after(desk):
    """Whoever said what the study consists of need not keep quiet."""
    listed = [Listed(f"1.2.3.1.{number}", "1.2", "1.3", True) for number in (1, 2)]
    with desk.database.begin() as connection:
        manifests.add(
            connection,
            "mpps",
            "7.1",
            [STUDY],
            state=COMPLETED,
            instances=listed,
            calling_ae_title="CR",
            now=NOON,
        )
    _accept(desk, _image(1))
    assert _job(desk, "analyze").run_at == NOON + timedelta(seconds=QUIET_PERIOD_S)
    _accept(desk, _image(2), at_s=3)
    assert _job(desk, "analyze").run_at == NOON + timedelta(seconds=3)


@pytest.mark.requirement("SRS-RCV-204")
def test_a_fetched_study_is_of_the_back_catalogue_until_a_live_image_comes(desk):
    """It never pushes in front of the patients of today; and a patient of today is never hidden in the catalogue."""
    with desk.database.begin() as connection:
        run = backfills.plan(connection, "pacs", {}, {STUDY: 2}, now=NOON)
        assert backfills.begin(connection, run.id, STUDY, now=NOON)
    for number in (1, 2):
        _accept(desk, _image(number, RequestedProcedurePriority="STAT"), at_s=number)
    assert desk.study().origin == studies.BACKFILL
    assert _job(desk, "analyze").priority == BACKFILL_RANK
    with desk.database.begin() as connection:
        assert studies.listed(connection, since=NOON) == []
        backfills.settle(connection, run.id, STUDY, backfills.FETCHED, now=NOON)
    _accept(desk, _image(2, RequestedProcedurePriority="STAT"), at_s=3)
    assert desk.study().origin == studies.BACKFILL, "the same image again is no new one"
    _accept(desk, _image(3), at_s=4)
    assert desk.study().origin == ""
    with desk.database.read() as connection:
        assert [study.study_instance_uid for study in studies.listed(connection, since=NOON)] == [STUDY]


@pytest.mark.requirement("SRS-RCV-204")
def test_a_study_that_was_here_before_the_run_stays_live(desk):
    """A run that covers today finds the studies of today here."""
    _accept(desk, _image(1))
    with desk.database.begin() as connection:
        run = backfills.plan(connection, "pacs", {}, {STUDY: 2}, now=NOON)
        backfills.begin(connection, run.id, STUDY, now=NOON)
    _accept(desk, _image(2), at_s=1)
    assert desk.study().origin == ""
