"""Wakes a waiting worker on this host within a millisecond. A hint, never the truth: that is in the database."""

import contextlib
import errno
import itertools
import os
import re
import select
import socket
from collections.abc import Iterator
from pathlib import Path

_NUMBERS = itertools.count(1)
_TOPIC = re.compile(r"[a-z0-9_-]+")
_ADDRESS_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class Bell:
    """One listener of a topic."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            with _address(path) as address:
                self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise

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

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


class Doorbell:
    """Rings and listens in one folder of datagram sockets, ``<topic>.<pid>.<n>.sock``."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = Path(run_dir)
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ring(self, topic: str) -> None:
        """Wake every listener of the topic. Never raises, never blocks; sockets of dead processes are removed."""
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(self._run_dir) if name.endswith(".sock") and _topic(name) == topic]
            if not names:
                return
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ringer:
                ringer.setblocking(False)
                for name in names:
                    self._ring_one(ringer, self._run_dir / name)

    def listen(self, topic: str) -> Bell:
        """Return a bell that hears what is rung from now on."""
        if not _TOPIC.fullmatch(topic):
            raise ValueError(f"topic {topic!r} is no plain word")
        return Bell(self._run_dir / f"{topic}.{os.getpid()}.{next(_NUMBERS)}.sock")

    @staticmethod
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
