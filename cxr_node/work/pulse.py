"""A sign that this process is not stuck, for the supervisor: beside the database, so that a database that is locked or
gone, or a clock that is set, does not look like a process that hangs.

The sign is the time of the monotonic clock, which all processes of a host share, in a file of the process's own. A
process that nobody minds (no supervisor, so no folder named in the environment) writes nothing.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "CXR_NODE_PULSES"  # environment variable
EVERY_S = 5.0
_DIGITS = 20  # always as long, so that it is written over in place and a full disk does not stop it


@contextlib.contextmanager
def pulsing(stage: str, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Give the sign for the block, from a thread that does nothing else: a long job is not silence."""
    folder = os.environ.get(FOLDER, "")
    if not folder:
        yield
        return
    path, stop = Path(folder) / f"{stage}.{os.getpid()}", threading.Event()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # a full disk, say: a process without a file is not judged
        yield
        return

    def beat() -> None:
        while not stop.is_set():
            try:
                os.pwrite(handle, f"{time.monotonic_ns():0{_DIGITS}d}".encode(), 0)
            except OSError:
                path.unlink(missing_ok=True)  # better not judged than ended for a disk's fault
                return
            stop.wait(every_s)

    thread = threading.Thread(target=beat, name=f"{stage}-pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()


def pulses(folder: Path) -> Iterator[tuple[str, int, float, Path]]:
    """Yield stage, process id, monotonic time of the last sign in s, and file of every process that gave one."""
    for path in sorted(folder.iterdir()):
        stage, _, pid = path.name.rpartition(".")
        if not stage or not pid.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):  # it ends just now, or has made its file just now
            yield stage, int(pid), int(path.read_bytes()) / 1e9, path
