"""UPS events: who is told what of a work item. Events are queued in the transaction of what they tell of.

Source: DICOM PS3.4 CC.2.3 (subscriptions, table CC.2.3-2), CC.2.4 (events, table CC.2.4-1).
"""

from collections.abc import Collection, Iterable
from copy import deepcopy
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from sqlalchemy.engine import Connection

from cxr_node.settings import Settings
from cxr_node.worklist.matching import matches
from cxr_node.worklist.ups_rules import PROGRESS
from cxr_node.worklist.ups_tasks import Task, Tasks
from storage import jobs, subscriptions
from storage.subscriptions import Subscription

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = 1, 2, 3, 4, 5

GLOBAL = "1.2.840.10008.5.1.4.34.5"  # UPS Global Subscription SOP Instance
FILTERED = "1.2.840.10008.5.1.4.34.5.1"  # UPS Filtered Global Subscription SOP Instance
WELL_KNOWN = (GLOBAL, FILTERED)

JOB = "ups-event"
TOPIC = "ups-event"

# Beside what the standard asks for, a State Report says the priority: an SCU accepts every attribute (CC.2.4.2), and
# the standard has no event of its own for a priority that rose.
_STATE = ("ProcedureStepState", "InputReadinessState", "ScheduledProcedureStepPriority")
_REASONS = ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence")
_CANCEL = (*_REASONS, "ContactURI", "ContactDisplayName")
_PERFORMERS = ("HumanPerformerCodeSequence", "HumanPerformerOrganization")


