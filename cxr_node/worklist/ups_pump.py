"""The event pump: makes the work items of each study rows, keeps them as the study stands, and tells subscribers.

What was announced stands on the reading task's row; a study that stands otherwise is announced again, in the
transaction that writes this down. So whatever dies, an event is told at least once, and after a restart the pump goes
on where it was.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.worklist import ups, ups_ai
from cxr_node.worklist.ups_events import JOB, TOPIC, Announcer, wake
from cxr_node.worklist.ups_rules import PERFORMED
from cxr_node.worklist.ups_tasks import Task, Tasks
from cxr_node.worklist.web.events import TOPIC as LIST_TOPIC
from storage import Database, Doorbell, InstanceFiles, jobs, results, studies, subscriptions, work_items
from storage.errors import StorageError
from storage.faults import fault_point
from storage.results import ResultObject
from storage.studies import Study
from storage.work_items import AI, CANCELED, FINAL, IN_PROGRESS, READING, SCHEDULED, WorkItem

log = get_logger("worklist")

BATCH = 10  # studies of one transaction: it holds the write lock, and images must not wait for it
AFTER_ERROR_S = 1.0
AT_LEAST_EVERY_S = 0.1
REST_AFTER_WORK = 4.0  # times as long as it worked: a fifth of a core at most while many studies come
REST_AFTER_LOOK = 20.0  # and a twentieth where it found nothing


class Keeper:
    """Keeps the rows of one study's work items. All of it happens in the caller's transaction."""

    def __init__(self, settings: Settings, files: InstanceFiles, tasks: Tasks, announcer: Announcer) -> None:
        self._settings = settings
        self._files = files
        self._tasks = tasks
        self._announcer = announcer

    def keep(
        self, connection: Connection, study_instance_uid: str, now: datetime, *, anybody_listens: bool = True
    ) -> None:
        """Bring the study's work items to where the study stands, and announce what changed to whoever listens."""
        study = studies.get(connection, study_instance_uid)
        if study is None:
            return
        uid = ups.work_item_uid(study_instance_uid, study.reopened)
        row = work_items.get(connection, uid, lock=True)
        if row is None:
            row = work_items.add(connection, uid, kind=READING, study_instance_uid=study_instance_uid, now=now)
            if row is None:
                return  # another process was faster, and does all of it
        # Read after the lock: what was known before may be older than what another process announced meanwhile.
        sign = work_items.sign_of(connection, study_instance_uid)
        study = studies.get(connection, study_instance_uid)
        if sign is None or study is None or sign == row.announced:
            return
        if row.state not in FINAL and _priority(sign) != _priority(row.announced):
            self._announce(connection, study, row, now, anybody_listens)
        work_items.set_announced(connection, row, sign)
        self._keep_analysis(connection, study, sign.rpartition(":")[2], now, anybody_listens)

    def _keep_analysis(
        self, connection: Connection, study: Study, job_state: str, now: datetime, anybody_listens: bool
    ) -> None:
        uid = study.study_instance_uid
        derived = ups_ai.derived_state(study.status, job_state)
        known = [row for row in work_items.of_study(connection, uid) if row.kind == AI]
        last = known[-1] if known else None
        passed: list[str] = []
        if last is None or (last.state in FINAL and (derived not in FINAL or _revision(last) < study.revision)):
            last = work_items.add(
                connection,
                ups_ai.ai_work_item_uid(uid, len(known) + 1),
                kind=AI,
                study_instance_uid=uid,
                now=now,
            )
            if last is None:
                raise StorageError("a work item of this study has the UID of its next analysis")
            if derived == SCHEDULED:
                self._announce(connection, study, last, now, anybody_listens)
            else:
                passed = [SCHEDULED]
        # A step goes through every state, also where it was faster than anybody looked.
        if last.state == SCHEDULED and derived == IN_PROGRESS:
            begun = self._change(connection, last, IN_PROGRESS, self._begun(now), now)
            self._announce(connection, study, begun, now, anybody_listens, passed)
        elif last.state not in FINAL and derived in FINAL:
            passed += [IN_PROGRESS] if last.state == SCHEDULED else []
            attributes = self._ended(connection, study, last, derived, now)
            ended = self._change(connection, last, derived, attributes, now, announced=str(study.revision))
            self._announce(connection, study, ended, now, anybody_listens, passed)

    def _change(
        self, connection: Connection, row: WorkItem, state: str, attributes: Dataset, now: datetime, announced: str = ""
    ) -> WorkItem:
        return work_items.change(
            connection,
            row,
            now=now,
            state=state,
            performer=self._settings.worklist.dicom_ae_title,
            attributes=attributes.to_json_dict(),
            announced=announced or None,
        )

    def _announce(
        self,
        connection: Connection,
        study: Study,
        row: WorkItem,
        now: datetime,
        anybody_listens: bool,
        passed: Sequence[str] = (),
    ) -> None:
        if anybody_listens:
            self._announcer.state(connection, Task(row.sop_instance_uid, row.kind, row, study), now, passed=passed)

    def _begun(self, now: datetime) -> Dataset:
        found = Dataset()
        found.UnifiedProcedureStepPerformedProcedureSequence = ups_ai.performed(
            self._settings.node.station_name, now, self._tasks.zone
        )
        return found

    def _ended(self, connection: Connection, study: Study, row: WorkItem, state: str, now: datetime) -> Dataset:
        zone, uid = self._tasks.zone, study.study_instance_uid
        found = Dataset.from_json(row.attributes)
        if state == CANCELED:
            job = jobs.get(connection, "analyze", uid)
            found.ProcedureStepProgressInformationSequence = ups_ai.failed_progress(
                now, zone, job.reason if job else ""
            )
            return found
        result = results.current(connection, uid)
        ended_at = result.created_at if result is not None else now
        objects = results.objects(connection, result.id) if result is not None else []
        done = ups_ai.performed(
            self._settings.node.station_name,
            ended_at,
            zone,
            ended_at=ended_at,
            study_instance_uid=uid,
            series=[(series, one) for one in objects if one.sop_class_uid and (series := self._series_of(one))],
            retrieve_ae_titles=[one.ae_title for one in self._settings.destination if one.kind == "c-store"],
        )
        begun = found[PERFORMED].value if PERFORMED in found else ()
        for one in begun:  # it was seen to begin; never after its result
            started = one.PerformedProcedureStepStartDateTime
            done[0].PerformedProcedureStepStartDateTime = min(started, done[0].PerformedProcedureStepEndDateTime)
        found.UnifiedProcedureStepPerformedProcedureSequence = done
        return found

    def _series_of(self, found: ResultObject) -> str:
        try:
            with self._files.local(found.location) as path:
                header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            return str(header.get("SeriesInstanceUID", ""))
        except (OSError, InvalidDicomError, StorageError) as error:
            log.warning("result_object_not_read", object_id=found.id, error_type=type(error).__name__)
            return ""


