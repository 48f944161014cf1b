"""An audit record repository to test with: takes syslog over TLS or TCP, as RFC 5425 wants it."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for localhost that signs itself; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, locked = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, locked))
    return paths


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
