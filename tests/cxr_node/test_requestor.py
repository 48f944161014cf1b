"""An answer is never lost to pynetdicom's own thread, however late it runs."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxr_node.deliver.commitment import PUSH_MODEL, WELL_KNOWN_INSTANCE
from cxr_node.requestor import Gate, associate, stands
from tests.system.conftest import wait_until


def run_late(condition: Any) -> None:
    """Have whoever is woken from this condition go on 5 ms later, as on a busy machine."""
    acquire = condition._acquire_restore
    condition._acquire_restore = lambda state: (time.sleep(0.005), acquire(state))


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
    gate = Gate()
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
    gate = Gate()
    assert gate.wait(0)
    assert not gate.holds
    gate.clear()
    assert not gate.wait(0.01)
    waiting = threading.Thread(target=gate.wait)
    waiting.start()
    wait_until(lambda: gate.holds, 20, "it holds the thread")
    gate.set()
    waiting.join(20)
    assert not gate.holds


@pytest.mark.requirement("SRS-NET-001")
def test_a_report_that_was_served_meanwhile_holds_no_request_up(port):
    """The thread that serves one writes to the flag that tells whether the association's own thread is held."""
    ae = AE("ASKS")
    ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(Verification)
    association = associate(ae, "127.0.0.1", port)
    gate = association._reactor_checkpoint
    gate.clear()
    wait_until(lambda: gate.holds, 20, "the thread is held")
    association._is_paused = False
    assert association._is_paused
    gate.set()
    wait_until(lambda: not association._is_paused, 20, "the thread is not held")
    association._is_paused = True
    wait_until(lambda: not association._is_paused, 20, "what is written there counts for nothing")
    gate.clear()
    wait_until(lambda: gate.holds, 20, "the thread is held again")
    association._is_paused = False
    ending = threading.Thread(target=association.release, daemon=True)
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    assert association.is_released


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


@pytest.mark.requirement("SRS-NET-001")
def test_a_release_does_not_overtake_the_answer_to_a_report():
    """The peer hears that its report was taken; one that hears nothing reports again, and the connection breaks."""
    is_served, answers = threading.Event(), list[int]()

    def tell(association: Any) -> None:
        told = Dataset()
        told.TransactionUID = "1.2.3"
        answer, _ = association.send_n_event_report(told, 1, PUSH_MODEL, WELL_KNOWN_INSTANCE)
        answers.append(answer.get("Status", -1))

    def served(_: evt.Event) -> tuple[int, None]:
        is_served.set()
        time.sleep(0.3)  # the requestor releases meanwhile
        return 0x0000, None

    acceptor = AE("TELLS")
    acceptor.add_supported_context(PUSH_MODEL)
    server = acceptor.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        ae = AE("HEARS")
        ae.acse_timeout = ae.network_timeout = 30
        ae.add_requested_context(PUSH_MODEL)
        port = server.server_address[1]
        association = associate(ae, "127.0.0.1", port, handlers=[(evt.EVT_N_EVENT_REPORT, served)])
        wait_until(lambda: any(item.is_established for item in server.active_associations), 20, "it stands")
        report = threading.Thread(target=tell, args=(server.active_associations[0],))
        report.start()
        assert is_served.wait(30)
        assert stands(association)
        association.release()
        assert association.is_released
        assert not stands(association)
        report.join(30)
        assert answers == [0x0000]
    finally:
        server.shutdown()
