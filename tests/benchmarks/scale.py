"""More workers, more work? `python -m tests.benchmarks.scale [--quick]`, over PostgreSQL with its commits on disk.

- waiting: worker processes whose handler waits 100 ms, as it would for a GPU or a slow PACS: jobs a second by 1, 2, 3
  and more processes, and how much of linear that is;
- analysis: `analyze` on drawn radiographs (1024 x 1024, 12 bits), each a host of one core with its own data folder;
- model: jobs that come at random to two and four of the waiting processes, and how long they waited, held against the
  formulas and against the same arrivals in a queue that costs nothing (`tests.benchmarks.queueing`);
- service: what one receive, analyze and deliver takes for one image or study, from the lines of their logs (deliver to
  DCMTK's storescp), with one process of each and nothing beside it;
- transactions: of the database for one study, from image to delivered report;
- idle: transactions a second of a whole node (`serve`) that has nothing to do.

Interleaved in random order, medians. The database, the sender and the PACS run on the same cores: with W processes the
analysis can gain only up to the cores that are left.
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import generate_uid
from sqlalchemy import event, func, select, text, update

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.log import configure_logging
from storage import Database, Doorbell, jobs, tables
from tests.benchmarks.queueing import Queue, Service, mean_wait_s, quantile_of, service_of, wait_quantile_s
from tests.benchmarks.receivers import machine
from tests.benchmarks.servers import postgresql
from tests.system.conftest import free_port, wait_until

_WAITER = """
import sys, threading, time
from pathlib import Path
from cxr_node.log import configure_logging
from cxr_node.work import Worker
from storage import Database, Doorbell
configure_logging("error", "bench")
database, stop = Database(sys.argv[1]), threading.Event()

def handle(claimed):
    for job in claimed:
        print(job.key, time.time(), flush=True)
        time.sleep(float(job.key.rpartition(":")[2]))
        yield job, lambda connection: None