class Pump:
    """Runs the keeper for every study that stands otherwise than was announced, woken by the doorbell."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        tasks: Tasks,
        keeper: Keeper,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._tasks = tasks
        self._keeper = keeper
        self._now = now
        self._refused: dict[str, str] = {}  # study → sign that could not be announced; tried again when it changes

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a database that is gone for a while is waited for."""
        bell = self._doorbell.listen(LIST_TOPIC)
        try:
            while not stop.is_set():
                started, count = time.monotonic(), 0
                try:
                    count = self._announce_some()
                except (StorageError, SQLAlchemyError) as error:
                    log.error("storage_unavailable", owner="ups-pump", error_type=type(error).__name__)
                    stop.wait(AFTER_ERROR_S)
                took = time.monotonic() - started
                stop.wait(max(AT_LEAST_EVERY_S, took * (REST_AFTER_WORK if count else REST_AFTER_LOOK)))
                if count < BATCH and not stop.is_set():
                    bell.rest(bell.backstop_s, stop)
        finally:
            bell.close()

    def run_once(self) -> int:
        """Announce everything that changed; return how many studies that were."""
        count = 0
        while found := self._announce_some():
            count += found
        return count

    def _announce_some(self) -> int:
        now = self._now()
        with self._database.read() as connection:
            found = work_items.changed_studies(
                connection, since=self._tasks.since(now), limit=BATCH + len(self._refused)
            )
            waiting = subscriptions.waiting_receivers(connection)
            idle = [title for title in waiting if _is_idle(jobs.get(connection, JOB, title))]
        changed = [one for one in found if self._refused.get(one.study_instance_uid) != one.sign][:BATCH]
        if idle:
            with self._database.begin() as connection:
                for title in idle:
                    wake(connection, title, now)
        if changed:
            try:
                self._keep([one.study_instance_uid for one in changed], now)
            except (StorageError, SQLAlchemyError):
                raise
            except Exception:  # noqa: BLE001  # one study that cannot be told must not silence the others
                for one in changed:
                    self._keep_alone(one.study_instance_uid, one.sign, now)
        if changed or idle:
            fault_point("worklist.events-kept")
            self._doorbell.ring(TOPIC)
        return len(changed)

    def _keep(self, study_instance_uids: list[str], now: datetime) -> None:
        with self._database.begin() as connection:
            anybody_listens = bool(subscriptions.receivers(connection))
            for uid in study_instance_uids:
                self._keeper.keep(connection, uid, now, anybody_listens=anybody_listens)

    def _keep_alone(self, study_instance_uid: str, sign: str, now: datetime) -> None:
        try:
            self._keep([study_instance_uid], now)
        except (StorageError, SQLAlchemyError):
            raise
        except Exception as error:  # noqa: BLE001  # see above
            self._refused[study_instance_uid] = sign
            log.error("ups_not_kept", study_instance_uid=study_instance_uid, error_type=type(error).__name__)


def _is_idle(job: jobs.Job | None) -> bool:
    return job is None or job.state not in (jobs.SCHEDULED, jobs.IN_PROGRESS)


def _priority(sign: str) -> str:
    return sign.partition(":")[0]


def _revision(row: WorkItem) -> int:
    return int(row.announced) if row.announced.isdigit() else 0
