"""From last byte to visible priority: `python -m tests.benchmarks.notify [--studies 300] [--rate 2]`.

A node of its own runs on loopback. Studies (drawn phantoms, 1024 x 1024, 12 bits, uncompressed) are sent one at a time,
each over an association of its own. For each is measured, by this process' clock, the time from the moment the C-STORE
response was read (the study's last byte had then been received and made durable) until `GET /api/studies/{uid}` shows a
result, asked every 5 ms; and, from the node's own timestamps, last image received → result committed, and → report
taken by a PACS (DCMTK's storescp; `settle_s` 0: a site waits some seconds, for one report of all images).
"""

import argparse
import json
import subprocess
import tempfile
import threading
import time
import urllib.error
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from pynetdicom import AE

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.clock import utc_now
from cxr_node.requestor import associate
from cxr_node.settings import PRIORITY
from storage import Database
from storage.turnaround import turnarounds
from tests.system.conftest import Node, free_port, get_json, wait_until


def _percentile(values: list[float], share: float) -> float:
    return float(np.percentile(values, share * 100))


def _visible(node: Node, uid: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            study = get_json(f"{node.url}/api/studies/{uid}")
        except urllib.error.HTTPError:
            study = None
        if study and study["status"] != "pending":
            return
        time.sleep(0.005)
    raise TimeoutError(uid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--rate", type=float, default=2.0, help="studies per second")
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pacs").mkdir()
        port = free_port()
        pacs = subprocess.Popen(["storescp", "-od", str(Path(folder) / "pacs"), "-aet", "PACS", str(port)])
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "settle_s": 0.0, "commit": False}
        node = Node(Path(folder) / "node", destinations=[to])
        started = time.monotonic()
        node.start()
        ready_s = time.monotonic() - started
        outside: list[float] = []
        lock = threading.Lock()

        def watch(uid: str, sent_at: float) -> None:
            _visible(node, uid)
            seen = time.monotonic() - sent_at
            with lock:
                outside.append(seen)

        watchers = []
        try:
            datasets = [
                phantom_dataset(utc_now(), rng, opacity=index % 2, accession_number=f"N{index}")
                for index in range(arguments.studies)
            ]
            begin = time.monotonic()
            for index, dataset in enumerate(datasets):
                time.sleep(max(0.0, begin + index / arguments.rate - time.monotonic()))
                ae = AE(ae_title="BENCH")
                ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
                association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
                assert association.is_established
                assert association.send_c_store(dataset).Status == 0
                sent_at = time.monotonic()
                association.release()
                watcher = threading.Thread(target=watch, args=(str(dataset.StudyInstanceUID), sent_at))
                watcher.start()
                watchers.append(watcher)
            for watcher in watchers:
                watcher.join()
            stamps = [node.study(str(dataset.StudyInstanceUID)) for dataset in datasets]
            database = Database(f"sqlite:///{node.folder / 'data' / 'cxr-node.db'}")
            wait_until(lambda: len(_delivered(database)) == len(datasets), 60, "every report delivered")
            delivered = _delivered(database)
            database.dispose()
        finally:
            node.stop()
            pacs.terminate()
            pacs.wait()
    inside = [
        (datetime.fromisoformat(item["notified_at"]) - datetime.fromisoformat(item["received_at"])).total_seconds()
        for item in stamps
    ]
    print(f"{arguments.studies} studies at {arguments.rate:g}/s; node ready {ready_s:.1f} s after its start")
    measured = {
        "visible_s": ("C-STORE answered -> visible in the API", outside),
        "committed_s": ("last image received -> result committed", inside),
        "delivered_s": ("last image received -> report in the PACS", delivered),
    }
    print("                                            p50 s    p95 s    p99 s    max s")
    for name, values in measured.values():
        row = (*(_percentile(values, share) for share in (0.5, 0.95, 0.99)), max(values))
        print(f"{name:42}" + "".join(f"{value:9.3f}" for value in row))
    print(
        json.dumps(
            {
                "benchmark": "notify",
                "studies": arguments.studies,
                "rate": arguments.rate,
                "ready_s": round(ready_s, 2),
                **{
                    key: {
                        **{f"p{round(100 * share)}": _percentile(values, share) for share in (0.5, 0.95, 0.99)},
                        "max": max(values),
                    }
                    for key, (_, values) in measured.items()
                },
            }
        )
    )


def _delivered(database: Database) -> list[float]:
    """Return the seconds from the last image to the report in the PACS, of studies whose report is there."""
    now = utc_now()
    with database.read() as connection:
        found = turnarounds(connection, now - timedelta(days=1), now, priority_kind=PRIORITY)
        return [
            (item.delivered_at - item.last_image_at).total_seconds()
            for item in found
            if item is not None and item.delivered_at is not None
        ]


if __name__ == "__main__":
    main()
