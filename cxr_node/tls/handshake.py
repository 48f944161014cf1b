"""The handshake of an accepted connection, bounded as a whole."""

import select
import socket
import ssl
import time

HANDSHAKE_WITHIN_S = 10.0  # all of it, however slowly its bytes come

_NO_CERTIFICATE = ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "CERTIFICATE_VERIFY_FAILED")


def shake_hands(
    context: ssl.SSLContext, connection: socket.socket, *, within_s: float = HANDSHAKE_WITHIN_S
) -> ssl.SSLSocket:
    """Return the connection inside TLS, its time-out as before; called in a thread of this connection's own.

    Takes the socket over; it is closed where the handshake fails.

    Raises
    ------
    OSError
        It failed or took longer than `within_s`; ssl.SSLError is one.
    """
    timeout_s = connection.gettimeout()
    deadline = time.monotonic() + within_s
    connection.settimeout(within_s)
    try:
        secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    except BaseException:  # the socket is nobody's else
        connection.close()
        raise
    try:
        secured.settimeout(0)
        while not _advance(secured):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no TLS handshake within {within_s:g} s")
            _wait(secured, deadline)
        secured.settimeout(timeout_s)
    except BaseException:
        secured.close()
        raise
    return secured


def trouble_of(error: OSError) -> str:
    """Say in a word what a handshake met: the library's reason, without its address in a source file."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    return getattr(error, "reason", None) or type(error).__name__


def is_of_certificate(error: OSError) -> bool:
    """Whether it failed because of the other side's certificate: one that is not accepted, or none. A probe that
    connects and leaves, or whoever speaks no TLS, did not get so far."""
    return isinstance(error, ssl.SSLCertVerificationError) or getattr(error, "reason", "") in _NO_CERTIFICATE


def _advance(secured: ssl.SSLSocket) -> bool:
    try:
        secured.do_handshake()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    return True


def _wait(secured: ssl.SSLSocket, deadline: float) -> None:
    """Wait until there is something to read. What a handshake writes fits into the socket's buffer."""
    poll = select.poll()  # not select, which ends at descriptor 1023
    poll.register(secured, select.POLLIN)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
