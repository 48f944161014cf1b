"""The queue: urgent first, one worker at a time, nothing lost, nothing given up silently."""

import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage import Database, jobs
from storage.jobs import COMPLETED, FAILED, IN_PROGRESS, SCHEDULED, Job, backoff_s

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROUTINE, HIGH, STAT = 1, 3, 4


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def schedule(
    database: Database, key: str, *, run_at: datetime = NOON, priority: int = 0, kind: str = "analyze"
) -> None:
    with database.begin() as connection:
        jobs.schedule(connection, kind, key, run_at=run_at, now=NOON, priority=priority)


def claim(
    database: Database, *, owner: str = "analyze:1:0", now: datetime = NOON, limit: int = 1, kinds=("analyze",)
) -> list[Job]:
    with database.begin() as connection:
        return jobs.claim(connection, kinds, owner=owner, now=now, lease_s=30.0, limit=limit)


def complete(database: Database, job: Job, *, now: datetime = NOON) -> bool:
    with database.begin() as connection:
        return jobs.complete(connection, job, now=now)


def found(database: Database, key: str, kind: str = "analyze") -> Job:
    with database.read() as connection:
        job = jobs.get(connection, kind, key)
    assert job is not None
    return job


@pytest.mark.requirement("SRS-STO-010")
def test_the_most_urgent_job_is_claimed_first_and_the_oldest_of_those(database):
    """A STAT study must not wait behind a morning's routine."""
    schedule(database, "routine, old", run_at=NOON - seconds(3600), priority=ROUTINE)
    schedule(database, "stat, new", run_at=NOON - seconds(1), priority=STAT)
    schedule(database, "stat, old", run_at=NOON - seconds(2), priority=STAT)
    schedule(database, "high", run_at=NOON - seconds(600), priority=HIGH)
    schedule(database, "routine, new", run_at=NOON, priority=ROUTINE)
    order = [job.key for _ in range(5) for job in claim(database)]
    assert order == ["stat, old", "stat, new", "high", "routine, old", "routine, new"]
    assert claim(database) == []


@pytest.mark.requirement("SRS-STO-010")
def test_a_batch_keeps_the_order_over_all_its_kinds(database):
    """A worker of several kinds must not prefer one of them."""
    schedule(database, "1", kind="deliver", priority=ROUTINE, run_at=NOON - seconds(5))
    schedule(database, "2", kind="analyze", priority=STAT)
    schedule(database, "3", kind="deliver", priority=STAT, run_at=NOON - seconds(1))
    schedule(database, "4", kind="analyze", priority=ROUTINE, run_at=NOON - seconds(9))
    schedule(database, "5", kind="other", priority=STAT)
    assert [job.key for job in claim(database, limit=9, kinds=["analyze", "deliver"])] == ["3", "2", "4", "1"]


@pytest.mark.requirement("SRS-STO-010")
def test_a_job_is_not_claimed_before_its_time(database):
    """A study that still receives images is not complete."""
    schedule(database, "later", run_at=NOON + seconds(1), priority=STAT)
    schedule(database, "now", run_at=NOON, priority=ROUTINE)
    assert [job.key for job in claim(database, limit=5)] == ["now"]
    assert [job.key for job in claim(database, limit=5, now=NOON + seconds(1))] == ["later"]


@pytest.mark.requirement("SRS-STO-010")
def test_a_claim_says_all_that_a_worker_needs(database):
    """It must not have to ask again while others change the row."""
    with database.begin() as connection:
        jobs.schedule(connection, "deliver", "7", run_at=NOON, now=NOON, priority=2, payload={"tries": [1, 2]})
    [job] = claim(database, kinds=["deliver"], owner="deliver:9:1")
    assert (job.kind, job.key, job.state, job.priority, job.attempts) == ("deliver", "7", IN_PROGRESS, 2, 1)
    assert (job.lease_owner, job.lease_expires_at, job.run_at) == ("deliver:9:1", NOON + seconds(30), NOON)
    assert (job.wanted, job.claimed, job.payload, job.created_at) == (1, 1, {"tries": [1, 2]}, NOON)


