"""Back-catalogue runs: what is on a list, how far it is, and what counts as fetched."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import backfills, instances, studies
from storage.backfills import COMPLETED, FAILED, FETCHED, FETCHING, PLANNED, RUNNING, SKIPPED
from storage.errors import StorageError
from storage.studies import BACKFILL, PatientContext

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def add_study(connection, uid: str, origin: str = "") -> None:
    studies.touch(connection, uid, PatientContext(), ordered_rank=0, calling_ae_title="CR_ROOM_1", now=NOON)
    studies.set_origin(connection, uid, origin)


def add_instance(connection, study: str, uid: str, variant: int = 0) -> None:
    instances.add(
        connection,
        sop_instance_uid=uid,
        series_instance_uid="1.9",
        study_instance_uid=study,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        variant=variant,
        size=1,
        location=f"instances/aa/{uid}-{variant}",
        calling_ae_title="",
        called_ae_title="",
        peer_address="",
        association_id="",
        received_at=NOON,
    )


def states(connection, run: int) -> dict[str, str]:
    return {study.study_instance_uid: study.state for study in backfills.studies_of(connection, run)}


@pytest.mark.requirement("SRS-STO-601")
def test_what_is_here_already_is_skipped_and_stays_live(database):
    """A study that its modality sent is no back-catalogue study because somebody asks for the day again."""
    with database.begin() as connection:
        add_study(connection, "1.1")
        run = backfills.plan(connection, "pacs", {"dates": "20240101"}, {"1.1": 2, "1.2": 3}, now=NOON)
        assert states(connection, run.id) == {"1.1": SKIPPED, "1.2": PLANNED}
        assert not backfills.is_backfill(connection, "1.1")
        assert backfills.get(connection, run.id) == run
        assert (run.state, run.query) == (RUNNING, {"dates": "20240101"})
        assert backfills.listed(connection) == [run]
        assert backfills.get(connection, run.id + 1) is None


@pytest.mark.requirement("SRS-STO-602")
def test_a_study_counts_as_fetched_from_when_it_is_asked_for(database):
    """One that waits on the list and is sent by its modality meanwhile is live, and is not asked for any more."""
    with database.begin() as connection:
        run = backfills.plan(connection, "pacs", {}, {"1.1": 1, "1.2": 1}, now=NOON).id
        assert not backfills.is_backfill(connection, "1.1")
        assert backfills.begin(connection, run, "1.1", now=at(1))
        assert backfills.is_backfill(connection, "1.1")
        backfills.settle(connection, run, "1.1", FETCHED, now=at(2))
        assert backfills.is_backfill(connection, "1.1")
        add_study(connection, "1.2")
        assert not backfills.begin(connection, run, "1.2", now=at(3))
        assert not backfills.is_backfill(connection, "1.2")
        (first, second) = backfills.studies_of(connection, run)
        assert (first.state, first.attempts, second.state, second.attempts) == (FETCHED, 1, SKIPPED, 0)
        assert backfills.complete(connection, run, now=at(4))
        assert backfills.get(connection, run).state == COMPLETED


@pytest.mark.requirement("SRS-STO-603")
def test_a_run_goes_on_where_it_was(database):
    """What was under way is asked for again though part of it is here, and what failed; what is done stays."""
    with database.begin() as connection:
        run = backfills.plan(connection, "pacs", {}, {"1.1": 1, "1.2": 2, "1.3": 1, "1.4": 1}, now=NOON).id
        for uid in ("1.1", "1.2", "1.3"):
            assert backfills.begin(connection, run, uid, now=at(1))
        backfills.settle(connection, run, "1.1", FETCHED, now=at(2))
        backfills.settle(connection, run, "1.3", FAILED, reason="0 of 1 instances are here", now=at(2))
        add_study(connection, "1.2", BACKFILL)
        assert not backfills.complete(connection, run, now=at(3))
        assert backfills.resume(connection, run, now=at(4)) == 3
        assert states(connection, run) == {"1.1": FETCHED, "1.2": FETCHING, "1.3": PLANNED, "1.4": PLANNED}
        assert backfills.begin(connection, run, "1.2", now=at(5))
        assert backfills.counts(connection, run) == {PLANNED: 2, FETCHING: 1, FETCHED: 1, FAILED: 0, SKIPPED: 0}
        assert backfills.studies_of(connection, run, [PLANNED])[0].reason == ""
        with pytest.raises(StorageError):
            backfills.settle(connection, run, "9.9", FETCHED, now=at(6))
        with pytest.raises(StorageError):
            backfills.resume(connection, run + 1, now=at(6))


@pytest.mark.requirement("SRS-STO-601")
def test_a_study_that_a_run_left_unfinished_is_asked_for_by_the_next(database):
    """And one that a run fetched whole is not."""
    with database.begin() as connection:
        first = backfills.plan(connection, "pacs", {}, {"1.1": 1, "1.2": 1}, now=NOON).id
        for uid, state in (("1.1", FETCHED), ("1.2", FAILED)):
            backfills.begin(connection, first, uid, now=at(1))
            add_study(connection, uid, BACKFILL)
            backfills.settle(connection, first, uid, state, now=at(2))
        second = backfills.plan(connection, "pacs", {}, {"1.1": 1, "1.2": 1}, now=at(3)).id
        assert states(connection, second) == {"1.1": SKIPPED, "1.2": PLANNED}
        assert [run.id for run in backfills.listed(connection)] == [second, first]


@pytest.mark.requirement("SRS-STO-603")
def test_arrived_counts_instances_not_variants_nor_what_retention_left(database):
    """The number is held against what the source announced."""
    with database.begin() as connection:
        add_instance(connection, "1.1", "5.1")
        add_instance(connection, "1.1", "5.1", variant=1)
        add_instance(connection, "1.1", "5.2")
        add_instance(connection, "1.2", "5.3")
        instances.mark_deleted(connection, [instances.by_sop_instance_uid(connection, "5.2")[0].id], now=at(1))
        assert backfills.arrived(connection, "1.1") == 2


@pytest.mark.requirement("SRS-STO-601")
def test_long_lists_are_planned_whole(database):
    """A year of a department is some ten thousand studies; they are written in batches."""
    with database.begin() as connection:
        add_study(connection, "1.700")
        run = backfills.plan(connection, "pacs", {}, {f"1.{number}": 1 for number in range(1201)}, now=NOON).id
        found = backfills.counts(connection, run)
        assert (found[PLANNED], found[SKIPPED]) == (1200, 1)
