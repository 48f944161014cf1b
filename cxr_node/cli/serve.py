"""The supervisor: every stage a process of its own, restarted when it dies, stopped together.

It does no work itself. When a stage dies, the leases it held end at once, so that its jobs need not wait for them.
A stage that was started and has not said anything yet is listed as starting: who asks whether the node is ready hears
of it. A GPU that ends its worker again and again is given up, and the worker goes on with the CPU.
"""

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from prometheus_client import multiprocess
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.cli.first import INTAKE, AlreadyRunning, First, command_of, own_environment, spawn, taken
from cxr_node.cli.hung import HungWatch
from cxr_node.cli.service_manager import Watchdog, notify
from cxr_node.clock import utc_now
from cxr_node.inference.devices import GIVEN_UP, visible_gpus
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.work.heartbeat import READY, STARTING, process_name
from cxr_node.work.owner import owners_of
from storage import Database, Doorbell, heartbeats, jobs
from storage.errors import StorageError

__all__ = ["AlreadyRunning", "Stage", "Supervisor", "stages_of"]

log = get_logger("supervisor")

VISIBLE = "CUDA_VISIBLE_DEVICES"

STOP_WITHIN_S = 8.0  # then SIGKILL; a service manager waits ten
HEALTHY_AFTER_S = 60.0  # a stage that ran this long starts its backoff anew
LONGEST_BACKOFF_S = 30.0
LOOK_EVERY_S = 0.05
LOOK_AGAIN_S = 1.0  # in the database, for stages that were slow to start
# In the order in which somebody waits: a modality, a reader, a study. A turn ends when the first of it serves.
TURNS = (("receive", "worklist"), ("analyze",), ("deliver", "orders"), ("upkeep",))
TURN_S = 1.5  # or after so long: models that are converted first take a minute
GPU_CRASHES = 3  # one after the other; a driver that aborts the process leaves nothing to catch


