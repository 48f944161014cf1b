"""A claim that came up short waits for more, where that is worth it."""

import threading
from datetime import UTC, datetime

import pytest

from cxr_node.work import Worker
from storage import Doorbell, jobs
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-INF-210")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield database
    database.dispose()


@pytest.fixture
def schedule(database):
    """Return a function that makes jobs due."""

    def add(*keys):
        with database.begin() as connection:
            for key in keys:
                jobs.schedule(connection, "analyze", key, run_at=NOON, now=NOON)

    return add


@pytest.fixture
def claims():
    """What was handled together, claim by claim."""
    return []


@pytest.fixture
def make(database, tmp_path, claims):
    """Return a function that makes a worker of four jobs a claim."""

    def worker(fill_s, **options):
        def handle(claimed):
            claims.append(sorted(job.key for job in claimed))
            for job in claimed:
                yield job, lambda connection: None

        return Worker(
            database=database,
            doorbell=Doorbell(tmp_path / "run"),
            kinds=("analyze",),
            topic="analyze",
            handle=handle,
            owner="analyze:1",
            batch=4,
            fill_s=fill_s,
            now=lambda: NOON,
            **options,
        )

    return worker


def test_on_a_processor_nothing_is_waited_for(make, schedule, claims):
    """One study after the other takes as long as all together: waiting only makes the first one late."""
    schedule("1", "2")
    asked = []
    make(lambda: asked.append(1) or 0.0).run_once()
    assert claims == [["1", "2"]]
    assert asked == [1]


def test_a_full_claim_waits_for_nobody(make, schedule, claims):
    schedule("1", "2", "3", "4", "5")
    make(lambda: pytest.fail("asked")).run_once()
    assert claims == [["1", "2", "3", "4"]]


def test_what_comes_while_a_claim_waits_is_taken_with_it(make, schedule, claims, tmp_path, database):
    """Images of several rooms come within milliseconds of one another: a GPU takes them in one go."""
    bell, stop = Doorbell(tmp_path / "run"), threading.Event()

    def fill_s():  # asked once the first was claimed: the others come after it
        schedule("2", "3", "4")
        bell.ring("analyze")
        return 3600.0

    schedule("1")
    worker = make(fill_s)
    thread = threading.Thread(target=worker.run, args=(stop,), daemon=True)
    thread.start()
    try:
        for _ in range(1500):
            if claims:
                break
            stop.wait(0.02)
        assert claims == [["1", "2", "3", "4"]]
    finally:
        stop.set()
        bell.ring("analyze")
        thread.join(15)
    with database.read() as connection:
        assert jobs.counts(connection) == {("analyze", "COMPLETED"): 4}


def test_the_wait_has_an_end(make, schedule, claims):
    """A study alone in the night is not kept for company."""
    schedule("1")
    make(lambda: 0.01).run_once()
    assert claims == [["1"]]
