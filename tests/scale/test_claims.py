"""Many workers on many hosts over one queue: each job once, the most urgent first, a lane's jobs one at a time."""

import itertools
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, func, select, text, update

from cxr_node.work import Worker
from cxr_node.work.owner import owner, owners_of
from storage import Database, Doorbell, jobs, tables
from storage.errors import StorageError
from storage.host import host_id
from tests.system.conftest import wait_until

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MANY = 100_000
LONG_S = 120.0


def fill(database: Database, number: int) -> None:
    """Put so many jobs into the queue: due, one each millisecond, every thousandth of them urgent."""
    with database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO jobs (kind, key, state, priority, run_at, attempts, lease_owner, wanted, claimed, reason,"
                " payload, created_at) SELECT 'analyze', n::text, 'SCHEDULED', CASE WHEN n % 1000 = 0 THEN 2 ELSE 0"
                " END, cast(:at as timestamptz) - n * interval '1 millisecond', 0, '', 1, 0, '', '{}', :at"
                " FROM generate_series(1, :number) AS n"
            ),
            {"at": NOON, "number": number},
        )


@pytest.mark.peer("initdb")
@pytest.mark.requirement("SRS-SCL-003")
@pytest.mark.timeout(300)
def test_with_a_hundred_thousand_jobs_waiting_many_workers_get_each_job_once_and_the_urgent_first(postgresql_database):
    """A backlog after a night without a network is when order matters most."""
    fill(postgresql_database, MANY)
    claimed: list[list[jobs.Job]] = [[] for _ in range(8)]
    start = threading.Barrier(len(claimed))

    def claim(number: int) -> None:
        database = Database(postgresql_database.url)
        start.wait()
        for _ in range(10):
            with database.begin() as connection:
                claimed[number] += jobs.claim(connection, ["analyze"], owner=f"a:h:{number}:", now=NOON, limit=4)
        database.dispose()

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(len(claimed))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    everything = [job for some in claimed for job in some]
    assert len(everything) == 8 * 10 * 4
    assert max(Counter(job.id for job in everything).values()) == 1
    urgent = {job.key for job in everything if job.priority == 2}
    assert urgent == {str(number) for number in range(1000, MANY + 1, 1000)}, "all hundred, before any other"
    for some in claimed:
        order = [(-job.priority, job.run_at) for job in some]
        assert order == sorted(order), "and each worker's own in their order"
    # The oldest of the others, whoever got them: nobody starves while younger ones are done.
    plain = {int(job.key) for job in everything if job.priority == 0}
    oldest = [number for number in range(MANY, 0, -1) if number % 1000][: len(plain)]
    assert plain == set(oldest)


@pytest.mark.peer("initdb")
@pytest.mark.requirement("SRS-SCL-004")
def test_a_claim_walks_an_index_and_never_the_queue(postgresql_database):
    """What a claim costs must not grow with what waits."""
    fill(postgresql_database, MANY)
    with postgresql_database.begin() as connection:
        connection.execute(text("ANALYZE jobs"))
    statements: list[tuple[str, object]] = []
    engine = postgresql_database._engine

    def note(_connection, cursor, statement, parameters, _context, _many):
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with postgresql_database.begin() as connection:
        jobs.claim(connection, ["analyze"], owner="a:h:1:", now=NOON, limit=4)
        jobs.claim(connection, ["deliver:pacs"], owner="a:h:2:", now=NOON, alone=True)
        jobs.next_run_at(connection, ["analyze"])
        jobs.next_lease_end(connection)
    event.remove(engine, "before_cursor_execute", note)
    plans = []
    with postgresql_database.begin() as connection:
        for statement, parameters in statements:
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plans.append("\n".join(row[0] for row in rows))
    assert len(plans) >= 8
    assert not [plan for plan in plans if "Seq Scan on jobs" in plan]
    assert [plan for plan in plans if "ix_jobs_claim" in plan]
    assert [plan for plan in plans if "ix_jobs_run_at" in plan]
    assert [plan for plan in plans if "ix_jobs_lease_expires_at" in plan]


@pytest.mark.requirement("SRS-SCL-005")
@pytest.mark.timeout(300)
def test_of_many_workers_of_a_lane_one_works_at_a_time_and_in_order(database, tmp_path):
    """A PACS that gets a study's second report before its first shows the first one as the news."""
    keys = [str(number) for number in range(24)]
    with database.begin() as connection:
        for number, key in enumerate(keys):
            run_at = NOON + timedelta(milliseconds=number)
            jobs.schedule(connection, "deliver:pacs", key, run_at=run_at, now=NOON)
    under_way, most, order = itertools.count(), [0], []
    busy, lock, stop = [0], threading.Lock(), threading.Event()

    def handle(claimed):
        for job in claimed:
            with lock:
                busy[0] += 1
                most[0] = max(most[0], busy[0])
                order.append(job.key)
            next(under_way)
            time.sleep(0.005)  # the send
            with lock:
                busy[0] -= 1
            yield job, lambda connection: None

    threads, databases = [], []
    for number in range(4):  # hosts
        opened = Database(database.url)
        databases.append(opened)
        folder = tmp_path / f"host{number}"
        worker = Worker(
            opened,
            Doorbell(folder / "run", opened),
            kinds=("deliver:pacs",),
            topic="deliver",
            handle=handle,
            owner=owner(folder, "deliver", "pacs"),
            alone=True,
            ring_after=("deliver",),
        )
        threads.append(threading.Thread(target=worker.run, args=(stop,)))
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(order) == len(keys), LONG_S, "all sent")
    finally:
        stop.set()
        for thread in threads:
            thread.join(LONG_S)
        for opened in databases:
            opened.dispose()
    assert most == [1]
    assert order == keys


