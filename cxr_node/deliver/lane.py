"""A lane: sends what waits for one destination, one object at a time, the most urgent first.

```
claim → send → [ DELIVERED | SKIPPED, proof planned, audit event ]
             → error: `policy` says whether it is tried again, and how long the destination is left alone
```

Whether the destination rests or is paused is in the database, so a restart does not forget it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.engine import Connection
from structlog.contextvars import bound_contextvars

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.deliver import proof
from cxr_node.deliver.destinations import Sender
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.deliver.policy import policy_of
from cxr_node.deliver.rest import Rest
from cxr_node.errors import CxrNodeError, DeliveryError, Disposition
from cxr_node.settings import Destination
from cxr_node.work import Outcome, Worker
from storage import Database, audit, deliveries, destination_states, lanes
from storage.deliveries import Delivery
from storage.faults import fault_point
from storage.jobs import Job

OPEN_STATES = (deliveries.SCHEDULED, deliveries.FAILED)  # FAILED: somebody scheduled its job again
_LONGEST_HOLD_S = 3600.0  # nothing rests longer: what seems to is left from before the clock was set back


def nothing(connection: Connection) -> None:
    """Settle a job with nothing to write."""


@dataclass
class Lane:
    """Sends the deliveries of one destination.

    `tries` counts, for each job, the tries that ended in an error of bounded tries; a restart begins anew.
    """

    destination: Destination
    sender: Sender
    database: Database
    shelf: Shelf
    tries: Counter[str] = field(default_factory=Counter)

    @property
    def kind(self) -> str:
        return lanes.kind_of(self.destination.name)

    def hold_s(self) -> float:
        """Return how long nothing is to be claimed, 0 where the lane is open; a paused one waits until it is told."""
        with self.database.read() as connection:
            state = destination_states.get(connection, self.destination.name)
        if state.paused:
            return _LONGEST_HOLD_S
        if state.resting_until is None:
            return 0.0
        left_s = (state.resting_until - utc_now()).total_seconds()
        return 0.0 if left_s > _LONGEST_HOLD_S else max(0.0, left_s)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job; its log line tells of study, destination and object."""
        fault_point("deliver.claimed")
        for job in claimed:
            delivery, stored = self._open(job)
            if delivery is None:
                yield job, nothing
                continue
            told = {
                "destination": delivery.destination,
                "study_instance_uid": delivery.study_instance_uid,
                "revision": delivery.revision,
            }
            with bound_contextvars(**told):
                if stored is None:
                    metrics.DELIVERIES.labels(self.destination.name, "superseded").inc()
                    yield job, _Superseded(delivery)
                    continue
                yield job, self._send(job, delivery, stored)

    def _open(self, job: Job) -> tuple[Delivery | None, StoredObject | None]:
        """Return the delivery, None where there is nothing to do, and its object, None where a newer one exists."""
        with self.database.read() as connection:
            delivery = deliveries.get(connection, int(job.key))
            if delivery is None or delivery.state not in OPEN_STATES:
                return None, None
            if not lanes.is_newest(connection, delivery):
                return delivery, None
            return delivery, self.shelf.load(connection, delivery)

    def _send(self, job: Job, delivery: Delivery, stored: StoredObject) -> Outcome:
        fault_point("deliver.before-send")
        try:
            sent = self.sender.send(stored)
            fault_point("deliver.sent")
        except DeliveryError as error:
            policy = policy_of(error)
            metrics.DELIVERIES.labels(self.destination.name, policy.result).inc()
            if policy.most_tries is not None:
                self.tries[job.key] += 1
            if not policy.again or (policy.most_tries is not None and self.tries[job.key] >= policy.most_tries):
                error.disposition = Disposition.FAIL
            is_tried_again = error.disposition is Disposition.RETRY and job.attempts < self.destination.max_attempts
            if not is_tried_again:
                self.tries.pop(job.key, None)
            self._note(delivery, error, is_tried_again)
            return error
        metrics.DELIVERIES.labels(self.destination.name, "skipped" if sent.skipped else "delivered").inc()
        self.tries.pop(job.key, None)
        return _Settled(delivery, sent, self.destination)

    def _note(self, delivery: Delivery, error: CxrNodeError, is_tried_again: bool) -> None:
        """Say on the destination what the attempt met, and on a delivery that waits for its next try."""
        now, name = utc_now(), self.destination.name
        with self.database.begin() as connection:
            before = destination_states.get(connection, name)
            rest = Rest(before.failures).after(error, now.timestamp())
            destination_states.note_failure(
                connection,
                name,
                error=str(error),
                failures=rest.failures,
                resting_until=datetime.fromtimestamp(rest.until, UTC) if rest.failures else None,
                now=now,
            )
            if before.failures and not rest.failures:
                lanes.hurry(connection, name, now=now)  # it answers, if only to refuse this one
            found = deliveries.get(connection, delivery.id)
            if is_tried_again and found is not None and found.state in OPEN_STATES:
                deliveries.set_state(connection, delivery.id, deliveries.SCHEDULED, now=now, reason=str(error))


