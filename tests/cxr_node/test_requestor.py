"""An answer is never lost to pynetdicom's own thread, however late it runs."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_node.requestor import Gate, associate


def run_late(condition: Any) -> None:
    """Have whoever is woken from this condition go on 5 ms later, as on a busy machine."""
    acquire = condition._acquire_restore
    condition._acquire_restore = lambda state: (time.sleep(0.005), acquire(state))


class Held:
    """Stands in for an association: what the gate reads and writes of it."""

    _is_paused = False


@pytest.fixture
def port() -> Iterator[int]:
    """A Verification SCP on loopback."""
    ae = AE("ECHO")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    yield server.server_address[1]
    server.shutdown()


@pytest.mark.requirement("SRS-NET-001")
def test_a_gate_opened_and_closed_at_once_lets_nobody_through():
    """As pynetdicom's requests do one after the other, while its thread has not run in between."""
    held = Held()
    gate = Gate(held)  # type: ignore[arg-type]
    gate.clear()
    passed = threading.Event()
    waiting = threading.Thread(target=lambda: (gate.wait(), passed.set()))
    waiting.start()
    while not gate._changed._waiters:  # type: ignore[attr-defined]
        pass
    with gate._changed:  # the thread is woken and cannot look before the gate is closed again
        gate._open = True
        gate._changed.notify_all()
        gate._open = False
    assert not passed.wait(0.2)
    gate.set()
    assert passed.wait(30)
    waiting.join(5)


@pytest.mark.requirement("SRS-NET-001")
def test_whoever_closes_the_gate_sees_whether_the_thread_is_through():
    """A thread that has passed is told as not held before it takes its next step."""
    held = Held()
    gate = Gate(held)  # type: ignore[arg-type]
    held._is_paused = True
    assert gate.wait(0)
    assert not held._is_paused
    gate.clear()
    assert not gate.wait(0.01)


@pytest.mark.requirement("SRS-NET-001")
def test_the_association_has_the_gate_before_its_first_request(port):
    """Contract with the locked pynetdicom: the attribute is the one that its requests and its thread use."""
    ae = AE("ASKS")
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port)
    assert isinstance(association._reactor_checkpoint, Gate)
    connection = association.dul.socket.socket
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    association.release()
    assert association.is_released


@pytest.mark.requirement("SRS-NET-001")
def test_a_late_thread_takes_no_answer(port):
    """Its look into the queue is held back until the next request waits: the moment in which answers were lost."""
    ae = AE("ASKS")
    ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port)
    stolen: list[object] = []
    serve = association._serve_request
    association._serve_request = lambda message, context_id: (stolen.append(message), serve(message, context_id))
    run_late(association._reactor_checkpoint._changed)
    for _ in range(100):
        answer = association.send_c_echo()
        assert answer.Status == 0
    association.release()
    assert not stolen
