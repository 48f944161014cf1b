"""MLLP from outside: whole messages, halves, strangers and bad manners."""

import socket
import time
from contextlib import closing

import pytest

from cxr_node.errors import SettingsError
from cxr_node.orders import hl7_listener
from cxr_node.orders.hl7_listener import Hl7Listener, Senders

pytestmark = pytest.mark.requirement("SRS-ORD-008")


@pytest.fixture
def start():
    """Start listeners that answer a message with itself, upper case."""
    started = []

    def make(senders=("127.0.0.1",), take=None) -> Hl7Listener:
        listener = Hl7Listener("127.0.0.1", 0, senders, take or (lambda body, address: body.upper()))
        listener.start()
        started.append(listener)
        return listener

    yield make
    for listener in started:
        listener.close()


def connect(listener):
    connection = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
    return closing(connection)


def answer(connection) -> bytes:
    data = b""
    while not data.endswith(b"\x1c\r"):
        part = connection.recv(4096)
        if not part:
            return data
        data += part
    return data


def test_a_message_gets_its_answer_in_a_block(start):
    """The whole of it, whatever pieces it came in."""
    with connect(start()) as connection:
        for byte in b"\x0bmsh|one\r\x1c\r":
            connection.sendall(bytes([byte]))
        assert answer(connection) == b"\x0bMSH|ONE\r\x1c\r"


def test_several_messages_of_a_connection_are_answered_in_order(start):
    """An interface engine keeps its connection; some send the next before the answer."""
    with connect(start()) as connection:
        connection.sendall(b"\x0ba\x1c\r\x0bb\x1c\r\r\n\x0bc\x1c")
        received = b""
        while received.count(b"\x1c\r") < 3:
            received += connection.recv(4096)
        assert received == b"\x0bA\x1c\r\x0bB\x1c\r\x0bC\x1c\r"


@pytest.mark.parametrize("sent", [b"MSH|^~\\&|", b"\x0bhalf", b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_block_ends_the_connection_unanswered(start, sent):
    """Nobody knows where the next message would begin."""
    with connect(start()) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection) == b""


def test_a_message_that_is_too_long_or_too_slow_ends_its_connection(start, monkeypatch):
    """A byte a minute would hold a place for ever; the others are served meanwhile."""
    monkeypatch.setattr(hl7_listener, "LONGEST_MESSAGE", 1000)
    monkeypatch.setattr(hl7_listener, "MESSAGE_WITHIN_S", 0.2)
    listener = start()
    with connect(listener) as slow, connect(listener) as long, connect(listener) as idle:
        slow.sendall(b"\x0bm")
        long.sendall(b"\x0b" + b"m" * 2000)
        assert answer(slow) == b""
        assert answer(long) == b""
        time.sleep(0.3)
        idle.sendall(b"\x0bstill here\x1c\r")
        assert answer(idle) == b"\x0bSTILL HERE\x1c\r"


def test_a_stranger_is_not_heard(start):
    """Whoever may send may raise priorities."""
    with connect(start(senders=("10.0.0.0/8",))) as connection:
        assert answer(connection) == b""


def test_too_many_connections_are_refused_and_a_closed_one_makes_room(start, monkeypatch):
    """An engine that leaks connections must not lock itself out for good."""
    monkeypatch.setattr(hl7_listener, "MOST_OF_ADDRESS", 2)
    listener = start()
    with connect(listener) as first, connect(listener) as second:
        for connection in (first, second):
            connection.sendall(b"\x0bm\x1c\r")
            assert answer(connection) == b"\x0bM\x1c\r"
        with connect(listener) as third:
            assert answer(third) == b""
    deadline = time.monotonic() + 30
    served = b""
    while not served and time.monotonic() < deadline:
        with connect(listener) as fourth:
            fourth.sendall(b"\x0bm\x1c\r")
            served = answer(fourth)
    assert served == b"\x0bM\x1c\r"


def test_a_bug_ends_one_connection_and_no_other(start):
    """Whatever a message does to us, the listener listens."""

    def take(body: bytes, address: str) -> bytes:
        if body == b"bad":
            raise RuntimeError("bug")
        return body

    listener = start(take=take)
    with connect(listener) as bad, connect(listener) as good:
        bad.sendall(b"\x0bbad\x1c\r")
        assert answer(bad) == b""
        good.sendall(b"\x0bgood\x1c\r")
        assert answer(good) == b"\x0bgood\x1c\r"


def test_close_ends_open_connections(start):
    """The stage stops in time, whatever its senders do."""
    listener = start()
    with connect(listener) as connection:
        connection.sendall(b"\x0bm\x1c\r")
        answer(connection)
        started = time.monotonic()
        listener.close()
        assert answer(connection) == b""
        assert time.monotonic() - started < 3


def test_a_taken_port_and_a_bad_sender_are_named(start):
    """An administrator reads the sentence, not a traceback."""
    listener = start()
    with pytest.raises(SettingsError, match=f"127.0.0.1:{listener.port}"):
        Hl7Listener("127.0.0.1", listener.port, (), lambda body, address: body)
    with pytest.raises(SettingsError, match="hl7_senders"):
        Senders(["ris.hospital"])


@pytest.mark.parametrize(
    ("entries", "address", "expected"),
    [
        (("10.1.0.0/16",), "10.1.2.3", True),
        (("10.1.0.0/16",), "10.2.2.3", False),
        (("10.1.2.3",), "::ffff:10.1.2.3", True),
        (("*",), "192.0.2.1", True),
        (("*",), "nonsense", False),
        (("::1",), "::1", True),
        ((), "127.0.0.1", False),
    ],
)
def test_senders_are_addresses_and_networks(entries, address, expected):
    """As for DICOM callers."""
    assert Senders(entries).allow(address) is expected
