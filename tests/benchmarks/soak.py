"""A node under mixed load for a while: `python -m tests.benchmarks.soak [--minutes 60] [--rate 1]`.

Studies (drawn phantoms) come at a steady rate, a few of them cut off in the middle; load balancers knock without a
word, worklists ask, pages are opened, results leave into a folder, and a study is read a minute after it came, so that
the list stays as long as it is on a working day. Every ten seconds resident memory, descriptors and
threads of every process of the node are read. Flat means: the line fitted over the second half of the time rises by
less than a tenth of the value in an hour, or by less than 8 MB in all. At the end: nothing acknowledged is missing,
nothing waits.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind, UnifiedProcedureStepPull

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.clock import utc_now
from cxr_node.requestor import associate
from storage import Database, studies
from tests.cxr_node.receive import wire
from tests.system.conftest import Node, get_json, wait_until

EVERY_S = 10.0
LEAST_RISE_MB = 8.0
READ_AFTER_S = 60.0
STAGES = ("receive", "analyze", "deliver", "worklist", "upkeep")


@dataclass
class Series:
    """What was read of one process."""

    at_s: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def read(self, pid: int, at_s: float) -> None:
        """Read /proc once; a process that has just ended is left out."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.at_s.append(at_s)
            self.resident_mb.append(int(found["VmRSS"].split()[0]) / 1024)
            self.threads.append(int(found["Threads"]))
            self.descriptors.append(descriptors)

    def rise(self, values: list[float] | list[int]) -> float:
        """Return how much the line fitted over the second half rises over that half."""
        half = len(values) // 2
        if len(values) - half < 3:
            return 0.0
        slope, _ = np.polyfit(self.at_s[half:], values[half:], 1)
        return float(slope * (self.at_s[-1] - self.at_s[half]))


def _senders(node: Node, rate: float, stop: threading.Event, acknowledged: list[str]) -> None:
    rng = np.random.default_rng(1)
    made = [phantom_dataset(utc_now(), rng, opacity=index % 2, accession_number=f"S{index}") for index in range(4)]
    number, begin = 0, time.monotonic()
    while not stop.is_set():
        number += 1
        if stop.wait(max(0.0, begin + number / rate - time.monotonic())):
            return
        dataset = made[number % len(made)]
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        if number % 20 == 0:  # a sender that is switched off in the middle
            with contextlib.suppress(OSError), wire.associate(node.port, dataset.SOPClassUID) as connection:
                connection.sendall(b"".join(wire.store_pdus(dataset))[:200_000])
            continue
        ae = AE(ae_title="SOAK")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
        if association.is_established:
            if association.send_c_store(dataset).get("Status") == 0:
                acknowledged.append(str(dataset.StudyInstanceUID))
            association.release()


def _strangers(node: Node, stop: threading.Event) -> None:
    """16 knocks a second are about 1,000 a minute."""
    while not stop.wait(1 / 16):
        for port in (node.port, node.dicom_port):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()


def _readers(node: Node, stop: threading.Event) -> None:
    while not stop.wait(2.0):
        for path in ("/", "/api/studies", "/metrics", "/admin"):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{node.url}{path}", timeout=30).read()
        for sop_class in (UnifiedProcedureStepPull, ModalityWorklistInformationFind):
            keys = Dataset()
            keys.PatientName = ""
            ae = AE(ae_title="SOAK")
            ae.add_requested_context(sop_class)
            association = associate(ae, "127.0.0.1", node.dicom_port, ae_title="CXR_WORKLIST")
            if association.is_established:
                for _ in association.send_c_find(keys, sop_class):
                    pass
                association.release()


def _radiologists(node: Node, stop: threading.Event, acknowledged: list[str]) -> None:
    """What their reading systems tell the node over UPS or HL7 ends in these rows."""
    database = Database(f"sqlite:///{node.folder / 'data' / 'cxr-node.db'}")
    done, waiting = 0, deque[tuple[float, str]]()
    while not stop.wait(2.0):
        now = time.monotonic()
        waiting.extend((now, uid) for uid in acknowledged[done:])
        done = len(acknowledged)
        with database.begin() as connection:
            while waiting and now - waiting[0][0] > READ_AFTER_S:
                studies.mark_read(connection, waiting.popleft()[1], utc_now())
    database.dispose()


