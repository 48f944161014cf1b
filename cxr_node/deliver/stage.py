"""The stage: a lane for each destination, so that one that is down or slow holds up no other.

```
job "deliver" → router: [ job "deliver:NAME" ] → lane NAME: send → [ DELIVERED, audit event ]
```

A lane sends one object at a time, the most urgent first. What becomes of a failed attempt is decided by `work`.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from structlog.contextvars import bound_contextvars

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.deliver.destinations import DESTINATIONS, Sender
from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.deliver.rest import Rest
from cxr_node.errors import (
    AssociationRefused,
    CxrNodeError,
    DeliveryError,
    Disposition,
    NotNegotiated,
    Refused,
    Unreachable,
)
from cxr_node.log import get_logger
from cxr_node.settings import Destination, Settings
from cxr_node.work import Outcome, Worker
from storage import Database, Doorbell, InstanceFiles, audit, deliveries, jobs, results
from storage.deliveries import Delivery
from storage.errors import StorageError
from storage.jobs import Job

log = get_logger("deliver")

KIND = "deliver"
TOPIC = "deliver"
OPEN_STATES = (deliveries.SCHEDULED, deliveries.FAILED)  # FAILED: somebody scheduled its job again
STOP_WITHIN_S = 5.0  # for the object that is being sent
WATCH_S = 0.5

RESULTS: dict[type[DeliveryError], str] = {
    Unreachable: "unreachable",
    AssociationRefused: "association-refused",
    NotNegotiated: "not-negotiated",
    Refused: "refused",
}


class NotConfigured(DeliveryError):
    """node.toml has no destination of that name any more."""

    disposition = Disposition.FAIL


def lane_kind(destination: str) -> str:
    """Return the job kind of a destination's lane."""
    return f"{KIND}:{destination}"


class Router:
    """Hands each delivery to the lane of its destination, and gives up those whose destination is gone."""

    def __init__(self, database: Database, destinations: Sequence[Destination]) -> None:
        self._database = database
        self._names = frozenset(destination.name for destination in destinations)

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds it claims: the stage's own, and lanes that jobs still wait in and nobody serves."""
        with self._database.read() as connection:
            found = {kind for kind, _ in jobs.counts(connection) if kind.startswith(lane_kind(""))}
        return (KIND, *sorted(found - {lane_kind(name) for name in self._names}))

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job."""
        with self._database.read() as connection:
            found = {job.id: deliveries.get(connection, int(job.key)) for job in claimed}
        for job in claimed:
            delivery = found[job.id]
            if delivery is None:
                yield job, _nothing
            elif delivery.destination in self._names:
                yield job, _Route(job, lane_kind(delivery.destination))
            else:
                yield job, NotConfigured(f"{delivery.destination}: node.toml has no destination of this name any more")


def _nothing(connection: Connection) -> None:
    """Settle a job with nothing to write."""


@dataclass(frozen=True)
class _Route:
    job: Job
    kind: str

    def __call__(self, connection: Connection) -> None:
        now = utc_now()
        jobs.schedule(connection, self.kind, self.job.key, run_at=now, now=now, priority=self.job.priority)


@dataclass
class Lane:
    """Sends the deliveries of one destination.

    `waiting` holds the keys of jobs that met a destination in trouble: with its first success they run at once.
    """

    destination: Destination
    sender: Sender
    database: Database
    shelf: Shelf
    rest: Rest = field(default_factory=Rest)
    waiting: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        return lane_kind(self.destination.name)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job; its log line tells of study, destination and object."""
        for job in claimed:
            delivery, stored = self._open(job)
            if delivery is None:
                yield job, _nothing
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
            current = results.current(connection, delivery.study_instance_uid)
            if current is not None and current.revision > delivery.revision:
                return delivery, None
            return delivery, self.shelf.load(connection, delivery)

    def _send(self, job: Job, delivery: Delivery, stored: StoredObject) -> Outcome:
        try:
            sent = self.sender.send(stored)
        except DeliveryError as error:
            self.rest = self.rest.after(error, time.monotonic())
            name = next((text for kind, text in RESULTS.items() if isinstance(error, kind)), "failed")
            metrics.DELIVERIES.labels(self.destination.name, name).inc()
            if error.disposition is Disposition.RETRY and job.attempts < self.destination.max_attempts:
                self.waiting.add(job.key)
                self._show(delivery, error)
            return error
        self.rest = self.rest.after(None, time.monotonic())
        metrics.DELIVERIES.labels(self.destination.name, "delivered").inc()
        hasten, self.waiting = frozenset(self.waiting - {job.key}), set()
        return _Delivered(delivery, sent, self.kind, hasten)

    def _show(self, delivery: Delivery, error: CxrNodeError) -> None:
        """Say on the delivery what the attempt met, for the person who looks at the worklist."""
        with self.database.begin() as connection:
            found = deliveries.get(connection, delivery.id)
            if found is not None and found.state in OPEN_STATES:
                deliveries.set_state(connection, delivery.id, deliveries.SCHEDULED, now=utc_now(), reason=str(error))


