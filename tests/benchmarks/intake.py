"""C-STORE intake beside its peers: `python -m tests.benchmarks.intake [--quick] [--rounds 3] [--instances 40]`.

The sender is DCMTK's storescu with TCP_NODELAY=1 and socket buffers of 1 MiB (its defaults stall 40 ms an object), one
process for each association, on the same machine. Every round runs all receivers in random order, so that a machine
that slows down slows all; figures are medians over rounds of the whole time from the first storescu's start to the last
one's end, its own start included. What of that is the senders' is the row `senders alone`: the same senders, and
storescp told to keep nothing (--ignore). It is in every row alike, so ratios between rows are nearer to 1 than those of
the receivers' own work. CPU is that of the receiver's processes, for 1 GB received.

The node makes file, folder, rows and job durable before each Success. Orthanc runs with SyncStorageArea and its SQLite
index. storescp and pynetdicom's application make nothing durable; with +B storescp does not look into what it writes.
Everything runs in a network namespace of its own where this user may make one; without, Orthanc is left out.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from tests.benchmarks.receivers import (
    TUNED,
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
from tests.builders import in_transfer_syntax, make_radiograph_dataset, to_part_10

OPTIONS = {"raw": "-xe", "j2k": "-xv"}

ALONE = "senders alone"
RECEIVERS = [
    Receiver("cxr-node, 1 process", node(1)),
    Receiver("cxr-node, 2 processes", node(2)),
    Receiver("cxr-node, transport stock", node(1, "stock")),
    Receiver("Orthanc, synced", orthanc, "Orthanc"),
    Receiver("storescp --fork", storescp("--fork"), "storescp"),
    Receiver("storescp --fork, tuned", storescp("--fork", "+B", "-pdu", "131072"), "storescp", TUNED),
    Receiver("pynetdicom storescp", pynetdicom_app),
    Receiver(ALONE, storescp("--fork", "--ignore", "-pdu", "131072"), "storescp", TUNED),
]
QUICK = ("cxr-node, 1 process", "Orthanc, synced", "storescp --fork", "storescp --fork, tuned", ALONE)
BASE = RECEIVERS[0].name


@dataclass(frozen=True)
class Run:
    """One run of one receiver."""

    seconds: float
    cpu_s: float
    rss_mb: float


def _write_objects(folder: Path, kind: str, count: int, rng: np.random.Generator) -> list[Path]:
    paths = []
    for number in range(count):
        if kind == "raw":  # 15 MB
            pixels = rng.integers(0, 4096, (2740, 2740), dtype=np.uint16)
            dataset = make_radiograph_dataset(pixels, StudyInstanceUID=generate_uid())
            assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        else:  # 2.5 MB, carried and never decoded
            dataset = in_transfer_syntax(make_radiograph_dataset(), JPEG2000Lossless)
            fragment = rng.bytes(2_500_000)
            dataset.PixelData = (
                b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + len(fragment).to_bytes(4, "little") + fragment
            )
        paths.append(folder / f"{kind}{number}.dcm")
        paths[-1].write_bytes(to_part_10(dataset))
    return paths


def _run(receiver: Receiver, paths: list[Path], warm_up: Path, option: str, associations: int) -> Run:
    with tempfile.TemporaryDirectory() as name, running(receiver, Path(name)) as found:
        port = str(found.port)
        # The first object pays for what is loaded at first use, once in the life of a process.
        warm = ["storescu", "-aec", "CXR_NODE", option, "127.0.0.1", port, str(warm_up)]
        subprocess.run(warm, check=True, stderr=subprocess.DEVNULL)
        shares = [paths[start::associations] for start in range(associations)]
        base = ["storescu", "--max-send-pdu", "131072", "-aec", "CXR_NODE", option, "127.0.0.1", port]
        with MemoryWatch(found.process.pid) as watch:
            before, started = found.cpu_s(), time.monotonic()
            senders = [
                subprocess.Popen([*base, *map(str, share)], env={**os.environ, **TUNED}, stderr=subprocess.DEVNULL)
                for share in shares
            ]
            codes = [sender.wait() for sender in senders]
            seconds = time.monotonic() - started
            time.sleep(0.3)  # storescp --fork counts a child's time once it has ended
            cpu_s = found.cpu_s() - before
        if any(codes):
            raise RuntimeError(f"{receiver.name}: storescu ended with {codes}")
    return Run(seconds, cpu_s, watch.rss_mb)


def main() -> None:
    """Run and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=40, help="of each kind; shared out among the associations")
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--quick", action="store_true", help="one round, fewer receivers, 4 associations")
    arguments = parser.parse_args()
    enter_private_network("tests.benchmarks.intake")
    receivers = [receiver for receiver in RECEIVERS if is_installed(receiver)]
    if arguments.quick:
        receivers = [receiver for receiver in receivers if receiver.name in QUICK]
        arguments.rounds, arguments.associations, arguments.instances = 1, [4], 8
    rng = random.Random(1)
    runs: dict[tuple[str, int, str], list[Run]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        objects = {
            kind: _write_objects(Path(name), kind, arguments.instances + 1, np.random.default_rng(1))
            for kind in OPTIONS
        }
        for kind, paths in objects.items():
            sizes[kind] = sum(len(path.read_bytes()) for path in paths[1:])  # and into the page cache
        for round_ in range(arguments.rounds):
            for kind, paths in objects.items():
                for associations in arguments.associations:
                    for receiver in rng.sample(receivers, len(receivers)):
                        run = _run(receiver, paths[1:], paths[0], OPTIONS[kind], associations)
                        runs.setdefault((kind, associations, receiver.name), []).append(run)
            print(f"round {round_ + 1} of {arguments.rounds} done", file=sys.stderr)
    rows = []
    print(f"{'objects':8}{'assoc.':>7}  {'receiver':27}{'s':>7}{'MB/s':>8}{'inst/s':>8}{'CPU s/GB':>10}{'ratio':>7}")
    for (kind, associations, receiver_name), found in sorted(runs.items()):
        median = statistics.median(run.seconds for run in found)
        base = statistics.median(run.seconds for run in runs[kind, associations, BASE])
        row = {
            "objects": kind,
            "associations": associations,
            "receiver": receiver_name,
            "median_s": round(median, 3),
            "megabytes_per_s": round(sizes[kind] / 1e6 / median, 1),
            "instances_per_s": round(arguments.instances / median, 1),
            "cpu_s_per_gb": round(statistics.median(run.cpu_s for run in found) / (sizes[kind] / 1e9), 2),
            "cxr_node_is_faster_by": round(median / base, 2),
            "peak_rss_mb": round(max(run.rss_mb for run in found), 1),
            "rounds": len(found),
        }
        rows.append(row)
        print(
            f"{kind:8}{associations:7}  {receiver_name:27}{median:7.2f}{row['megabytes_per_s']:8}"
            f"{row['instances_per_s']:8}{row['cpu_s_per_gb']:10}{row['cxr_node_is_faster_by']:7}"
        )
    print(f"ratio: how many times as long as {BASE}")
    left_out = [receiver.name for receiver in RECEIVERS if not is_installed(receiver)]
    if left_out:
        print("not run, not installed:", ", ".join(left_out))
    print(json.dumps({"benchmark": "intake", "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