@pytest.mark.requirement("SRS-SCL-006")
def test_a_lane_goes_on_elsewhere_once_the_lease_of_a_lost_host_ends(database):
    """One at a time must not become none at all."""
    with database.begin() as connection:
        for key in ("1", "2"):
            jobs.schedule(connection, "deliver:pacs", key, run_at=NOON, now=NOON)
        (lost,) = jobs.claim(connection, ["deliver:pacs"], owner="d:lost:1:", now=NOON, lease_s=30, alone=True)
    with database.begin() as connection:
        at = NOON + timedelta(seconds=29)
        assert jobs.claim(connection, ["deliver:pacs"], owner="d:other:1:", now=at, alone=True) == []
        at = NOON + timedelta(seconds=31)
        (taken,) = jobs.claim(connection, ["deliver:pacs"], owner="d:other:1:", now=at, alone=True)
        assert taken.key == lost.key, "what it had in hand first"
        assert not jobs.complete(connection, lost, now=at), "what the lost one says now does not count"
        assert jobs.complete(connection, taken, now=at)


@pytest.mark.requirement("SRS-SCL-007")
def test_a_supervisor_gives_back_the_leases_of_its_own_host_only(database, tmp_path):
    """Two hosts whose processes have the same numbers: the restart of one must not have the other's work done twice."""
    here, there = tmp_path / "here", tmp_path / "there"
    with database.begin() as connection:
        for key in ("1", "2"):
            jobs.schedule(connection, "analyze", key, run_at=NOON, now=NOON)
        (mine,) = jobs.claim(connection, ["analyze"], owner=owner(here, "analyze", "main"), now=NOON)
        (other,) = jobs.claim(connection, ["analyze"], owner=owner(there, "analyze", "main"), now=NOON)
    assert mine.lease_owner != other.lease_owner
    with database.begin() as connection:
        assert jobs.release_owner(connection, owners_of(here, "analyze"), now=NOON) == 1
        assert jobs.get(connection, "analyze", mine.key).state == jobs.SCHEDULED
        assert jobs.get(connection, "analyze", other.key).state == jobs.IN_PROGRESS


@pytest.mark.requirement("SRS-SCL-007")
def test_a_host_keeps_its_name_and_no_two_have_the_same(tmp_path):
    """Also where containers share a hostname; and processes that start at once agree."""
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(host_id(tmp_path / "a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert len(names) == 8
    assert len({*names, host_id(tmp_path / "a")}) == 1
    assert host_id(tmp_path / "b") != names[0]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["host-id"]
    (tmp_path / "a" / "host-id").write_text("nonsense")
    with pytest.raises(StorageError, match="expected eight hexadecimal digits"):
        host_id(tmp_path / "a")


@pytest.mark.peer("initdb")
@pytest.mark.requirement("SRS-SCL-008")
def test_an_idle_worker_that_hears_other_hosts_looks_seldom_and_finds_a_job_at_once(
    postgresql_database, tmp_path: Path
):
    """A hundred idle workers that ask each second are a load of their own."""
    looks, done, stop = [0], threading.Event(), threading.Event()

    def handle(claimed):
        for job in claimed:
            done.set()
            yield job, lambda connection: None

    class Counted(Worker):
        def run_once(self) -> int:
            looks[0] += 1
            return super().run_once()

    doorbell = Doorbell(tmp_path / "run", postgresql_database)
    bell = doorbell.listen("other")
    wait_until(lambda: bell.backstop_s > 1, LONG_S, "other hosts are heard")
    worker = Counted(
        postgresql_database, doorbell, kinds=("analyze",), topic="analyze", handle=handle, owner="a:h:1:main"
    )
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: looks[0], LONG_S, "the first look")
        assert worker.pause_s() > 60, "nothing is due and nothing is leased: only the bell's backstop bounds the wait"
        elsewhere = Database(postgresql_database.url)
        with elsewhere.begin() as connection:
            at = datetime.now(UTC)
            jobs.schedule(connection, "analyze", "1.2", run_at=at, now=at)
        Doorbell(tmp_path / "elsewhere", elsewhere).ring("analyze")
        assert done.wait(LONG_S)
        elsewhere.dispose()
    finally:
        stop.set()
        thread.join(LONG_S)
        bell.close()


@pytest.mark.requirement("SRS-SCL-009")
def test_a_worker_knows_when_the_lease_of_a_lost_host_ends(database, tmp_path):
    """Nobody rings when a host is cut off: without this its studies would wait for the backstop on top of the lease."""
    worker = Worker(
        database,
        Doorbell(tmp_path / "run"),
        kinds=("analyze",),
        topic="analyze",
        handle=lambda claimed: [],
        owner="a:h:1:main",
        now=lambda: NOON,
    )
    assert worker.pause_s() > 60
    with database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        jobs.claim(connection, ["analyze"], owner="a:lost:1:", now=NOON, lease_s=7.5)
    assert worker.pause_s() == 7.5
    # A lease that ended and cannot be taken back, for its row is held: no reason to ask a thousand times a second.
    with database.begin() as connection:
        connection.execute(update(tables.jobs).values(lease_expires_at=NOON - timedelta(seconds=1)))
        assert connection.execute(select(func.count()).select_from(tables.jobs)).scalar_one() == 1
    assert worker.pause_s() == 0.5
