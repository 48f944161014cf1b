"""What listens for associations: how many connections may be open, who makes room for whom, and the TLS handshake.

Public interface of pynetdicom only. The library shakes hands in its accept loop, without a time-out: a caller that says
nothing would keep everybody else out. Here that is done in the connection's own thread.
"""

import contextlib
import errno
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from cxr_node.log import get_logger
from cxr_node.seldom import Seldom
from cxr_node.tls import is_of_certificate, shake_hands, trouble_of

_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_HANDLES_OF_THE_REST = 32  # database, log, doorbells, what the interpreter has open
_HANDLES_OF_ONE = 4  # an association: socket, wake-up, the file that comes, a folder that is synced
_SPARE = 4  # places that are kept free for who says who it is
_PAUSE_S = 0.1


class AssociationServer(ThreadedAssociationServer):
    """Listens; serve with ``serve_forever``. A listener of the node says by the attributes what is its own."""

    request_queue_size = 128
    daemon_threads = True
    seldom = Seldom(get_logger("listener"))
    tell_stranger: Callable[[str, str], None] | None = None  # address and reason, where its certificate ended TLS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._starting: Counter[str] = Counter()  # connections accepted that are no association yet, by address
        self._starting_lock = threading.Lock()
        super().__init__(*arguments, **options)

    def count(self, outcome: str) -> None:
        """A connection came to nothing: ``closed`` before it began, or ``tls_failed``."""

    @property
    def most_connections(self) -> int:
        """Connections that may be open, those that have not said who they are included."""
        handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(int(self.ae.maximum_associations), (handles - _HANDLES_OF_THE_REST) // _HANDLES_OF_ONE))

    @property
    def most_silent(self) -> int:
        """Of those, how many of one address may not have said who they are."""
        return max(8, self.most_connections // 4)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept, and say how this connection behaves."""
        assert self.socket is not None
        try:
            connection, address = self.socket.accept()
        except OSError as error:
            if error.errno in _NO_HANDLES:
                self.seldom.warning("connection_not_accepted", reason=errno.errorcode[error.errno])
                self._end_silent()
                time.sleep(_PAUSE_S)  # it stays in the queue, and asking again at once would take a whole core
            raise
        # Without it the answer to each object waits 40 ms for an acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A caller that was switched off says no farewell.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a thread for it. Those that have not said who they are make room: first come, first gone."""
        address = str(client_address[0])
        with self._starting_lock:
            open_now = self.active_associations
            silent = sum(item.requestor.primitive is None and item.requestor.address == address for item in open_now)
            if silent + self._starting[address] >= self.most_silent:
                reason = "too many connections of this address that have not said who they are"
            elif len(open_now) + self._starting.total() >= self.most_connections:
                reason = "too many open connections"
            else:
                self._starting[address] += 1
                reason = ""
            is_crowded = len(open_now) + self._starting.total() + _SPARE >= self.most_connections
        if is_crowded:
            self._end_silent()
        if reason:
            self.count("closed")
            self.seldom.warning("connection_refused", peer_address=address, reason=reason)
        return not reason

    def _end_silent(self) -> None:
        """End the oldest connection that has not said who it is, so that those who would have a place."""
        for association in self.active_associations:
            if association.requestor.primitive is None:
                cut(association)
                return

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is wanted, then go on."""
        address = str(client_address[0])
        try:
            connection = self._shake_hands(request, address)
            if connection is not None:
                super().process_request_thread(connection, client_address)
        finally:
            with self._starting_lock:
                self._starting[address] -= 1
                if not self._starting[address]:
                    del self._starting[address]

    def _shake_hands(self, request: Any, address: str) -> Any:
        if self.ssl_context is None:
            return request
        try:
            return shake_hands(self.ssl_context, request)
        except OSError as error:
            self.count("tls_failed")
            self.seldom.warning("tls_handshake_failed", peer_address=address, reason=trouble_of(error))
            if self.tell_stranger is not None and is_of_certificate(error):
                self.tell_stranger(address, trouble_of(error))
            return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log; the library prints a traceback."""
        self.seldom.warning("connection_failed", peer_address=str(client_address[0]), exc_info=True)


def cut(association: Any) -> None:
    """Close the connection under an association that does not end by itself: who reads from it hears the end."""
    link = association.dul.socket
    connection = link.socket if link is not None else None
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