@dataclass
class Stage:
    """A stage's process and its history."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    deaths: int = 0
    crashes: int = 0
    start_at: float = 0.0

    def died(self, now: float) -> float:
        """Count a death and return how long to wait: nothing the first time, then 1, 2, 4 … s."""
        if now - self.started_at >= HEALTHY_AFTER_S:
            self.deaths = 0
        wait = 0.0 if self.deaths == 0 else min(LONGEST_BACKOFF_S, 2.0 ** (self.deaths - 1))
        self.deaths += 1
        self.start_at = now + wait
        return wait

    def crashed(self, exit_status: int) -> str:
        """Count a death by signal; return the GPU that is given up for it, empty where none is."""
        self.crashes = self.crashes + 1 if exit_status < 0 and self.deaths > 0 else 0
        gpu = self.environment.get(VISIBLE, "")
        if self.crashes < GPU_CRASHES or not gpu or GIVEN_UP in self.environment:
            return ""
        self.environment = {**self.environment, VISIBLE: "-1", GIVEN_UP: gpu}
        return gpu


def stages_of(settings: Settings) -> list[Stage]:
    """Return the processes that make up a node: one of each stage, and an analyze worker for each GPU."""
    workers = settings.analyze.workers
    gpus = () if settings.analyze.engine == "litert" else visible_gpus()
    number = max(1, len(gpus)) if workers == "auto" else workers
    analyze = [Stage("analyze", _only_gpu(gpus[index % len(gpus)]) if gpus else {}) for index in range(number)]
    orders = [Stage("orders")] if settings.orders.enabled else []
    return [Stage("receive"), *analyze, Stage("worklist"), Stage("deliver"), *orders, Stage("upkeep")]


def _only_gpu(gpu: str) -> dict[str, str]:
    # Counted as the device files and nvidia-smi count them: by default CUDA puts the fastest first.
    return {VISIBLE: gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


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
        self._command = command_of(config)
        self._environment = {**own_environment(), **(environment or {})}
        self._log_file = log_file  # standard error where None
        self._stages = stages_of(settings)
        self._run_dir = settings.data_dir / "run"

    def run(self, stop: threading.Event, first: First | None = None) -> None:
        """Start all, mind them until `stop`, end all.

        Parameters
        ----------
        first : the data folder, taken, with intake if that runs already; None: it is taken here

        Raises
        ------
        AlreadyRunning
            Another supervisor works on the same data folder.
        """
        with contextlib.nullcontext(first) if first else taken(self._settings, HungWatch) as begun:
            self._environment.update(begun.environment)
            self._take_over(begun)
            database = Database(self._settings.database_url)
            try:
                database.migrate()
                self._release(database, [owners_of(self._settings.data_dir, stage.name) for stage in self._stages])
                self._forget_signs(database)
                self._mind(database, stop, begun.hung)
            finally:
                self._end()
                database.dispose()

    def _take_over(self, begun: First) -> None:
        if begun.intake is not None:
            stage = next(stage for stage in self._stages if stage.name == INTAKE)
            stage.process, stage.started_at = begun.intake, begun.started_at

    def _mind(self, database: Database, stop: threading.Event, hung: HungWatch) -> None:
        self._start_in_turn(database, stop)
        notify("READY=1")
        watchdog = Watchdog()
        unheard, look_at = list(self._stages), 0.0
        while not stop.wait(LOOK_EVERY_S):
            now = time.monotonic()
            watchdog.feed(now)
            hung.look(now)
            if unheard and now >= look_at:
                unheard = [stage for stage in unheard if stage.process and self._said(database, stage) == STARTING]
                look_at = now + LOOK_AGAIN_S
            for stage in self._stages:
                if stage.process is None:
                    if now >= stage.start_at:
                        self._start(stage, database)
                    continue
                code = stage.process.poll()
                if code is None:
                    continue
                pid = stage.process.pid
                stage.process = None
                wait = stage.died(now)
                log.error("stage_died", stage_name=stage.name, pid=pid, exit_status=code, restart_in_s=wait)
                gpu = stage.crashed(code)
                if gpu:
                    log.error("gpu_given_up", stage_name=stage.name, gpu=gpu, crashes=stage.crashes)
                multiprocess.mark_process_dead(pid, path=self._environment["PROMETHEUS_MULTIPROC_DIR"])
                self._release(database, [owners_of(self._settings.data_dir, stage.name, pid)])
                if code >= 0:  # it ended itself, perhaps before it could take itself off the list
                    self._sign(database, heartbeats.end, stage.name, process_name(pid))

    def _start_in_turn(self, database: Database, stop: threading.Event) -> None:
        """Start the stages in the order in which somebody waits for them: on few cores each delays the others."""
        waiting = [stage for names in TURNS for stage in self._stages if stage.name in names]
        ends_at = 0.0
        while waiting and not stop.is_set():
            turn = next(names for names in TURNS if waiting[0].name in names)
            for stage in [stage for stage in waiting if stage.name in turn]:
                waiting.remove(stage)
                if stage.process is None:
                    self._start(stage, database)
                self._sign(database, _announced, stage.name, _pid(stage), utc_now())
            ends_at = time.monotonic() + TURN_S
            while waiting and time.monotonic() < ends_at and not self._serves(database, turn[0]):
                if stop.wait(LOOK_EVERY_S):
                    return

    def _serves(self, database: Database, name: str) -> bool:
        """Whether every process of the stage says so, or none is there to wait for."""
        running = [stage for stage in self._stages if stage.name == name and stage.process]
        return all(
            self._said(database, stage) == READY for stage in running if stage.process and stage.process.poll() is None
        )

    def _said(self, database: Database, stage: Stage) -> str:
        """Return what the stage's process says of itself; STARTING where that is still what was said for it.

        A process that leaves the work to others of its own, as intake may, says nothing: once one of them serves, what
        was said for it goes off the list.
        """
        process = process_name(_pid(stage))
        host = process.rpartition(":")[0]
        try:
            with database.read() as connection:
                beats = [beat for beat in heartbeats.listed(connection) if beat.stage == stage.name]
        except (StorageError, SQLAlchemyError):
            return STARTING
        own = next((beat for beat in beats if beat.process == process), None)
        if own is None:
            return READY
        state = str(own.detail.get("state", READY))
        mine = {process_name(_pid(item)) for item in self._stages}
        its_own = [
            beat
            for beat in beats
            if beat.process not in mine and beat.process.rpartition(":")[0] == host and beat.started_at > own.started_at
        ]
        if state == STARTING and any(beat.detail.get("state", READY) == READY for beat in its_own):
            self._sign(database, heartbeats.end, stage.name, process)
            return READY
        return state

    def _start(self, stage: Stage, database: Database) -> None:
        stage.started_at = time.monotonic()
        stage.process = spawn(self._command, stage.name, {**self._environment, **stage.environment}, self._log_file)

    def _forget_signs(self, database: Database) -> None:
        """Take those off the list that were killed together with an earlier supervisor of this host."""
        running = {process_name(stage.process.pid) for stage in self._stages if stage.process is not None}
        self._sign(database, _forget, {stage.name for stage in self._stages}, running)

    def _sign(self, database: Database, change: Callable[..., None], *arguments: Any) -> None:
        try:
            with database.begin() as connection:
                change(connection, *arguments)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("heartbeat_not_written", error_type=type(error).__name__)

    def _release(self, database: Database, owners: Sequence[str]) -> None:
        try:
            with database.begin() as connection:
                released = sum(jobs.release_owner(connection, owner, now=utc_now()) for owner in owners)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("leases_not_released", owners=list(owners), error_type=type(error).__name__)
            return
        if released:
            log.info("leases_released", owners=list(owners), jobs=released)
            bell = Doorbell(self._run_dir, database)
            for topic in ("analyze", "deliver", "orders"):
                bell.ring(topic)

    def _end(self) -> None:
        notify("STOPPING=1")
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


def _pid(stage: Stage) -> int:
    return stage.process.pid if stage.process is not None else 0


def _announced(connection: Connection, name: str, pid: int, now: datetime) -> None:
    heartbeats.announce(connection, name, process_name(pid), now=now, detail={"state": STARTING})


def _forget(connection: Connection, stages: Collection[str], running: Collection[str]) -> None:
    host = process_name(0).rpartition(":")[0]
    for beat in heartbeats.listed(connection):
        if beat.stage in stages and beat.process.rpartition(":")[0] == host and beat.process not in running:
            heartbeats.end(connection, beat.stage, beat.process)
