"""What may be done with work items: both doors, DIMSE and HTTP, call this. Values in, a status out.

Each act is one transaction: the row, the events it causes, and the entry in the audit trail. Doorbells ring after it.

Source: DICOM PS3.4 CC.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import generate_uid
from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.findings.priority import OrderedPriority, UpsPriority, parse_ordered, rank, ups_priority
from cxr_node.worklist import ups_rules as rules
from cxr_node.worklist import ups_states as states
from cxr_node.worklist.ups_events import TOPIC, Announcer
from cxr_node.worklist.ups_pump import Keeper
from cxr_node.worklist.ups_tasks import Task, Tasks
from cxr_node.worklist.web.events import TOPIC as LIST_TOPIC
from storage import Database, Doorbell, audit, studies, work_items
from storage.faults import fault_point
from storage.work_items import AI, CANCELED, COMPLETED, EXTERNAL, IN_PROGRESS, READING, SCHEDULED, WorkItem

MOST_ATTRIBUTE_BYTES = 1_000_000  # of one work item as JSON

_ORDERED = {UpsPriority.HIGH: OrderedPriority.HIGH, UpsPriority.MEDIUM: OrderedPriority.MEDIUM}
_ASSIGNMENT = frozenset({Tag("ScheduledStationNameCodeSequence"), Tag("ScheduledHumanPerformersSequence")})
_READINESS = Tag("InputReadinessState")
_NOT_KEPT = frozenset({Tag("SpecificCharacterSet"), Tag("SOPClassUID"), Tag("SOPInstanceUID"), rules.STATE})


@dataclass(frozen=True)
class Answer:
    """What a request is answered with: a status, the attributes it is about, and the work item where one was made."""

    status: int
    tags: tuple[BaseTag, ...] = ()
    sop_instance_uid: str = ""
    dataset: Dataset | None = None
    study_instance_uid: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the request was refused."""
        return states.is_failure(self.status)


@dataclass(frozen=True)
class Requester:
    """Who asks: `name` for the audit trail, `ae_title` empty where the request came over HTTP."""

    name: str
    ae_title: str = ""

    @property
    def performer(self) -> str:
        """Who performs what it claims."""
        return self.ae_title or self.name