@pytest.mark.requirement("SRS-STO-010")
def test_hastening_brings_waiting_jobs_forward_and_puts_none_back(database):
    """The association closed: its studies need not wait for the quiet period."""
    for key, delay_s in (("a", 10), ("b", -10), ("c", 10)):
        schedule(database, key, run_at=NOON + seconds(delay_s))
    with database.begin() as connection:
        jobs.hasten(connection, "analyze", ["a", "b", "unknown"], run_at=NOON)
        jobs.hasten(connection, "analyze", [], run_at=NOON)
    assert [found(database, key).run_at for key in "abc"] == [NOON, NOON - seconds(10), NOON + seconds(10)]


@pytest.mark.requirement("SRS-STO-010")
def test_scheduling_a_waiting_job_moves_it_and_never_lowers_its_priority(database):
    """Every image of a study schedules the same job: one row, run once, when the last one is in."""
    schedule(database, "study", run_at=NOON, priority=STAT)
    schedule(database, "study", run_at=NOON + seconds(5), priority=ROUTINE)
    job = found(database, "study")
    assert (job.run_at, job.priority, job.wanted, job.state) == (NOON + seconds(5), STAT, 2, SCHEDULED)
    schedule(database, "study", run_at=NOON + seconds(3), priority=ROUTINE)
    assert found(database, "study").run_at == NOON + seconds(3)


