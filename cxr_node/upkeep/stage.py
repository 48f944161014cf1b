"""The stage: APScheduler is the clock, the tasks are a table.

What is of this host (leases that ran out, temporary files, the models on its disk) runs on every host. What is of the
shared storage is put into the queue instead, one row a task, so that of many hosts one runs it, under a lease. A task
that fails is logged, stops no other, and runs again when it is due next; all may run any number of times.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.inference import package_folders
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.upkeep.audit_export import Exporter
from cxr_node.upkeep.audit_trail import Keeper
from cxr_node.upkeep.backup import back_up_and_prune, is_due, standing
from cxr_node.upkeep.clock_set import MOST_AHEAD_S, ClockMinder
from cxr_node.upkeep.drops import sweep_drops
from cxr_node.upkeep.monitor import watch_models
from cxr_node.upkeep.retention import delete_expired
from cxr_node.upkeep.self_test import Interrupted, run_apart
from cxr_node.upkeep.silence import watch_senders
from cxr_node.work import Outcome, Worker
from cxr_node.work.files import instance_files
from cxr_node.work.heartbeat import beating
from cxr_node.work.owner import owner
from storage import (
    Database,
    Doorbell,
    InstanceFiles,
    associations,
    audit,
    callers,
    heartbeats,
    jobs,
    login_attempts,
    manifests,
    messages,
    model_changes,
    orders,
    sessions,
    studies,
)
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("upkeep")

KIND = "upkeep"
TOPIC = "upkeep"
WORKED_TOPICS = ("analyze", "side", "deliver", "orders", "upkeep", "backup")

TEMPORARY_AFTER_S = 3600.0  # no association lives that long without a fragment
RETENTION_EVERY_S = 3600.0
RETIRE_EVERY_S = 60.0
# Models and first studies have the machine to themselves for a while after a start.
FIRST_SELF_TEST_S = 30.0
FIRST_RETENTION_S = 60.0
ATTEMPTS = 3
SENDERS_EVERY_S = 60.0
MONITOR_EVERY_S = 600.0
FIRST_MONITOR_S = 90.0
BACKUP_KIND = "backup"
BACKUP_LOOK_S = 300.0  # whether one is due; a node that is started anew every day has its backups too
VERIFY_EVERY_S = 3600.0  # asked so often whether the day is over
FIRST_VERIFY_S = 120.0
PROCESS_SHOWN = timedelta(hours=1)  # one that gave no sign of life since is no longer listed
FORGET_BATCH = 500  # rows of one transaction


@dataclass(frozen=True)
class Task:
    """One row of the table. A shared task is claimed from the queue by one host."""

    name: str
    every_s: float
    first_s: float
    shared: bool
    run: Callable[[], object]


class Upkeep:
    """The tasks, as methods that need no argument."""

    def __init__(self, settings: Settings, database: Database, files: InstanceFiles, stop: threading.Event) -> None:
        self._settings = settings
        self._database = database
        self._files = files
        self._stop = stop
        self._self_test: dict[str, Any] | None = None
        exports = bool(settings.audit.syslog_host)
        self.audit_trail = Keeper(database, records_head=exports, is_stopping=stop.is_set)
        self.audit_export = Exporter(settings, database, is_stopping=stop.is_set)
        self.clock_ahead_s: Callable[[], float] = lambda: 0.0
        self.doorbell = Doorbell(settings.data_dir / "run", database)

    def tasks(self) -> tuple[Task, ...]:
        """Return the table."""
        upkeep = self._settings.upkeep
        return (
            Task("recover-leases", upkeep.sweep_s, 0.0, False, self.recover_leases),
            Task("sweep-temporary", upkeep.sweep_s, 0.0, False, self.sweep_temporary),
            Task("sweep-drops", upkeep.sweep_s, 0.0, False, self.sweep_drops),
            Task("retire-studies", RETIRE_EVERY_S, 0.0, False, self.retire_studies),
            Task("retention", RETENTION_EVERY_S, FIRST_RETENTION_S, True, self.retention),
            Task("forget-orders", RETENTION_EVERY_S, FIRST_RETENTION_S, True, self.forget_orders),
            Task("watch-senders", SENDERS_EVERY_S, SENDERS_EVERY_S, True, self.watch_senders),
            Task("monitor", MONITOR_EVERY_S, FIRST_MONITOR_S, True, self.monitor),
            Task("forget-senders", RETENTION_EVERY_S, FIRST_RETENTION_S, True, self.forget_senders),
            Task("forget-sign-ins", RETENTION_EVERY_S, FIRST_RETENTION_S, True, self.forget_sign_ins),
            Task("seal-audit-trail", self._settings.audit.seal_every_s, 1.0, False, self.audit_trail.seal),
            Task("send-audit-trail", self._settings.audit.seal_every_s, 2.0, False, self.audit_export.run),
            Task("verify-audit-trail", VERIFY_EVERY_S, FIRST_VERIFY_S, True, self.audit_trail.verify),
            Task("self-test", upkeep.self_test_min * 60, FIRST_SELF_TEST_S, False, self.self_test),
            *(
                [Task("backup", BACKUP_LOOK_S, FIRST_RETENTION_S, False, self.queue_backup)]
                if upkeep.backup_dir
                else ()
            ),
        )

    def recover_leases(self) -> None:
        """Give jobs back whose worker died or hung, and wake those who can do them."""
        with self._database.begin() as connection:
            recovered = jobs.recover_expired(connection, now=utc_now())
        if recovered:
            fault_point("upkeep.leases-recovered")
            log.warning("leases_recovered", jobs=recovered)
            for topic in WORKED_TOPICS:
                self.doorbell.ring(topic)

    def sweep_temporary(self) -> None:
        """Remove what broken associations left in the folder of incoming files."""
        removed = self._files.sweep(TEMPORARY_AFTER_S, utc_now())
        if removed:
            log.info("temporary_files_removed", files=removed)

    def sweep_drops(self) -> None:
        """Delete images that somebody tried, once their time is up."""
        swept = sweep_drops(self._database, self._settings, now=utc_now())
        if swept:
            log.info("tried_images_deleted", number=swept)

    def retire_studies(self) -> None:
        """Take off the worklist what nobody read in time, so that a page never walks past it."""
        now = utc_now()
        before = now - timedelta(hours=self._settings.worklist.retain_h)
        retired = 0
        while not self._stop.is_set():
            with self._database.begin() as connection:
                done = studies.retire(connection, before=before, now=now, limit=FORGET_BATCH)
            retired += done
            if done < FORGET_BATCH:
                break
        if retired:
            log.info("studies_retired", studies=retired)
            self.doorbell.ring("worklist")

    def retention(self) -> None:
        """Delete the bytes of instances past their retention."""
        days = self._settings.upkeep.retention_days
        if days == 0:
            return
        if self.clock_ahead_s() > MOST_AHEAD_S:
            log.error("retention_waits", clock_ahead_s=round(self.clock_ahead_s()))
            return
        now = utc_now()
        before = now - timedelta(days=days)
        done = delete_expired(self._database, self._files, before=before, now=now, stop=self._stop)
        if done.deleted or done.orphans or done.kept:
            log.info(
                "retention_done",
                deleted=done.deleted,
                bytes=done.bytes,
                kept_unfinished=done.kept,
                orphans=done.orphans,
            )

    def forget_orders(self) -> None:
        """Forget orders, HL7 messages and manifests past the retention of orders."""
        before = utc_now() - timedelta(days=self._settings.orders.retain_days)
        forgotten = 0
        for forget in (orders.forget, messages.forget, manifests.forget):
            while not self._stop.is_set():
                with self._database.begin() as connection:
                    removed = forget(connection, before=before, limit=FORGET_BATCH)
                forgotten += removed
                if removed < FORGET_BATCH:
                    break
        if forgotten:
            log.info("orders_forgotten", rows=forgotten)

    def watch_senders(self) -> None:
        """Note who has fallen silent, and who is heard again."""
        watch_senders(self._database, self._settings, now=utc_now())

    def monitor(self) -> None:
        """Take up what the models said and were shown since the last turn."""
        watch_models(self._database, self._settings, now=utc_now())

    def forget_senders(self) -> None:
        """Forget associations, rejected callers and completed jobs past their retention, and processes that ended."""
        now = utc_now()
        before = now - timedelta(days=self._settings.upkeep.association_days)
        for forget in (associations.forget, callers.forget_rejected, jobs.forget_completed):
            while not self._stop.is_set():
                with self._database.begin() as connection:
                    if forget(connection, before=before, limit=FORGET_BATCH) < FORGET_BATCH:
                        break
        with self._database.begin() as connection:
            heartbeats.forget(connection, before=now - PROCESS_SHOWN)

    def forget_sign_ins(self) -> None:
        """Forget sessions that are over, and tries to sign in past their retention."""
        now, worklist = utc_now(), self._settings.worklist
        with self._database.begin() as connection:
            sessions.sweep(connection, now=now, idle=timedelta(minutes=worklist.session_idle_min))
        before = now - timedelta(days=self._settings.upkeep.association_days)
        while not self._stop.is_set():
            with self._database.begin() as connection:
                if login_attempts.forget(connection, before=before, limit=FORGET_BATCH) < FORGET_BATCH:
                    break

    def standing(self) -> dict[str, Any]:
        """Return what the stage says of itself with each sign of life: the outcome of the last self-test."""
        return {"self_test": self._self_test}

    def self_test(self) -> None:
        """Run the golden inputs of every package that is to run; a failure is shown by metric, log and audit trail."""
        settings = self._settings
        with self._database.read() as connection:
            chosen = model_changes.effective(connection, settings.analyze.models, settings.analyze.shadow)
        names = tuple(dict.fromkeys(item.name for item in (*chosen.active, *chosen.shadow)))
        started = time.monotonic()
        try:
            folders, cache = package_folders(settings.data_dir), settings.data_dir / "cache"
            tested = run_apart(names, folders, cache, self._stop, settings.analyze.engine)
        except Interrupted:
            return
        failed = [item for item in tested if not item.passed]
        self._self_test = {
            "at": utc_now().isoformat(),
            "packages": {item.package: item.reason for item in tested},  # empty: passed
        }
        metrics.SELF_TEST.set(0 if failed else 1)
        seconds = round(time.monotonic() - started, 2)
        for item in failed:
            log.error("self_test_failed", package=item.package, digest=item.digest, reason=item.reason)
        if failed:
            with self._database.begin() as connection:
                for item in failed:
                    detail = {"package": item.package, "digest": item.digest, "reason": item.reason}
                    audit.record(connection, "self_test_failed", actor="upkeep", now=utc_now(), detail=detail)
        else:
            log.info(
                "self_test_passed",
                seconds=seconds,
                packages={item.package: item.digest[:12] for item in tested},
                largest_difference=max((item.difference or 0.0 for item in tested), default=0.0),
            )

    def queue(self, task: Task) -> None:
        """Put a shared task into the queue, unless another host has just done so: it is due once, not once a host."""
        with self._database.begin() as connection:
            now = utc_now()
            last = jobs.get(connection, KIND, task.name)
            if last is not None and last.state != jobs.FAILED and _is_of_this_turn(last.run_at, now, task.every_s):
                return
            jobs.schedule(connection, KIND, task.name, run_at=now, now=now)
        fault_point("upkeep.queued")
        self.doorbell.ring(TOPIC)

    def queue_backup(self) -> None:
        """Put a backup into the queue once it is due: of many hosts one makes it, apart from the other tasks."""
        if is_due(standing(self._database), timedelta(hours=self._settings.upkeep.backup_every_h), utc_now()):
            with self._database.begin() as connection:
                now = utc_now()
                jobs.schedule(connection, BACKUP_KIND, BACKUP_KIND, run_at=now, now=now)
            self.doorbell.ring(BACKUP_KIND)

    def handle_backup(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Make the backup that is due."""
        for job in claimed:
            back_up_and_prune(self._settings, self._database, self._files, self._stop)
            yield job, lambda connection: None

    def backup_worker(self) -> Worker:
        """Return the worker of backups; one may take hours, and silence of a sender must be told meanwhile."""
        return Worker(
            database=self._database,
            doorbell=self.doorbell,
            kinds=(BACKUP_KIND,),
            topic=BACKUP_KIND,
            handle=self.handle_backup,
            owner=owner(self._settings.data_dir, KIND, BACKUP_KIND),
            max_attempts=lambda job: ATTEMPTS,
        )

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run the shared tasks that this host claimed; one that this release does not know is settled."""
        by_name = {task.name: task for task in self.tasks() if task.shared}
        for job in claimed:
            if job.key in by_name:
                by_name[job.key].run()
            yield job, lambda connection: None

    def worker(self) -> Worker:
        """Return the worker of the shared tasks."""
        return Worker(
            database=self._database,
            doorbell=self.doorbell,
            kinds=(KIND,),
            topic=TOPIC,
            handle=self.handle,
            owner=owner(self._settings.data_dir, KIND, "main"),
            max_attempts=lambda job: ATTEMPTS,
        )


def _is_of_this_turn(queued_at: datetime, now: datetime, every_s: float) -> bool:
    """Whether a task was queued so lately that its next turn is yet to come; a clock that was set back counts for none.

    A tenth is allowed for, so that a clock that is a little early does not leave out a turn.
    """
    return timedelta(0) <= now - queued_at < timedelta(seconds=0.9 * every_s)


def make_scheduler(upkeep: Upkeep) -> BackgroundScheduler:
    """Return the clock with every task of the table, not started."""
    # It prints tracebacks; `_report` logs the same as one line.
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    tasks = upkeep.tasks()
    scheduler = BackgroundScheduler(
        timezone=UTC,
        executors={"default": ThreadPoolExecutor(len(tasks))},
        # A machine that slept or was busy runs a missed task once; a task never overtakes itself.
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
    )
    scheduler.add_listener(_report, EVENT_JOB_ERROR)
    for task in tasks:
        scheduler.add_job(
            upkeep.queue if task.shared else task.run,
            "interval",
            args=(task,) if task.shared else (),
            seconds=task.every_s,
            id=task.name,
            next_run_time=utc_now() + timedelta(seconds=task.first_s),
        )
    return scheduler


def _report(event: JobExecutionEvent) -> None:
    log.error("upkeep_failed", task=event.job_id, exc_info=event.exception)


def run_upkeep(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    database = Database(settings.database_url)
    database.migrate()
    upkeep = Upkeep(settings, database, instance_files(settings), stop)
    scheduler = make_scheduler(upkeep)
    minder = ClockMinder(database, upkeep.doorbell, scheduler, topics=WORKED_TOPICS)
    upkeep.clock_ahead_s = lambda: minder.ahead_s
    minder.look_at_start()
    threading.Thread(target=minder.run, args=(stop,), name="upkeep-clock", daemon=True).start()
    upkeep.audit_trail.note_start()
    scheduler.start()
    log.info("upkeep_ready", tasks=[task.name for task in upkeep.tasks()])
    backups = threading.Thread(target=upkeep.backup_worker().run, args=(stop,), name="upkeep-backup")
    if settings.upkeep.backup_dir:
        backups.start()
    try:
        with beating(database, KIND, upkeep.standing):
            upkeep.worker().run(stop)
    finally:
        stop.set()
        if backups.is_alive():
            backups.join()
        scheduler.shutdown(wait=True)
        upkeep.audit_trail.note_end()
        upkeep.audit_export.release()
        database.dispose()
