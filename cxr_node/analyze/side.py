"""Work beside the studies: images that somebody tries, maps that somebody asks for. It never stands before a study.

One thread takes these jobs one at a time, with less claim to the processor than the studies' threads where the
operating system lets a thread have that. A kind is a row of `SIDE`.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.drops import Drops
from cxr_node.analyze.overlay import Overlays
from cxr_node.settings import Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.owner import owner
from storage import Database, Doorbell, InstanceFiles
from storage.drops import KIND, kind_here
from storage.heat_maps import HEAT_MAP
from storage.jobs import Job

TOPIC = "side"
NICENESS = 10
ATTEMPTS = 2
STOP_WITHIN_S = 5.0


@dataclass(frozen=True)
class Bench:
    """What side work has at hand. `analyzer` is asked for anew by every job: models may change while the node runs."""

    settings: Settings
    database: Database
    files: InstanceFiles
    analyzer: Callable[[], Analyzer]


@dataclass(frozen=True)
class SideKind:
    """One kind of side work.

    `handle` does one job and returns what settles it, or raises; `on_failed` marks the row of a job that is given up,
    in the transaction that fails it; `close` ends what was started.
    """

    handle: Callable[[Job], Outcome]
    on_failed: Callable[[Connection, Job, str], None]
    close: Callable[[], None] = lambda: None


def _drops(bench: Bench) -> SideKind:
    drops = Drops(bench.settings, bench.database, bench.analyzer)
    return SideKind(drops.handle, drops.on_failed, drops.close)


def _heat_maps(bench: Bench) -> SideKind:
    overlays = Overlays(bench.settings, bench.database, bench.files, bench.analyzer)
    return SideKind(overlays.handle, overlays.on_failed)


# Job kind → how it is done. Written out: this is the whole list.
SIDE: Mapping[str, Callable[[Bench], SideKind]] = {KIND: _drops, HEAT_MAP: _heat_maps}


@contextlib.contextmanager
def side_work(bench: Bench, stop: threading.Event) -> Iterator[None]:
    """Run a worker of all side kinds in a thread for the block; it ends with `stop`, which the block's end sets."""
    here = {KIND: kind_here(bench.database, bench.settings.data_dir / "run")}
    kinds = {here.get(kind, kind): make(bench) for kind, make in SIDE.items()}

    def handle(claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in claimed:
            yield job, kinds[job.kind].handle(job)

    worker = Worker(
        database=bench.database,
        doorbell=Doorbell(bench.settings.data_dir / "run", bench.database),
        kinds=tuple(kinds),
        topic=TOPIC,
        handle=handle,
        owner=owner(bench.settings.data_dir, "analyze", "side"),
        max_attempts=lambda job: ATTEMPTS,
        on_failed=lambda connection, job, reason: kinds[job.kind].on_failed(connection, job, reason),
    )

    def run() -> None:
        _yield_to_others()
        worker.run(stop)

    thread = threading.Thread(target=run, name="analyze-side", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        for kind in kinds.values():
            kind.close()
        thread.join(STOP_WITHIN_S)


def _yield_to_others() -> None:
    """Lower this thread's share of the processor, on Linux, where threads have shares of their own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
