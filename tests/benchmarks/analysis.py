"""One analysis worker fed from a filled queue: `python -m tests.benchmarks.analysis [--quick] [--studies 60]`.

Every study is one drawn radiograph (3000 x 2500, 12 bits) under its own UIDs, stored and queued as the receiver leaves
it; a destination takes the report, so that every row and file of a real study is written. The worker, the released
models and the database are the node's own, in this process; only the queue's feeding is not. Every round runs all
syntaxes in random order and the figure is the median over rounds.

The profile is of the processor's time of each step, per study; that of reading is the reader processes', and inference,
whose threads are the engine's own, is on the clock. Steps run beside one another, so that their sum is more than the
time a study takes. What decoding takes by step is `tests.benchmarks.decode`'s.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from cxr_node import __version__
from cxr_node.analyze.models import Models
from cxr_node.analyze.readers import Readers, reader_count
from cxr_node.analyze.stage import AnalyzeStage
from cxr_node.clock import utc_now
from cxr_node.log import configure_logging
from cxr_node.reporting import device_for
from cxr_node.settings import Settings
from cxr_node.work import Worker
from storage import Database, Doorbell, InstanceFiles, studies
from tests.benchmarks.drawn import SYNTAXES, copied, draw, encode, numbered, study_uid
from tests.benchmarks.filled import add_received

MEASURED = ("raw", "j2k", "j2k-lossy", "jpeg-ls", "jpeg-lossless")
ROWS, COLUMNS = 3000, 2500
READ, INFER = "read (all readers)", "infer (on the clock)"

# Step → functions whose time it is: module or class, attribute as it is called there.
STEPS: dict[str, tuple[tuple[str, str], ...]] = {
    "look up the study": (("cxr_node.analyze.stage", "load_study"),),
    "conclude, build the report": (("cxr_node.analyze.stage", "conclude"),),
    "write the objects, fsync": (("cxr_node.analyze.stage", "settlement"),),
    "settle": (("cxr_node.work.worker.Worker", "_settle"),),
    INFER: (("cxr_node.inference.engine.Engine", "scores"),),
}


class Profile:
    """Adds up what steps take, by thread."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.wall_s: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                with self._lock:
                    self.cpu_s[name] += time.thread_time() - cpu
                    self.wall_s[name] += time.perf_counter() - wall

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions of `STEPS` for the block."""
        kept = []
        for name, places in STEPS.items():
            for path, attribute in places:
                owner = _owner(path)
                kept.append((owner, attribute, getattr(owner, attribute)))
                setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))
        try:
            yield
        finally:
            for owner, attribute, function in reversed(kept):
                setattr(owner, attribute, function)


def _owner(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


def fill(database: Database, files: InstanceFiles, data: bytes, numbers: range, syntax: str) -> None:
    """Store and queue a study for each number, as the receiver leaves it."""
    for number in numbers:
        temporary = files.new_temporary()
        temporary.write_bytes(copied(data, number))
        sop = numbered(number, 0)
        location = files.keep(temporary, sop, 0)
        at = utc_now()
        with database.begin() as connection:
            add_received(connection, number, location=location, size=len(data), syntax=syntax, at=at)


def run(
    settings: Settings, models: Models, readers: Readers, data: bytes, syntax: str, studies_wanted: int
) -> dict[str, Any]:
    """Return studies per second and what the steps took, of a database of its own."""
    database = Database(settings.database_url)
    database.migrate()
    files = InstanceFiles(settings.instances_dir)
    fill(database, files, data, range(1, studies_wanted + 1), syntax)
    device = device_for("bench", __version__, settings.data_dir)
    stage = AnalyzeStage(settings, database, files, models.analyzer, device, readers)
    worker = Worker(
        database=database,
        doorbell=Doorbell(settings.data_dir / "run"),
        kinds=("analyze",),
        topic="analyze",
        handle=stage.handle,
        owner=f"analyze:{os.getpid()}:bench",
        batch=settings.analyze.batch_size,
    )
    profile, done = Profile(), 0
    with profile.watching():
        read, cpu, started = readers_s(), time.process_time(), time.perf_counter()
        while settled := worker.run_once():
            done += settled
        seconds, cpu, read = time.perf_counter() - started, time.process_time() - cpu, readers_s() - read
    with database.read() as connection:
        statuses = {studies.get(connection, study_uid(number)).status for number in range(1, studies_wanted + 1)}
    database.dispose()
    if (done, statuses) != (studies_wanted, {"analysed"}):
        raise RuntimeError(f"{done} of {studies_wanted} studies were settled, as {sorted(statuses)}")
    return {
        "studies_per_s": done / seconds,
        "cpu_ms": 1000 * (cpu + read) / done,
        "steps_ms": {
            READ: 1000 * read / done,
            **{name: 1000 * (profile.wall_s if name == INFER else profile.cpu_s)[name] / done for name in STEPS},
        },
    }


def readers_s() -> float:
    """Return the seconds of processor's time that this process' children have taken."""
    ticks = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Return what the figures hang on."""
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "system": platform.platform()}


