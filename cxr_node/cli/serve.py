"""The supervisor: every stage a process of its own, restarted when it dies, stopped together.

It does no work itself. When a stage dies, the leases it held end at once, so that its jobs need not wait for them.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from prometheus_client import multiprocess
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.log import configure_logging, get_logger
from cxr_node.settings import Settings
from cxr_node.signals import stop_on_signals
from storage import Database, Doorbell, jobs
from storage.errors import StorageError

log = get_logger("supervisor")

STOP_WITHIN_S = 8.0  # then SIGKILL; a service manager waits ten
HEALTHY_AFTER_S = 60.0  # a stage that ran this long starts its backoff anew
LONGEST_BACKOFF_S = 30.0


class AlreadyRunning(CxrNodeError):
    """Another supervisor holds the data folder."""


@dataclass
class Stage:
    """A stage's process and its history."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    start_at: float = 0.0

    def died(self, now: float) -> float:
        """Count a death and return how long to wait: nothing the first time, then 1, 2, 4 … s."""
        if now - self.started_at >= HEALTHY_AFTER_S:
            self.deaths = 0
        wait = 0.0 if self.deaths == 0 else min(LONGEST_BACKOFF_S, 2.0 ** (self.deaths - 1))
        self.deaths += 1
        self.start_at = now + wait
        return wait


def stages_of(settings: Settings) -> list[Stage]:
    """Return the processes that make up a node: one of each stage, and an analyze worker for each GPU."""
    workers = settings.analyze.workers
    gpus = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    if workers == "auto":
        analyze = [Stage("analyze", {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in gpus] or [Stage("analyze")]
    else:
        analyze = [
            Stage("analyze", {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {})
            for index in range(workers)
        ]
    orders = [Stage("orders")] if settings.orders.enabled else []
    return [Stage("receive"), Stage("worklist"), *analyze, Stage("deliver"), *orders, Stage("upkeep")]


class Supervisor:
    """Keeps the stages of one node running."""

    def __init__(
        self,
        settings: Settings,
        config: Path | None,
        environment: dict[str, str] | None = None,
        log_file: IO[bytes] | None = None,
    ) -> None:
        self._settings = settings
        self._command = [sys.executable, "-m", "cxr_node", *(["--config", str(config)] if config else [])]
        self._environment = {**os.environ, **(environment or {})}
        self._log_file = log_file  # standard error where None
        self._stages = stages_of(settings)
        self._run_dir = settings.data_dir / "run"

    def run(self, stop: threading.Event) -> None:
        """Start all, mind them until `stop`, end all.

        Raises
        ------
        AlreadyRunning
            Another supervisor works on the same data folder.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(self._run_dir / "serve.lock"):
            # A folder of this process's own: stages of a supervisor that was killed may still write to theirs.
            for old in self._run_dir.glob("metrics*"):
                shutil.rmtree(old, ignore_errors=True)
            metrics_dir = Path(tempfile.mkdtemp(prefix="metrics-", dir=self._run_dir))
            self._environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
            database = Database(self._settings.database_url)
            try:
                database.migrate()
                self._release(database, [f"{stage.name}:" for stage in self._stages])
                self._mind(database, stop)
            finally:
                self._end()
                database.dispose()

    def _mind(self, database: Database, stop: threading.Event) -> None:
        for stage in self._stages:
            self._start(stage)
        while not stop.wait(0.05):
            now = time.monotonic()
            for stage in self._stages:
                if stage.process is None:
                    if now >= stage.start_at:
                        self._start(stage)
                    continue
                code = stage.process.poll()
                if code is None:
                    continue
                pid = stage.process.pid
                stage.process = None
                wait = stage.died(now)
                log.error("stage_died", stage_name=stage.name, pid=pid, exit_status=code, restart_in_s=wait)
                multiprocess.mark_process_dead(pid, path=self._environment["PROMETHEUS_MULTIPROC_DIR"])
                self._release(database, [f"{stage.name}:{pid}:"])

    def _start(self, stage: Stage) -> None:
        stage.started_at = time.monotonic()
        stage.process = subprocess.Popen(
            [*self._command, stage.name, "--parent", str(os.getpid())],
            env={**self._environment, **stage.environment},
            stdin=subprocess.DEVNULL,
            stderr=self._log_file,
        )
        log.info("stage_spawned", stage_name=stage.name, pid=stage.process.pid)

    def _release(self, database: Database, owners: Sequence[str]) -> None:
        try:
            with database.begin() as connection:
                released = sum(jobs.release_owner(connection, owner, now=utc_now()) for owner in owners)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("leases_not_released", owners=list(owners), error_type=type(error).__name__)
            return
        if released:
            log.info("leases_released", owners=list(owners), jobs=released)
            bell = Doorbell(self._run_dir)
            for topic in ("analyze", "deliver", "orders"):
                bell.ring(topic)

    def _end(self) -> None:
        running = [stage.process for stage in self._stages if stage.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("stage_killed", pid=process.pid, reason=f"still running {STOP_WITHIN_S:g} s after SIGTERM")
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


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the node until SIGTERM or SIGINT."""
    configure_logging(settings.node.log_level, "supervisor")
    stop = threading.Event()
    stop_on_signals(stop)
    Supervisor(settings, arguments.config).run(stop)
    log.info("node_stopped")
    return 0
