"""Subscribing to work items, and stopping to.

Source: DICOM PS3.4 CC.2.3, table CC.2.3-2. Work items are never deleted, so a deletion lock is always granted.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice

from pydicom.dataset import Dataset
from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.worklist import ups_states as states
from cxr_node.worklist.matching import matches
from cxr_node.worklist.ups_events import FILTERED, GLOBAL, TOPIC, WELL_KNOWN, Announcer
from cxr_node.worklist.ups_pump import Keeper
from cxr_node.worklist.ups_service import Answer, Requester
from cxr_node.worklist.ups_tasks import Tasks
from storage import Database, Doorbell, audit, subscriptions
from storage.subscriptions import Subscription

_AT_ONCE = 200  # initial reports of one transaction
_NO_KEYS = ("ReceivingAE", "DeletionLock", "SpecificCharacterSet", "RequestingAE")


class UpsWatch:
    """Keeps who wants to be told of what."""

    def __init__(
        self,
        database: Database,
        doorbell: Doorbell,
        tasks: Tasks,
        keeper: Keeper,
        announcer: Announcer,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._doorbell = doorbell
        self._tasks = tasks
        self._keeper = keeper
        self._announcer = announcer
        self._now = now

    def subscribe(
        self, sop_instance_uid: str, receiver: str, *, deletion_lock: bool, keys: Dataset | None = None, by: Requester
    ) -> Answer:
        """Subscribe a receiver to one work item, or by a well-known UID to the whole list or to what matches `keys`.

        The receiver need not be who asks, and must be one that the node may call (`[[peer]]`). To one work item, or to
        the list with a deletion lock, the present state is reported at once.
        """
        receiver, now = receiver.strip(), self._now()
        if not receiver:
            return Answer(states.INVALID_ARGUMENT_VALUE)
        with self._database.read() as connection:
            task = None
            if sop_instance_uid not in WELL_KNOWN:
                task = self._tasks.get(connection, sop_instance_uid, now=now)
                if task is None:
                    return Answer(states.NO_SUCH_WORK_ITEM)
        if not self._announcer.is_known(receiver):
            return Answer(states.UNKNOWN_RECEIVER)
        match_keys = _match_keys(keys)
        if sop_instance_uid == FILTERED and not len(match_keys):
            return Answer(states.INVALID_ARGUMENT_VALUE)
        with self._database.begin() as connection:
            if task is not None and task.row is None:
                # Announced as new before the subscription: else its state would be reported twice.
                self._keeper.keep(connection, task.study_instance_uid, now)
            before = subscriptions.of_receiver(connection, receiver)
            if sop_instance_uid == GLOBAL:
                for one in before:
                    if one.keys.get("unsubscribed"):
                        subscriptions.remove(connection, receiver, one.sop_instance_uid)
            subscriptions.put(
                connection,
                receiver,
                sop_instance_uid,
                keys={"filter": match_keys.to_json_dict()} if sop_instance_uid == FILTERED else {},
                deletion_lock=deletion_lock,
                now=now,
            )
            audit.record(
                connection,
                "ups_subscribed",
                actor=by.name,
                now=now,
                study_instance_uid=task.study_instance_uid if task is not None else "",
                detail={"work_item": sop_instance_uid, "receiver": receiver, "deletion_lock": deletion_lock},
            )
            if task is not None:
                present = self._tasks.get(connection, sop_instance_uid, now=now)
                self._announcer.initial(connection, [present or task], receiver, now)
        if task is None:
            self._report_all(sop_instance_uid, receiver, match_keys, deletion_lock, before, now)
        self._doorbell.ring(TOPIC)
        return Answer(states.SUCCESS)

    def unsubscribe(self, sop_instance_uid: str, receiver: str, *, by: Requester) -> Answer:
        """Stop telling a receiver of one work item, or by a well-known UID of all."""
        receiver, now = receiver.strip(), self._now()
        if not receiver:
            return Answer(states.INVALID_ARGUMENT_VALUE)
        with self._database.begin() as connection:
            before = subscriptions.of_receiver(connection, receiver)
            if sop_instance_uid == GLOBAL:
                subscriptions.remove(connection, receiver)
            elif sop_instance_uid == FILTERED:
                for one in before:
                    if one.sop_instance_uid == FILTERED or one.keys.get("by") == FILTERED:
                        subscriptions.remove(connection, receiver, one.sop_instance_uid)
            elif self._tasks.get(connection, sop_instance_uid, now=now) is None:
                return Answer(states.NO_SUCH_WORK_ITEM)
            elif any(one.sop_instance_uid in WELL_KNOWN for one in before):
                subscriptions.put(
                    connection, receiver, sop_instance_uid, keys={"unsubscribed": True}, deletion_lock=False, now=now
                )
            else:
                subscriptions.remove(connection, receiver, sop_instance_uid)
            self._record(connection, "ups_unsubscribed", sop_instance_uid, receiver, by, now)
        return Answer(states.SUCCESS)

    def suspend(self, sop_instance_uid: str, receiver: str, *, by: Requester) -> Answer:
        """Go on telling a receiver of the work items there are, and not of new ones."""
        receiver, now = receiver.strip(), self._now()
        if sop_instance_uid not in WELL_KNOWN:
            return Answer(states.WRONG_INSTANCE_FOR_ACTION)
        if not receiver:
            return Answer(states.INVALID_ARGUMENT_VALUE)
        with self._database.begin() as connection:
            for one in subscriptions.of_receiver(connection, receiver):
                is_meant = one.sop_instance_uid in (WELL_KNOWN if sop_instance_uid == GLOBAL else (FILTERED,))
                if is_meant and not one.keys.get("suspended_at"):
                    subscriptions.put(
                        connection,
                        receiver,
                        one.sop_instance_uid,
                        keys=one.keys | {"suspended_at": now.isoformat()},
                        deletion_lock=one.deletion_lock,
                        now=now,
                    )
            self._record(connection, "ups_subscription_suspended", sop_instance_uid, receiver, by, now)
        return Answer(states.SUCCESS)

    def is_subscribed(self, sop_instance_uid: str, receiver: str) -> bool:
        """Whether there is such a subscription to be ended."""
        with self._database.read() as connection:
            found = subscriptions.get(connection, receiver.strip(), sop_instance_uid)
            covered = subscriptions.get(connection, receiver.strip(), GLOBAL)
        if found is not None:
            return not found.keys.get("unsubscribed")
        return covered is not None and sop_instance_uid != FILTERED

    def _report_all(
        self,
        sop_instance_uid: str,
        receiver: str,
        keys: Dataset,
        deletion_lock: bool,
        before: Iterable[Subscription],
        now: datetime,
    ) -> None:
        """Subscribe to what matches a filter now, and with a lock report each that the receiver was not told of."""
        if sop_instance_uid == GLOBAL and not deletion_lock:
            return
        told = {one.sop_instance_uid for one in before if not one.keys.get("unsubscribed")}
        if GLOBAL in told:
            return
        fitting = (
            task
            for task in self._tasks.all(now=now)
            if task.sop_instance_uid not in told
            and (
                sop_instance_uid == GLOBAL
                or matches(keys, self._tasks.dataset(task, wanted=set(keys.keys())), self._tasks.zone)
            )
        )
        while part := list(islice(fitting, _AT_ONCE)):
            with self._database.begin() as connection:
                if sop_instance_uid == FILTERED:
                    for task in part:
                        subscriptions.put(
                            connection,
                            receiver,
                            task.sop_instance_uid,
                            keys={"by": FILTERED},
                            deletion_lock=deletion_lock,
                            now=now,
                        )
                if deletion_lock:
                    self._announcer.initial(connection, part, receiver, now)

    @staticmethod
    def _record(
        connection: Connection, event: str, sop_instance_uid: str, receiver: str, by: Requester, now: datetime
    ) -> None:
        audit.record(
            connection,
            event,
            actor=by.name,
            now=now,
            detail={"work_item": sop_instance_uid, "receiver": receiver},
        )


def _match_keys(keys: Dataset | None) -> Dataset:
    """Return the matching keys of an action: those with a value."""
    found = Dataset()
    for element in keys or ():
        if element.keyword not in _NO_KEYS and not element.is_empty and element.tag.element:
            found[element.tag] = element
    return found
