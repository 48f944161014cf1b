"""A function called in a process of its own: what a hostile file does to a decoder ends there, and not the stage.

The process starts with the first call and leaves when it was idle for a while, or with the process that it works for.
It has less claim to the processor where it is told so, a bound on its memory, and no metrics of its own.
"""

import importlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from cxr_node.errors import CxrNodeError, Disposition

NICENESS = 10
IDLE_S = 60.0
LONGEST_S = 60.0
_KEPT_BYTES = 128 << 20
_STARTS_WITHIN_S = 120.0  # it imports for half a second, on a machine that does nothing else
MEMORY_BYTES = 3 << 30  # beyond what the process has when it starts; the largest image that is decoded needs 0.6 GB


class CallFailed(CxrNodeError):
    """The call ended the process, took too long, or raised; another try would do the same."""

    disposition = Disposition.FAIL


class Ended(CallFailed):
    """The call ended the process: its own doing, or somebody's who ends processes."""


class NotStarted(CxrNodeError):
    """The process did not come up: nothing that was to be read is to blame, and another try may succeed."""


class Stopped(CxrNodeError):
    """The stage ends: the call was not done, and is somebody else's to do."""

    disposition = Disposition.DROP


class Apart:
    """Calls `function`, one call at a time.

    Parameters
    ----------
    function : of a module, by whose name the other process finds it; arguments and result are pickled
    niceness : how much less of the processor it claims than its parent
    idle_s : it leaves when it had nothing to do for so long
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        longest_s: float = LONGEST_S,
        memory_bytes: int = MEMORY_BYTES,
        niceness: int = NICENESS,
        idle_s: float = IDLE_S,
    ) -> None:
        self._name = f"{function.__module__}:{function.__qualname__}"
        self._longest_s, self._memory_bytes = longest_s, memory_bytes
        self._niceness, self._idle_s = niceness, idle_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._used_at = 0.0
        self._closed = False

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns.

        Raises
        ------
        CallFailed
            Says what happened; the next call gets a new process.
        NotStarted
            There is no process to call.
        Stopped
            It was closed, maybe while the call was under way.
        """
        with self._lock:
            if self._closed:
                raise Stopped("the stage ends")
            pipe = self._running()
            try:
                pipe.send(arguments)
                if not pipe.poll(self._longest_s):
                    self._end()
                    raise CallFailed(f"reading it was not done after {self._longest_s:g} s")
                succeeded, result = pipe.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                self._end()
                if self._closed:
                    raise Stopped("the stage ends") from error
                raise Ended("reading it ended the process that read it") from error
            self._used_at = time.monotonic()
        if not succeeded:
            raise CallFailed(str(result))
        return result

    def close(self) -> None:
        """End the process, and with it a call that is under way."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # before the lock, which that call holds
        with self._lock:
            self._end()

    def _running(self) -> Connection:
        # Half of the time after which it leaves: one that is about to leave must not be given a call.
        is_fresh = time.monotonic() - self._used_at < self._idle_s / 2
        if is_fresh and self._process is not None and self._process.poll() is None and self._pipe is not None:
            return self._pipe
        self._end()
        ours, theirs = Pipe()
        bounds = f"{self._memory_bytes}, {self._niceness}, {self._idle_s!r}"
        command = f"from {__name__} import serve; serve({theirs.fileno()}, {self._name!r}, {bounds})"
        # The counters of a process that lives for a minute are litter in the folder of metrics.
        environment = {key: value for key, value in os.environ.items() if key != "PROMETHEUS_MULTIPROC_DIR"}
        # Images are of one size or another: memory that is given back after each one is got anew for the next.
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES), "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES)}
        # Decoders write about what they meet, and may quote it.
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        try:
            if ours.poll(_STARTS_WITHIN_S):
                ours.recv()
                return ours
        except (EOFError, ConnectionResetError):
            pass
        status = self._process.poll()
        self._end()
        if self._closed:
            raise Stopped("the stage ends")
        raise NotStarted(f"the process that reads did not come up (exit status {status})")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def serve(descriptor: int, name: str, memory_bytes: int, niceness: int, idle_s: float) -> None:
    """Answer calls until the other side is gone or quiet: the main function of the process."""
    # A service manager tells every process to end, a terminal too: the parent decides, and it may have work to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's image
    pipe = Connection(descriptor)
    module, _, function = name.partition(":")
    called = getattr(importlib.import_module(module), function)
    os.nice(niceness)
    _bound_memory(memory_bytes)
    pipe.send(None)
    while pipe.poll(idle_s):
        try:
            arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, called(*arguments))
        except MemoryError:
            answer = (False, "reading it needs more memory than there is for that")
        except Exception as error:  # noqa: BLE001  # told to the caller: the next call has its turn
            answer = (False, str(error) if isinstance(error, CxrNodeError) else type(error).__name__)
        pipe.send(answer)


def _bound_memory(more_bytes: int) -> None:
    """Let this process have so much more than it has now, where the system tells how much that is."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
