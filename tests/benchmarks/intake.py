"""C-STORE intake beside DCMTK's storescp: `python -m tests.benchmarks.intake [--rounds 3] [--instances 16]`.

The sender is DCMTK's storescu with TCP_NODELAY=1 and socket buffers of 1 MiB (its defaults stall 40 ms an object), one
process for each association, on the same machine. Every round runs all receivers in random order, so that a machine
that slows down slows all; figures are medians over rounds of the whole time from the first storescu's start to the last
one's end, its own start included. The node makes file, folder, row and job durable before each Success; storescp makes
nothing durable, and decodes only without +B.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from tests.builders import in_transfer_syntax, make_radiograph_dataset, to_part_10
from tests.conftest import ROOT
from tests.system.conftest import free_port, wait_until

TUNED = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "1048576"}
OPTIONS = {"raw": "-xe", "j2k": "-xv"}


@dataclass
class Receiver:
    """A program that listens on a port and writes into a folder."""

    name: str
    command: Callable[[Path, int], list[str]]
    environment: dict[str, str]


def _node(processes: int, transport: str = "stream") -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        config = folder / "node.toml"
        config.write_text(
            f'[node]\ndata_dir = "data"\nlog_level = "error"\n[receive]\nport = {port}\nmin_free_gb = 0.1\n'
            f'processes = {processes}\ntransport = "{transport}"\n'
        )
        return [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"]

    return command


def _storescp(*options: str) -> Callable[[Path, int], list[str]]:
    return lambda folder, port: ["storescp", *options, "-od", str(folder), "-aet", "CXR_NODE", "+xa", str(port)]


RECEIVERS = [
    Receiver("cxr-node, 1 process", _node(1), {}),
    Receiver("cxr-node, 2 processes", _node(2), {}),
    Receiver("cxr-node, transport stock", _node(1, "stock"), {}),
    Receiver("storescp --fork (default)", _storescp("--fork"), {}),
    Receiver("storescp --fork +B, tuned", _storescp("--fork", "+B", "-pdu", "131072"), TUNED),
]


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


def _answers(port: int) -> bool:
    return subprocess.run(["echoscu", "-aec", "CXR_NODE", "127.0.0.1", str(port)], capture_output=True).returncode == 0


def _processes_below(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _processes_below(int(child))
    return found


def _peak_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        peak = status.partition("VmHWM:")[2].split()
        total += int(peak[0]) if peak else 0  # a child that has ended has none
    return total / 1024


def _run(receiver: Receiver, paths: list[Path], warm_up: Path, option: str, associations: int) -> tuple[float, float]:
    """Return seconds and peak MB."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        process = subprocess.Popen(
            receiver.command(folder, port),
            cwd=ROOT,
            env={**os.environ, **receiver.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _answers(port), 60, f"{receiver.name} answers")
            time.sleep(0.5)
            shares = [paths[start::associations] for start in range(associations)]
            pdu = ["--max-send-pdu", "131072"]
            # The first object pays for what is loaded at first use, once in the life of a process.
            subprocess.run(["storescu", "-aec", "CXR_NODE", option, "127.0.0.1", str(port), str(warm_up)], check=True)
            started = time.monotonic()
            senders = [
                subprocess.Popen(
                    ["storescu", *pdu, "-aec", "CXR_NODE", option, "127.0.0.1", str(port), *map(str, share)],
                    env={**os.environ, **TUNED},
                )
                for share in shares
            ]
            codes = [sender.wait() for sender in senders]
            seconds = time.monotonic() - started
            peak_mb = _peak_mb(_processes_below(process.pid))
            assert codes == [0] * associations, f"{receiver.name}: storescu ended with {codes}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
    return seconds, peak_mb


def main() -> None:
    """Run and print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=16)
    arguments = parser.parse_args()
    rng = random.Random(1)
    seconds: dict[tuple[str, int, str], list[float]] = {}
    peaks: dict[str, float] = {}
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
                for associations in (1, 4):
                    for receiver in rng.sample(RECEIVERS, len(RECEIVERS)):
                        took, peak_mb = _run(receiver, paths[1:], paths[0], OPTIONS[kind], associations)
                        seconds.setdefault((kind, associations, receiver.name), []).append(took)
                        peaks[receiver.name] = max(peak_mb, peaks.get(receiver.name, 0.0))
            print(f"round {round_ + 1} of {arguments.rounds} done", file=sys.stderr)
    rows = []
    base = RECEIVERS[0].name
    print(f"{'objects':8}{'assoc.':>7}  {'receiver':28}{'s':>8}{'MB/s':>8}{'inst/s':>8}{'ratio':>7}")
    for (kind, associations, receiver_name), values in sorted(seconds.items()):
        median = statistics.median(values)
        ratio = median / statistics.median(seconds[kind, associations, base])
        row = {
            "objects": kind,
            "associations": associations,
            "receiver": receiver_name,
            "median_s": round(median, 3),
            "megabytes_per_s": round(sizes[kind] / 1e6 / median, 1),
            "instances_per_s": round(arguments.instances / median, 1),
            "cxr_node_is_faster_by": round(ratio, 2),
        }
        rows.append(row)
        print(
            f"{kind:8}{associations:7}  {receiver_name:28}{median:8.2f}{row['megabytes_per_s']:8}"
            f"{row['instances_per_s']:8}{ratio:7.2f}"
        )
    print("ratio: how many times as long as cxr-node with 1 process")
    print("peak resident memory, MB:", ", ".join(f"{key} {value:.0f}" for key, value in sorted(peaks.items())))
    print(json.dumps({"benchmark": "intake", "rounds": arguments.rounds, "rows": rows, "peak_mb": peaks}))


if __name__ == "__main__":
    main()
