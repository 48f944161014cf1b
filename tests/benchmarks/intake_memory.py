"""What intake costs in memory, and when nothing happens: `python -m tests.benchmarks.intake_memory [--quick]`.

1. 64 associations are opened and all send an object of 30 MB at once, over plain sockets from this process. Peak memory
   of the receiver is that of all of its processes together, looked at ten times a second: RSS counts a shared page in
   each, PSS shares it out. Whatever is refused is counted.
2. 100 associations are opened and say nothing for a while. CPU is that of the receiver's processes, in percent of one
   core, over that while.

The last line is JSON.
"""

import argparse
import contextlib
import itertools
import json
import socket
import struct
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import DigitalXRayImageStorageForPresentation as DX

from tests.benchmarks.receivers import (
    MemoryWatch,
    Receiver,
    enter_private_network,
    is_installed,
    machine,
    node,
    orthanc,
    pynetdicom_app,
    running,
    storescp,
)
from tests.builders import make_radiograph_dataset
from tests.cxr_node.receive import wire

ALL_IN = "maximum_associations = 200\nper_caller_associations = 200\n"

RECEIVERS = [
    Receiver("cxr-node, 2 processes", node(2, more=ALL_IN)),
    Receiver("cxr-node, 1 process", node(1, more=ALL_IN)),
    Receiver("storescp --fork", storescp("--fork"), "storescp"),
    Receiver("Orthanc", orthanc, "Orthanc"),
    Receiver("pynetdicom storescp", pynetdicom_app),
]


class Sender:
    """Objects of one length, each with UIDs of its own; the PDUs of the pixels are made once and shared."""

    def __init__(self, rows: int) -> None:
        dataset = make_radiograph_dataset(np.zeros((rows, rows), np.uint16))
        self._uids = {}
        for number, keyword in enumerate(("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")):
            self._uids[number] = f"1.2.826.0.1.3680043.8.498.1{number}{0:020d}"
            setattr(dataset, keyword, self._uids[number])
        self._pdus = wire.store_pdus(dataset, maximum_length=131066)
        self._numbers = itertools.count(1)

    def pdus(self) -> list[bytes]:
        """The PDUs of another object. Its UIDs stand in the first two: the command, and the head of the dataset."""
        head = self._pdus[:2]
        own = next(self._numbers)
        for number, uid in self._uids.items():
            other = f"1.2.826.0.1.3680043.8.498.1{number}{own:020d}"
            head = [pdu.replace(uid.encode(), other.encode()) for pdu in head]
        return [*head, *self._pdus[2:]]


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wire.association_request(DX))
    head = _exactly(connection, 6)
    _exactly(connection, struct.unpack(">I", head[2:])[0])
    if head[0] != wire.A_ASSOCIATE_AC:
        connection.close()
        raise ConnectionError(f"A-ASSOCIATE answered with PDU type {head[0]}")
    return connection


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def _load(receiver: Receiver, associations: int, rows: int) -> dict[str, Any]:
    sender = Sender(rows)
    with tempfile.TemporaryDirectory() as name, running(receiver, Path(name)) as found:
        gate = threading.Barrier(associations)

        def send(_: int) -> bool:
            try:
                connection = _connect(found.port)
            except OSError:
                gate.abort()
                return False
            with connection:
                pdus = sender.pdus()
                with contextlib.suppress(threading.BrokenBarrierError):  # others were refused; this one goes on
                    gate.wait(120)
                try:
                    # In two halves: every receiver holds half of every object before one is whole.
                    half = len(pdus) // 2
                    for pdu in pdus[:half]:
                        connection.sendall(pdu)
                    time.sleep(0.5)
                    for pdu in pdus[half:]:
                        connection.sendall(pdu)
                    return bool(wire.receive_status(connection) == 0x0000)
                except (OSError, AssertionError):
                    return False

        with MemoryWatch(found.process.pid) as watch:
            started = time.monotonic()
            with ThreadPoolExecutor(associations) as pool:
                kept = sum(pool.map(send, range(associations)))
            seconds = time.monotonic() - started
    return {
        "receiver": receiver.name,
        "associations": associations,
        "object_mb": round(rows * rows * 2 / 1e6, 1),
        "kept": kept,
        "seconds": round(seconds, 1),
        "peak_rss_mb": round(watch.rss_mb, 1),
        "peak_pss_mb": round(watch.pss_mb, 1),
    }


def _idle(receiver: Receiver, associations: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, running(receiver, Path(name)) as found:
        held = []
        try:
            for _ in range(associations):
                try:
                    held.append(_connect(found.port))
                except OSError:
                    break  # it takes no more
            time.sleep(2.0)
            with MemoryWatch(found.process.pid) as watch:
                before, started = found.cpu_s(), time.monotonic()
                time.sleep(seconds)
                used, passed = found.cpu_s() - before, time.monotonic() - started
        finally:
            for connection in held:
                connection.close()
    return {
        "receiver": receiver.name,
        "idle_associations": len(held),
        "percent_of_a_core": round(100 * used / passed, 2),
        "rss_mb": round(watch.rss_mb, 1),
        "pss_mb": round(watch.pss_mb, 1),
    }


def main() -> None:
    """Run and print two tables, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the node and one peer only, shorter")
    parser.add_argument("--associations", type=int, default=64)
    arguments = parser.parse_args()
    enter_private_network("tests.benchmarks.intake_memory")
    receivers = [receiver for receiver in RECEIVERS if is_installed(receiver)]
    rows = 3900  # 30 MB of 16-bit pixels
    idle_s = 20.0
    if arguments.quick:
        receivers, idle_s = [RECEIVERS[0]], 10.0
    loaded, idle = [], []
    print(f"{'receiver':24}{'assoc.':>7}{'kept':>6}{'s':>8}{'RSS MB':>9}{'PSS MB':>9}")
    for receiver in receivers:
        row = _load(receiver, arguments.associations, rows)
        loaded.append(row)
        print(
            f"{row['receiver']:24}{row['associations']:7}{row['kept']:6}{row['seconds']:8}{row['peak_rss_mb']:9}"
            f"{row['peak_pss_mb']:9}",
            flush=True,
        )
    print(f"{'receiver':24}{'idle':>7}{'% core':>9}{'RSS MB':>9}{'PSS MB':>9}")
    for receiver in receivers:
        row = _idle(receiver, 100, idle_s)
        idle.append(row)
        print(
            f"{row['receiver']:24}{row['idle_associations']:7}{row['percent_of_a_core']:9}{row['rss_mb']:9}"
            f"{row['pss_mb']:9}",
            flush=True,
        )
    print(json.dumps({"benchmark": "intake_memory", "rows": loaded, "idle": idle, "machine": machine()}))


if __name__ == "__main__":
    main()
