"""Tests of destinations that a person asked for from elsewhere: job "destination-test", key the destination's name."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.deliver.destinations import DESTINATIONS
from cxr_node.deliver.objects import Shelf
from cxr_node.settings import Settings
from cxr_node.work import Outcome
from storage import destination_states, lanes
from storage.jobs import Job

KIND = lanes.TEST
BATCH = 8  # tested at once: each may wait for its time-out


@dataclass(frozen=True)
class Tester:
    """Tests destinations, whether their lanes rest or are paused; nothing is delivered by it."""

    settings: Settings
    shelf: Shelf

    def test(self, name: str) -> str:
        """Return what is wrong with the destination, empty where nothing is."""
        destination = next((item for item in self.settings.destination if item.name == name), None)
        if destination is None:
            return f"{name}: node.toml has no destination of this name"
        return DESTINATIONS[destination.kind](destination, settings=self.settings, shelf=self.shelf).test()

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job, as soon as its test ends."""
        found: queue.Queue[tuple[Job, Outcome]] = queue.Queue()
        for job in claimed:
            # Daemons: a stage that is told to end must not wait for a peer that does not answer.
            threading.Thread(target=self._try, args=(job, found), name=f"{KIND}:{job.key}", daemon=True).start()
        for _ in claimed:
            yield found.get()

    def _try(self, job: Job, found: "queue.Queue[tuple[Job, Outcome]]") -> None:
        try:
            found.put((job, _Tested(job.key, self.test(job.key))))
        except Exception as error:  # noqa: BLE001  # carried to `work`, which settles it
            found.put((job, error))


@dataclass(frozen=True)
class _Tested:
    name: str
    found: str

    def __call__(self, connection: Connection) -> None:
        destination_states.note_test(connection, self.name, self.found, now=utc_now())


def give_up(connection: Connection, job: Job, reason: str) -> None:
    """Say that the test itself failed: whoever asked for it waits for an answer."""
    found = f"{job.key}: the test could not be made: {reason}"
    destination_states.note_test(connection, job.key, found, now=utc_now())