@pytest.mark.requirement("SRS-STO-011")
def test_two_threads_never_get_the_same_job(database):
    """Two SRs of one analysis would reach the archive."""
    for number in range(40):
        schedule(database, str(number))
    taken: list[str] = []
    start = threading.Barrier(4)

    def work(owner: str) -> None:
        start.wait()
        while claimed := claim(database, owner=owner, limit=2):
            taken.extend(job.key for job in claimed)
            assert all(complete(database, job) for job in claimed)

    threads = [threading.Thread(target=work, args=(f"analyze:1:{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=int) == [str(number) for number in range(40)]


WORK = """
import sys
from datetime import UTC, datetime
from storage import Database, jobs
database = Database(sys.argv[1])
while True:
    with database.begin() as connection:
        claimed = jobs.claim(connection, ["analyze"], owner=sys.argv[2], now=datetime(2026, 3, 1, 12, tzinfo=UTC))
    if not claimed:
        break
    for job in claimed:
        print(job.key)
        with database.begin() as connection:
            assert jobs.complete(connection, job, now=datetime(2026, 3, 1, 12, tzinfo=UTC))
"""


@pytest.mark.requirement("SRS-STO-011")
def test_two_processes_never_get_the_same_job(database, run_python):
    """On SQLite the write lock keeps them apart, on PostgreSQL the rows they skip."""
    with database.begin() as connection:
        for number in range(120):
            jobs.schedule(connection, "analyze", str(number), run_at=NOON, now=NOON)
    printed = run_python(WORK, [[database.url, f"analyze:{number}:0"] for number in range(3)])
    taken = [key for lines in printed for key in lines.split()]
    assert sorted(taken, key=int) == [str(number) for number in range(120)]


@pytest.mark.requirement("SRS-STO-011")
@pytest.mark.peer("initdb")
@pytest.mark.peer("postgres")
def test_a_worker_on_postgresql_does_not_wait_for_the_claim_of_another(postgresql_database):
    """Hundreds of workers claim at once; a row that somebody is claiming is skipped."""
    database = postgresql_database
    schedule(database, "first")
    schedule(database, "second", run_at=NOON + seconds(0.001))
    with database.begin() as one, database.begin() as other:
        [mine] = jobs.claim(one, ["analyze"], owner="a", now=NOON + seconds(1))
        [theirs] = jobs.claim(other, ["analyze"], owner="b", now=NOON + seconds(1))
    assert (mine.key, theirs.key) == ("first", "second")


@pytest.mark.requirement("SRS-STO-012")
def test_a_lease_that_ran_out_is_taken_over_and_its_first_holder_cannot_settle(database):
    """The holder may be alive, only slow: what it finds now must not overwrite what the other finds."""
    schedule(database, "study")
    [lost] = claim(database, owner="slow")
    assert claim(database, owner="other", now=NOON + seconds(29)) == []
    [taken] = claim(database, owner="other", now=NOON + seconds(30))
    assert (taken.key, taken.attempts, taken.lease_owner) == ("study", 2, "other")
    with database.begin() as connection:
        assert not jobs.renew(connection, lost, now=NOON, lease_s=30)
        assert not jobs.complete(connection, lost, now=NOON)
        assert not jobs.retry(connection, lost, run_at=NOON, reason="late", now=NOON)
        assert not jobs.fail(connection, lost, reason="late", now=NOON)
    assert found(database, "study") == taken
    assert complete(database, taken)
    assert not complete(database, taken)


@pytest.mark.requirement("SRS-STO-012")
def test_a_worker_that_takes_its_own_job_over_cannot_settle_the_older_claim(database):
    """A worker may be suspended with its machine and wake up in the middle of a job."""
    schedule(database, "study")
    [older] = claim(database, owner="same")
    [newer] = claim(database, owner="same", now=NOON + seconds(60))
    assert not complete(database, older)
    assert complete(database, newer)


@pytest.mark.requirement("SRS-STO-012")
def test_a_renewed_lease_is_kept(database):
    """An analysis may take longer than a lease."""
    schedule(database, "study")
    [job] = claim(database, owner="slow")
    with database.begin() as connection:
        assert jobs.renew(connection, job, now=NOON + seconds(25), lease_s=30)
    assert claim(database, owner="other", now=NOON + seconds(54)) == []
    assert complete(database, job, now=NOON + seconds(54))


@pytest.mark.requirement("SRS-STO-012")
def test_a_lease_that_ran_out_but_that_nobody_took_still_settles(database):
    """The work is done and nobody repeats it; throwing it away would help no one."""
    schedule(database, "study")
    [job] = claim(database)
    assert complete(database, job, now=NOON + seconds(300))
    assert found(database, "study").state == COMPLETED


@pytest.mark.requirement("SRS-STO-012")
def test_the_leases_of_a_process_known_to_be_dead_end_at_once(database):
    """The supervisor saw it die; waiting for the lease would cost a patient half a minute."""
    for key in ("a", "b", "c"):
        schedule(database, key)
    claim(database, owner="analyze:12:0")
    claim(database, owner="analyze:12:1")
    claim(database, owner="analyze:123:0")
    with database.begin() as connection:
        assert jobs.release_owner(connection, "analyze:12:", now=NOON) == 2
        assert jobs.release_owner(connection, "analyze_12", now=NOON) == 0
    assert [claim(database, owner="new")[0].key for _ in range(2)] == ["a", "b"]
    assert found(database, "c").lease_owner == "analyze:123:0"


@pytest.mark.requirement("SRS-STO-012")
def test_expired_leases_are_counted_when_they_are_recovered(database):
    """Upkeep reports them: each is a worker that died or hung."""
    for key in ("a", "b"):
        schedule(database, key)
        claim(database)
    with database.begin() as connection:
        assert jobs.recover_expired(connection, now=NOON + seconds(29)) == 0
        assert jobs.recover_expired(connection, now=NOON + seconds(31)) == 2
        assert jobs.counts(connection) == {("analyze", SCHEDULED): 2}


@pytest.mark.requirement("SRS-STO-012")
def test_a_job_whose_process_was_killed_is_worked_again(database):
    """kill -9 in the middle of an analysis loses nothing that was acknowledged."""
    schedule(database, "study")
    script = (
        "import os, sys\nfrom datetime import UTC, datetime\nfrom storage import Database, jobs\n"
        "with Database(sys.argv[1]).begin() as c:\n"
        "    assert jobs.claim(c, ['analyze'], owner='victim', now=datetime(2026, 3, 1, 12, tzinfo=UTC))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, database.url], timeout=60).returncode == -9
    assert claim(database) == []
    [job] = claim(database, now=NOON + seconds(30))
    assert (job.key, job.attempts) == ("study", 2)


@pytest.mark.requirement("SRS-STO-013")
def test_a_job_that_was_tried_before_is_claimed_alone(database):
    """It may be what killed its worker; no other study of a batch shall die with it."""
    schedule(database, "poison", run_at=NOON - seconds(9))
    claim(database)
    for key in ("b", "c", "d"):
        schedule(database, key)
    later = NOON + seconds(60)
    assert [job.key for job in claim(database, now=later, limit=8)] == ["poison"]
    assert [job.key for job in claim(database, now=later, limit=8)] == ["b", "c", "d"]


@pytest.mark.requirement("SRS-STO-013")
def test_a_batch_passes_over_a_tried_job_and_the_next_claim_takes_it(database):
    """It is older than some of the batch, but not the oldest."""
    schedule(database, "tried", run_at=NOON)
    claim(database)
    schedule(database, "older", run_at=NOON - seconds(5))
    schedule(database, "newer", run_at=NOON + seconds(5))
    later = NOON + seconds(60)
    assert [job.key for job in claim(database, now=later, limit=8)] == ["older", "newer"]
    assert [job.key for job in claim(database, now=later, limit=8)] == ["tried"]


@pytest.mark.requirement("SRS-STO-014")
def test_work_that_was_wanted_while_it_was_done_is_done_again(database):
    """An image that arrives during the analysis of its study is in no result yet."""
    schedule(database, "study")
    [job] = claim(database)
    schedule(database, "study", run_at=NOON + seconds(2), priority=HIGH)
    assert claim(database, now=NOON + seconds(10)) == []  # one worker at a time, even so
    assert complete(database, job, now=NOON + seconds(1))
    again = found(database, "study")
    assert (again.state, again.run_at, again.attempts, again.priority) == (SCHEDULED, NOON + seconds(2), 0, HIGH)
    [job] = claim(database, now=NOON + seconds(2))
    assert (job.wanted, job.claimed, job.attempts) == (2, 2, 1)
    assert complete(database, job)
    assert found(database, "study").state == COMPLETED


@pytest.mark.requirement("SRS-STO-014")
def test_a_job_wanted_again_is_due_when_it_is_settled_not_before(database):
    """Its place in the order is where it stands now, not where its first run stood."""
    schedule(database, "study")
    [job] = claim(database)
    schedule(database, "study", run_at=NOON + seconds(1))
    assert complete(database, job, now=NOON + seconds(20))
    assert found(database, "study").run_at == NOON + seconds(20)


@pytest.mark.requirement("SRS-STO-014")
def test_a_failure_does_not_swallow_what_was_wanted_meanwhile(database):
    """The first image cannot be read; the second, which came during the attempt, can."""
    schedule(database, "study")
    [job] = claim(database)
    schedule(database, "study", run_at=NOON + seconds(2))
    with database.begin() as connection:
        assert jobs.fail(connection, job, reason="unreadable", now=NOON + seconds(1))
    assert (found(database, "study").state, found(database, "study").attempts) == (SCHEDULED, 0)


@pytest.mark.requirement("SRS-STO-015")
def test_a_failed_job_stays_with_its_reason_and_is_revived_by_scheduling_it(database):
    """A dead letter is somebody's study: it must be seen, and a new image or a person must bring it back."""
    schedule(database, "study", priority=HIGH)
    [job] = claim(database)
    with database.begin() as connection:
        assert jobs.fail(connection, job, reason="(7FE0,0010) Pixel Data is absent", now=NOON + seconds(1))
    assert claim(database, now=NOON + seconds(9999)) == []
    with database.read() as connection:
        [dead] = jobs.failed(connection, 10)
        assert jobs.counts(connection) == {("analyze", FAILED): 1}
    assert (dead.state, dead.reason, dead.attempts) == (FAILED, "(7FE0,0010) Pixel Data is absent", 1)
    schedule(database, "study", run_at=NOON + seconds(5))
    revived = found(database, "study")
    assert (revived.state, revived.attempts, revived.reason, revived.priority) == (SCHEDULED, 0, "", HIGH)
    [job] = claim(database, now=NOON + seconds(5))
    assert (job.attempts, job.wanted, job.claimed) == (1, 2, 2)


@pytest.mark.requirement("SRS-STO-015")
def test_a_completed_job_is_run_again_by_scheduling_it(database):
    """A late image reopens its study."""
    schedule(database, "study")
    assert complete(database, claim(database)[0])
    schedule(database, "study", run_at=NOON + seconds(5))
    assert claim(database) == []
    assert claim(database, now=NOON + seconds(5))[0].attempts == 1


@pytest.mark.requirement("SRS-STO-015")
def test_a_retry_waits_for_its_time_and_keeps_count_and_reason(database):
    """The attempts bound how often; the reason tells a person what is tried."""
    schedule(database, "study")
    [job] = claim(database)
    with database.begin() as connection:
        assert jobs.retry(connection, job, run_at=NOON + seconds(7), reason="no connection to PACS", now=NOON)
    waiting = found(database, "study")
    assert (waiting.state, waiting.run_at, waiting.attempts) == (SCHEDULED, NOON + seconds(7), 1)
    assert (waiting.reason, waiting.lease_owner, waiting.lease_expires_at) == ("no connection to PACS", "", None)
    assert claim(database, now=NOON + seconds(6)) == []
    assert claim(database, now=NOON + seconds(7))[0].attempts == 2


@pytest.mark.requirement("SRS-STO-015")
@settings(max_examples=200)
@given(
    attempt=st.integers(-3, 5000),
    seed=st.integers(0, 2**32),
    base_s=st.floats(0.01, 10.0),
    cap_s=st.floats(10.0, 3600.0),
)
def test_backoff_is_above_zero_doubles_at_most_and_ends_at_the_cap(attempt, seed, base_s, cap_s):
    """Never at once, never longer than said, and no overflow after a month of attempts."""
    wait_s = backoff_s(attempt, random.Random(seed), base_s=base_s, cap_s=cap_s)
    assert 0 < wait_s <= min(cap_s, base_s * 2.0 ** min(max(attempt - 1, 0), 1000))


@pytest.mark.requirement("SRS-STO-015")
def test_backoff_spreads_what_failed_together():
    """When an archive comes back, its deliveries must not all meet it in the same second."""
    waits = [backoff_s(6, random.Random(seed)) for seed in range(400)]
    quarters = [sum(8 * part <= wait < 8 * (part + 1) for wait in waits) for part in range(4)]
    assert min(quarters) > 60


@pytest.mark.requirement("SRS-STO-016")
def test_what_an_operator_asks_of_the_queue_is_answered(database):
    """How much waits, since when, and when the next is due."""
    with database.read() as connection:
        assert jobs.counts(connection) == {}
        assert jobs.next_run_at(connection, ["analyze"]) is None
        assert jobs.oldest_due(connection, "analyze", now=NOON) is None
    schedule(database, "due", run_at=NOON - seconds(4))
    schedule(database, "urgent", run_at=NOON - seconds(3), priority=STAT)
    schedule(database, "early", kind="deliver", run_at=NOON + seconds(9))
    claim(database)
    with database.read() as connection:
        assert jobs.counts(connection) == {
            ("analyze", SCHEDULED): 1,
            ("analyze", IN_PROGRESS): 1,
            ("deliver", SCHEDULED): 1,
        }
        assert jobs.oldest_due(connection, "analyze", now=NOON) == NOON - seconds(4)
        assert jobs.oldest_due(connection, "deliver", now=NOON) is None
        assert jobs.next_run_at(connection, ["deliver"]) == NOON + seconds(9)
        assert jobs.next_run_at(connection, ["analyze", "deliver"]) == NOON - seconds(4)


@pytest.mark.requirement("SRS-STO-016")
def test_completed_jobs_are_forgotten_when_retention_says_so_and_no_others(database):
    """The table would grow by every study of every year."""
    for key in ("old", "new", "failed", "waiting"):
        schedule(database, key, run_at=NOON)
    for key, at in (("old", NOON), ("new", NOON + seconds(100))):
        [job] = claim(database)
        assert job.key == key
        assert complete(database, job, now=at)
    with database.begin() as connection:
        [job] = jobs.claim(connection, ["analyze"], owner="x", now=NOON)
        assert jobs.fail(connection, job, reason="bad", now=NOON)
        assert jobs.forget_completed(connection, before=NOON + seconds(50), limit=10) == 1
        assert jobs.forget_completed(connection, before=NOON + seconds(50), limit=10) == 0
        assert sum(jobs.counts(connection).values()) == 3
        assert jobs.get(connection, "analyze", "old") is None


class Queue(RuleBasedStateMachine):
    """Any order of what workers, senders, deaths and time do to the queue.

    Kept throughout: a job has one holder whose word counts; (claimed, attempts) only grows; no wish is lost: whatever
    was scheduled is claimed after it was, or waits, or is a dead letter.
    """

    template: Path
    numbers = itertools.count()
    keys = st.sampled_from(["a", "b", "c"])

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cxr-queue-"))
        shutil.copy(self.template, self.folder / "node.db")
        self.database = Database(f"sqlite:///{self.folder / 'node.db'}")
        self.now = NOON
        self.held: dict[str, Job] = {}  # by key: the claim whose word counts
        self.stale: list[Job] = []
        self.last: dict[str, tuple[int, int]] = {}
        self.unserved: dict[str, bool] = {}  # scheduled after its last claim

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.dispose()
            shutil.rmtree(self.folder, ignore_errors=True)

    @rule(key=keys, delay_s=st.integers(0, 20), priority=st.integers(0, 4))
    def schedule(self, key: str, delay_s: int, priority: int) -> None:
        with self.database.begin() as connection:
            jobs.schedule(
                connection, "analyze", key, run_at=self.now + seconds(delay_s), now=self.now, priority=priority
            )
        self.unserved[key] = True

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        claimed = claim(self.database, owner=f"w{next(self.numbers)}", now=self.now, limit=limit)
        order = [(-job.priority, job.run_at, job.id) for job in claimed]
        assert order == sorted(order)
        assert len(claimed) == 1 or all(job.attempts == 1 for job in claimed)
        for job in claimed:
            holder = self.held.pop(job.key, None)
            if holder is not None:
                assert holder.lease_expires_at is not None
                assert holder.lease_expires_at <= self.now
                self.stale.append(holder)
            assert (job.claimed, job.attempts) > self.last.get(job.key, (0, 0))
            self.last[job.key] = (job.claimed, job.attempts)
            self.held[job.key] = job
            self.unserved[job.key] = False

    @rule(by_s=st.integers(1, 40))
    def pass_time(self, by_s: int) -> None:
        self.now += seconds(by_s)

    @rule()
    def recover(self) -> None:
        with self.database.begin() as connection:
            jobs.recover_expired(connection, now=self.now)
        for key, job in list(self.held.items()):
            assert job.lease_expires_at is not None
            if job.lease_expires_at <= self.now:
                self.stale.append(self.held.pop(key))

    @precondition(lambda self: self.held)
    @rule(how=st.sampled_from(["complete", "retry", "fail"]), data=st.data())
    def settle(self, how: str, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        job = self.held.pop(key)
        # A claim made by somebody else takes expired leases back without taking the job; then this one is lost.
        current = found(self.database, key)
        lost = current.state != IN_PROGRESS
        assert self._settle(job, how) is not lost
        if not lost:
            state = found(self.database, key).state
            if self.unserved[key] or how == "retry":
                assert state == SCHEDULED
            else:
                assert state == {"complete": COMPLETED, "fail": FAILED}[how]
        self.stale.append(job)

    @precondition(lambda self: self.stale)
    @rule(how=st.sampled_from(["complete", "retry", "fail", "renew"]), data=st.data())
    def settle_a_lost_one(self, how: str, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.stale))
        before = found(self.database, job.key)
        assert not self._settle(job, how)
        assert found(self.database, job.key) == before

    def _settle(self, job: Job, how: str) -> bool:
        with self.database.begin() as connection:
            if how == "complete":
                return jobs.complete(connection, job, now=self.now)
            if how == "fail":
                return jobs.fail(connection, job, reason="bad", now=self.now)
            if how == "renew":
                return jobs.renew(connection, job, now=self.now, lease_s=30)
            return jobs.retry(connection, job, run_at=self.now + seconds(1), reason="later", now=self.now)

    @invariant()
    def no_wish_is_lost(self) -> None:
        for key, unserved in getattr(self, "unserved", {}).items():
            if unserved:
                job = found(self.database, key)
                assert job.state == SCHEDULED or (job.state == IN_PROGRESS and job.wanted > job.claimed)


@pytest.mark.requirement("SRS-STO-011")
@pytest.mark.requirement("SRS-STO-012")
@pytest.mark.requirement("SRS-STO-014")
def test_the_queue_keeps_its_word_in_any_order_of_events(sqlite_template):
    """Most mistakes in a queue need three things to happen in an order that nobody writes a test for."""
    from hypothesis.stateful import run_state_machine_as_test

    Queue.template = sqlite_template
    run_state_machine_as_test(Queue, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))
