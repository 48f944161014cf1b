"""The Minimal Lower Layer Protocol as a client: one connection, one message, its acknowledgement.

Source: HL7 v2.5.1 appendix C, "Lower Layer Protocols", C.2.
"""

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr_node.deliver.association import tls_context, tls_trouble, word_of
from cxr_node.errors import Unreachable
from cxr_node.settings import Destination, Settings
from cxr_node.tls import Minimum

START, END = b"\x0b", b"\x1c\r"
_LONGEST_ANSWER = 1 << 20
_CHUNK = 1 << 16
_ALERT_WITHIN_S = 0.5  # TLS 1.3 tells after the handshake that it wants another certificate


@dataclass(frozen=True)
class Mllp:
    """The way to one HL7 listener; `where` opens every sentence about it."""

    name: str
    host: str
    port: int
    timeout_s: float
    is_secure: bool = False
    tls_files: tuple[tuple[str, Path], ...] = ()
    tls_minimum: Minimum = "1.2"

    @classmethod
    def to(cls, destination: Destination, settings: Settings) -> "Mllp":
        """Return the way to a destination."""
        tls = destination.tls
        files = {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}
        return cls(
            destination.name,
            destination.host,
            destination.port,
            destination.timeout_s,
            tls.enabled,
            tuple((key, settings.path(value)) for key, value in files.items() if value),
            settings.node.tls_minimum,
        )

    @property
    def where(self) -> str:
        return f"{self.name}: HL7 listener at {self.host}:{self.port}"

    def ask(self, message: bytes, *, before: Callable[[], None]) -> bytes:
        """Send a message and return the acknowledgement, without its frame.

        Parameters
        ----------
        before : called once the connection stands, before a byte of the message leaves

        Raises
        ------
        Unreachable
            No connection, no TLS, no acknowledgement in time: the sentence says which.
        """
        with self._connect() as connection:
            before()
            deadline = time.monotonic() + self.timeout_s
            try:
                connection.sendall(START + message + END)
                return self._read(connection, deadline)
            except TimeoutError as error:
                raise Unreachable(
                    f"{self.where} did not acknowledge the message within timeout_s = {self.timeout_s:g}"
                ) from error
            except ssl.SSLError as error:
                raise Unreachable(f"{self.where}: {tls_trouble(error)}") from error
            except OSError as error:
                raise Unreachable(
                    f"{self.where} broke the connection off before it acknowledged the message: {word_of(error)}"
                ) from error

    def knock(self) -> None:
        """Connect and leave, nothing sent.

        Raises
        ------
        Unreachable
        """
        with self._connect() as connection:
            if not isinstance(connection, ssl.SSLSocket):
                return
            connection.settimeout(min(self.timeout_s, _ALERT_WITHIN_S))
            try:
                connection.recv(1)
            except TimeoutError:
                return  # content, and waiting for a message
            except ssl.SSLError as error:
                raise Unreachable(f"{self.where}: {tls_trouble(error)}") from error
            except OSError as error:
                raise Unreachable(f"{self.where}: {word_of(error)}") from error

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self.host, self.port), timeout=self.timeout_s)
        except socket.gaierror as error:
            raise Unreachable(f"{self.name}: the name {self.host} does not resolve to an address") from error
        except OSError as error:
            raise Unreachable(f"{self.where}: {word_of(error)}") from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.is_secure:
            return connection
        try:
            context = tls_context(self.name, dict(self.tls_files), self.tls_minimum)
            return context.wrap_socket(connection, server_hostname=self.host)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            reason = f"its TLS certificate is not accepted: {error.verify_message}"
            raise Unreachable(f"{self.where}: {reason}") from error
        except ssl.SSLError as error:
            connection.close()
            raise Unreachable(f"{self.where}: {tls_trouble(error)}") from error
        except OSError as error:
            connection.close()
            reason = f"TLS failed, {word_of(error)}: either it speaks no TLS there, or it hung up"
            raise Unreachable(f"{self.where}: {reason}") from error
        except Unreachable:
            connection.close()
            raise

    def _read(self, connection: socket.socket, deadline: float) -> bytes:
        """Return what stands in the next frame, however it is cut into segments; what precedes it is no part of it.

        A listener that hangs up after the last byte may leave the end of the frame out.
        """
        found = b""
        while END not in found:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
            chunk = connection.recv(_CHUNK)
            if not chunk:
                break
            found += chunk
            if len(found) > _LONGEST_ANSWER:
                raise Unreachable(f"{self.where} answered with more than 1 MiB and no end of a frame")
        body, ending, _ = found.partition(END)
        _, start, framed = body.partition(START)
        if not start:
            if found:
                raise Unreachable(f"{self.where} answered with something else than MLLP: is another service there?")
            raise Unreachable(f"{self.where} hung up without an acknowledgement")
        if not ending and not framed.endswith((b"\x1c", b"\r")):
            raise Unreachable(f"{self.where} hung up in the middle of its acknowledgement")
        return framed.rstrip(b"\x1c")
