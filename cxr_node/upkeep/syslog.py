"""Syslog to an audit record repository: RFC 5424 messages over TLS (RFC 5425), TCP or UDP (RFC 5426).

Syslog has no acknowledgement. Over a stream, messages count as taken once the connection was closed in order after
them: the other side's answer to our close_notify comes behind everything that it read. So each batch is a connection of
its own, and what was sent over one that broke is sent again.

rsyslog with its GnuTLS driver reads everything and then ends the connection without that answer. Such an end is
believed when the other machine acknowledged every byte and did not reset the connection: a system that closes with
unread data resets. Who sits on the wire and forges TCP could so have the node believe that messages arrived; not read
or alter any.
"""

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cxr_node.errors import CxrNodeError
from cxr_node.tls import Minimum, client_context

TIMEOUT_S = 10.0
FACILITY = 10  # security and authorization, PS3.15 A.6
NOTICE, WARNING = 5, 4
MESSAGE_ID = "DICOM+RFC3881"  # PS3.15 A.6
_BOM = b"\xef\xbb\xbf"


class RepositoryUnavailable(CxrNodeError):
    """The repository did not take what was sent, or did not say so by an orderly end."""


@dataclass(frozen=True)
class Repository:
    """Where audit messages go. `tls_files` are certificate, key and ca, those that are set."""

    host: str
    port: int
    transport: str
    tls_files: Mapping[str, Path]
    tls_minimum: Minimum = "1.2"
    timeout_s: float = TIMEOUT_S

    def __str__(self) -> str:
        return f"audit repository {self.host}:{self.port} ({self.transport})"

    def deliver(self, messages: Sequence[bytes]) -> None:
        """Send them in order; return when the repository has them, as far as syslog can tell.

        Raises
        ------
        RepositoryUnavailable
            Some or all may have arrived: they are to be sent again.
        """
        try:
            if self.transport == "udp":
                self._datagrams(messages)
            else:
                self._stream(b"".join(frame(item) for item in messages))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: a host name that is none
            raise RepositoryUnavailable(f"{self}: {_reason(error)}") from error

    def _datagrams(self, messages: Sequence[bytes]) -> None:
        family, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            out.settimeout(self.timeout_s)
            out.connect(address)
            for item in messages:
                out.send(item)

    def _stream(self, data: bytes) -> None:
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(socket.create_connection((self.host, self.port), self.timeout_s))
            if self.transport == "tcp":
                plain.sendall(data)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(4096):
                    pass
                return
            context = client_context(self.tls_files, minimum=self.tls_minimum)
            secured = stack.enter_context(context.wrap_socket(plain, server_hostname=self.host))
            secured.sendall(data)
            try:
                ended = secured.unwrap()  # waits for the other side's close_notify, or for an alert: it tells neither
                while ended.recv(4096):  # a side that would not have our certificate resets; one that read it all ends
                    pass
            except ssl.SSLEOFError:
                if not _was_read(secured, self.timeout_s):
                    raise


_TCP_CLOSE = 7  # tcp(7), the state of a connection that was reset; an orderly end leaves CLOSE_WAIT


def frame(message: bytes) -> bytes:
    """Return the message with its length before it (RFC 5425 4.3, octet counting)."""
    return f"{len(message)} ".encode() + message


def syslog_message(body: bytes, *, at: datetime, host: str, process: str, severity: int) -> bytes:
    """Return an RFC 5424 message; `body` is UTF-8 and gets its byte order mark (6.4)."""
    told = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    priority = FACILITY * 8 + severity
    head = f"<{priority}>1 {told} {_printable(host, 255)} cxr-node {_printable(process, 128)} {MESSAGE_ID} - "
    return head.encode("ascii") + _BOM + body


def _was_read(ended: socket.socket, timeout_s: float) -> bool:
    """Whether every byte was acknowledged on a connection that the other side ended, and it was not reset (Linux)."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ended.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        (unacknowledged,) = struct.unpack("i", fcntl.ioctl(ended.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
        if unacknowledged == 0:
            # What the kernel over there took and nobody read is answered with a reset when the connection ends; the
            # error itself may have been told already, to who read last.
            return ended.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_CLOSE
        time.sleep(0.01)
    return False


def _printable(text: str, longest: int) -> str:
    """PRINTUSASCII of RFC 5424 without spaces; `-` for nothing."""
    return "".join(letter if "!" <= letter <= "~" else "_" for letter in text)[:longest] or "-"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)):
        return "the connection broke before an orderly end"
    strerror = getattr(error, "strerror", None)
    return str(strerror or getattr(error, "reason", None) or type(error).__name__)
