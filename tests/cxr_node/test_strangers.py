"""What a stranger says first ends with an answer or a closed connection, and takes nobody's place."""

import socket
import threading
from collections.abc import Iterator

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_node.requestor import associate
from cxr_node.strangers import guards
from tests.cxr_node.receive import wire

MOST = 2  # associations at once: one that is held would show soon


@pytest.fixture
def port() -> Iterator[int]:
    """The library's own server with the guards, as the worklist has it."""
    ae = AE("CXR_NODE")
    ae.add_supported_context(Verification)
    ae.maximum_associations = MOST
    ae.acse_timeout = 120  # what holds a thread holds it longer than the test waits
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=guards())
    assert server is not None
    yield server.server_address[1]
    server.shutdown()


def says(port: int, data: bytes) -> list[int]:
    """Send, say no more, and return the kinds of what was answered until the server closed."""
    kinds = []
    with wire.connect(port) as connection:
        connection.settimeout(60)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while kind := wire.receive_pdu(connection)[0]:
            kinds.append(kind)
    return kinds


def request(change: tuple[int, bytes] | None = None) -> bytes:
    """An association request, with bytes put in at a place."""
    data = wire.association_request(Verification)
    if change is None:
        return data
    at, new = change
    return data[:at] + new + data[at + len(new) :]


CONTEXT = request().index(b"\x20\x00") + 4  # the presentation context's id


@pytest.mark.requirement("SRS-RCV-351")
@pytest.mark.parametrize(
    "data",
    [
        request((CONTEXT, b"\x02")),  # even: PS3.8 9.3.2.2 wants odd
        wire.RELEASE_RQ,
        request() + request(),
        b"\x09\x00\x00\x00\x00\x04abcd",
    ],
    ids=["even context id", "release first", "two requests", "unknown unit"],
)
def test_nonsense_takes_no_place_and_ends_no_thread(port, data, monkeypatch):
    """Far more often than there are places: each is over before the next, and a C-ECHO still finds one."""
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: ended.append(arguments.exc_value))
    for _ in range(3 * MOST):
        kinds = says(port, data)
        assert set(kinds) <= {wire.A_ASSOCIATE_AC, wire.A_ASSOCIATE_RJ, wire.A_ABORT}
    ae = AE("ASKS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(Verification)
    for _ in range(60):
        association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
        if association.is_established:
            break
    assert association.send_c_echo().Status == 0
    association.release()
    assert ended == []


@pytest.mark.requirement("SRS-RCV-351")
def test_who_leaves_without_a_word_takes_no_place(port):
    """A load balancer's check, many times over."""
    for _ in range(10 * MOST):
        wire.connect(port).close()
    ae = AE("ASKS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    tries = 0
    while not association.is_established and tries < 100:
        tries += 1
        association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    assert association.is_established
    association.release()