print("ready", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
folder = Path(sys.argv[2])
Worker(database, Doorbell(folder, database), ("wait",), "wait", handle, f"wait:{folder.name}:").run(stop)
"""
WAIT_S = 0.1
BUSY = 0.75  # of the workers' time while jobs come at random
FAR = datetime(2100, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def waiters(database: Database, folder: Path, processes: int, begun: dict[str, float]) -> Iterator[None]:
    """Run so many processes whose jobs wait as long as their key ends with; `begun` is filled once they have ended."""
    commands = [
        [sys.executable, "-c", _WAITER, database.url, str(folder / f"host{number}")] for number in range(processes)
    ]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    readers = ThreadPoolExecutor(processes)
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        told = [readers.submit(process.stdout.read) for process in running if process.stdout]
        yield
    finally:
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        for process in running:
            process.wait(20)
        readers.shutdown()
    for lines in told:
        begun.update((key, float(at)) for key, at in (line.split() for line in lines.result().splitlines()))


def waiting(database: Database, folder: Path, processes: int, each: int) -> float:
    """Return jobs a second of so many processes, `each` jobs for each of them."""
    with waiters(database, folder, processes, {}):
        number, mark, now = processes * each, time.time_ns(), datetime.now(UTC)
        with database.begin() as connection:
            for index in range(number):
                jobs.schedule(connection, "wait", f"{mark}-{index}:{WAIT_S}", run_at=now, now=now)
        started = time.monotonic()
        Doorbell(folder / "run", database).ring("wait")
        wait_until(lambda: _open(database, "wait") == 0, 300, "all done", every_s=0.01)
        return number / (time.monotonic() - started)


def held_against_the_model(
    database: Database, folder: Path, processes: int, one_per_s: float, scv: float, count: int
) -> dict[str, Any]:
    """Let jobs come at random, and hold the waits that were seen against the model's.

    Service times are drawn as the model has them, constant or exponential; what claiming and settling takes, known
    from the rate of one process, is added to each. `same_arrivals_ms` is a queue without any other cost that is given
    the very same jobs: with it the luck of the draw is told apart from what the model leaves out.
    """
    rng, beside = random.Random(5), 1.0 / one_per_s - WAIT_S
    rate = BUSY * processes * one_per_s
    mark, due, spent = time.time_ns(), {}, {}
    begun: dict[str, float] = {}
    with waiters(database, folder, processes, begun):
        doorbell, next_at = Doorbell(folder / "run", database), time.time()
        for index in range(count):
            next_at += rng.expovariate(rate)
            seconds = WAIT_S if scv == 0 else rng.expovariate(1.0 / WAIT_S)
            time.sleep(max(0.0, next_at - time.time()))
            key, now = f"{mark}-{index}:{seconds:.6f}", datetime.now(UTC)
            with database.begin() as connection:
                jobs.schedule(connection, "wait", key, run_at=now, now=now)
            doorbell.ring("wait")
            due[key], spent[key] = now.timestamp(), seconds + beside
        wait_until(lambda: _open(database, "wait") == 0, 300, "all done", every_s=0.05)
    seen = [begun[key] - due[key] for key in due]
    free, ideal = [0.0] * processes, []
    for key in due:
        start = max(due[key], heapq.heappop(free))
        heapq.heappush(free, start + spent[key])
        ideal.append(start - due[key])
    mean_s = WAIT_S + beside
    queue = Queue(rate, Service(mean_s, scv * (WAIT_S / mean_s) ** 2), processes)
    return {
        "what": "model",
        "processes": processes,
        "jobs": count,
        "utilisation": round(queue.utilisation, 2),
        "scv": round(queue.service.scv, 2),
        "seen_mean_ms": round(1000 * statistics.fmean(seen), 1),
        "same_arrivals_ms": round(1000 * statistics.fmean(ideal), 1),
        "formula_mean_ms": round(1000 * mean_wait_s(queue), 1),
        "seen_p95_ms": round(1000 * quantile_of(seen, 0.95), 1),
        "formula_p95_ms": round(1000 * wait_quantile_s(queue, 0.95), 1),
    }


def _open(database: Database, kind: str) -> int:
    found = select(func.count()).where(
        tables.jobs.c.kind == kind, tables.jobs.c.state.in_(["SCHEDULED", "IN_PROGRESS"])
    )
    with database.read() as connection:
        return int(connection.execute(found).scalar_one())


class Fleet:
    """Stages of one node over PostgreSQL, each process a host with a data folder of its own, all on loopback."""

    def __init__(self, folder: Path, database: Database, cache: Path) -> None:
        self._folder, self._database, self._cache = folder, database, cache
        self.receive_port, self.pacs_port = free_port(), free_port()
        self.pacs = folder / "pacs"
        self.pacs.mkdir()
        self._own = 0
        event.listen(database._engine, "commit", self._count_own)
        self._template = phantom_dataset(datetime.now(UTC), np.random.default_rng(1), opacity=1.0, accession_number="S")

    @contextlib.contextmanager
    def running(self, *stages: str, cores: Sequence[int] = ()) -> Iterator[list[Path]]:
        """Run stages, each on a host of its own, with one of `cores` to each in turn; yield their logs once all
        serve."""
        processes: list[subprocess.Popen[bytes]] = []
        logs: list[Path] = []
        try:
            for number, stage in enumerate(stages):
                host = self._folder / f"{stage}{number}-{time.monotonic_ns()}"
                host.mkdir()
                if self._cache.is_dir():
                    shutil.copytree(self._cache, host / "data" / "cache")
                (host / "node.toml").write_text(self._settings())
                logs.append(host / "log")
                with logs[-1].open("wb") as log:
                    command = [sys.executable, "-m", "cxr_node", "--config", str(host / "node.toml"), stage]
                    if cores:  # to all that this process starts
                        command = ["taskset", "--cpu-list", str(cores[number % len(cores)]), *command]
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            for stage, log, process in zip(stages, logs, processes, strict=True):
                ready = f'"{"analyze" if stage == "serve" else stage}_ready"'.encode()
                wait_until(lambda log=log, ready=ready: ready in log.read_bytes(), 300, f"{stage} ready", every_s=0.2)
                assert process.poll() is None, log.read_text()[-2000:]
            for log in logs:
                made = log.parent / "data" / "cache"
                if made.is_dir() and not self._cache.is_dir():
                    shutil.copytree(made, self._cache)
            yield logs
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                if process.poll() is None:
                    process.kill()
                    process.wait()

    @contextlib.contextmanager
    def archive(self) -> Iterator[None]:
        """Run the PACS."""
        process = subprocess.Popen(["storescp", "-od", str(self.pacs), "-aet", "PACS", str(self.pacs_port)])
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def send(self, studies: int) -> None:
        """Send so many studies of one image over one association."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        made = self._template
        for number in range(studies):
            made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            made.save_as(folder / f"{number}.dcm")
        command = [
            "storescu",
            "-aet",
            "CR",
            "-aec",
            "CXR_NODE",
            "+sd",
            "127.0.0.1",
            str(self.receive_port),
            str(folder),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        shutil.rmtree(folder)

    def hold(self, kind: str) -> None:
        """Let nobody do jobs of a kind until they are released."""
        with self._database.begin() as connection:
            connection.execute(update(tables.jobs).where(tables.jobs.c.kind == kind).values(run_at=FAR))

    def release(self, kind: str, topic: str) -> float:
        """Let them be done; return the seconds until none is left."""
        at = datetime.now(UTC) - timedelta(seconds=1)
        started = time.monotonic()
        with self._database.begin() as connection:
            waiting_ = (tables.jobs.c.kind == kind, tables.jobs.c.state == "SCHEDULED")
            connection.execute(update(tables.jobs).where(*waiting_).values(run_at=at))
        Doorbell(self._folder / "run", self._database).ring(topic)
        wait_until(lambda: _open(self._database, kind) == 0, 900, f"no {kind} left", every_s=0.1)
        return time.monotonic() - started

    def transactions(self) -> int:
        """Return how many transactions the database has committed for others than this process."""
        # The server counts a session's transactions with a delay of up to a second.
        time.sleep(1.5)
        with self._database.read() as connection:
            found = text("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
            return int(connection.execute(found).scalar_one()) - self._own

    def _count_own(self, _connection: object) -> None:
        self._own += 2  # the pool asks whether the connection lives, which counts too

    def _settings(self) -> str:
        return (
            f'[node]\ndata_dir = "data"\ndatabase = "{self._database.url}"\n'
            f'instances = "{self._folder / "instances"}"\n'
            f"[receive]\nport = {self.receive_port}\nmin_free_gb = 0.1\nquiet_period_s = 3600\n"
            '[analyze]\nworkers = 1\nbatch_size = 1\nmodels = ["pneumonia-adult"]\n'
            f"[worklist]\nport = {free_port()}\ndicom_port = {free_port()}\n"
            f'[[destination]]\nname = "pacs"\nkind = "c-store"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
            f"port = {self.pacs_port}\nsettle_s = 0\ncommit = false\n"
        )


def settled_s(logs: Sequence[Path], kind: str) -> list[float]:
    """Return the seconds of each job of a kind, from the lines of the logs."""
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines() if '"job_settled"' in line]
    return [line["seconds"] for line in lines if line["kind"] == kind and line["result"] == "completed"]


def analysis(fleet: Fleet, processes: int, studies: int) -> tuple[float, list[float]]:
    """Return studies a second of so many processes, and the seconds that each study took in its process."""
    with fleet.running("receive"):
        fleet.send(studies)
    fleet.hold("analyze")
    with fleet.running(*["analyze"] * processes, cores=sorted(os.sched_getaffinity(0))) as logs:
        return studies / fleet.release("analyze", "analyze"), settled_s(logs, "analyze")


def _services(fleet: Fleet, studies: int) -> list[dict[str, Any]]:
    """Return what one of each stage takes, and the transactions of a study; leaves nothing to do behind."""
    with fleet.running("deliver"), fleet.archive():
        fleet.release("deliver", "deliver")
        wait_until(lambda: _open(fleet._database, "deliver:pacs") == 0, 600, "all delivered", every_s=0.1)
    with fleet.running("receive") as received:
        used, before = 0, fleet.transactions()
        for _ in range(studies):
            fleet.send(1)
        used += fleet.transactions() - before
        lines = [json.loads(line) for line in received[0].read_text().splitlines() if '"association_ended"' in line]
        commits = [line["duration_s"] for line in lines]
    fleet.hold("analyze")
    with fleet.running("analyze") as analyzed:
        before = fleet.transactions()
        fleet.release("analyze", "analyze")
        used += fleet.transactions() - before
        of_analyze = settled_s(analyzed, "analyze")
    fleet.hold("deliver")
    with fleet.running("deliver") as delivered, fleet.archive():
        before = fleet.transactions()
        fleet.release("deliver", "deliver")
        wait_until(lambda: _open(fleet._database, "deliver:pacs") == 0, 600, "all delivered", every_s=0.1)
        used += fleet.transactions() - before
        of_deliver = settled_s(delivered, "deliver:pacs")
    rows: list[dict[str, Any]] = []
    for stage, seconds in (("receive", commits), ("analyze", of_analyze), ("deliver", of_deliver)):
        found = service_of(seconds)
        rows.append(
            {
                "what": "service",
                "stage": stage,
                "measured": len(seconds),
                "mean_s": round(found.mean_s, 5),
                "scv": round(found.scv, 4),
            }
        )
    return [*rows, {"what": "transactions", "studies": studies, "per_study": round(used / studies, 1)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, processes and studies")
    quick = parser.parse_args().quick
    configure_logging("error", "bench")
    waiters, analysts, rounds, each, studies, idle_s = (
        ((1, 2, 4), (1, 2), 1, 20, 6, 10) if quick else ((1, 2, 3, 4, 8, 16), (1, 2, 3), 3, 100, 60, 60)
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, postgresql() as url:
        folder, database = Path(name), Database(url)
        fleet = Fleet(folder, database, folder / "cache")
        rng = random.Random(11)
        waited: dict[int, list[float]] = {}
        analysed: dict[int, list[float]] = {}
        order: list[tuple[str, int]] = [("wait", number) for number in waiters] * rounds
        order += [("analyze", number) for number in analysts] * rounds
        rng.shuffle(order)
        for what, number in order:
            if what == "wait":
                waited.setdefault(number, []).append(waiting(database, folder, number, each))
            else:
                analysed.setdefault(number, []).append(analysis(fleet, number, studies)[0])
        print("mix        processes   jobs/s   of linear")
        for mix, found in (("waiting", waited), ("analysis", analysed)):
            one = statistics.median(found[1])
            for number, rates in sorted(found.items()):
                rate = statistics.median(rates)
                share = rate / (number * one)
                rows.append({"what": mix, "processes": number, "per_s": round(rate, 2), "of_linear": round(share, 2)})
                print(f"{mix:10} {number:9} {rate:8.2f} {share:11.2f}")
        one = statistics.median(waited[1])
        for number, scv in ((2, 0.0), (2, 1.0), (4, 0.0), (4, 1.0)):
            row = held_against_the_model(database, folder, number, one, scv, each * 4)
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()))
        for row in _services(fleet, studies):
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()))
        with fleet.running("serve"):
            time.sleep(15)  # what a start brings with it
            before = fleet.transactions()
            started = time.monotonic()
            time.sleep(idle_s)
            rate = (fleet.transactions() - before) / (time.monotonic() - started)
        rows.append({"what": "idle", "transactions_per_s": round(rate, 2)})
        print(f"an idle node: {rate:.1f} transactions/s")
        database.dispose()
    print(json.dumps({"benchmark": "scale", "quick": quick, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
