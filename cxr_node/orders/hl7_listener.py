"""MLLP: messages framed by 0x0B and 0x1C 0x0D over TCP, one answer for each, several in a connection.

Who may connect, how long a message may take, how large it may be and how many connections are open is bounded; an idle
connection is not, for interface engines keep theirs open all day.

Source: HL7 v2 Transport Specification, MLLP release 1 (blocks; the end of a connection is the end of a partial one).
"""

import contextlib
import ipaddress
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.tls import shake_hands, trouble_of

log = get_logger("orders")

START, END = b"\x0b", b"\x1c"
LONGEST_MESSAGE = 1 << 20
MESSAGE_WITHIN_S = 30.0  # from its first byte to its last
MOST_CONNECTIONS = 64
MOST_OF_ADDRESS = 16
_BETWEEN = b"\r\n"  # some senders end a block with more than the one carriage return, or with none
_CHUNK = 65536
_POLL_S = 0.1

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class FramingError(Exception):
    """The bytes are no MLLP blocks: the connection ends, for nobody knows where the next message begins."""


class _NoHandshake(Exception):
    """The connection ended before it was inside TLS; the message says why."""


class Senders:
    """Addresses and networks that may send.

    Raises
    ------
    SettingsError
        One is neither.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._any = "*" in entries
        try:
            self._networks: list[Network] = [
                ipaddress.ip_network(entry, strict=False) for entry in entries if entry != "*"
            ]
        except ValueError as error:
            raise SettingsError(f"orders.hl7_senders: expected addresses or networks: {error}") from error

    def allow(self, address: str) -> bool:
        """Whether it is listed; an IPv4 address that came over an IPv6 socket counts as itself."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return self._any or any(found.version == item.version and found in item for item in self._networks)


class Blocks:
    """Cuts what comes over a connection into blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def next(self) -> bytes | None:
        """Return the next message, None at the end of the connection.

        Raises
        ------
        FramingError
            Bytes outside a block, a block that is too long, or one that takes too long.
        OSError
        """
        deadline: float | None = None
        while True:
            self._skip()
            if self._buffer:
                deadline = deadline or time.monotonic() + MESSAGE_WITHIN_S
                if self._buffer[:1] != START:
                    raise FramingError("a byte outside a block")
                end = self._buffer.find(END)
                if end > 0:
                    message = bytes(self._buffer[1:end])
                    del self._buffer[: end + 1]
                    return message
                if len(self._buffer) > LONGEST_MESSAGE:
                    raise FramingError(f"a block of more than {LONGEST_MESSAGE} bytes")
            if not self._receive(deadline):
                if self._buffer:
                    raise FramingError("the connection ended within a block")
                return None

    def _skip(self) -> None:
        while self._buffer[:1] and self._buffer[:1] in _BETWEEN:
            del self._buffer[:1]

    def _receive(self, deadline: float | None) -> bool:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise FramingError(f"a block that took more than {MESSAGE_WITHIN_S:g} s")
        self._connection.settimeout(left_s)
        try:
            data = self._connection.recv(_CHUNK)
        except TimeoutError as error:
            raise FramingError(f"a block that took more than {MESSAGE_WITHIN_S:g} s") from error
        self._buffer += data
        return bool(data)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


class Hl7Listener:
    """Listens from the moment it is made, answers from `start` until `close`.

    Parameters
    ----------
    senders : addresses and networks of node.toml
    take : a message and the address it came from in, its acknowledgement out
    context : of TLS; None for none

    Raises
    ------
    SettingsError
        The address cannot be listened on, or a sender is neither address nor network.
    """

    def __init__(
        self,
        host: str,
        port: int,
        senders: Sequence[str],
        take: Callable[[bytes, str], bytes],
        *,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._senders = Senders(senders)
        self._take = take
        self._context = context
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        listener = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                listener._serve(self.request, str(self.client_address[0]))

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family, "handle_error": _report})
        try:
            self._server: Any = server_class((host, port), Handler)
        except OSError as error:
            raise SettingsError(f"orders: cannot listen on {host}:{port}: {error.strerror}") from error
        self._server.verify_request = self._admit
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="hl7-listener", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end what is open; a message without its answer is sent again by its sender."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()
        with self._lock:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _admit(self, request: socket.socket, client_address: Any) -> bool:
        address = str(client_address[0])
        if not self._senders.allow(address):
            log.warning("sender_refused", peer_address=address, reason="not in orders.hl7_senders")
            return False
        with self._lock:
            of_address = sum(item == address for item in self._open.values())
            if len(self._open) >= MOST_CONNECTIONS or of_address >= MOST_OF_ADDRESS:
                log.warning("sender_refused", peer_address=address, reason="too many open connections")
                return False
            self._open[request] = address
        return True

    def _serve(self, accepted: socket.socket, address: str) -> None:
        connection = accepted
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._context is not None:
                connection = self._secured(accepted, address, self._context)
            blocks = Blocks(connection)
            while (message := blocks.next()) is not None:
                answer = self._take(message, address)
                connection.settimeout(MESSAGE_WITHIN_S)
                connection.sendall(START + answer + END + b"\r")
        except FramingError as error:
            log.warning("framing_broken", peer_address=address, reason=str(error))
        except _NoHandshake as error:
            log.warning("tls_handshake_failed", peer_address=address, reason=str(error))
        except OSError as error:
            log.warning("connection_broke", peer_address=address, error_type=type(error).__name__)
        finally:
            with self._lock:
                self._open.pop(accepted, None)
                self._open.pop(connection, None)
            connection.close()  # inside TLS it is no longer the one that the server closes

    def _secured(self, accepted: socket.socket, address: str, context: ssl.SSLContext) -> socket.socket:
        """Shake hands, in this connection's own thread; what counts and closes connections knows the new one."""
        try:
            connection = shake_hands(context, accepted)
        except OSError as error:
            raise _NoHandshake(trouble_of(error)) from error
        with self._lock:
            self._open.pop(accepted, None)
            self._open[connection] = address
        return connection


def _report(server: Any, request: Any, client_address: Any) -> None:
    """Log; the library prints a traceback."""
    log.error("connection_failed", peer_address=str(client_address[0]), exc_info=True)
