"""What the intake benchmarks start: the node and its peers, in a network of their own, with what they cost.

Orthanc has no option that binds it to one address; in a network namespace there is nothing but loopback. Only what this
module starts is ended, by its process id.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.system.conftest import free_port, wait_until

IN_NAMESPACE = "CXR_BENCHMARK_IN_NAMESPACE"
TUNED = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "1048576"}


@dataclass(frozen=True)
class Receiver:
    """A program that listens on a port and keeps what it receives in a folder."""

    name: str
    command: Callable[[Path, int], list[str]]
    program: str = ""  # that must be installed; empty for Python's own
    environment: dict[str, str] = field(default_factory=dict)


def node(processes: int, transport: str = "stream", more: str = "") -> Callable[[Path, int], list[str]]:
    """Return the command of `cxr-node receive`, everything durable before Success; `more` is added to [receive]."""

    def command(folder: Path, port: int) -> list[str]:
        config = folder / "node.toml"
        config.write_text(
            f'[node]\ndata_dir = "data"\nlog_level = "error"\n[receive]\nport = {port}\nmin_free_gb = 0.1\n'
            f'processes = {processes}\ntransport = "{transport}"\n{more}'
        )
        return [sys.executable, "-m", "cxr_node", "--config", str(config), "receive"]

    return command


def storescp(*options: str) -> Callable[[Path, int], list[str]]:
    """Return the command of DCMTK's storescp, which makes nothing durable."""
    return lambda folder, port: ["storescp", *options, "-od", str(folder), "-aet", "CXR_NODE", "+xa", str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """Return the command of Orthanc with its SQLite index and the storage area synced."""
    path = folder / "orthanc.json"
    path.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "SyncStorageArea": True,
                "DicomAet": "CXR_NODE",
                "DicomPort": port,
                "HttpServerEnabled": False,
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowEcho": True,
                "Plugins": [],
            }
        )
    )
    return ["Orthanc", str(path)]


def pynetdicom_app(folder: Path, port: int) -> list[str]:
    """Return the command of pynetdicom's own storescp, as it comes."""
    return [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-aet", "CXR_NODE", "-od", str(folder), "-q"]


def is_installed(receiver: Receiver) -> bool:
    """Whether its program is there."""
    return not receiver.program or shutil.which(receiver.program, path=_search_path()) is not None


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def enter_private_network(module: str) -> None:
    """Run this benchmark again in a network namespace with loopback only, and end with its status.

    Returns where it already runs in one, or where that needs rights this user has not: then without Orthanc.
    """
    if os.environ.get(IN_NAMESPACE) or os.geteuid() != 0 or shutil.which("unshare") is None:
        return
    command = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", module, *sys.argv[1:]]
    result = subprocess.run(["unshare", "--net", *command], env={**os.environ, IN_NAMESPACE: "1"}, check=False)
    sys.exit(result.returncode)


@dataclass
class Running:
    """A receiver that answers."""

    port: int
    process: subprocess.Popen[bytes]

    def pids(self) -> list[int]:
        """The process and its descendants."""
        return _below(self.process.pid)

    def cpu_s(self) -> float:
        """CPU time of the process and all that came of it so far, those that have ended included."""
        ticks = 0
        for pid in self.pids():
            try:
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(int(value) for value in values[11:15])  # own and of children waited for; proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(receiver: Receiver, folder: Path) -> Iterator[Running]:
    """Start it in `folder`, wait until it answers C-ECHO, end it after the block."""
    port = free_port()
    log_path = folder / "receiver.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            receiver.command(folder, port),
            cwd=ROOT,
            env={**os.environ, "PATH": _search_path(), **receiver.environment},
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, 60, f"{receiver.name} answers")
        if process.poll() is not None:
            raise RuntimeError(f"{receiver.name} ended with {process.returncode}: {log_path.read_text()[-500:]}")
        time.sleep(0.5)  # several processes are not all up when the first answers
        yield Running(port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether a C-ECHO is answered."""
    command = ["echoscu", "-aec", "CXR_NODE", "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _below(pid: int) -> list[int]:
    found = [pid]
    try:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                found += _below(int(child))
    except OSError:
        pass  # it has ended
    return found


class MemoryWatch:
    """Looks ten times a second at the memory of a process and its descendants, all together, while it is open.

    `rss_mb` counts a page in each process that has it, `pss_mb` shares it out among them.
    """

    def __init__(self, pid: int, every_s: float = 0.1) -> None:
        self.rss_mb = self.pss_mb = 0.0
        self._pid, self._every_s = pid, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            rss = pss = 0
            for pid in _below(self._pid):
                try:
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                rss += int(text.partition("\nRss:")[2].split()[0])
                pss += int(text.partition("\nPss:")[2].split()[0])
            self.rss_mb, self.pss_mb = max(self.rss_mb, rss / 1024), max(self.pss_mb, pss / 1024)
            if self._stop.wait(self._every_s):
                return


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    text = Path("/proc/cpuinfo").read_text()
    model = text.partition("model name")[2].partition("\n")[0].strip("\t :")
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_at_end": round(os.getloadavg()[0], 2),
    }
