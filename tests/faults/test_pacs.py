"""A PACS that is half-open, out of resources, warns, or is restarted: every report gets there, as one, and holds up no
other destination. What each kind of destination does with a refusal is in tests/system/test_delivery_matrix.py.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from cxr_node.deliver.statuses import meaning
from storage import lanes
from tests.cxr_node.deliver.conftest import Pacs, Received, serving
from tests.faults.conftest import Box, at
from tests.faults.test_kill_deliver import check_received, delivery, plan
from tests.system.conftest import free_port

pytestmark = [pytest.mark.requirement("SRS-FLT-016"), pytest.mark.timeout(120)]


def destination(name: str, port: int, **changes: object) -> dict[str, object]:
    return {"name": name, "ae_title": "PACS", "host": "127.0.0.1", "port": port, "commit": False, **changes}


@contextlib.contextmanager
def half_open(port: int) -> Iterator[list[int]]:
    """Connections are taken and nothing is ever said: a PACS whose service hangs behind a port that lives."""
    taken: list[int] = []
    kept: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            kept.append(connection)
            taken.append(len(taken))

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for connection in kept:
            connection.close()


def hurry(box: Box) -> None:
    """Let nobody wait for the rest of a destination that is back."""
    with box.database.begin() as connection:
        lanes.resume(connection, "pacs", by="test", now=at())


def test_a_pacs_that_takes_connections_and_says_nothing_is_waited_for_and_holds_up_no_other(box):
    """A time-out of its own for each association, a lane of its own for each destination."""
    port = free_port()
    with serving(Pacs(free_port())) as other:
        box.configure(destination=[destination("pacs", port, timeout_s=1.0), destination("other", other.port)])
        first, uid = plan(box)
        with half_open(port) as taken:
            stage = box.start("deliver")
            box.wait(lambda: taken, "the connection")
            box.wait(lambda: delivery(box, first).reason, "the time-out")
            second, second_uid = plan(box, "1.2.3.5", destination="other")
            box.wait(lambda: delivery(box, second).state == "DELIVERED", "the other's report")
            assert delivery(box, first).state == "SCHEDULED"
        with serving(Pacs(port)) as pacs:
            hurry(box)
            box.wait(lambda: delivery(box, first).state == "DELIVERED", "the report")
            check_received(pacs, {uid})
        check_received(other, {second_uid})
    assert stage.deaths == 0


@pytest.mark.parametrize(
    ("statuses", "times"),
    [((0xA700, 0xA700), 3), ((0xB000,), 1), ((0xB007,), 1), ((0x0111,), 1)],
    ids=["out of resources", "coerced", "does not match", "duplicate"],
)
def test_what_a_pacs_answers_leads_to_one_report_there(box, statuses, times):
    """Out of resources passes; a warning, and that it has the object, are as good as Success."""
    answers = list(statuses)

    def answer(received: Received) -> int:
        return answers.pop(0) if answers else 0x0000

    with serving(Pacs(free_port(), answer=answer)) as pacs:
        box.configure(destination=[destination("pacs", pacs.port)])
        delivery_id, uid = plan(box)
        box.start("deliver")

        def delivered() -> bool:
            hurry(box)
            return delivery(box, delivery_id).state == "DELIVERED"

        box.wait(delivered, "the report")
        check_received(pacs, {uid})
        assert len(pacs.received) == times
    reason = delivery(box, delivery_id).reason
    assert (reason == "") == (statuses[0] == 0xA700), (reason, meaning(statuses[0]))


def test_a_pacs_that_is_restarted_again_and_again_gets_every_report_as_one(box):
    """Between two objects, and while it has one and did not answer yet."""
    port = free_port()
    box.configure(destination=[destination("pacs", port, timeout_s=2.0)])
    planned = [plan(box, f"1.2.3.{number}") for number in range(6)]
    box.start("deliver")
    ended_ones: list[Pacs] = []
    for _ in range(3):
        gone, ended = threading.Event(), threading.Event()

        def answer(item: Received, gone: threading.Event = gone, ended: threading.Event = ended) -> int:
            if gone.is_set():
                ended.wait(60)  # the service ends with this object in its hands: nobody hears what is said after
            gone.set()
            return 0x0000

        with serving(Pacs(port, answer=answer)) as pacs:
            hurry(box)
            box.wait(gone.is_set, "an object")
        ended.set()
        ended_ones.append(pacs)  # what it took may be on its list only once its threads have ended
    with serving(Pacs(port)) as pacs:

        def delivered() -> bool:
            hurry(box)
            return all(delivery(box, delivery_id).state == "DELIVERED" for delivery_id, _ in planned)

        box.wait(delivered, "every report")
    for one in ended_ones:
        pacs.received += one.received
    check_received(pacs, {uid for _, uid in planned})
