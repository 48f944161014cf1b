"""HL7 inside TLS: orders name patients."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_node.orders.hl7_listener import Hl7Listener
from cxr_node.tls import ServerFiles, client_context, server_context
from tests.certificates import Authority, Issued
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-TLS-024")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def listening(authority: Authority) -> Iterator[Hl7Listener]:
    issued = authority.issue("node")
    context = server_context(ServerFiles("orders.hl7_tls", issued.certificate, issued.key, authority.ca, True))
    listener = Hl7Listener("127.0.0.1", 0, ("127.0.0.1",), lambda body, address: body.upper(), context=context)
    listener.start()
    yield listener
    listener.close()


def say(listener: Hl7Listener, ca: Path, issued: Issued | None) -> bytes:
    """Send a message and return the whole answer.

    Raises
    ------
    OSError
    """
    files = {"ca": ca} | ({} if issued is None else {"certificate": issued.certificate, "key": issued.key})
    with (
        socket.create_connection(("127.0.0.1", listener.port), timeout=30) as plain,
        client_context(files).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"\x0bmsh|one\r\x1c\r")
        data = b""
        while not data.endswith(b"\x1c\r"):
            part = connection.recv(4096)
            if not part:
                raise ConnectionError("no answer")
            data += part
        return data


def test_an_order_is_answered_inside_tls(listening, authority):
    """Both sides show a certificate."""
    assert say(listening, authority.ca, authority.issue("ris")) == b"\x0bMSH|ONE\r\x1c\r"


def test_who_shows_no_certificate_a_strange_one_or_speaks_plain_is_refused(listening, authority, tmp_path):
    """And the next one is answered."""
    for issued in (None, Authority(tmp_path / "stranger").issue("stranger"), authority.issue("old", days=-1)):
        with pytest.raises(OSError):
            say(listening, authority.ca, issued)
    with socket.create_connection(("127.0.0.1", listening.port), timeout=30) as plain:
        plain.sendall(b"\x0bmsh|one\r\x1c\r")
        answer = b""
        try:
            while part := plain.recv(4096):
                answer += part
        except ConnectionResetError:
            pass
        assert b"MSH" not in answer
    assert say(listening, authority.ca, authority.issue("ris")).startswith(b"\x0bMSH")


def test_a_caller_refuses_a_listener_of_another_name(listening, authority, tmp_path):
    """It would hand orders to whoever took the address."""
    with pytest.raises(ssl.SSLCertVerificationError):
        say(listening, Authority(tmp_path / "other").ca, authority.issue("ris"))


def test_connections_that_say_nothing_hold_up_nobody_and_do_not_count_for_ever(listening, authority):
    """Those in their handshake count among the open ones, and only as long as they are."""
    idle = [socket.create_connection(("127.0.0.1", listening.port), timeout=30) for _ in range(5)]
    assert say(listening, authority.ca, authority.issue("ris")).startswith(b"\x0bMSH")
    for connection in idle:
        connection.close()
    wait_until(lambda: not listening._open, 30, "none of them is counted any more")
