"""A worker: the loop that takes jobs of some kinds from storage, keeps their leases, and settles them.

A handler returns, for each job, a settlement: the rows that must appear together with the job's completion. Worker and
handler may die anywhere; what was not settled is claimed again when the lease ends.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.clock import ClockWatch, utc_now
from cxr_node.errors import CxrNodeError, LeaseLost, PoisonJob
from cxr_node.log import get_logger
from cxr_node.work.decision import Drop, Fail, Retry, decide
from storage import Bell, Database, Doorbell, jobs
from storage.errors import StorageError
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("work")

Settlement = Callable[[Connection], None]
Outcome = Settlement | Exception
Handler = Callable[[Sequence[Job]], Iterable[tuple[Job, Outcome]]]

LONGEST_PAUSE_S = 3600.0  # the bell's own bound is shorter
LOOK_S = 0.02  # a job is due and was not to be had: somebody else was about to claim it
OTHERS_LOOK_S = 0.5  # as long as others hold what is due
AFTER_ERROR_S = 1.0  # a database that is gone is asked again so often


def _nothing_on_failure(connection: Connection, job: Job, reason: str) -> None:
    """A failed job of this kind has no row of its own to mark."""


@dataclass
class Worker:
    """Runs jobs of `kinds`.

    Parameters
    ----------
    handle : takes one claim, yields an outcome for every job of it, as soon as it has it
    owner : unique name of this worker, see `work.owner`; the supervisor releases leases by its prefix
    batch : most jobs of one claim
    fill_s : longest wait, s, for more jobs where a claim got fewer than `batch`; asked anew each time
    alone : nothing is claimed while anybody, on whatever host, works on a job of these kinds
    max_attempts : tries of a job before it is FAILED
    on_failed : called in the transaction that fails a job for good, with the reason
    ring_after : doorbell topics rung when something was settled
    """

    database: Database
    doorbell: Doorbell
    kinds: Sequence[str]
    topic: str
    handle: Handler
    owner: str
    batch: int = 1
    fill_s: Callable[[], float] = lambda: 0.0
    alone: bool = False
    lease_s: float = 30.0
    max_attempts: Callable[[Job], int] = lambda job: 5
    on_failed: Callable[[Connection, Job, str], None] = _nothing_on_failure
    ring_after: Sequence[str] = ()
    now: Callable[[], datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)
    _bell: Bell | None = field(default=None, init=False, repr=False)
    _clock: ClockWatch | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.now is utc_now:  # a time that a test sets may jump as it likes
            self._clock = ClockWatch()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a database that is gone for a while is waited for."""
        bell = self._bell = self.doorbell.listen(self.topic)
        try:
            while not stop.is_set():
                try:
                    if self.run_once():
                        continue
                    bell.rest(self.pause_s(), stop)
                except (StorageError, SQLAlchemyError) as error:
                    log.error("storage_unavailable", owner=self.owner, error_type=type(error).__name__)
                    stop.wait(AFTER_ERROR_S)
        finally:
            self._bell = None
            bell.close()

    def run_once(self) -> int:
        """Claim once and settle what was claimed; return how many jobs that was."""
        claimed = self._claim(self.batch)
        if not claimed:
            return 0
        claimed += self._filling(self.batch - len(claimed))
        fault_point("work.claimed")
        started = time.monotonic()
        open_jobs = {job.id: job for job in claimed}
        with self._heartbeat(open_jobs):
            for job, outcome in self._outcomes(self._without_poison(claimed, started, open_jobs)):
                open_jobs.pop(job.id, None)
                self._settle(job, outcome, started)
            for job in list(open_jobs.values()):
                self._settle(job, RuntimeError("the handler ended without an outcome for this job"), started)
        for topic in self.ring_after:
            self.doorbell.ring(topic)
        return len(claimed)

    def _claim(self, limit: int) -> list[Job]:
        with self.database.begin() as connection:
            return list(
                jobs.claim(
                    connection,
                    self.kinds,
                    owner=self.owner,
                    now=self.now(),
                    lease_s=self.lease_s,
                    limit=limit,
                    alone=self.alone,
                    # Who was given a lease by the clock as it was has until then to renew it by the clock as it is.
                    recover=self._clock is None or self._clock.is_even(self.lease_s),
                )
            )

    def _filling(self, room: int) -> list[Job]:
        """Return what becomes due within `fill_s`: worth the wait where a batch costs hardly more than one job."""
        ends_at = time.monotonic() + (self.fill_s() if room > 0 else 0.0)
        more: list[Job] = []
        while len(more) < room and (left_s := ends_at - time.monotonic()) > 0:
            if self._bell is None:
                time.sleep(left_s)
            else:
                self._bell.wait(left_s)
            more += self._claim(room - len(more))
        return more

    def _without_poison(self, claimed: Sequence[Job], started: float, open_jobs: dict[int, Job]) -> list[Job]:
        """Fail the jobs that killed every worker that tried them: nobody else will ever settle them."""
        left = []
        for job in claimed:
            if job.attempts > self.max_attempts(job):
                open_jobs.pop(job.id, None)
                self._settle(job, PoisonJob(f"{job.attempts - 1} workers died or lost their lease on it"), started)
            else:
                left.append(job)
        return left

    def _outcomes(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        settled: set[int] = set()
        if not claimed:
            return
        try:
            for job, outcome in self.handle(claimed):
                settled.add(job.id)
                yield job, outcome
        except Exception as error:  # noqa: BLE001  # whatever a handler raises, its jobs end in a state
            for job in claimed:
                if job.id not in settled:
                    yield job, error

    def _settle(self, job: Job, outcome: Outcome, started: float) -> None:
        error: Exception | None = outcome if isinstance(outcome, Exception) else None
        result = "completed"
        if not isinstance(outcome, Exception):
            try:
                with self.database.begin() as connection:
                    outcome(connection)
                    if not jobs.complete(connection, job, now=self.now()):
                        raise LeaseLost(f"job {job.id} is no longer leased to {self.owner}")
                fault_point("work.settled")
            except Exception as problem:  # noqa: BLE001  # a settlement that fails leaves nothing behind, and is retried
                error = problem
        if error is not None:
            result = self._settle_error(job, error)
        seconds = time.monotonic() - started
        metrics.JOBS.labels(job.kind, result).inc()
        metrics.JOB_SECONDS.labels(job.kind).observe(seconds)
        level = {"completed": log.info, "retried": log.warning}.get(result, log.error)
        details = {} if error is None else {"reason": _reason(error), "exc_info": error}
        level(
            "job_settled",
            kind=job.kind,
            job_id=job.id,
            key=job.key,
            result=result,
            attempt=job.attempts,
            seconds=round(seconds, 4),
            **details,
        )

    def _settle_error(self, job: Job, error: Exception) -> str:
        decision = decide(
            error, attempts=job.attempts, max_attempts=self.max_attempts(job), now=self.now(), rng=self.rng
        )
        reason = _reason(error)
        if isinstance(decision, Drop):
            return "dropped"
        with self.database.begin() as connection:
            if isinstance(decision, Retry):
                kept = jobs.retry(
                    connection,
                    job,
                    run_at=decision.run_at,
                    reason=reason,
                    now=self.now(),
                    counted=decision.counted,
                )
                return "retried" if kept else "dropped"
            assert isinstance(decision, Fail)
            if not jobs.fail(connection, job, reason=reason, now=self.now()):
                return "dropped"
            self.on_failed(connection, job, reason)
        return "failed"

    @contextlib.contextmanager
    def _heartbeat(self, open_jobs: dict[int, Job]) -> Iterator[None]:
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.lease_s / 3):
                try:
                    with self.database.begin() as connection:
                        for job in list(open_jobs.values()):
                            jobs.renew(connection, job, now=self.now(), lease_s=self.lease_s)
                except (StorageError, SQLAlchemyError) as error:
                    log.warning("lease_not_renewed", owner=self.owner, error_type=type(error).__name__)

        thread = threading.Thread(target=beat, name=f"heartbeat-{self.owner}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def pause_s(self) -> float:
        """Return how long there is nothing to do as far as the database tells."""
        with self.database.read() as connection:
            due = jobs.next_run_at(connection, self.kinds)
            # A lease that ends makes a job due without anybody ringing: who had it is gone, or cut off.
            ends = jobs.next_lease_end(connection)
        now = self.now()
        waits = [LONGEST_PAUSE_S]
        if due is not None:
            waits.append(_until(due, now, OTHERS_LOOK_S if self.alone else LOOK_S))
        if ends is not None:
            waits.append(_until(ends, now, OTHERS_LOOK_S))
        return min(waits)


def _until(at: datetime, now: datetime, look_s: float) -> float:
    """Seconds until then; `look_s` where it is past and was not to be had: another worker has it, or a row's lock."""
    left_s = (at - now).total_seconds()
    return left_s if left_s > 0 else look_s


def _reason(error: BaseException) -> str:
    """A sentence for the row: the node's own messages are safe to show, a library's may quote a dataset."""
    if isinstance(error, CxrNodeError | StorageError):
        return str(error)
    return type(error).__name__
