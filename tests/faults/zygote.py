"""Starts stages as processes of their own in a tenth of a second: a process that has loaded them all forks for each.

It speaks with the test over a pipe, one pickled request and answer after another, and has no thread and no database
open when it forks. A stage runs as `cxr-node STAGE` runs it; of the analysis only the network is a stand-in, which
gives every image the same score, for what is tested is what lies around it.
"""

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

SCORE = 2.0  # before calibration, of every finding in every image


class Zygote:
    """The process that forks; `before` are words in front of its command line."""

    def __init__(self, *before: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*before, sys.executable, "-c", "from tests.faults.zygote import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, *request: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@dataclass
class Stage:
    """A stage in a process, started anew whenever it dies, its leases given back: what the supervisor does."""

    zygote: Zygote
    name: str
    settings: Mapping[str, Any]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    patches: Mapping[str, Any] = field(default_factory=dict)
    pid: int = 0
    deaths: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._fork()
        self._thread = threading.Thread(target=self._mind, name=f"mind-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it by force: what is to be seen has been seen."""
        self._ends.set()
        if self._thread is None:
            return
        self._thread.join()
        self.signal(signal.SIGKILL)
        while self.zygote.ask("poll", self.pid) is None:
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _fork(self) -> None:
        self.pid = self.zygote.ask(
            "start", self.name, dict(self.settings), str(self.log), dict(self.environment), dict(self.patches)
        )

    def _mind(self) -> None:
        from cxr_node.clock import utc_now
        from cxr_node.settings import Settings
        from cxr_node.work.owner import owners_of
        from storage import Database, jobs
        from storage.errors import StorageError

        settings = Settings.model_validate(self.settings)
        database = Database(settings.database_url)
        while not self._ends.wait(0.02):
            if self.zygote.ask("poll", self.pid) is None:
                continue
            self.deaths += 1
            self._ends.wait(0.0 if self.deaths == 1 else 1.0)
            with contextlib.suppress(StorageError), database.begin() as connection:
                jobs.release_owner(connection, owners_of(settings.data_dir, self.name, self.pid), now=utc_now())
            self._fork()
        database.dispose()


def serve() -> None:
    """The main function of the process that forks."""
    import cxr_node.analyze.stage
    import cxr_node.deliver.stage
    import cxr_node.orders.stage
    import cxr_node.receive.stage
    import cxr_node.upkeep.stage
    import cxr_node.worklist.stage  # noqa: F401

    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    ended: dict[int, int] = {}
    while True:
        try:
            word, *rest = pickle.load(requests)
        except EOFError:
            return
        if word == "start":
            _answer(answers, _fork(*rest))
            continue
        if word == "hello":
            _answer(answers, os.getpid())
            continue
        pid = rest[0]
        if pid not in ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[pid] = os.waitstatus_to_exitcode(status)
        _answer(answers, ended.get(pid))


def _answer(stream: BinaryIO, value: Any) -> None:
    pickle.dump(value, stream)
    stream.flush()


def _fork(name: str, settings: dict[str, Any], log: str, environment: dict[str, str], patches: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.closerange(3, 64)
        _run(name, settings, environment, patches)
        code = 0
    except BaseException:  # noqa: BLE001  # told in the log; nothing of the parent's may run here
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
    os._exit(code)


def _run(name: str, values: dict[str, Any], environment: dict[str, str], patches: dict[str, Any]) -> None:
    import importlib

    from cxr_node.cli.stage import end_with
    from cxr_node.log import configure_logging
    from cxr_node.settings import Settings
    from cxr_node.signals import stop_on_signals
    from storage import faults

    os.environ.update(environment)
    faults.read_environment()
    configure_logging("info", name)
    stop = threading.Event()
    stop_on_signals(stop)
    end_with(os.getppid())
    settings = Settings.model_validate(values)
    for target, value in patches.items():
        module, _, attribute = target.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    stage = importlib.import_module(f"cxr_node.{name}.stage")
    if name == "analyze":
        stage.Readers = _reading_here(stage)
        stage.Models = functools.partial(stage.Models, engine=StandIn)
        models = importlib.import_module("cxr_node.analyze.models")
        models.check_golden = lambda *_: None  # type: ignore[attr-defined]  # the stand-in has other scores
    getattr(stage, f"run_{name}")(settings, stop)


def _reading_here(stage: Any) -> Any:
    """Read images in threads, for a process that reads takes seconds to start; that one may die is tested elsewhere."""

    class Readers(stage.Here):  # type: ignore[name-defined,misc]
        def __init__(self, count: int) -> None:
            super().__init__()

        def start(self) -> None:
            """Nothing to start."""

        def close(self) -> None:
            """Nothing to end."""

    return Readers


class StandIn:
    """An engine that gives every image the same score."""

    device, name, trouble = "none", "stand-in", ""

    def __init__(self, package: Any, **_: Any) -> None:
        self._findings = len(package.manifest.findings)

    def warm(self) -> None:
        """Nothing to load."""

    def scores(self, images: Any) -> Any:
        import numpy as np

        return np.full((len(images), self._findings), SCORE, np.float32)
