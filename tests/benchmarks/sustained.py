"""The whole node over the wire: `python -m tests.benchmarks.sustained [--quick] [--studies 60] [--rate 2]`.

First, studies at a fixed rate (2 a second), each over an association of its own: the time from the C-STORE response,
when the study's last byte was durable, until the API shows its result and a UPS C-FIND finds it, asked every 20 ms,
by this process' clock. Then the highest rate that is sustained: all studies as fast as they are taken, over four
associations of DCMTK's storescu on the same cores, and the time from the first image received until the last result
is committed, by the node's own timestamps. Drawn radiographs of 3000 x 2500, raw and JPEG 2000, in random order of the
rounds; medians.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from cxr_node.requestor import associate
from tests.benchmarks.analysis import COLUMNS, ROWS, machine
from tests.benchmarks.drawn import copied, draw, encode, study_uid
from tests.benchmarks.receivers import TUNED
from tests.cxr_node.worklist.ups_peer import Client
from tests.system.conftest import Node

SYNTAXES = {"raw": "-xe", "j2k": "-xv"}  # and what storescu is told to propose
ASSOCIATIONS = 4
_WITHIN_S = 120.0
_ASK_EVERY_S = 0.02


def _send(node: Node, datasets: list[Dataset]) -> float:
    """Store datasets over one association; return when the last one was answered, by the monotonic clock."""
    ae = AE(ae_title="BENCH")
    ae.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
    if not association.is_established:
        raise RuntimeError("the node accepts no association")
    for dataset in datasets:
        status = association.send_c_store(dataset).Status
        if status != 0:
            raise RuntimeError(f"the node answered {status:#06x}")
    answered = time.monotonic()
    association.release()
    return answered


def _dataset(data: bytes, number: int) -> Dataset:
    return dcmread(BytesIO(copied(data, number)))


def paced(node: Node, data: bytes, numbers: range, rate: float) -> list[float]:
    """Return seconds from the answer to each study's C-STORE until its result is on the worklist."""
    peer, found, lock = Client(node.dicom_port), [], threading.Lock()

    def watch(uid: str, answered: float) -> None:
        while time.monotonic() < answered + _WITHIN_S:
            if node_shows(node, uid) and peer.find(StudyInstanceUID=uid):
                with lock:
                    found.append(time.monotonic() - answered)
                return
            time.sleep(_ASK_EVERY_S)
        raise TimeoutError(uid)

    begin = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        watched = []
        for place, number in enumerate(numbers):
            dataset = _dataset(data, number)
            time.sleep(max(0.0, begin + place / rate - time.monotonic()))
            watched.append(pool.submit(watch, study_uid(number), _send(node, [dataset])))
        for one in watched:
            one.result()
    return found


def node_shows(node: Node, uid: str) -> bool:
    """Whether the study has a result."""
    study = node.study(uid)
    return bool(study) and study["status"] != "pending"


def flooded(node: Node, data: bytes, numbers: range, option: str) -> float:
    """Return studies per second, from the first one received to the last result.

    The senders are DCMTK's storescu, which takes less of the cores that the node needs than any in Python.
    """
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{number}.dcm" for number in numbers]
        for number, path in zip(numbers, paths, strict=True):
            path.write_bytes(copied(data, number))
        base = ["storescu", "--max-send-pdu", "131072", "-aec", "CXR_NODE", option, "127.0.0.1", str(node.port)]
        senders = [
            subprocess.Popen(
                [*base, *map(str, paths[start::ASSOCIATIONS])],
                env={**os.environ, **TUNED},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for start in range(ASSOCIATIONS)
        ]
        codes = [sender.wait() for sender in senders]
        if any(codes):
            raise RuntimeError(f"storescu ended with {codes}")
    deadline = time.monotonic() + _WITHIN_S + len(numbers)
    for number in numbers:
        while not node_shows(node, study_uid(number)):
            if time.monotonic() > deadline:
                raise TimeoutError(study_uid(number))
            time.sleep(0.5)
    stamps = [node.study(study_uid(number)) for number in numbers]
    first = min(datetime.fromisoformat(item["received_at"]) for item in stamps)
    last = max(datetime.fromisoformat(item["notified_at"]) for item in stamps)
    return len(numbers) / (last - first).total_seconds()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=100, help="of each syntax in each round, for each measure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2.0, help="studies per second of the first measure")
    parser.add_argument("--quick", action="store_true", help="10 studies, one round")
    given = parser.parse_args()
    count, rounds = (10, 1) if given.quick else (given.studies, given.rounds)
    latencies: dict[str, list[float]] = {name: [] for name in SYNTAXES}
    rates: dict[str, list[float]] = {name: [] for name in SYNTAXES}
    rng = random.Random(9)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw(ROWS, COLUMNS)
        encoded = {name: encode(drawn, name, Path(scratch)) for name in SYNTAXES}
        node = Node(Path(scratch) / "node")
        node.start()
        number = 1
        try:
            for _ in range(rounds):
                order = [(name, measure) for name in SYNTAXES for measure in ("paced", "flooded")]
                rng.shuffle(order)
                for name, measure in order:
                    numbers = range(number, number + count)
                    number += count
                    if measure == "paced":
                        latencies[name] += paced(node, encoded[name], numbers, given.rate)
                    else:
                        rates[name].append(flooded(node, encoded[name], numbers, SYNTAXES[name]))
        finally:
            node.stop()
    rows: list[dict[str, Any]] = [
        {
            "syntax": name,
            "visible_p50_s": round(statistics.median(latencies[name]), 3),
            "visible_p95_s": round(float(np.percentile(latencies[name], 95)), 3),
            "visible_p99_s": round(float(np.percentile(latencies[name], 99)), 3),
            "sustained_per_s": round(statistics.median(rates[name]), 2),
        }
        for name in SYNTAXES
    ]
    print(f"{'':10}{'answered → on the worklist, s':>32}{'sustained':>14}")
    print(f"{'':10}{'p50':>16}{'p95':>16}{'studies/s':>14}")
    for row in rows:
        print(f"{row['syntax']:10}{row['visible_p50_s']:>16}{row['visible_p95_s']:>16}{row['sustained_per_s']:>14}")
    told = {"rounds": rounds, "studies": count, "rate": given.rate, "rows_columns": [ROWS, COLUMNS]}
    print(json.dumps({"benchmark": "sustained", **told, "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
