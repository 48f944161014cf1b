"""SIGTERM and SIGINT end a process by an event, which no signal handler touches."""

import signal
import socket
import sys
import threading
from itertools import count
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT)

_kept: list[socket.socket] = []  # the interpreter writes to a descriptor; nothing else holds its socket


def stop_on_signals(stop: threading.Event, *, tell: str = "", second_interrupts: bool = False) -> None:
    """Have SIGTERM and SIGINT set `stop`; called in the main thread.

    A handler runs in the main thread between any two steps of it, also inside `stop.wait()` and `stop.set()`, whose
    lock is not re-entrant: two signals at once would wait for one another for ever. So the interpreter only writes a
    byte for each signal, and a thread that reads it sets the event.

    Parameters
    ----------
    tell : printed to standard error at the first signal
    second_interrupts : whether a second signal raises KeyboardInterrupt in the main thread
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    _kept[:] = [reader, writer]
    seen = count(1)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if next(seen) > 1 and second_interrupts:
            raise KeyboardInterrupt

    def follow() -> None:
        while data := reader.recv(64):
            if not stop.is_set() and any(number in STOPPING for number in data):
                stop.set()
                if tell:
                    sys.stderr.write(tell + "\n")

    for number in STOPPING:
        signal.signal(number, handle)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=follow, name="signals", daemon=True).start()
