"""Fault points: named places between two durable steps, where a test can end the process or make a step fail.

In production every point is one comparison and does nothing. Two things together arm one, so that none is armed by
accident: the environment variable CXR_NODE_FAULT names it, and the folder that CXR_NODE_FAULT_ARMED names holds a
file of the point's name. Whoever starts a node with the first alone gets a loud line in the log and no fault.

CXR_NODE_FAULT is a list of ``point:action`` or ``point:action@n``, separated by commas; ``@3`` lets two passages of
this process go by first. Actions:

kill    the process ends as by kill -9. The point's file is removed first, so that it happens once
stop    the process hangs as by SIGSTOP until somebody sends SIGCONT; once, as kill
full    the step fails as on a full disk, as long as the file is there
busy    the step fails as where the database is locked or the disk is gone for a while, as long as the file is there
error   the step fails as by a mistake in the program, as long as the file is there

Which points there are, and what holds after each: tests/faults/points.py.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import StorageBusy, StorageError

VARIABLE, FOLDER_VARIABLE = "CXR_NODE_FAULT", "CXR_NODE_FAULT_ARMED"
ACTIONS = ("kill", "stop", "full", "busy", "error")


class InjectedFault(Exception):
    """A mistake in the program, made on purpose."""


@dataclass
class _Fault:
    action: str
    passage: int
    file: Path
    passed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, point: str) -> None:
        if not self.file.exists():
            return
        with self.lock:
            self.passed += 1
            if self.passed < self.passage:
                return
            if self.action in ("kill", "stop"):
                with contextlib.suppress(FileNotFoundError):
                    self.file.unlink()
                os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)
                return
        if self.action == "full":
            raise OSError(errno.ENOSPC, f"fault point {point}")
        if self.action == "busy":
            raise StorageBusy(f"fault point {point}")
        raise InjectedFault(point)


_faults: dict[str, _Fault] = {}
_named: list[str] = []


def fault_point(name: str) -> None:
    """Pass by a point: nothing, unless it is armed."""
    if _faults and (fault := _faults.get(name)) is not None:
        fault.meet(name)


def named() -> tuple[str, ...]:
    """Return the points that this process was told of: whoever starts a process with some says so in its log."""
    return tuple(_named)


def read_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Learn which points are meant; done once, when this module is loaded.

    Raises
    ------
    StorageError
        The variable holds no list of ``point:action@n``.
    """
    _faults.clear()
    _named.clear()
    folder = environment.get(FOLDER_VARIABLE, "")
    for item in filter(None, environment.get(VARIABLE, "").split(",")):
        name, _, rest = item.strip().partition(":")
        action, _, passage = rest.partition("@")
        if not name or action not in ACTIONS or not (passage or "1").isdigit():
            raise StorageError(f"{VARIABLE}: {item!r}, expected point:action@n with one of {', '.join(ACTIONS)}")
        _named.append(name)
        if folder:
            _faults[name] = _Fault(action, int(passage or 1), Path(folder) / name)


read_environment()
