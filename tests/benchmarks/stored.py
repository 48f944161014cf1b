"""What a study costs with 10², 10³, 10⁴ and 10⁵ others stored: `python -m tests.benchmarks.stored [--quick]`.

A database for each size, filled with studies that were read but for a hundred (rows and their states are those
of `tests.benchmarks.worklist`, and a completed job for each). Every round takes one more study through each of them, in
random order: the receiver's commit, the claim, the look at what is stored of the study, the settlement with its report;
then asks the worklist over DICOM (UPS C-FIND of one study, and of the whole list) and over HTTP. The image is small and
its engine a mean, so that what is measured is storage. Medians, and their ratio to the smallest database.

With `--postgresql postgresql://…/` (an address without the name of a database, whose user may make some) on PostgreSQL.
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.stage import AnalyzeStage
from cxr_node.clock import utc_now
from cxr_node.inference import BUILTIN, find_package
from cxr_node.log import configure_logging
from cxr_node.reporting import Device
from cxr_node.settings import Settings
from cxr_node.work import Worker
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import make_services
from storage import Database, Doorbell, InstanceFiles
from storage.tables import jobs as jobs_table
from tests.benchmarks import worklist as filled
from tests.benchmarks.analysis import machine
from tests.benchmarks.drawn import copied, draw, numbered, study_uid
from tests.benchmarks.filled import add_received, made_database
from tests.builders import to_part_10
from tests.cxr_node.worklist.ups_peer import Client

SIZES = (100, 1_000, 10_000, 100_000)
QUICK_SIZES = (100, 10_000)
LISTED = 100
DEVICE = Device("bench", "cxr-node project", "cxr-node", "1", "0", "2.25.1")
_BATCH = 10_000


class Mean:
    """An engine that costs nothing."""

    device = "CPU"

    def __init__(self, package: Any, *, cache_dir: Path | None = None) -> None:
        del package, cache_dir

    def scores(self, batch: np.ndarray) -> np.ndarray:
        return batch.mean(axis=(1, 2))


class Site:
    """One database and what asks it."""

    def __init__(self, folder: Path, url: str, total: int) -> None:
        self.settings = Settings.model_validate(
            {
                "base_dir": str(folder),
                "node": {"database": url},
                "worklist": {"require_token": "never", "dicom_port": 0},
                "destination": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
            }
        )
        self.database = Database(url)
        self.files = InstanceFiles(folder / "instances")
        packages = [find_package("pneumonia-adult", [BUILTIN])]
        self.analyzer = Analyzer(packages, profile="triage", engine=Mean)  # type: ignore[arg-type]
        self.stage = AnalyzeStage(self.settings, self.database, self.files, lambda: self.analyzer, DEVICE)
        self.ready: list[Any] = []
        self.worker = Worker(
            database=self.database,
            doorbell=Doorbell(folder / "run"),
            kinds=("analyze",),
            topic="analyze",
            handle=self.stage.handle,
            owner="analyze:1:bench",
        )
        self.scp = WorklistScp(self.settings, make_services(self.settings, self.database))
        self.scp.start()
        self.peer = Client(self.scp.port, called=self.settings.worklist.dicom_ae_title)
        server = filled._server(folder, url)
        self.address = server.__enter__()
        self.close_server = server.__exit__
        self.client = httpx.Client(timeout=60)
        self.total = total

    def close(self) -> None:
        self.client.close()
        self.close_server(None, None, None)
        self.scp.stop()
        self.database.dispose()

    def study(self, data: bytes, number: int) -> dict[str, float]:
        """Take a study through; return milliseconds of every step."""
        taken: dict[str, float] = {}

        def timed(name: str, function: Callable[[], Any]) -> Any:
            started = time.perf_counter()
            found = function()
            taken[name] = 1000 * (time.perf_counter() - started)
            return found

        sop, at = numbered(number, 0), utc_now()
        temporary = self.files.new_temporary()
        temporary.write_bytes(copied(data, number))
        location = self.files.keep(temporary, sop, 0)
        timed("receive: commit", lambda: self._receive(location, number, at))
        claimed = timed("claim", lambda: self.worker._claim(1))
        assert [job.key for job in claimed] == [study_uid(number)]
        # Up to the settlement: the study's rows are read, its image is prepared, its report is on the disk.
        ((job, outcome),) = timed("analyse a small image", lambda: list(self.stage.handle(claimed)))
        assert not isinstance(outcome, Exception), outcome
        timed("settle", lambda: self.worker._settle(job, outcome, time.monotonic()))
        for name, path in (
            ("web: list", "/list"),
            ("API: list", "/api/studies"),
            ("API: study", f"/api/studies/{job.key}"),
        ):
            timed(name, lambda path=path: self.client.get(self.address + path).raise_for_status())
        timed("UPS C-FIND: a patient", lambda: self.peer.find(PatientID=f"P{number}", PatientName=""))
        found = timed(
            "UPS C-FIND: urgent ones",
            lambda: self.peer.find(PatientID="", ScheduledProcedureStepPriority="HIGH", ProcedureStepState="SCHEDULED"),
        )
        assert found is not None
        return taken

    def _receive(self, location: str, number: int, at: datetime) -> None:
        with self.database.begin() as connection:
            add_received(connection, number, location=location, size=1, syntax=ExplicitVRLittleEndian, at=at)


def fill_jobs(database: Database, total: int) -> None:
    """Add the completed job that every study leaves behind."""
    now = datetime.now(UTC)
    for start in range(0, total, _BATCH):
        with database.begin() as connection:
            connection.execute(
                jobs_table.insert(),
                [
                    {
                        "kind": "analyze",
                        "key": f"1.2.826.0.1.3680043.10.777.{number}",
                        "state": "COMPLETED",
                        "priority": 1,
                        "run_at": now,
                        "attempts": 1,
                        "wanted": 1,
                        "claimed": 1,
                        "payload": {},
                        "created_at": now,
                        "settled_at": now,
                    }
                    for number in range(start, min(total, start + _BATCH))
                ],
            )


def _database(folder: Path, server: str, total: int) -> str:
    def fill(database: Database) -> None:
        filled.fill(database, total, min(total, LISTED))
        fill_jobs(database, total)

    return made_database(folder, server, f"stored_bench_{total}", fill)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--postgresql", default="", help="a PostgreSQL server; SQLite without it")
    parser.add_argument("--quick", action="store_true", help="two sizes, six rounds")
    given = parser.parse_args()
    sizes, rounds = (QUICK_SIZES, 6) if given.quick else (SIZES, given.rounds)
    configure_logging("error")
    root = Path(tempfile.mkdtemp(prefix="stored-bench-"))
    data = to_part_10(draw(256, 256))
    taken: dict[int, dict[str, list[float]]] = {size: defaultdict(list) for size in sizes}
    sites: dict[int, Site] = {}
    rng = random.Random(11)
    try:
        for size in sizes:
            sites[size] = Site(root / str(size), _database(root / str(size), given.postgresql, size), size)
        for turn in range(rounds + 1):  # the first one warms
            order = list(sizes)
            rng.shuffle(order)
            for size in order:
                for step, milliseconds in sites[size].study(data, turn + 1).items():
                    if turn:
                        taken[size][step].append(milliseconds)
    finally:
        for site in sites.values():
            site.close()
        shutil.rmtree(root)
    steps = list(taken[sizes[0]])
    rows = []
    for step in steps:
        first = statistics.median(taken[sizes[0]][step])
        row: dict[str, Any] = {"step": step}
        for size in sizes:
            middle = statistics.median(taken[size][step])
            row[str(size)] = {"p50_ms": round(middle, 2), "ratio": round(middle / first, 2)}
        rows.append(row)
    print(f"{'ms, ratio':26}" + "".join(f"{size:>18,}" for size in sizes))
    for row in rows:
        cells = (row[str(size)] for size in sizes)
        print(f"{row['step']:26}" + "".join(f"{cell['p50_ms']:>11} {cell['ratio']:>5}x" for cell in cells))
    told = {"rounds": rounds, "database": "postgresql" if given.postgresql else "sqlite"}
    print(json.dumps({"benchmark": "stored", **told, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
