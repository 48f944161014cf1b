"""The worker's loop over a real database: settled together, retried, failed, never lost."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from cxr_node.errors import UnreadablePixels
from cxr_node.work import Worker
from storage import Doorbell, audit, jobs
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-WRK-002")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield database
    database.dispose()


@pytest.fixture
def make_worker(database, tmp_path):
    def make(handle, **options):
        return Worker(
            database=database,
            doorbell=Doorbell(tmp_path / "run"),
            kinds=("analyze",),
            topic="analyze",
            handle=handle,
            owner=options.pop("owner", "analyze:1"),
            now=options.pop("now", lambda: NOON),
            **options,
        )

    return make


def _schedule(database, *keys, run_at=NOON):
    with database.begin() as connection:
        for key in keys:
            jobs.schedule(connection, "analyze", key, run_at=run_at, now=NOON)


def _states(database):
    with database.read() as connection:
        return {state: count for (_, state), count in jobs.counts(connection).items()}


def _note(text):
    return lambda connection: audit.record(connection, text, actor="test", now=NOON)


def _noted(database):
    with database.read() as connection:
        return [event.event for event in audit.events(connection)]


def test_a_settlement_and_the_completion_are_one_transaction(database, make_worker):
    """A result without its job done would be made twice; a job done without its result would be lost."""
    _schedule(database, "1.2")

    def handle(claimed):
        for job in claimed:

            def settle(connection):
                audit.record(connection, "kept", actor="test", now=NOON)
                raise ValueError("after the row")

            yield job, settle

    make_worker(handle).run_once()
    assert _noted(database) == []
    assert _states(database) == {"SCHEDULED": 1}


def test_each_job_of_a_claim_has_its_own_end(database, make_worker):
    """One bad study does not hold up the others."""
    _schedule(database, "good", "bad")

    def handle(claimed):
        for job in claimed:
            yield job, UnreadablePixels("no pixels") if job.key == "bad" else _note(job.key)

    assert make_worker(handle, batch=8).run_once() == 2
    assert _noted(database) == ["good"]
    assert _states(database) == {"COMPLETED": 1, "FAILED": 1}


def test_a_handler_that_raises_halfway_keeps_what_it_settled(database, make_worker):
    """And the rest is tried again, alone."""
    _schedule(database, "a", "b", "c")
    seen = []

    def handle(claimed):
        for index, job in enumerate(claimed):
            seen.append(job.key)
            if index:
                raise RuntimeError("broken library")
            yield job, _note(job.key)

    worker = make_worker(handle, batch=8)
    worker.run_once()
    assert _noted(database) == ["a"]
    assert _states(database) == {"COMPLETED": 1, "SCHEDULED": 2}


def test_a_failure_for_good_tells_the_stage_in_the_same_transaction(database, make_worker):
    """The study must show as failed when its job is given up."""
    _schedule(database, "bad")
    told = []
    worker = make_worker(
        lambda claimed: [(job, UnreadablePixels("no pixels")) for job in claimed],
        on_failed=lambda connection, job, reason: told.append((job.key, reason)),
    )
    worker.run_once()
    assert told == [("bad", "no pixels")]


def test_a_job_that_kills_its_workers_is_given_up_without_being_tried_again(database, make_worker):
    """Otherwise one poison image would stop a node for ever."""
    _schedule(database, "poison")
    for attempt in range(3):
        with database.begin() as connection:
            assert jobs.claim(connection, ["analyze"], owner=f"dead:{attempt}", now=NOON)
            jobs.release_owner(connection, f"dead:{attempt}", now=NOON)
    handled = []

    def handle(claimed):
        handled.extend(claimed)
        return []

    make_worker(handle, max_attempts=lambda job: 3).run_once()
    assert handled == []
    assert _states(database) == {"FAILED": 1}


def test_a_lost_lease_keeps_nothing(database, make_worker):
    """Another worker holds the job now; two results would contradict one another."""
    _schedule(database, "slow")
    late = NOON + timedelta(minutes=5)

    def handle(claimed):
        with database.begin() as connection:
            jobs.recover_expired(connection, now=late)
            assert jobs.claim(connection, ["analyze"], owner="other:2", now=late)
        return [(job, _note("mine")) for job in claimed]

    make_worker(handle).run_once()
    assert _noted(database) == []
    assert _states(database) == {"IN_PROGRESS": 1}


def test_a_worker_wakes_at_the_bell_and_stops_when_told(database, make_worker, tmp_path):
    """A study must not wait for the next poll."""
    done = threading.Event()
    stop = threading.Event()

    def handle(claimed):
        done.set()
        return [(job, _note("woken")) for job in claimed]

    thread = threading.Thread(target=make_worker(handle).run, args=(stop,))
    thread.start()
    try:
        _schedule(database, "1.2")
        Doorbell(tmp_path / "run").ring("analyze")
        assert done.wait(30)
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
    assert _states(database) == {"COMPLETED": 1}