class Announcer:
    """Queues events for whoever subscribed."""

    def __init__(self, settings: Settings, tasks: Tasks) -> None:
        self._peers = {peer.ae_title.strip() for peer in settings.peer}
        self._tasks = tasks

    def is_known(self, ae_title: str) -> bool:
        """Whether the node may call that AE: it stands in a `[[peer]]` section."""
        return ae_title.strip() in self._peers

    def state(self, connection: Connection, task: Task, now: datetime, *, passed: Iterable[str] = ()) -> None:
        """Report the state, and before it the states in `passed` that the work item went through on the way."""
        receivers = self._subscribers(connection, task, now)
        if not receivers:
            return
        report = self.state_report(task)
        for state in passed:
            before = deepcopy(report)  # a dataset shares its elements with one it was updated from
            before.ProcedureStepState = state
            for keyword in _REASONS:
                before.pop(keyword, None)
            self.queue(connection, receivers, STATE_REPORT, task.sop_instance_uid, before, now)
        self.queue(connection, receivers, STATE_REPORT, task.sop_instance_uid, report, now)

    def initial(self, connection: Connection, tasks: Iterable[Task], ae_title: str, now: datetime) -> None:
        """Report the state of each to one receiver that subscribed."""
        for task in tasks:
            report = _to_json(self.state_report(task))
            subscriptions.enqueue(connection, ae_title, STATE_REPORT, task.sop_instance_uid, report, now=now)
        wake(connection, ae_title, now)

    def cancel_requested(
        self, connection: Connection, task: Task, given: Dataset, requesting_ae: str, now: datetime
    ) -> None:
        """Report that somebody wants the work item canceled."""
        information = _part_of(given, _CANCEL)
        information.RequestingAE = requesting_ae[:16]
        receivers = self._subscribers(connection, task, now)
        self.queue(connection, receivers, CANCEL_REQUESTED, task.sop_instance_uid, information, now)

    def progress(self, connection: Connection, task: Task, now: datetime) -> None:
        """Report the progress that the performer set."""
        receivers = self._subscribers(connection, task, now)
        if receivers:
            information = self._tasks.dataset(task, wanted={PROGRESS})
            self.queue(connection, receivers, PROGRESS_REPORT, task.sop_instance_uid, information, now)

    def assigned(self, connection: Connection, task: Task, now: datetime) -> None:
        """Report stations and performers that the work item is scheduled for: one event for each performer."""
        receivers = self._subscribers(connection, task, now)
        if not receivers:
            return
        keywords = ("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence")
        found = self._tasks.dataset(task, wanted={Tag(keyword) for keyword in keywords})
        for performer in found.get(keywords[1]) or [Dataset()]:
            information = _part_of(performer, _PERFORMERS)
            if found.get(keywords[0]):
                information.ScheduledStationNameCodeSequence = found.ScheduledStationNameCodeSequence
            self.queue(connection, receivers, ASSIGNED, task.sop_instance_uid, information, now)

    def restarted(self, connection: Connection, now: datetime) -> None:
        """Report to every subscriber that the SCP was restarted and forgot nothing."""
        self.queue(
            connection,
            subscriptions.receivers(connection),
            SCP_STATUS_CHANGE,
            GLOBAL,
            scp_status("RESTARTED"),
            now,
        )

    def has_performer(self, connection: Connection, task: Task) -> bool:
        """Whether who holds the work item will hear of it: subscribed, and known to be called."""
        performer = task.row.performer if task.row is not None else ""
        return self.is_known(performer) and performer in self._current(connection, task)

    def state_report(self, task: Task) -> Dataset:
        """Return what a State Report says."""
        found = self._tasks.dataset(task, wanted={Tag(keyword) for keyword in (*_STATE, PROGRESS)})
        report = _part_of(found, _STATE)
        for progress in found[PROGRESS].value if PROGRESS in found else ():
            report.update(_part_of(progress, _REASONS))
        return report

    def queue(
        self,
        connection: Connection,
        receivers: Collection[str],
        event_type: int,
        sop_instance_uid: str,
        information: Dataset,
        now: datetime,
    ) -> None:
        """Add an event for each receiver, and the job that sends it."""
        told = _to_json(information) if receivers else {}
        for ae_title in receivers:
            subscriptions.enqueue(connection, ae_title, event_type, sop_instance_uid, told, now=now)
            wake(connection, ae_title, now)

    def _subscribers(self, connection: Connection, task: Task, now: datetime) -> list[str]:
        """Return who is subscribed; a filtered subscription whose keys the work item matches now makes one to it."""
        found = subscriptions.to_instances(connection, (*WELL_KNOWN, task.sop_instance_uid))
        if not found:
            return []
        specific = {one.ae_title for one in found if one.sop_instance_uid == task.sop_instance_uid}
        for one in found:
            if one.sop_instance_uid == FILTERED and one.ae_title not in specific and self.fits(one, task):
                subscriptions.put(
                    connection,
                    one.ae_title,
                    task.sop_instance_uid,
                    keys={"by": FILTERED},
                    deletion_lock=one.deletion_lock,
                    now=now,
                )
        return self._current(connection, task)

    def fits(self, subscription: Subscription, task: Task) -> bool:
        """Whether a filtered subscription that is not suspended is for such a work item."""
        if subscription.keys.get("suspended_at"):
            return False
        keys = Dataset.from_json(subscription.keys.get("filter") or {})
        return matches(keys, self._tasks.dataset(task, wanted=set(keys.keys())), self._tasks.zone)

    def _current(self, connection: Connection, task: Task) -> list[str]:
        """Return who is subscribed to the work item as the subscriptions stand."""
        found = subscriptions.to_instances(connection, (GLOBAL, task.sop_instance_uid))
        specific = {one.ae_title: one for one in found if one.sop_instance_uid == task.sop_instance_uid}
        told = [title for title, one in specific.items() if not one.keys.get("unsubscribed")]
        for one in found:
            if one.sop_instance_uid == GLOBAL and one.ae_title not in specific and _covers(one, task):
                told.append(one.ae_title)
        return told


def wake(connection: Connection, ae_title: str, now: datetime) -> None:
    """Let the job of the receiver run; one that waits after a failed try keeps its time, or every event to a receiver
    that is down would use up a try.
    """
    job = jobs.get(connection, JOB, ae_title)
    if job is None or job.state != jobs.SCHEDULED or not job.attempts:
        jobs.schedule(connection, JOB, ae_title, run_at=now, now=now)


def scp_status(status: str) -> Dataset:
    """Return what an SCP Status Change says: both lists are in the database and outlive a restart."""
    information = Dataset()
    information.SCPStatus = status
    information.SubscriptionListStatus = information.UnifiedProcedureStepListStatus = "WARM START"
    return information


def _covers(subscription: Subscription, task: Task) -> bool:
    """Whether a subscription to the whole list is to this work item: one that was suspended keeps what was there."""
    suspended_at = subscription.keys.get("suspended_at")
    if not suspended_at:
        return True
    return task.row is not None and task.row.created_at <= datetime.fromisoformat(suspended_at)


def _part_of(dataset: Dataset, keywords: Iterable[str]) -> Dataset:
    part = Dataset()
    for keyword in keywords:
        if keyword in dataset and not dataset[keyword].is_empty:
            part[keyword] = dataset[keyword]
    return part


def _to_json(dataset: Dataset) -> dict[str, Any]:
    found: dict[str, Any] = dataset.to_json_dict()
    return found
