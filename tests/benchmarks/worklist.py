"""The worklist with 1,000 and with 100,000 studies: `python -m tests.benchmarks.worklist [--rounds 60]`.

Three databases: 1,000 studies on the list; the same list in front of a history of 99,000 studies that were read; and
100,000 on the list, which no site has. Each is served by the real application in a process of its own, over HTTP on
loopback. Every round asks all of them for every page, in random order, so that a machine that slows down slows all. A
study has a result, two deliveries and two images, in the states of a busy day.

With `--database postgresql://…/` (an address without the name of a database, whose user may make some) on PostgreSQL.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from cxr_node.settings import Settings
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.app import create_app
from storage import Database
from storage.folding import searched
from storage.tables import deliveries, instances, results, studies
from tests.benchmarks.filled import made_database
from tests.conftest import ROOT
from tests.system.conftest import free_port

SIZES = {"1,000 listed": (1_000, 1_000), "1,000 of 100,000": (100_000, 1_000), "100,000 listed": (100_000, 100_000)}
PAGES = {
    "page": "/list",
    "page 10": "/list?page=10",
    "flagged": "/list?state=flagged",
    "modality, new": "/list?modality=CR&reader=new",
    "newest first": "/list?sort=newest",
    "by patient": "/list?sort=patient",
    "search, a name": "/list?q=nowak+7777",
    "search, a patient ID": "/list?q=P0000777",
    "search, one letter": "/list?q=a",
    "delivery problems": "/list?delivery=problem",
    "API list": "/api/studies",
    "API study": "/api/studies/1.2.826.0.1.3680043.10.777.777",
}
FAMILIES = ("Müller", "Nowak", "García", "Ångström", "Rossi", "Kowalska", "山田", "Nguyễn", "Smith", "Öztürk")
BATCH = 5_000


def _study(number: int, listed: int, now: datetime, rng: random.Random) -> dict[str, Any]:
    """Return the row of a study; the newest `listed` ones wait to be read, the others were."""
    status = rng.choices(("analysed", "not_analysed", "failed", "pending"), (85, 7, 2, 6))[0]
    flagged = status == "analysed" and rng.random() < 0.1
    rank = max(rng.choices((1, 2, 3, 4), (85, 7, 5, 3))[0], 3 if flagged else 0)
    at = now - timedelta(hours=rng.uniform(0, 48))
    who = {
        "patient_name": f"{rng.choice(FAMILIES)} {number}^Anna",
        "patient_id": f"P{number:07d}",
        "accession_number": f"A{number:07d}",
    }
    return {
        **who,
        "search": searched(**who),
        "study_instance_uid": f"1.2.826.0.1.3680043.10.777.{number}",
        "modality": rng.choice(("CR", "DX")),
        "view": "PA",
        "sex": "F",
        "age": "050Y",
        "ordered_priority": "ROUTINE",
        "ordered_rank": 1,
        "effective_priority": ("", "ROUTINE", "MEDIUM", "HIGH", "STAT")[rank],
        "priority_rank": rank,
        "ai_priority": "HIGH" if flagged else "",
        "status": status,
        "flagged": flagged,
        "revision": 0 if status == "pending" else 1,
        "first_received_at": at,
        "last_received_at": at,
        "notified_at": None if status == "pending" else at,
        "read_at": None if number < listed else at,
        "opened_at": at if rng.random() < 0.3 else None,
        "verdict": rng.choice(("", "", "", "agree")),
        "calling_ae_title": "CR_ROOM_1",
    }


def fill(database: Database, total: int, listed: int) -> None:
    """Make the studies and what belongs to them."""
    rng, now = random.Random(5), datetime.now(UTC)
    score = {
        "finding": "pneumonia",
        "model": "pneumonia-adult",
        "model_version": "1.0.0",
        "model_digest": "d" * 64,
        "probability": 0.4,
        "threshold": 0.5,
        "operating_point": "sensitive",
        "flagged": False,
    }
    for start in range(0, total, BATCH):
        rows = [_study(number, listed, now, rng) for number in range(start, min(total, start + BATCH))]
        done = [(start + place, row) for place, row in enumerate(rows) if row["revision"]]
        with database.begin() as connection:
            connection.execute(studies.insert(), rows)
            connection.execute(
                instances.insert(),
                [
                    {
                        "sop_instance_uid": f"{row['study_instance_uid']}.{number}",
                        "series_instance_uid": f"{row['study_instance_uid']}.0",
                        "study_instance_uid": row["study_instance_uid"],
                        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
                        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                        "size": 1,
                        "location": f"{row['study_instance_uid']}.{number}.dcm",
                        "received_at": row["first_received_at"],
                    }
                    for row in rows
                    for number in (1, 2)
                ],
            )
            connection.execute(
                results.insert(),
                [
                    {
                        "id": number + 1,
                        "study_instance_uid": row["study_instance_uid"],
                        "revision": 1,
                        "created_at": row["first_received_at"],
                        "status": row["status"],
                        "flagged": row["flagged"],
                        "ai_priority": row["ai_priority"],
                        "outcome": {
                            "images": [],
                            "findings": [{**score, "flagged": row["flagged"]}] if row["status"] == "analysed" else [],
                            "exclusions": [],
                            "notes": [],
                        },
                    }
                    for number, row in done
                ],
            )
            connection.execute(
                deliveries.insert(),
                [
                    {
                        "result_id": number + 1,
                        "study_instance_uid": row["study_instance_uid"],
                        "revision": 1,
                        "kind": kind,
                        "destination": "pacs",
                        "state": "FAILED" if number % 200 == 0 and number < 1000 else "COMMITTED",
                        "updated_at": row["first_received_at"],
                    }
                    for number, row in done
                    for kind in ("sr", "sc")
                ],
            )


def _settings(folder: Path, url: str) -> Settings:
    return Settings.model_validate(
        {"base_dir": str(folder), "node": {"database": url}, "worklist": {"require_token": "never"}}
    )


def serve(folder: Path, url: str, port: int) -> None:
    """Serve the application until the process is ended."""
    settings = _settings(folder, url)
    app = create_app(make_services(settings, Database(settings.database_url)))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


@contextmanager
def _server(folder: Path, url: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.worklist", "--serve", str(folder), url, str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{address}/list")
                break
            except httpx.TransportError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def _percentile(times: list[float], share: float) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[round(share * 100) - 1]


def measure(addresses: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each page, with milliseconds for each database and the ratio to the first one's."""
    times: dict[tuple[str, str], list[float]] = {(page, name): [] for page in PAGES for name in addresses}
    rng = random.Random(7)
    with httpx.Client(timeout=60) as client:
        for count in range(rounds + 2):
            order = list(times)
            rng.shuffle(order)
            for page, name in order:
                started = time.perf_counter()
                answer = client.get(addresses[name] + PAGES[page], headers={"Accept": "text/html"})
                seconds = time.perf_counter() - started
                answer.raise_for_status()
                if count >= 2:
                    times[page, name].append(1000 * seconds)
    rows = []
    for page in PAGES:
        row: dict[str, Any] = {"page": page}
        for name in addresses:
            found = times[page, name]
            row[name] = {
                "p50_ms": round(statistics.median(found), 1),
                "p95_ms": round(_percentile(found, 0.95), 1),
                "ratio_p50": round(statistics.median(found) / statistics.median(times[page, next(iter(addresses))]), 2),
            }
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--database", default="", help="a PostgreSQL server; SQLite without it")
    parser.add_argument("--serve", nargs=3, metavar=("FOLDER", "URL", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve[0]), given.serve[1], int(given.serve[2]))
        return
    root = Path(tempfile.mkdtemp(prefix="worklist-bench-"))
    servers = []
    try:
        addresses = {}
        for place, (name, sizes) in enumerate(SIZES.items()):
            folder = root / str(place)
            base = f"worklist_bench_{place}"
            url = made_database(folder, given.database, base, lambda database, sizes=sizes: fill(database, *sizes))
            server = _server(folder, url)
            addresses[name] = server.__enter__()
            servers.append(server)
        rows = measure(addresses, given.rounds)
    finally:
        for server in servers:
            server.__exit__(None, None, None)
        shutil.rmtree(root)
    print(f"{'':24}" + "".join(f"{name:>28}" for name in SIZES))
    print(f"{'':24}" + f"{'p50 / p95 ms     ratio':>28}" * len(SIZES))
    for row in rows:
        cells = (row[name] for name in SIZES)
        print(
            f"{row['page']:24}"
            + "".join(f"{cell['p50_ms']:>12} / {cell['p95_ms']:<6}{cell['ratio_p50']:>6}x" for cell in cells)
        )
    database = "postgresql" if given.database else "sqlite"
    print(json.dumps({"benchmark": "worklist", "rounds": given.rounds, "database": database, "rows": rows}))


if __name__ == "__main__":
    main()
