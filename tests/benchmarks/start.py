"""From the start of a node to its first answer and to ready: `python -m tests.benchmarks.start [--quick] [--rounds 7]`.

The node is `cxr-node serve` with the released models, in a folder of its own, on loopback. `warm` starts in a folder
where a node ran before; `cold` has its own data and no conversion of the models, as after an installation. Times count
from the moment that the command is given. Warm rounds give the median; a cold start takes a minute and runs once.

| row | until |
|---|---|
| C-ECHO | the node answers a C-ECHO; once more from the moment that the supervisor started `receive` |
| page | the web page's process answers |
| ready | `/readyz` says ready |
| stage … | the stage's own line of the log that it serves; processor time of its process until ready |
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from pynetdicom.ae import ApplicationEntity as AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_node.requestor import associate
from tests.benchmarks.receivers import machine
from tests.conftest import ROOT
from tests.system.conftest import free_port

WITHIN_S = 600.0
LOOK_EVERY_S = 0.01
STAGES = ("receive", "analyze", "worklist", "deliver", "upkeep")
_TICKS_S = os.sysconf("SC_CLK_TCK")


def start(folder: Path) -> dict[str, Any]:
    """Start a node, wait until it is ready, end it; return seconds by row."""
    port, web, dicom = free_port(), free_port(), free_port()
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "data"\n[receive]\nport = {port}\nmin_free_gb = 0.1\n'
        f'[worklist]\nport = {web}\ndicom_port = {dicom}\nrequire_token = "never"\n'
    )
    log = folder / "node.log"
    found: dict[str, float] = {}
    with log.open("wb") as out:
        began_at, began = time.time(), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "cxr_node", "--config", str(config), "serve"], stderr=out, cwd=ROOT
        )
        try:
            url = f"http://127.0.0.1:{web}"
            looks = {
                "C-ECHO": lambda: _echo(port),
                "page": lambda: _status(f"{url}/healthz") == 200,
                "ready": lambda: _status(f"{url}/readyz") == 200,
            }
            while len(found) < len(looks):
                if process.poll() is not None or time.monotonic() - began > WITHIN_S:
                    raise SystemExit(f"the node did not become ready:\n{log.read_text()[-2000:]}")
                for name, is_there in looks.items():
                    if name not in found and is_there():
                        found[name] = time.monotonic() - began
                time.sleep(LOOK_EVERY_S)
            spent = _processor_seconds(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    stages = _stages(log, began_at)
    found["C-ECHO, from receive's start"] = found["C-ECHO"] - stages.pop("spawned receive")
    return {**found, **stages, **{f"processor, {name}": value for name, value in spent.items()}}


def _echo(port: int) -> bool:
    ae = AE(ae_title="BENCH")
    ae.add_requested_context(Verification)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    if not _listens(port):
        return False
    association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status) and status.Status == 0


def _listens(port: int) -> bool:
    # From the kernel's table: a connection that is dropped again would be work for the node.
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _stages(log: Path, began_at: float) -> dict[str, float]:
    found = {}
    for line in log.read_text(errors="replace").splitlines():
        if not line.startswith("{"):
            continue
        told = json.loads(line)
        if told["event"] == "stage_spawned" and told["stage_name"] == "receive":
            found.setdefault("spawned receive", datetime.fromisoformat(told["timestamp"]).timestamp() - began_at)
        for stage in STAGES:
            if told["event"] in (f"{stage}_ready", "stage_started") and told.get("stage") == stage:
                name = f"stage {stage}" if told["event"] != "stage_started" else f"stage {stage} (started)"
                found.setdefault(name, datetime.fromisoformat(told["timestamp"]).timestamp() - began_at)
    return found


def _processor_seconds(supervisor: int) -> dict[str, float]:
    """Return what each process has spent so far, its children that ended included."""
    found = {}
    pids = [supervisor]
    for task in Path(f"/proc/{supervisor}/task").iterdir():
        pids += [int(pid) for pid in (task / "children").read_text().split()]
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        name = next((stage for stage in STAGES if stage in words), "supervisor")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent = sum(int(field) for field in fields[11:15]) if pid != supervisor else int(fields[11]) + int(fields[12])
        found[name] = spent / _TICKS_S
    return found


def measure(rounds: int) -> list[dict[str, Any]]:
    """Start once cold, then `rounds` times warm."""
    with tempfile.TemporaryDirectory(prefix="start-bench-") as scratch:
        folder = Path(scratch)
        cold = start(folder)
        warm = [start(folder) for _ in range(rounds)]
        shutil.rmtree(folder / "data")
    names = [*dict.fromkeys(name for run in (cold, *warm) for name in run)]
    rows = []
    for name in names:
        values = sorted(run[name] for run in warm if name in run)
        rows.append(
            {
                "until": name,
                "warm_median_s": round(statistics.median(values), 3) if values else None,
                "warm_worst_s": round(values[-1], 3) if values else None,
                "cold_s": round(cold[name], 3) if name in cold else None,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two warm rounds")
    given = parser.parse_args()
    rows = measure(2 if given.quick else given.rounds)
    print(f"{'until':28}{'warm median, s':>16}{'warm worst, s':>16}{'cold, s':>12}")
    for row in rows:
        cells = [row["warm_median_s"], row["warm_worst_s"], row["cold_s"]]
        print(
            f"{row['until']:28}"
            + "".join(f"{'-' if cell is None else cell:>{w}}" for cell, w in zip(cells, (16, 16, 12), strict=True))
        )
    print(json.dumps({"benchmark": "start", "rows": rows, "machine": machine()}))


if __name__ == "__main__":
    main()
