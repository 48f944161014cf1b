"""An audit record repository to test with: takes syslog over TLS or TCP, as RFC 5425 wants it."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path


class SyslogPeer:
    """Keeps what it reads. `behave` is how the next connections end: "well"; "reset" after reading `drop_after` bytes;
    "mute": it reads nothing and never ends; "curt": it reads all and ends without a word, as rsyslog's GnuTLS driver
    does; "gone": it ends without a word and reads nothing."""

    def __init__(self, certificate: tuple[Path, Path] | None, ca: Path | None = None) -> None:
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
            if ca is not None:
                self._context.verify_mode = ssl.CERT_REQUIRED
                self._context.load_verify_locations(ca)
        self.behave, self.drop_after = "well", 0
        self.connections: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def messages(self) -> list[bytes]:
        """Return what came, connection by connection, without the lengths; a frame that is not whole is left out."""
        return [item for data in self.connections for item in unframed(data)]

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()
        self._thread.join(20)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(20)
            if self.behave == "mute":
                self._held.append(plain)
                continue
            with contextlib.suppress(OSError), plain:
                self._read(plain)

    def _read(self, plain: socket.socket) -> None:
        peer = self._context.wrap_socket(plain, server_side=True) if self._context else plain
        data = b""
        if self.behave == "gone":
            peer.close()
            return
        try:
            while part := peer.recv(65536):
                data += part
                if self.behave == "reset" and len(data) >= self.drop_after:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                    peer.close()
                    return
            if isinstance(peer, ssl.SSLSocket) and self.behave != "curt":
                peer.unwrap()
        finally:
            self.connections.append(data)


def unframed(data: bytes) -> Iterator[bytes]:
    """Give the messages of a stream framed by octet counting."""
    while data:
        length, _, rest = data.partition(b" ")
        if len(rest) < int(length):
            return
        yield rest[: int(length)]
        data = rest[int(length) :]
