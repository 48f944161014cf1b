"""The HTTP server of STOW-RS: uvicorn in a thread, with a limit on how long a connection may say nothing."""

import asyncio
import socket
import ssl
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cxr_node.errors import SettingsError
from cxr_node.log import get_logger, told_by
from cxr_node.receive.scp import ENDS_WITHIN_S
from cxr_node.settings import Settings
from cxr_node.tls import listener
from cxr_node.tls.loop import BoundedHandshakes

log = get_logger("receive")

MAXIMUM_CONNECTIONS = 256
LONGEST_HEAD = 16384  # bytes of request line and headers
HEAD_WITHIN_S = 10.0
_TLS = "receive.dicomweb.tls"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of HTTPS, None where node.toml asks for none.

    Raises
    ------
    SettingsError
        A file is not what it must be.
    """
    return listener(
        _TLS,
        settings.receive.dicomweb.tls,
        settings.path,
        minimum=settings.node.tls_minimum,
        tell=told_by(log, _TLS),
        most=MAXIMUM_CONNECTIONS,
    )


class _Impatient(H11Protocol):
    """Ends a connection that is between requests for longer than HEAD_WITHIN_S; the library times only whole silence
    after a request, so a client could hold the head of one back for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAXIMUM_CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(HEAD_WITHIN_S, self._look, self.cycle)

    def _look(self, last: Any) -> None:
        # Another cycle than when the wait began: a request came, and times itself from there.
        if self.cycle is last and not self.transport.is_closing():
            self.transport.abort()


class WebServer:
    """Listens from the moment it is made; answers from `start` until `close`.

    Parameters
    ----------
    context : of HTTPS; None for HTTP

    Raises
    ------
    SettingsError
        The address cannot be listened on.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, *, context: ssl.SSLContext | None = None) -> None:
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            h11_max_incomplete_event_size=LONGEST_HEAD,
            timeout_keep_alive=int(HEAD_WITHIN_S),
            timeout_graceful_shutdown=int(ENDS_WITHIN_S),
        )
        config.load()
        config.ssl = context  # the library would make one of its own, from files
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="receive-web", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end what is open; a request that is half sent is sent again by its sender."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(ENDS_WITHIN_S + 1.0)
        self._socket.close()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=BoundedHandshakes) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol told: asyncio turns Nagle off where it sees TCP, else each answer on a kept connection takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        where = f"{host}:{port}"
        raise SettingsError(f"receive.dicomweb: cannot listen on {where}: {error.strerror or error}") from error
    return listener
