"""The stage: one acceptor, or several processes of them on one port, until it is told to stop.

This module loads neither pynetdicom nor a database library: the process that minds the acceptors needs none of them.
"""

import contextlib
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.receive.lean import load_lean
from cxr_node.settings import Settings
from storage.errors import StorageError

log = get_logger("receive")

HEALTHY_AFTER_S = 60.0  # a process that ran this long starts its backoff anew
LONGEST_BACKOFF_S = 30.0
_END_WITHIN_S = 5.0  # longer than an acceptor gives its associations
_LOOK_EVERY_S = 0.2


def run_receive(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    SettingsError
        The address cannot be listened on, or a caller or TLS file is not what it must be.
    StorageError
        Database or folder cannot be opened.
    """
    if settings.receive.processes > 1:
        _Processes(settings).run(stop)
        return
    load_lean()
    from cxr_node.receive.acceptor import accept

    with stow_of(settings), folders_of(settings):
        accept(settings, stop, tell=lambda port: _tell_ready(settings, port))


def stow_of(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Serve STOW-RS for the block, if node.toml asks for it."""
    if not settings.receive.dicomweb.port:
        return contextlib.nullcontext()
    from cxr_node.receive.ways import stow

    return stow(settings)


def folders_of(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Watch folders for the block, if node.toml asks for it."""
    if not (settings.receive.watch.path or settings.worklist.drop.enabled):
        return contextlib.nullcontext()
    from cxr_node.receive.ways import watched_folders

    return watched_folders(settings)


def _tell_ready(settings: Settings, port: int, **more: Any) -> None:
    receive = settings.receive
    log.info("receive_ready", ae_title=receive.ae_title, host=receive.host, port=port, **more)


def cannot_listen(settings: Settings, error: OSError) -> SettingsError:
    """Return what is told of an address that is taken, or none of this machine."""
    return SettingsError(f"receive: cannot listen on {settings.receive.host}:{settings.receive.port}: {error.strerror}")


@dataclass(frozen=True)
class Errand:
    """What a process of the stage is for; it reads this from its standard input, which stays open while we live."""

    settings: Settings
    port: int
    is_stow: bool = False  # else an acceptor
    watches: bool = False  # the folders too


@dataclass(frozen=True)
class Word:
    """What a process says once: that it serves, or with a sentence why it cannot."""

    sentence: str = ""
    is_settings: bool = False  # node.toml is at fault, else the storage


@dataclass
class _Child:
    """A process and its history."""

    is_stow: bool = False
    watches: bool = False
    process: subprocess.Popen[bytes] | None = None
    word: int = -1  # descriptor to read it from
    started_at: float = 0.0
    start_at: float = 0.0
    deaths: int = 0
    is_ready: bool = False

    @property
    def name(self) -> str:
        """What events are called after."""
        return "stow" if self.is_stow else "acceptor"

    def hear(self) -> SettingsError | StorageError | None:
        """Note that it serves; return why it cannot, if it has said so."""
        if self.is_ready or self.word < 0 or not select.select([self.word], [], [], 0)[0]:
            return None
        data = os.read(self.word, 1 << 16)
        if not data:
            return None  # it died instead
        word: Word = pickle.loads(data)
        if word.sentence:
            return SettingsError(word.sentence) if word.is_settings else StorageError(word.sentence)
        self.is_ready = True
        return None


class _Processes:
    """Keeps several acceptor processes on one port, which the kernel shares the connections out among, and one for
    STOW-RS where node.toml asks for it. The first acceptor watches the folders.

    This process holds the port but accepts nothing: it stays taken while an acceptor is started anew, and no other
    program gets in between.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children = [_Child(watches=number == 0) for number in range(settings.receive.processes)]
        if settings.receive.dicomweb.port:
            self._children.append(_Child(is_stow=True))
        self._is_announced = False

    def run(self, stop: threading.Event) -> None:
        """Start all, mind them until `stop`, end all."""
        with _hold_port(self._settings) as holder:
            port = int(holder.getsockname()[1])
            try:
                while not stop.is_set():
                    self._mind(port)
                    self._announce(port)
                    stop.wait(_LOOK_EVERY_S)
            finally:
                self._end()

    def _mind(self, port: int) -> None:
        now = time.monotonic()
        for child in self._children:
            failure = child.hear()
            if failure is not None:
                if not self._is_announced:
                    raise failure  # the start failed, and a second try would too
                log.error(f"{child.name}_cannot_serve", reason=str(failure))
            if child.process is not None and child.process.poll() is not None:
                self._bury(child, now)
            if child.process is None and now >= child.start_at:
                self._start(child, port, now)

    def _start(self, child: _Child, port: int, now: float) -> None:
        # A new interpreter, no fork: threads, locks and signal handlers of this process are none of its own, and this
        # process need not load what it needs.
        child.word, theirs = os.pipe()
        try:
            child.process = subprocess.Popen(
                [sys.executable, "-m", "cxr_node.receive.process", child.name, str(theirs)],
                stdin=subprocess.PIPE,
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)
        child.started_at = now
        errand = Errand(self._settings, port, is_stow=child.is_stow, watches=child.watches)
        assert child.process.stdin is not None
        with contextlib.suppress(OSError):  # it died at once: seen at the next look
            child.process.stdin.write(pickle.dumps(errand))
            child.process.stdin.flush()
        log.info(f"{child.name}_started", pid=child.process.pid)

    def _bury(self, child: _Child, now: float) -> None:
        process = child.process
        assert process is not None
        if now - child.started_at >= HEALTHY_AFTER_S:
            child.deaths = 0
        pause = 0.0 if child.deaths == 0 else min(LONGEST_BACKOFF_S, 2.0 ** (child.deaths - 1))
        child.deaths += 1
        child.start_at = now + pause
        log.error(f"{child.name}_died", pid=process.pid, exit_status=process.returncode, restart_in_s=pause)
        self._forget(child)

    @staticmethod
    def _forget(child: _Child) -> None:
        process, child.process = child.process, None
        if child.word >= 0:
            os.close(child.word)
            child.word, child.is_ready = -1, False
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]

    def _announce(self, port: int) -> None:
        if not self._is_announced and all(child.is_ready for child in self._children):
            self._is_announced = True
            pids = [child.process.pid for child in self._children if child.process and not child.is_stow]
            _tell_ready(self._settings, port, pids=pids)

    def _end(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _END_WITHIN_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("acceptor_killed", pid=process.pid)
                process.kill()
                process.wait()
        for child in self._children:
            self._forget(child)


def _hold_port(settings: Settings) -> socket.socket:
    """Bind without listening. First alone, for two nodes that share a port by mistake would share its callers too."""
    address = (settings.receive.host, settings.receive.port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        raise cannot_listen(settings, error) from error
    return holder
