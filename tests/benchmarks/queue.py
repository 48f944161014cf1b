"""The queue alone: `python -m tests.benchmarks.queue [--quick]`, on SQLite and on PostgreSQL, commits on disk.

- enqueue, claim, settle: operations a second, each a transaction of its own, by 1 and by 4 threads; databases in random
  order, several rounds, medians;
- enqueue -> begun: from the commit that scheduled a job to its handler, in another process: on the same host (sockets)
  and, with PostgreSQL, on another host (LISTEN/NOTIFY; a run folder of its own), 1 job at a time.

How long jobs wait that come at random is `tests.benchmarks.scale`'s.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_node.log import configure_logging
from storage import Database, Doorbell, jobs
from storage.jobs import Job
from tests.benchmarks.queueing import quantile_of
from tests.benchmarks.receivers import machine
from tests.benchmarks.servers import postgresql

_LISTENER = """
import sys, threading, time
from pathlib import Path
from cxr_node.log import configure_logging
from cxr_node.work import Worker
from storage import Database, Doorbell
configure_logging("error", "bench")
database = Database(sys.argv[1])
stop = threading.Event()

def handle(claimed):
    begun = time.time()
    for job in claimed:
        print(job.key, begun, flush=True)
        yield job, lambda connection: None

doorbell = Doorbell(Path(sys.argv[2]), database)
bell = doorbell.listen("ready")
while database.dialect == "postgresql" and bell.backstop_s <= 1:
    time.sleep(0.01)
print("ready", 0, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
Worker(database, doorbell, ("latency",), "latency", handle, "latency:1:").run(stop)
"""


def _now() -> datetime:
    return datetime.now(UTC)


def _timed(threads: int, number: int, act: Callable[[int], None]) -> float:
    """Return operations a second of so many threads that share the numbers out."""

    def run(first: int) -> None:
        for index in range(first, number, threads):
            act(index)

    running = [threading.Thread(target=run, args=(first,)) for first in range(threads)]
    started = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return number / (time.perf_counter() - started)


def operations(database: Database, threads: int, number: int) -> dict[str, float]:
    """Return enqueue, claim and settle a second; leaves no job behind that could be claimed."""
    claimed: list[Job] = []
    mark = time.time_ns()

    def enqueue(index: int) -> None:
        with database.begin() as connection:
            jobs.schedule(connection, "bench", f"{mark}-{index}", run_at=_now(), now=_now())

    def claim(index: int) -> None:
        with database.begin() as connection:
            claimed.extend(jobs.claim(connection, ["bench"], owner=f"bench:{index % threads}:", now=_now()))

    def settle(index: int) -> None:
        with database.begin() as connection:
            assert jobs.complete(connection, claimed[index], now=_now())

    found = {"enqueue": _timed(threads, number, enqueue), "claim": _timed(threads, number, claim)}
    assert len(claimed) == number
    found["settle"] = _timed(threads, number, settle)
    return found


def latency_s(database: Database, ringer: Path, listener: Path, number: int) -> list[float]:
    """Return the seconds from commit to handler of jobs scheduled one at a time, on the host of another run folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LISTENER, database.url, str(listener)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline().startswith("ready")
        doorbell, rng, found = Doorbell(ringer, database), random.Random(1), []
        for index in range(number):
            time.sleep(rng.uniform(0.02, 0.06))
            with database.begin() as connection:
                jobs.schedule(connection, "latency", f"{time.time_ns()}-{index}", run_at=_now(), now=_now())
            committed = time.time()
            doorbell.ring("latency")
            found.append(float(process.stdout.readline().split()[1]) - committed)
        return found[1:]  # the first one makes the connection that rings
    finally:
        process.stdin.close()
        process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and jobs")
    quick = parser.parse_args().quick
    configure_logging("error", "bench")
    number, rounds, asked = (60, 2, 30) if quick else (500, 5, 300)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, postgresql() as url:
        folder = Path(name)
        opened = {"sqlite": Database(f"sqlite:///{folder / 'node.db'}"), "postgresql": Database(url)}
        opened["sqlite"].migrate()
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        order = [(kind, threads) for kind in opened for threads in (1, 4)] * rounds
        random.Random(3).shuffle(order)
        for kind, threads in order:
            found.setdefault((kind, threads), []).append(operations(opened[kind], threads, number))
        print("database    threads   enqueue/s    claim/s   settle/s")
        for (kind, threads), measured in sorted(found.items()):
            row = {act: round(statistics.median(one[act] for one in measured), 1) for act in measured[0]}
            rows.append({"what": "operations", "database": kind, "threads": threads, **row})
            print(f"{kind:10} {threads:8} {row['enqueue']:11.0f} {row['claim']:10.0f} {row['settle']:10.0f}")
        print("\nenqueue -> begun            p50 ms    p95 ms    max ms")
        for kind, where in (("sqlite", "same host"), ("postgresql", "same host"), ("postgresql", "other host")):
            listener = folder / ("run" if where == "same host" else "elsewhere")
            values = [1000 * value for value in latency_s(opened[kind], folder / "run", listener, asked)]
            p50, p95 = statistics.median(values), quantile_of(values, 0.95)
            rows.append(
                {
                    "what": "latency",
                    "database": kind,
                    "where": where,
                    "p50_ms": round(p50, 2),
                    "p95_ms": round(p95, 2),
                    "max_ms": round(max(values), 2),
                }
            )
            print(f"{kind:11} {where:14} {p50:8.1f} {p95:9.1f} {max(values):9.1f}")
        for database in opened.values():
            database.dispose()
    print(json.dumps({"benchmark": "queue", "quick": quick, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
