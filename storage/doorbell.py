"""Wakes a waiting worker within milliseconds. A hint, never the truth: that is in the database.

On one host a ring goes over sockets in a folder. With PostgreSQL it goes to every other host too, as a notification of
the database (`storage.exchange`).
"""

import contextlib
import errno
import itertools
import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from storage.host import host_id

if TYPE_CHECKING:
    from storage.database import Database
    from storage.exchange import Exchange

_NUMBERS = itertools.count(1)
_TOPIC = re.compile(r"[a-z0-9_-]+")
_ADDRESS_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 on macOS

# A listener looks into the database at least so often: the most that a lost ring costs.
BACKSTOP_S = 1.0
HEARING_BACKSTOP_S = 10.0  # where every ring of every host is heard, only a process that died in between loses one

_SLICE_S = 1.0
_MAKING = threading.Lock()


class Bell:
    """One listener of a topic."""

    def __init__(self, path: Path, exchange: "Exchange | None" = None) -> None:
        self._path, self._exchange = path, exchange
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with _address(path) as address:
                self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        if exchange is not None:
            exchange.join()

    @property
    def backstop_s(self) -> float:
        """How long a listener may wait at most before it looks for itself."""
        is_heard = self._exchange is not None and self._exchange.is_listening
        return HEARING_BACKSTOP_S if is_heard else BACKSTOP_S

    def wait(self, timeout_s: float) -> bool:
        """Wait until somebody rings, at most `timeout_s`; True when somebody did since the last call."""
        try:
            poll = select.poll()  # select() itself ends at descriptor 1023
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                return False
            rung = False
            while True:
                self._socket.recv(1)
                rung = True
        except BlockingIOError:
            return rung

    def rest(self, longest_s: float, stop: threading.Event) -> bool:
        """Wait as `wait` does, at most `backstop_s`; it ends within a second of `stop`.

        Looked at each second, without the database: whether rings of other hosts are still heard.
        """
        began = time.monotonic()
        while not stop.is_set():
            left_s = min(longest_s, self.backstop_s) - (time.monotonic() - began)
            if left_s <= 0:
                return False
            if self.wait(min(left_s, _SLICE_S)):
                return True
        return False

    def close(self) -> None:
        """Stop listening."""
        if self._exchange is not None:
            self._exchange.leave()
            self._exchange = None
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


class Doorbell:
    """Rings and listens in one folder of datagram sockets, ``<topic>.<pid>.<n>.sock``.

    Parameters
    ----------
    database : where it is PostgreSQL, rings go to all its hosts and come from them; without one they stay on this host
    """

    def __init__(self, run_dir: Path, database: "Database | None" = None) -> None:
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._exchange = None if database is None else _exchange(self._run_dir, database)

    def ring(self, topic: str) -> None:
        """Wake every listener of the topic. Never raises, never blocks; sockets of dead processes are removed."""
        _ring_sockets(self._run_dir, lambda name: _topic(name) == topic)
        if self._exchange is not None:
            self._exchange.ring(topic)

    def listen(self, topic: str) -> Bell:
        """Return a bell that hears what is rung from now on."""
        if not _TOPIC.fullmatch(topic):
            raise ValueError(f"topic {topic!r} is no plain word")
        return Bell(self._run_dir / f"{topic}.{os.getpid()}.{next(_NUMBERS)}.sock", self._exchange)


def _exchange(run_dir: Path, database: "Database") -> "Exchange | None":
    """Return what carries rings between hosts, one of each process; None where the database is a file."""
    if database.dialect != "postgresql":
        return None
    from storage.exchange import Exchange

    def heard(topic: str | None) -> None:
        # Of this process only: every other one of this host has a connection of its own.
        mine = f".{os.getpid()}."
        _ring_sockets(run_dir, lambda name: mine in name and topic in (None, _topic(name)))

    with _MAKING:
        if run_dir not in database.exchanges:
            database.exchanges[run_dir] = Exchange(database, host_id(run_dir), heard)
        return database.exchanges[run_dir]


def _ring_sockets(run_dir: Path, is_meant: Callable[[str], bool]) -> None:
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(run_dir) if name.endswith(".sock") and is_meant(name)]
        if not names:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ringer:
            ringer.setblocking(False)
            for name in names:
                _ring_one(ringer, run_dir / name)


def _ring_one(ringer: socket.socket, path: Path) -> None:
    try:
        with _address(path) as address:
            ringer.sendto(b"!", address)
    except OSError as error:
        # A full queue (EAGAIN) has been rung already. Refused: the file is there and no process behind it.
        if error.errno == errno.ECONNREFUSED:
            with contextlib.suppress(OSError):
                path.unlink()


def _topic(name: str) -> str:
    return name.split(".", 1)[0]


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """The address of a socket file; a path too long for one is reached through its open folder (Linux)."""
    plain = str(path)
    if len(os.fsencode(plain)) <= _ADDRESS_BYTES:
        yield plain
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
