"""Accepts connections for the DICOM port of the worklist; public interface of pynetdicom only.

The library shakes hands in its accept loop, without a time-out: a caller that says nothing would keep everybody else
out. Here that is done in the connection's own thread, and connections that never ask for an association are bounded.
"""

import socket
import threading
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from cxr_node.log import get_logger
from cxr_node.tls import shake_hands, trouble_of

log = get_logger("worklist")

MOST_CONNECTIONS = 128  # those included that have not said who they are


class DicomServer(ThreadedAssociationServer):
    """Listens; serve with ``serve_forever``."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._starting = 0  # connections accepted that are no association yet
        self._starting_lock = threading.Lock()
        super().__init__(*arguments, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept, and say how this connection behaves."""
        assert self.socket is not None
        connection, address = self.socket.accept()
        # Without it the answer to each object waits 40 ms for an acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A caller that was switched off says no farewell.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a thread for it."""
        with self._starting_lock:
            if len(self.active_associations) + self._starting < MOST_CONNECTIONS:
                self._starting += 1
                return True
        log.warning("connection_refused", peer_address=str(client_address[0]), reason="too many open connections")
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is wanted, then go on."""
        try:
            if self.ssl_context is not None:
                request = shake_hands(self.ssl_context, request)
            super().process_request_thread(request, client_address)
        except OSError as error:
            log.warning("tls_handshake_failed", peer_address=str(client_address[0]), reason=trouble_of(error))
        finally:
            with self._starting_lock:
                self._starting -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log; the library prints a traceback."""
        log.warning("connection_failed", peer_address=str(client_address[0]), exc_info=True)
