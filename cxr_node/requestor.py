"""Associations that the node asks for, whoever asks: without Nagle's delay, and without losing an answer."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association

_DATA_TRANSFER = "Sta6"  # PS3.8 9.2.1


class Gate(threading.Event):
    """Keeps the association's own thread away from the queue of messages while a request waits for its answer.

    pynetdicom asks `Event.wait`, which lets its thread pass when the gate was opened and closed again before the
    thread ran, and meanwhile tells the requestor that the thread is held. On a busy machine the thread then takes the
    answer to the next request out of the queue and throws it away, and the request runs into its time-out: an image
    that the peer has is sent again, an event is told twice. Here the thread passes only while the gate is open.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._open = True
        self._served = 0
        self.holds = False

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._open = False

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            self.holds = True
            passed = self._changed.wait_for(self.is_set, timeout)
            self.holds = False  # told under the lock: who closes the gate now sees the truth
            return passed

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """While the block runs a request of the peer is being served."""
        with self._changed:
            self._served += 1
        try:
            yield
        finally:
            with self._changed:
                self._served -= 1
                self._changed.notify_all()

    def wait_served(self, timeout: float | None) -> bool:
        """Wait until no request of the peer is being served, and return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._served, timeout)


class _Gated(Association):
    """An association that keeps apart what pynetdicom does in several threads.

    It serves an N-EVENT-REPORT in a thread of its own. That one says "not paused" when it ends; the thread that waits
    at the gate never says otherwise again, and the next request, or the release, waits for that without an end. Here
    `_is_paused` is what the gate holds, and nothing that is written there. And a release that overtakes the answer to
    a report ends the connection in an error, so that the peer reports again: here it waits for the answer.
    """

    _reactor_checkpoint: Gate

    def _serve_request(self, msg: Any, context_id: int) -> None:
        with self._reactor_checkpoint.serving():
            super()._serve_request(msg, context_id)

    def release(self) -> None:
        self._reactor_checkpoint.wait_served(self.acse_timeout)
        super().release()

    @property
    def _is_paused(self) -> bool:  # type: ignore[override]
        is_itself = threading.current_thread() is self  # it serves a request, and is not in the queue
        return self._reactor_checkpoint.holds or is_itself or self._kill or not self.is_alive()

    @_is_paused.setter
    def _is_paused(self, _: bool) -> None:
        pass


def stands(association: Association) -> bool:
    """Return whether a request may go over it: the end of a connection is known here before the library says so."""
    return bool(association.is_established and association.dul.state_machine.current_state == _DATA_TRANSFER)


def associate(ae: AE, host: str, port: int, *, handlers: Sequence[Any] = (), **options: Any) -> Association:
    """Ask for an association as `AE.associate` does, with the node's own care of the connection.

    Parameters
    ----------
    handlers : event handlers beside those added here
    options : of `AE.associate`

    Returns
    -------
    Association
        Established or not, as pynetdicom says it.
    """
    own = [(evt.EVT_CONN_OPEN, _tune, [ae.network_timeout])]
    return ae.associate(host, port, evt_handlers=[*own, *handlers], **options)


def _tune(event: evt.Event, timeout_s: float | None) -> None:
    """Answer at once, and let the kernel end a connection whose peer takes nothing.

    Nagle's algorithm with delayed acknowledgement costs 40 ms an object, and pynetdicom's SCU leaves it on.
    """
    event.assoc._reactor_checkpoint = Gate()
    event.assoc.__class__ = _Gated
    transport: Any = event.assoc.dul.socket
    connection = transport.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if timeout_s is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