@dataclass(frozen=True)
class _Superseded:
    delivery: Delivery

    def __call__(self, connection: Connection) -> None:
        reason = "a newer revision exists"
        deliveries.set_state(connection, self.delivery.id, deliveries.SUPERSEDED, now=utc_now(), reason=reason)


@dataclass(frozen=True)
class _Settled:
    """What was sent, or left out as the destination has it."""

    delivery: Delivery
    sent: Sent
    destination: Destination

    def __call__(self, connection: Connection) -> None:
        now = utc_now()
        delivery, sent = self.delivery, self.sent
        # Also where a newer revision superseded it while it was sent: the destination has it.
        deliveries.set_state(
            connection,
            delivery.id,
            deliveries.SKIPPED if sent.skipped else deliveries.DELIVERED,
            now=now,
            reason=sent.reason,
            sop_instance_uid=sent.sop_instance_uid,
            sop_class_uid=sent.sop_class_uid,
        )
        audit.record(
            connection,
            "delivery_skipped" if sent.skipped else "object_delivered",
            actor="deliver",
            now=now,
            study_instance_uid=delivery.study_instance_uid,
            detail={
                "destination": delivery.destination,
                "kind": delivery.kind,
                "revision": delivery.revision,
                "sop_class_uid": sent.sop_class_uid,
                "sop_instance_uid": sent.sop_instance_uid,
                "reason": sent.reason,
            },
        )
        if sent.skipped:
            return  # nobody was asked, and nothing is known of the destination
        if destination_states.get(connection, delivery.destination).failures:
            lanes.hurry(connection, delivery.destination, now=now)
        destination_states.note_success(connection, delivery.destination, now=now)
        proof.plan(connection, delivery.id, self.destination, now=now)


def give_up(connection: Connection, job: Job, reason: str) -> None:
    """Show a delivery whose job failed for good, unless it was superseded or delivered meanwhile."""
    delivery = deliveries.get(connection, int(job.key))
    if delivery is None or delivery.state not in OPEN_STATES:
        return
    now = utc_now()
    deliveries.set_state(connection, delivery.id, deliveries.FAILED, now=now, reason=reason)
    audit.record(
        connection,
        "delivery_failed",
        actor="deliver",
        now=now,
        study_instance_uid=delivery.study_instance_uid,
        detail={"destination": delivery.destination, "kind": delivery.kind, "reason": reason},
    )


@dataclass
class LaneWorker(Worker):
    """A worker that claims nothing while its destination rests or is paused."""

    lane: Lane = field(kw_only=True)
    _held_s: float = field(default=0.0, init=False)

    def run_once(self) -> int:
        """See `Worker.run_once`."""
        self._held_s = self.lane.hold_s()
        return 0 if self._held_s > 0 else super().run_once()

    def pause_s(self) -> float:
        """See `Worker.pause_s`; who resumes the lane rings."""
        return self._held_s or super().pause_s()