@dataclass(frozen=True)
class _Superseded:
    delivery: Delivery

    def __call__(self, connection: Connection) -> None:
        reason = "a newer revision exists"
        deliveries.set_state(connection, self.delivery.id, deliveries.SUPERSEDED, now=utc_now(), reason=reason)


@dataclass(frozen=True)
class _Delivered:
    delivery: Delivery
    sent: Sent
    kind: str
    hasten: frozenset[str]

    def __call__(self, connection: Connection) -> None:
        now = utc_now()
        delivery, sent = self.delivery, self.sent
        # Also where a newer revision superseded it while it was sent: the destination has it.
        deliveries.set_state(
            connection,
            delivery.id,
            deliveries.DELIVERED,
            now=now,
            reason=sent.reason,
            sop_instance_uid=sent.sop_instance_uid,
            sop_class_uid=sent.sop_class_uid,
        )
        audit.record(
            connection,
            "object_delivered",
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
        if self.hasten:
            jobs.hasten(connection, self.kind, self.hasten, run_at=now)


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
    """A worker that claims nothing while its destination rests."""

    lane: Lane = field(kw_only=True)
    stop: threading.Event = field(kw_only=True)

    def run_once(self) -> int:
        """See `Worker.run_once`."""
        left_s = self.lane.rest.until - time.monotonic()
        if left_s > 0 and self.stop.wait(left_s):
            return 0
        return super().run_once()


def make_workers(settings: Settings, database: Database, files: InstanceFiles, stop: threading.Event) -> list[Worker]:
    """Return the router's worker and one for each destination."""
    shelf = Shelf(database, files)
    doorbell = Doorbell(settings.data_dir / "run")
    router = Router(database, settings.destination)
    workers: list[Worker] = [
        Worker(
            database=database,
            doorbell=doorbell,
            kinds=router.kinds(),
            topic=TOPIC,
            handle=router.handle,
            owner=f"{KIND}:{os.getpid()}:router",
            batch=32,
            on_failed=give_up,
            ring_after=(TOPIC, "worklist"),
        )
    ]
    for destination in settings.destination:
        sender = DESTINATIONS[destination.kind](destination, settings=settings, shelf=shelf)
        lane = Lane(destination, sender, database, shelf)
        workers.append(
            LaneWorker(
                database=database,
                doorbell=doorbell,
                kinds=(lane.kind,),
                topic=TOPIC,
                handle=lane.handle,
                owner=f"{KIND}:{os.getpid()}:{destination.name}",
                max_attempts=lambda _, most=destination.max_attempts: most,  # type: ignore[misc]
                on_failed=give_up,
                ring_after=("worklist",),
                lane=lane,
                stop=stop,
            )
        )
    return workers


def run_deliver(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    RuntimeError
        A lane ended by itself: the supervisor starts the stage anew.
    """
    # It tells of every failed connection on several lines; the line of the job says the same in a sentence.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    database = Database(settings.database_url)
    database.migrate()
    workers = make_workers(settings, database, InstanceFiles(settings.instances_dir), stop)
    threads = [threading.Thread(target=worker.run, args=(stop,), name=worker.owner, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    log.info("deliver_ready", destinations=[destination.name for destination in settings.destination])
    try:
        while not stop.wait(WATCH_S):
            ended = [thread.name for thread in threads if not thread.is_alive()]
            if ended:
                raise RuntimeError(f"{', '.join(ended)} ended by itself")
    finally:
        stop.set()
        Doorbell(settings.data_dir / "run").ring(TOPIC)  # those who wait for work need not wait on
        _end(database, threads)


def _end(database: Database, threads: Sequence[threading.Thread]) -> None:
    """Wait for what is being sent; what takes longer is sent again, the same bytes, by whoever comes next."""
    deadline = time.monotonic() + STOP_WITHIN_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in threads if thread.is_alive()]
    try:
        with database.begin() as connection:
            for name in left:
                jobs.release_owner(connection, name, now=utc_now())
    except (StorageError, SQLAlchemyError) as error:
        log.warning("leases_not_released", owners=left, error_type=type(error).__name__)
    if not left:
        database.dispose()
