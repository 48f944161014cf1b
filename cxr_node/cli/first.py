"""`cxr-node serve` up to its first process: intake is started before the supervisor loads what it needs itself.

A modality that sends right after a restart waits for intake and for nothing else. The database library, which the
supervisor needs to mind the stages, is loaded while intake loads its own: on two cores both take half the time.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cxr_node.cli.hung import HungWatch
from cxr_node.cli.privilege import root_trouble
from cxr_node.errors import CxrNodeError
from cxr_node.log import configure_logging, get_logger
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals

log = get_logger("supervisor")

INTAKE = "receive"
_END_WITHIN_S = 8.0


class AlreadyRunning(CxrNodeError):
    """Another supervisor holds the data folder."""


@dataclass
class First:
    """What stands before the supervisor minds anything. `intake` runs already, where it could."""

    metrics_dir: Path
    hung: HungWatch
    intake: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic

    @property
    def environment(self) -> dict[str, str]:
        """What every stage is told beside the supervisor's own environment."""
        return {"PROMETHEUS_MULTIPROC_DIR": str(self.metrics_dir), **self.hung.environment}


@contextlib.contextmanager
def taken(settings: Settings, watch: Callable[[Path, Path], HungWatch] = HungWatch) -> Iterator[First]:
    """Hold the data folder for the block; nothing of an earlier supervisor's is taken for one's own.

    Raises
    ------
    AlreadyRunning
        Another supervisor works on the same data folder.
    """
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    with _only_one(run_dir / "serve.lock"):
        # A folder of this process's own: stages of a supervisor that was killed may still write to theirs.
        for old in run_dir.glob("metrics*"):
            shutil.rmtree(old, ignore_errors=True)
        metrics_dir = Path(tempfile.mkdtemp(prefix="metrics-", dir=run_dir))
        yield First(metrics_dir, watch(run_dir, metrics_dir))


def own_environment() -> dict[str, str]:
    """Return the environment that stages inherit: the supervisor speaks to the service manager for all."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    }


def command_of(config: Path | None) -> list[str]:
    """Return the command line of a stage, without its name."""
    return [sys.executable, "-m", "cxr_node", *(["--config", str(config)] if config else [])]


def spawn(
    command: list[str], stage: str, environment: Mapping[str, str], log_file: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start the process of a stage. It ends with this one."""
    process = subprocess.Popen(
        [*command, stage, "--parent", str(os.getpid())], env=environment, stdin=subprocess.DEVNULL, stderr=log_file
    )
    log.info("stage_spawned", stage_name=stage, pid=process.pid)
    return process


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the node until SIGTERM or SIGINT."""
    configure_logging(settings.node.log_level, "supervisor")
    if trouble := root_trouble():
        log.warning("runs_as_root", reason=trouble)
    stop = threading.Event()
    stop_on_signals(stop)
    with taken(settings) as first:
        try:
            if _has_tables(settings):
                first.started_at = time.monotonic()
                first.intake = spawn(command_of(arguments.config), INTAKE, {**own_environment(), **first.environment})
            from cxr_node.cli.serve import Supervisor

            Supervisor(settings, arguments.config).run(stop, first)
        finally:
            _end(first.intake)
    log.info("node_stopped")
    return 0


def _has_tables(settings: Settings) -> bool:
    """Whether a database was seen at an earlier start, see `beforehand`. Where there is none yet, the supervisor makes
    it first: a stage that finds none takes it for lost. One of an earlier release whoever comes first brings up to
    date, and the others wait."""
    return (settings.data_dir / "run" / "database").exists()


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """End intake, where the supervisor did not come to mind it."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"another cxr-node serves this data folder: {path.parent.parent}") from error
        yield
