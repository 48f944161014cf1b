"""Proof of delivery: whether a destination really holds what it answered Success for.

```
delivered → job "prove:NAME" → storage commitment asked, or read back → [ COMMITTED | sent again | FAILED | no way ]
```

Success says that a peer took the bytes. A PACS may drop them all the same (another object under that UID), lose them
before they reach its disk, or file them elsewhere; only asking afterwards shows it. Every step's state is in the
database: a process that dies anywhere asks again, and whoever is asked twice takes no harm.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.deliver.commitment import REPORT_KIND, Reporter
from cxr_node.deliver.objects import Shelf
from cxr_node.deliver.proof_rules import PROVABLE, prove_kind
from cxr_node.deliver.prover import Prover, settle_unavailable
from cxr_node.settings import Destination, Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.owner import owner
from storage import Database, Doorbell, InstanceFiles, commitments, deliveries, destination_states, jobs
from storage.jobs import Job

TOPIC = "deliver"
FIRST_LOOK_S = 1.0  # a PACS that files objects after its answer has done so, and a burst of them is asked for at once
BATCH = 16
REPORT_ATTEMPTS = 50
LONGEST_HOLD_S = 3600.0  # a paused destination waits until it is told


def plan(connection: Connection, delivery_id: int, destination: Destination, *, now: datetime) -> None:
    """Have a delivery proved that was answered Success; call it in the transaction that says so.

    Nothing happens for a destination that need not or cannot prove. What was asked about an earlier sending of the same
    delivery is not waited for any more.
    """
    if not wants_proof(destination):
        return
    deliveries.ask_proof(connection, delivery_id, now=now)
    commitments.close(connection, delivery_id)
    due = now + timedelta(seconds=FIRST_LOOK_S)
    jobs.schedule(connection, prove_kind(destination.name), str(delivery_id), run_at=due, now=now)


def wants_proof(destination: Destination) -> bool:
    """Whether deliveries there are to be proved, and can be."""
    return destination.commit and destination.kind in PROVABLE


class Unserved:
    """Settles the proofs that nobody works on: node.toml has their destination no more, or asks for no proof there."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._served = {prove_kind(item.name) for item in settings.destination if wants_proof(item)}

    def kinds(self) -> tuple[str, ...]:
        """Return the job kinds of such proofs."""
        with self._database.read() as connection:
            found = {kind for kind, _ in jobs.counts(connection) if kind.startswith(prove_kind(""))}
        return tuple(sorted(found - self._served))

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job."""
        reason = "node.toml has no such destination any more, or asks for no proof there"
        for job in claimed:
            yield job, partial(settle_unavailable, delivery_id=int(job.key), reason=reason, now=utc_now())


@dataclass
class ProofWorker(Worker):
    """A worker that claims nothing while its destination rests or is paused."""

    prover: Prover = field(kw_only=True)
    _held_s: float = field(default=0.0, init=False)

    def run_once(self) -> int:
        """See `Worker.run_once`."""
        self._held_s = self._hold_s()
        return 0 if self._held_s > 0 else super().run_once()

    def pause_s(self) -> float:
        """See `Worker.pause_s`; who resumes the destination rings."""
        return self._held_s or super().pause_s()

    def _hold_s(self) -> float:
        left_s = self.prover.rest.until - time.monotonic()
        if left_s > 0:
            return left_s
        return LONGEST_HOLD_S if self._is_paused() else 0.0

    def _is_paused(self) -> bool:
        with self.database.read() as connection:
            return destination_states.get(connection, self.prover.destination.name).paused


def make_workers(settings: Settings, database: Database, files: InstanceFiles) -> list[Worker]:
    """Return a worker for each destination that proves its deliveries, and one that reports to those who asked the node
    for storage commitment."""
    shelf = Shelf(database, files)
    doorbell = Doorbell(settings.data_dir / "run", database)
    # As the stage's other workers are named: the supervisor gives back what a dead process held by the beginning.
    name = owner(settings.data_dir, TOPIC, "prove")
    reporter = Reporter(settings, database, files)
    reporter.resume()
    workers: list[Worker] = [
        Worker(
            database=database,
            doorbell=doorbell,
            kinds=(REPORT_KIND,),
            topic=TOPIC,
            handle=reporter.handle,
            owner=f"{name}:reports",
            max_attempts=lambda _: REPORT_ATTEMPTS,
            on_failed=reporter.give_up,
        )
    ]
    unserved = Unserved(database, settings)
    if unserved.kinds():
        workers.append(
            Worker(
                database=database,
                doorbell=doorbell,
                kinds=unserved.kinds(),
                topic=TOPIC,
                handle=unserved.handle,
                owner=f"{name}:unserved",
                batch=BATCH,
                ring_after=("worklist",),
            )
        )
    for destination in settings.destination:
        if not wants_proof(destination):
            continue
        prover = Prover(destination, settings, database, shelf)
        workers.append(
            ProofWorker(
                database=database,
                doorbell=doorbell,
                kinds=(prove_kind(destination.name),),
                topic=TOPIC,
                handle=prover.handle,
                owner=f"{name}:{destination.name}",
                batch=BATCH,
                max_attempts=lambda _, most=destination.max_attempts: most,  # type: ignore[misc]
                on_failed=prover.give_up,
                ring_after=("worklist", TOPIC),
                prover=prover,
            )
        )
    return workers