def main() -> int:
    """Run and print a table, then one line of JSON; the exit status is 1 where something grew or was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=1.0, help="studies per second")
    parser.add_argument("--quick", action="store_true", help="one minute: shows that it runs, and nothing else")
    arguments = parser.parse_args()
    minutes = 1.0 if arguments.quick else arguments.minutes
    series: dict[tuple[str, int], Series] = defaultdict(Series)
    acknowledged: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "out").mkdir()
        node = Node(
            folder / "node",
            destinations=[{"name": "out", "kind": "folder", "path": str(folder / "out"), "settle_s": 1}],
        )
        node.folder.mkdir()
        node.start()
        stop = threading.Event()
        workers = [
            threading.Thread(target=_senders, args=(node, arguments.rate, stop, acknowledged)),
            threading.Thread(target=_strangers, args=(node, stop)),
            threading.Thread(target=_readers, args=(node, stop)),
            threading.Thread(target=_radiologists, args=(node, stop, acknowledged)),
        ]
        try:
            for worker in workers:
                worker.start()
            begin = time.monotonic()
            while (at_s := time.monotonic() - begin) < minutes * 60:
                for stage in STAGES:
                    for pid in node.pids(stage):
                        series[stage, pid].read(pid, at_s)
                time.sleep(EVERY_S)
        finally:
            stop.set()
            for worker in workers:
                worker.join(60)
        try:
            wait_until(lambda: not _waiting(node), 60, "nothing waits")
            listed = len((get_json(f"{node.url}/api/studies?limit=1000") or {}).get("studies", []))
            missing = [uid for uid in acknowledged if (node.study(uid) or {}).get("status") in (None, "pending")]
            deaths = [line for line in node.log_lines() if line.get("event") in ("stage_died", "acceptor_died")]
        finally:
            node.stop()
    rows = [_row(stage, pid, found, minutes) for (stage, pid), found in sorted(series.items()) if len(found.at_s) > 5]
    print(
        f"{minutes:g} minutes, {len(acknowledged)} studies acknowledged, {len(missing)} missing, {len(deaths)} deaths"
    )
    print(f"{'stage':10}{'pid':>8}{'MB first':>10}{'middle':>8}{'last':>8}{'rise':>7}{'fds':>12}{'threads':>12}  flat")
    for row in rows:
        print(
            f"{row['stage']:10}{row['pid']:8}{row['mb_first']:10}{row['mb_middle']:8}{row['mb_last']:8}{row['mb_rise']:7}"
            f"{row['descriptors']:>12}{row['threads']:>12}  {'yes' if row['flat'] else 'NO'}"
        )
    result = {
        "benchmark": "soak",
        "minutes": minutes,
        "rate": arguments.rate,
        "acknowledged": len(acknowledged),
        "missing": len(missing),
        "deaths": len(deaths),
        "listed_at_end": listed,
        "rows": rows,
    }
    print(json.dumps(result))
    return 1 if missing or deaths or not all(row["flat"] for row in rows) else 0


def _waiting(node: Node) -> bool:
    listed = get_json(f"{node.url}/api/studies?limit=1000") or {}
    return any(study["status"] == "pending" for study in listed.get("studies", []))


def _row(stage: str, pid: int, found: Series, minutes: float) -> dict[str, object]:
    rise = found.rise(found.resident_mb)
    middle = found.resident_mb[len(found.resident_mb) // 2]
    allowed = max(LEAST_RISE_MB, 0.1 * middle * (minutes / 2) / 60)
    steady = found.rise(found.descriptors) < 5 and found.rise(found.threads) < 5
    return {
        "stage": stage,
        "pid": pid,
        "mb_first": round(found.resident_mb[0]),
        "mb_middle": round(middle),
        "mb_last": round(found.resident_mb[-1]),
        "mb_rise": round(rise, 1),
        "descriptors": f"{found.descriptors[len(found.descriptors) // 2]} to {found.descriptors[-1]}",
        "threads": f"{found.threads[len(found.threads) // 2]} to {found.threads[-1]}",
        "flat": rise < allowed and steady,
    }


if __name__ == "__main__":
    sys.exit(main())
