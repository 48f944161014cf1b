"""The stage: a lane for each destination, so that one that is down or slow holds up no other.

```
job "deliver" → router: [ job "deliver:NAME" ] → lane NAME: send → [ DELIVERED, audit event ] → proof
job "destination-test" → tester: [ what is wrong with a destination ]
```

What becomes of a failed attempt is told by `policy` and done by `work`.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.deliver import proof, tester
from cxr_node.deliver.destinations import DESTINATIONS
from cxr_node.deliver.lane import Lane, LaneWorker, give_up, nothing
from cxr_node.deliver.objects import Shelf
from cxr_node.errors import DeliveryError, Disposition
from cxr_node.log import get_logger
from cxr_node.settings import Destination, Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.files import instance_files
from cxr_node.work.heartbeat import beating
from cxr_node.work.owner import owner
from storage import Database, Doorbell, InstanceFiles, deliveries, jobs, lanes
from storage.errors import StorageError
from storage.jobs import Job

log = get_logger("deliver")

KIND = lanes.DELIVER
TOPIC = "deliver"
STOP_WITHIN_S = 5.0  # for the object that is being sent
WATCH_S = 0.5


class NotConfigured(DeliveryError):
    """node.toml has no destination of that name any more."""

    disposition = Disposition.FAIL


class Router:
    """Hands each delivery to the lane of its destination, and gives up those whose destination is gone."""

    def __init__(self, database: Database, destinations: Sequence[Destination]) -> None:
        self._database = database
        self._names = frozenset(destination.name for destination in destinations)

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds it claims: the stage's own, and lanes that jobs still wait in and nobody serves."""
        with self._database.read() as connection:
            found = {kind for kind, _ in jobs.counts(connection) if kind.startswith(lanes.kind_of(""))}
        return (KIND, *sorted(found - {lanes.kind_of(name) for name in self._names}))

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job."""
        with self._database.read() as connection:
            found = {job.id: deliveries.get(connection, int(job.key)) for job in claimed}
        for job in claimed:
            delivery = found[job.id]
            if delivery is None:
                yield job, nothing
            elif delivery.destination in self._names:
                yield job, _Route(job, lanes.kind_of(delivery.destination))
            else:
                yield job, NotConfigured(f"{delivery.destination}: node.toml has no destination of this name any more")


@dataclass(frozen=True)
class _Route:
    job: Job
    kind: str

    def __call__(self, connection: Connection) -> None:
        now = utc_now()
        jobs.schedule(connection, self.kind, self.job.key, run_at=now, now=now, priority=self.job.priority)


def make_workers(settings: Settings, database: Database, files: InstanceFiles) -> list[Worker]:
    """Return the workers of router, tester and proofs, and one for each destination.

    Raises
    ------
    SettingsError
        A destination's template cannot be used.
    """
    shelf = Shelf(database, files)
    doorbell = Doorbell(settings.data_dir / "run", database)
    router = Router(database, settings.destination)
    workers: list[Worker] = [
        Worker(
            database=database,
            doorbell=doorbell,
            kinds=router.kinds(),
            topic=TOPIC,
            handle=router.handle,
            owner=owner(settings.data_dir, KIND, "router"),
            batch=32,
            on_failed=give_up,
            ring_after=(TOPIC, "worklist"),
        ),
        Worker(
            database=database,
            doorbell=doorbell,
            kinds=(tester.KIND,),
            topic=TOPIC,
            handle=tester.Tester(settings, shelf).handle,
            owner=owner(settings.data_dir, KIND, "tester"),
            batch=tester.BATCH,
            max_attempts=lambda _: 2,
            on_failed=tester.give_up,
        ),
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
                owner=owner(settings.data_dir, KIND, destination.name),
                max_attempts=lambda _, most=destination.max_attempts: most,  # type: ignore[misc]
                on_failed=give_up,
                ring_after=(TOPIC, "worklist"),
                alone=True,  # in order, also where several processes deliver: one host at a time sends in a lane
                lane=lane,
            )
        )
    return [*workers, *proof.make_workers(settings, database, files)]


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
    workers = make_workers(settings, database, instance_files(settings))
    threads = [threading.Thread(target=worker.run, args=(stop,), name=worker.owner, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    log.info("deliver_ready", destinations=[destination.name for destination in settings.destination])
    try:
        with beating(database, KIND):
            _watch(threads, stop)
    finally:
        stop.set()
        Doorbell(settings.data_dir / "run").ring(TOPIC)  # those who wait for work need not wait on
        _end(database, threads)


def _watch(threads: Sequence[threading.Thread], stop: threading.Event) -> None:
    while not stop.wait(WATCH_S):
        ended = [thread.name for thread in threads if not thread.is_alive()]
        if ended and not stop.is_set():  # a stop between the wait and the look ends them too
            raise RuntimeError(f"{', '.join(ended)} ended by itself")


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
