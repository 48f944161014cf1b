"""A process with TensorFlow that converts packages for this one, which has none.

To import TensorFlow takes as long as to convert a small network. So the process stays for the packages that follow at
once, as at the first start of a node, and leaves with its gigabyte of memory soon after the last.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

STAYS_S = 5.0  # after the last package; between two of a start lies a second
_COMMAND = (sys.executable, "-c", "import sys; from cxr_node.inference.convert import serve; sys.exit(serve())")


class Converter:
    """Starts the process when it is needed. Its methods may be called from several threads; one package at a time."""

    def __init__(self, *, command: tuple[str, ...] = _COMMAND, stays_s: float = STAYS_S) -> None:
        self._command, self._stays_s = command, stays_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._leave: threading.Timer | None = None

    @property
    def pid(self) -> int:
        """Of the process, 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def convert(self, path: Path, digest: str, cache_dir: Path, within_s: float) -> str:
        """Convert the package of a folder; return why it cannot be done, "" where it is."""
        with self._lock:
            if self._leave is not None:
                self._leave.cancel()
            process = self._running()
            request = json.dumps({"path": str(path), "digest": digest, "cache_dir": str(cache_dir)})
            said = self._ask(process, request.encode() + b"\n", within_s)
            if said is None:
                process.kill()  # if it still runs: it took too long
                self._process = None
                status = process.wait()
                _close(process)
                return f"the process that converts took over {within_s:g} s, or ended with status {status}"
            self._leave = threading.Timer(self._stays_s, self.close)
            self._leave.daemon = True
            self._leave.start()
            return said

    def close(self) -> None:
        """Let the process end, and wait for it."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _close(process)
            process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            _close(self._process)
            self._process = None
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], request: bytes, within_s: float) -> str | None:
        """Return what it says, None where it ends or says nothing in time."""
        assert process.stdin is not None
        assert process.stdout is not None
        ends_at = time.monotonic() + within_s
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except OSError:
            return None
        waiting, poll = b"", select.poll()
        poll.register(process.stdout, select.POLLIN)
        while (left_s := ends_at - time.monotonic()) > 0:
            if not poll.poll(left_s * 1000):
                return None
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return None
            *lines, waiting = (waiting + part).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):  # what else is printed there is a library's
                    return str(json.loads(line)["error"])
        return None


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