def _settings(folder: Path, full_decode: bool) -> Settings:
    return Settings.model_validate(
        {
            "base_dir": str(folder),
            "analyze": {"full_decode": full_decode},
            "destination": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
        }
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=60, help="of each syntax in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full-decode", action="store_true", help="JPEG 2000 at full resolution")
    parser.add_argument("--quick", action="store_true", help="12 studies of three syntaxes, one round")
    given = parser.parse_args()
    count, rounds = (12, 1) if given.quick else (given.studies, given.rounds)
    measured = MEASURED[:3] if given.quick else MEASURED
    configure_logging("error")
    rng = random.Random(3)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in measured}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        drawn = draw(ROWS, COLUMNS)
        encoded = {name: encode(drawn, name, root) for name in measured}
        home = _settings(root / "models", given.full_decode)
        database = Database(home.database_url)
        database.migrate()
        models = Models(home, database)
        models.load()
        readers = Readers(reader_count())
        readers.start()
        for turn in range(rounds):
            order = list(measured)
            rng.shuffle(order)
            for name in order:
                with tempfile.TemporaryDirectory(dir=root) as place:
                    settings = _settings(Path(place), given.full_decode)
                    run(settings, models, readers, encoded[name], SYNTAXES[name], 2) if turn == 0 else None
                with tempfile.TemporaryDirectory(dir=root) as place:
                    settings = _settings(Path(place), given.full_decode)
                    found[name].append(run(settings, models, readers, encoded[name], SYNTAXES[name], count))
        devices = models.analyzer().devices()
        readers.close()
        database.dispose()
    rows = []
    for name, runs in found.items():
        rows.append(
            {
                "syntax": name,
                "bytes": len(encoded[name]),
                "studies_per_s": round(statistics.median(item["studies_per_s"] for item in runs), 2),
                "cpu_ms": round(statistics.median(item["cpu_ms"] for item in runs), 1),
                "steps_ms": {
                    step: round(statistics.median(item["steps_ms"][step] for item in runs), 1)
                    for step in (READ, *STEPS)
                },
            }
        )
    print(f"{'':28}" + "".join(f"{row['syntax']:>15}" for row in rows))
    for label, key in (("studies/s", "studies_per_s"), ("processor ms a study", "cpu_ms")):
        print(f"{label:28}" + "".join(f"{row[key]:>15}" for row in rows))
    for step in (READ, *STEPS):
        print(f"  {step:26}" + "".join(f"{row['steps_ms'][step]:>15}" for row in rows))
    told = {"rounds": rounds, "studies": count, "rows_columns": [ROWS, COLUMNS], "full_decode": given.full_decode}
    print(json.dumps({"benchmark": "analysis", **told, "devices": devices, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