class UpsService:
    """Creates, reads and changes work items.

    Parameters
    ----------
    new_uid : makes the UID of a work item that came without one, and the lock of one that the node itself cancels
    """

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        tasks: Tasks,
        keeper: Keeper,
        announcer: Announcer,
        now: Callable[[], datetime] = utc_now,
        new_uid: Callable[[], str] = lambda: str(generate_uid(prefix=None)),
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._tasks = tasks
        self._keeper = keeper
        self._announcer = announcer
        self._now = now
        self._new_uid = new_uid

    @property
    def tasks(self) -> Tasks:
        """All work items, to be read."""
        return self._tasks

    @property
    def announcer(self) -> Announcer:
        """Who is told."""
        return self._announcer

    def create(self, sop_instance_uid: str, given: Dataset, *, by: Requester) -> Answer:
        """Keep a work item that another system schedules. The node performs none of these itself."""
        uid = sop_instance_uid or self._new_uid()
        if not rules.is_uid(uid):
            return Answer(states.INVALID_OBJECT_INSTANCE)
        finding = rules.check_create(given)
        if finding.status != states.SUCCESS:
            return Answer(finding.status, finding.tags)
        attributes = _kept(given)
        if attributes is None:
            return Answer(states.INVALID_ATTRIBUTE_VALUE)
        now = self._now()
        with self._database.begin() as connection:
            row = None
            if self._tasks.get(connection, uid, now=now) is None:
                row = work_items.add(
                    connection,
                    uid,
                    kind=EXTERNAL,
                    study_instance_uid=_study_of(given),
                    attributes=attributes,
                    now=now,
                )
            if row is None:
                return Answer(states.DUPLICATE_SOP_INSTANCE)
            task = self._tasks.of_row(connection, row)
            self._announcer.state(connection, task, now)
            if any(tag in given and given[tag].value for tag in _ASSIGNMENT):
                self._announcer.assigned(connection, task, now)
            self._record(connection, "ups_created", task, by, now)
        self._ring()
        return Answer(states.SUCCESS, sop_instance_uid=uid, study_instance_uid=row.study_instance_uid)

    def get(self, sop_instance_uid: str, wanted: set[BaseTag] | None = None) -> Answer:
        """Return a work item; without `wanted` all of it, and never its Transaction UID."""
        with self._database.read() as connection:
            task = self._tasks.get(connection, sop_instance_uid, now=self._now())
        if task is None:
            return Answer(states.NO_SUCH_WORK_ITEM)
        found = self._tasks.dataset(task, wanted=wanted, with_images=True)
        known = self._tasks.supported(task)
        unknown = () if wanted is None else tuple(tag for tag in sorted(wanted - _NOT_KEPT) if tag not in known)
        status = states.UNSUPPORTED_OPTIONAL_ATTRIBUTES if unknown else states.SUCCESS
        return Answer(status, unknown, sop_instance_uid, found, task.study_instance_uid)

    def set(
        self, sop_instance_uid: str, given: Dataset, *, by: Requester, transaction_uid: str | None = None
    ) -> Answer:
        """Set attributes: of a SCHEDULED work item without, of one IN PROGRESS with the right Transaction UID."""
        if rules.TRANSACTION_UID in given:
            transaction_uid = str(given.TransactionUID or "")
        given = _without(given, rules.TRANSACTION_UID)
        now = self._now()
        with self._database.begin() as connection:
            task = self._locked(connection, sop_instance_uid, now)
            status = states.on_set(task.state if task else None, task.lock if task else "", transaction_uid)
            if task is None or status != states.SUCCESS:
                return Answer(status)
            if task.kind == AI:
                return Answer(states.NOT_AUTHORIZED)
            finding = rules.check_set(given)
            if finding.status != states.SUCCESS:
                return Answer(finding.status, finding.tags)
            attributes = _kept(_without(given, rules.PRIORITY) if task.kind == READING else given)
            assert task.row is not None
            merged = task.row.attributes | (attributes or {})
            if attributes is None or len(str(merged)) > MOST_ATTRIBUTE_BYTES:
                return Answer(states.INVALID_ATTRIBUTE_VALUE)
            status = self._set_priority(connection, task, given, by, now)
            changed = self._changed(connection, task, now, attributes=merged)
            self._announce_set(connection, task, changed, given, now)
            self._record(connection, "ups_set", changed, by, now, attributes=len(given))
        self._ring()
        return Answer(status, (rules.PRIORITY,) if status else (), study_instance_uid=task.study_instance_uid)

    def change_state(self, sop_instance_uid: str, requested: str, transaction_uid: str, *, by: Requester) -> Answer:
        """Claim, complete or cancel a work item; who claims is its performer."""
        requested, transaction_uid, now = requested.strip(), transaction_uid.strip(), self._now()
        with self._database.begin() as connection:
            task = self._locked(connection, sop_instance_uid, now)
            status = states.on_change(
                task.state if task else None, task.lock if task else "", requested, transaction_uid
            )
            if task is None or status != states.SUCCESS:
                return Answer(status)
            if task.kind == AI:
                return Answer(states.NOT_AUTHORIZED)
            if requested == IN_PROGRESS:
                if not rules.is_uid(transaction_uid):
                    return Answer(states.INVALID_ARGUMENT_VALUE, (rules.TRANSACTION_UID,))
                changed = self._changed(
                    connection, task, now, state=IN_PROGRESS, transaction_uid=transaction_uid, performer=by.performer
                )
            elif requested == COMPLETED:
                finding = rules.check_final(self._tasks.dataset(task, wanted={rules.PERFORMED}), COMPLETED)
                if finding.status != states.SUCCESS:
                    return Answer(finding.status, finding.tags)
                changed = self._changed(connection, task, now, state=COMPLETED)
                if task.kind == READING:
                    studies.mark_read(connection, task.study_instance_uid, now)
            else:
                changed = self._canceled(connection, task, None, now)
            self._announcer.state(connection, changed, now)
            event = {IN_PROGRESS: "ups_claimed", COMPLETED: "ups_completed", CANCELED: "ups_canceled"}[requested]
            self._record(connection, event, changed, by, now)
        fault_point("worklist.action-kept")
        self._ring()
        return Answer(states.SUCCESS, study_instance_uid=task.study_instance_uid)

    def request_cancel(self, sop_instance_uid: str, given: Dataset, *, by: Requester) -> Answer:
        """Ask for a work item to be canceled: one that nobody holds is, the performer of any other is told.

        The node's own analysis it does not cancel: a study must not lose its triage to a request.
        """
        now = self._now()
        with self._database.begin() as connection:
            task = self._locked(connection, sop_instance_uid, now)
            status = states.on_request_cancel(task.state if task else None)
            if task is None or status != states.SUCCESS:
                return Answer(status)
            self._announcer.cancel_requested(connection, task, given, by.performer, now)
            if task.kind == AI:
                status = states.PERFORMER_DECLINES
            elif task.state == SCHEDULED:
                held = self._changed(
                    connection, task, now, state=IN_PROGRESS, transaction_uid=self._new_uid(), performer=by.performer
                )
                canceled = self._canceled(connection, held, given, now)
                self._announcer.state(connection, canceled, now, passed=[IN_PROGRESS])
            elif not self._announcer.has_performer(connection, task):
                status = states.PERFORMER_UNREACHABLE
            self._record(connection, "ups_cancel_requested", task, by, now, status=f"{status:04X}")
        self._ring()
        return Answer(status, study_instance_uid=task.study_instance_uid)

    def _locked(self, connection: Connection, sop_instance_uid: str, now: datetime) -> Task | None:
        """Return the work item as a row that nobody else changes meanwhile."""
        task = self._tasks.get(connection, sop_instance_uid, now=now, lock=True)
        if task is not None and task.row is None:
            self._keeper.keep(connection, task.study_instance_uid, now)
            task = self._tasks.get(connection, sop_instance_uid, now=now, lock=True)
        return task

    def _changed(self, connection: Connection, task: Task, now: datetime, **values: Any) -> Task:
        assert task.row is not None
        # An act in the moment of its creation is an act all the same; `updated_at` tells one from none.
        at = max(now, task.row.created_at + timedelta(microseconds=1))
        row: WorkItem = work_items.change(connection, task.row, now=at, **values)
        return Task(task.sop_instance_uid, task.kind, row, task.study)

    def _canceled(self, connection: Connection, task: Task, given: Dataset | None, now: datetime) -> Task:
        assert task.row is not None
        stored = Dataset.from_json(task.row.attributes)
        there = stored.get("ProcedureStepProgressInformationSequence") or []
        progress = rules.with_reason(there[0] if there else None, given, now, self._tasks.zone)
        stored.ProcedureStepProgressInformationSequence = [progress]
        return self._changed(connection, task, now, state=CANCELED, attributes=stored.to_json_dict())

    def _set_priority(self, connection: Connection, task: Task, given: Dataset, by: Requester, now: datetime) -> int:
        """Raise the study's priority; a lower one than it has is not taken, and the answer says so."""
        if task.kind != READING or task.study is None or rules.PRIORITY not in given:
            return states.SUCCESS
        wanted = UpsPriority(str(given[rules.PRIORITY].value).strip())
        current = ups_priority(parse_ordered(task.study.effective_priority))
        if wanted is current:
            return states.SUCCESS
        ordered = _ORDERED.get(wanted)
        if ordered is None or rank(ordered) <= task.study.priority_rank:
            return states.COERCED_VALUES
        raised = studies.raise_ordered(
            connection, task.study_instance_uid, str(ordered), rank(ordered), f"work item, by {by.performer}", now
        )
        return states.SUCCESS if raised else states.COERCED_VALUES

    def _announce_set(self, connection: Connection, before: Task, after: Task, given: Dataset, now: datetime) -> None:
        tags = set(given.keys())
        if _READINESS in tags and str(given[_READINESS].value) != str(
            self._tasks.dataset(before, wanted={_READINESS}).get("InputReadinessState")
        ):
            self._announcer.state(connection, after, now)
        if rules.PROGRESS in tags:
            self._announcer.progress(connection, after, now)
        if tags & _ASSIGNMENT:
            self._announcer.assigned(connection, after, now)

    def _record(
        self, connection: Connection, event: str, task: Task, by: Requester, now: datetime, **detail: Any
    ) -> None:
        audit.record(
            connection,
            event,
            actor=by.name,
            now=now,
            study_instance_uid=task.study_instance_uid,
            detail={"work_item": task.sop_instance_uid, "kind": task.kind, **detail},
        )

    def _ring(self) -> None:
        self._doorbell.ring(TOPIC)
        self._doorbell.ring(LIST_TOPIC)


def _without(dataset: Dataset, *tags: BaseTag) -> Dataset:
    left = Dataset()
    left.update({tag: dataset[tag] for tag in dataset.keys() if tag not in tags})  # noqa: SIM118  # keys alone decode nothing
    return left


def _kept(given: Dataset) -> dict[str, Any] | None:
    """Return what is stored of a dataset; None where a value cannot be told in DICOM JSON or there is too much."""
    left = Dataset()
    for tag in given.keys():  # noqa: SIM118  # see above
        if tag not in _NOT_KEPT and tag != rules.TRANSACTION_UID and not tag.is_private and tag.element:
            left[tag] = given[tag]
    try:
        found: dict[str, Any] = left.to_json_dict()
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, NotImplementedError):
        return None
    return found if len(str(found)) <= MOST_ATTRIBUTE_BYTES else None


def _study_of(given: Dataset) -> str:
    """Return the study that a work item is about: its own Study Instance UID, else that of its request or input."""
    for part in (
        given,
        *(given.get("ReferencedRequestSequence") or []),
        *(given.get("InputInformationSequence") or []),
    ):
        uid = str(part.get("StudyInstanceUID") or "").strip()
        if rules.is_uid(uid):
            return uid
    return ""
