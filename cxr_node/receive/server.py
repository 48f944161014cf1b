"""What listens: how many connections may be open, who makes room for whom, and the TLS handshake."""

import errno
import logging
import resource
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.transport import ThreadedAssociationServer

from cxr_node import metrics
from cxr_node.log import get_logger
from cxr_node.receive.transport import StreamHandler, cut, is_streaming_possible, seldom
from cxr_node.tls import is_of_certificate, shake_hands, trouble_of

log = get_logger("receive")

_COLLECT_EVERY_S = 30.0
_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_HANDLES_OF_THE_REST = 32  # database, log, doorbells, what the interpreter has open
_HANDLES_OF_ONE = 4  # an association: socket, wake-up, the file that comes, a folder that is synced
_SPARE = 4  # places that are kept free for who says who it is
_PAUSE_S = 0.1


class AcceptorServer(ThreadedAssociationServer):
    """Listens; public interface of pynetdicom only, both transports use it.

    The TLS handshake runs in the connection's own thread with a time-out: in the library's accept loop a single caller
    that says nothing keeps everybody else out.
    """

    request_queue_size = 128
    daemon_threads = True
    reuse_port = False
    tell_stranger: Callable[[str, str], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._collected = time.monotonic()
        self._starting: Counter[str] = Counter()  # connections accepted that are no association yet, by address
        self._starting_lock = threading.Lock()
        super().__init__(*arguments, **options)

    @property
    def _most_connections(self) -> int:
        """Connections that may be open, those that have not said who they are included."""
        handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(int(self.ae.maximum_associations), (handles - _HANDLES_OF_THE_REST) // _HANDLES_OF_ONE))

    @property
    def _most_silent(self) -> int:
        """Of those, how many of one address may not have said who they are."""
        return max(8, self._most_connections // 4)

    def server_bind(self) -> None:
        if self.reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # type: ignore[union-attr]
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept, and say how this connection behaves."""
        try:
            connection, address = self.socket.accept()  # type: ignore[union-attr]
        except OSError as error:
            if error.errno in _NO_HANDLES:
                seldom.warning("connection_not_accepted", reason=errno.errorcode[error.errno])
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
            if silent + self._starting[address] >= self._most_silent:
                reason = "too many connections of this address that have not said who they are"
            elif len(open_now) + self._starting.total() >= self._most_connections:
                reason = "too many open connections"
            else:
                self._starting[address] += 1
                reason = ""
            is_crowded = len(open_now) + self._starting.total() + _SPARE >= self._most_connections
        if is_crowded:
            self._end_silent()
        if reason:
            metrics.ASSOCIATIONS.labels("closed").inc()
            seldom.warning("connection_refused", peer_address=address, reason=reason)
        return not reason

    def _end_silent(self) -> None:
        """End the oldest connection that has not said who it is, so that those who would have a place."""
        for association in self.active_associations:
            if association.requestor.primitive is None:
                cut(association)
                return

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands where TLS is wanted, then go on."""
        try:
            connection = self._shake_hands(request, client_address)
            if connection is not None:
                super().process_request_thread(connection, client_address)
        finally:
            with self._starting_lock:
                address = str(client_address[0])
                self._starting[address] -= 1
                if not self._starting[address]:
                    del self._starting[address]

    def _shake_hands(self, request: Any, client_address: Any) -> Any:
        if self.ssl_context is None:
            return request
        address = str(client_address[0])
        try:
            return shake_hands(self.ssl_context, request)
        except OSError as error:
            metrics.ASSOCIATIONS.labels("tls_failed").inc()
            seldom.warning("tls_handshake_failed", peer_address=address, reason=trouble_of(error))
            if self.tell_stranger is not None and is_of_certificate(error):
                self.tell_stranger(address, trouble_of(error))
            return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log; the library prints a traceback."""
        seldom.warning("connection_failed", peer_address=str(client_address[0]), exc_info=True)

    def service_actions(self) -> None:
        """Collect the cycles of dead associations now and then; the library does so at every 60th connection."""
        if time.monotonic() - self._collected >= _COLLECT_EVERY_S:
            self._collected = time.monotonic()
            super().service_actions()


class SharedContexts(list[Any]):
    """The supported presentation contexts. Negotiation reads them only, and the library copies them deeply for every
    association: with 16 transfer syntaxes each that took longer than a small image."""

    def __deepcopy__(self, memo: Any) -> "SharedContexts":
        return self


def make_server(
    ae: AE,
    address: tuple[str, int],
    *,
    transport: str,
    ssl_context: ssl.SSLContext | None,
    handlers: list[Any],
    reuse_port: bool = False,
    tell_stranger: Callable[[str, str], None] | None = None,
) -> AcceptorServer:
    """Bind and listen; serve with ``serve_forever``.

    Parameters
    ----------
    tell_stranger : called with address and reason where TLS fails because of the caller's certificate

    Raises
    ------
    OSError
        The address is taken, or none of this machine.
    """
    # Chunked: a dataset goes to a file, never to memory. Its handlers that print every PDU cost more than the network.
    _config.STORE_RECV_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    # pydicom sets this level anew when it is loaded; its warnings quote the values that they are about.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    # A UID that no row takes is answered with a status by `intake`; here it would end the association.
    _config.VALIDATORS["UI"] = lambda value: (True, "")
    options: dict[str, Any] = {}
    if transport == "stream":
        if is_streaming_possible():
            options["request_handler"] = StreamHandler
        else:
            log.warning("transport_is_stock", reason="this system has no eventfd, writev or poll")
    server_class = type("Server", (AcceptorServer,), {"reuse_port": reuse_port})
    server = ae.make_server(
        address,
        ae_title=ae.ae_title,
        ssl_context=ssl_context,
        evt_handlers=handlers,
        server_class=server_class,  # type: ignore[arg-type]
        **options,
    )
    server.contexts = SharedContexts(server.contexts)
    server.tell_stranger = tell_stranger  # type: ignore[attr-defined]
    return server  # type: ignore[return-value]
