"""What listens for images; see `accepting` for how many connections may be open and the TLS handshake."""

import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config

from cxr_node import metrics
from cxr_node.accepting import AssociationServer
from cxr_node.log import get_logger
from cxr_node.receive.messages import StoreEvent
from cxr_node.receive.negotiation import Proposals
from cxr_node.receive.statuses import Answer
from cxr_node.receive.transport import StreamHandler, is_streaming_possible, seldom

log = get_logger("receive")

_COLLECT_EVERY_S = 30.0


class AcceptorServer(AssociationServer):
    """Listens; public interface of pynetdicom only, both transports use it."""

    reuse_port = False
    seldom = seldom
    answer_store: Callable[[StoreEvent], Answer] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._collected = time.monotonic()
        self.proposals = Proposals()
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        if self.reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # type: ignore[union-attr]
        super().server_bind()

    def count(self, outcome: str) -> None:
        """Count a connection that came to nothing."""
        metrics.ASSOCIATIONS.labels(outcome).inc()

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
    answer_store: Callable[[StoreEvent], Answer] | None = None,
) -> AcceptorServer:
    """Bind and listen; serve with ``serve_forever``.

    Parameters
    ----------
    tell_stranger : called with address and reason where TLS fails because of the caller's certificate
    answer_store : keeps an instance whose file is whole; None, or another transport than `stream`: the handler of
        EVT_C_STORE does

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
    server.answer_store = answer_store  # type: ignore[attr-defined]
    return server  # type: ignore[return-value]
