"""Associations that the node asks for, whoever asks: without Nagle's delay, and without losing an answer."""

import socket
import threading
from collections.abc import Sequence
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association


class Gate(threading.Event):
    """Keeps the association's own thread away from the queue of messages while a request waits for its answer.

    pynetdicom asks `Event.wait`, which lets its thread pass when the gate was opened and closed again before the
    thread ran, and meanwhile tells the requestor that the thread is held. On a busy machine the thread then takes the
    answer to the next request out of the queue and throws it away, and the request runs into its time-out: an image
    that the peer has is sent again, an event is told twice. Here the thread passes only while the gate is open.
    """

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association
        self._changed = threading.Condition()
        self._open = True

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._open = False
            if threading.current_thread() is self._association:
                self._association._is_paused = True  # it holds itself: it is not in the queue

    def wait(self, timeout: float | None = None) -> bool:
        with self._changed:
            passed = self._changed.wait_for(self.is_set, timeout)
            if passed:
                self._association._is_paused = False  # told under the lock: who closes the gate now sees the truth
            return passed


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
    event.assoc._reactor_checkpoint = Gate(event.assoc)
    transport: Any = event.assoc.dul.socket
    connection = transport.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if timeout_s is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))
