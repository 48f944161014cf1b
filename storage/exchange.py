"""Rings over PostgreSQL: LISTEN and NOTIFY carry what is rung on one host to all others.

One thread and one connection serve a process, while somebody listens or something is to be rung. A notification is a
hint, sent after the transaction it tells of and apart from it: NOTIFY inside it would have every commit of the database
wait for its turn behind one lock, and could fail an image's own transaction. What gets lost (a process that dies
between commit and notification, a connection that broke) costs a listener its backstop, no more.
"""

import atexit
import contextlib
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from storage.database import Database

CHANNEL = "cxr_node"
LINGER_S = 10.0  # a process that only rings keeps its connection for so long after the last ring
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 5.0
FLUSH_WITHIN_S = 2.0
_living: "weakref.WeakSet[Exchange]" = weakref.WeakSet()
_NOTIFY = f"SELECT pg_notify('{CHANNEL}', told) FROM unnest(%s::text[]) AS told"


class Exchange:
    """Carries rings between this process and the other hosts of one database.

    Parameters
    ----------
    host : name of this host: its own rings, which its sockets have carried already, are not heard again
    heard : called with the topic of each ring of another host, and with None once a connection was made, for anything
        may have been rung before; from the exchange's thread
    """

    def __init__(self, database: "Database", host: str, heard: Callable[[str | None], None]) -> None:
        self._database, self._host, self._heard = database, host, heard
        self._lock = threading.Condition()
        self._pending: set[str] = set()
        self._is_telling = False
        self._listeners = 0
        self._thread: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._is_listening = False
        self._used_at = 0.0
        _living.add(self)

    @property
    def is_listening(self) -> bool:
        """Whether rings of other hosts are heard now, as far as this side knows."""
        return self._is_listening

    def ring(self, topic: str) -> None:
        """Have every other host told, soon, by the exchange's thread. Never raises, never waits for the database."""
        with self._lock:
            self._pending.add(topic)
            self._used_at = time.monotonic()
            self._run_thread()

    def join(self) -> None:
        """Listen, until as many `leave` as joined."""
        with self._lock:
            self._listeners += 1
            self._run_thread()

    def leave(self) -> None:
        """Listen no more for one who joined."""
        with self._lock:
            self._listeners -= 1
            self._wake()

    def flush(self, within_s: float = FLUSH_WITHIN_S) -> bool:
        """Wait until everything rung was told, at most `within_s`; False where it was not."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._pending and not self._is_telling, within_s)

    def _run_thread(self) -> None:
        if self._thread is None:
            ours, self._waker = socket.socketpair()
            for end in (ours, self._waker):
                end.setblocking(False)
            self._thread = threading.Thread(target=self._run, args=(ours,), name="doorbell-exchange", daemon=True)
            self._thread.start()
        self._wake()

    def _wake(self) -> None:
        if self._waker is not None:
            with contextlib.suppress(BlockingIOError):  # full: it is awake
                self._waker.send(b"!")

    def _run(self, woken: socket.socket) -> None:
        pause = FIRST_RETRY_S
        while True:
            try:
                with self._database.apart() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    pause = FIRST_RETRY_S
                    self._heard(None)
                    self._is_listening = True
                    if self._serve(connection, woken):
                        return
            except (psycopg.Error, OSError):
                pass  # gone or not there yet: the stages' own loops log it, this thread waits for its return
            finally:
                self._is_listening = False
            if self._is_over(woken, is_lost=True):
                return
            _wait(woken, pause)
            pause = min(LONGEST_RETRY_S, pause * 2)

    def _serve(self, connection: "psycopg.Connection[Any]", woken: socket.socket) -> bool:
        """Carry rings until nobody needs it (True); raises when the connection is lost."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            self._tell(connection)
            for notification in connection.notifies(timeout=0):
                topic, _, host = notification.payload.partition("@")
                if host != self._host:
                    self._heard(topic)
            if self._is_over(woken):
                return True
            if not self._pending:
                poll.poll(1000 * (LINGER_S if self._listeners == 0 else 3600.0))
            _drain(woken)

    def _tell(self, connection: "psycopg.Connection[Any]") -> None:
        with self._lock:
            # Taken before it is sent: what is rung from here on may tell of a later commit, and is sent once more.
            telling, self._pending = self._pending, set()
            self._is_telling = bool(telling)
        if not telling:
            return
        try:
            connection.execute(_NOTIFY, ([f"{topic}@{self._host}" for topic in sorted(telling)],))
        except BaseException:
            with self._lock:
                self._pending |= telling
            raise
        finally:
            with self._lock:
                self._is_telling = False
                self._lock.notify_all()

    def _is_over(self, woken: socket.socket, *, is_lost: bool = False) -> bool:
        """Whether the thread ends: nobody listens, and nothing is to be told, or cannot be told any more."""
        with self._lock:
            if self._listeners > 0:
                return False
            if not is_lost and (self._pending or time.monotonic() - self._used_at < LINGER_S):
                return False
            self._pending.clear()  # hints: worth less than a thread that waits for a database for ever
            self._lock.notify_all()
            assert self._waker is not None
            self._waker.close()
            woken.close()
            self._waker = self._thread = None
            return True


def _wait(woken: socket.socket, seconds: float) -> None:
    """Wait so long, whoever wakes: a database that is gone is not asked faster because much is rung."""
    time.sleep(seconds)
    _drain(woken)


def _drain(woken: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while woken.recv(4096):
            pass


@atexit.register
def _flush_all() -> None:
    """A command that rings and ends was heard."""
    for exchange in list(_living):
        exchange.flush()
