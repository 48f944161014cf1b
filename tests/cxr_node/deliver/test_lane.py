"""What a lane remembers, and what a person tells it: policy by class of error, breaker, pause, test, sending again."""

from datetime import timedelta

import pytest
from pydicom.uid import generate_uid

from cxr_node.clock import utc_now
from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.folder import Folder
from cxr_node.deliver.http import Busy
from cxr_node.deliver.lane import Lane
from cxr_node.deliver.policy import APPLICATION_TRIES, NotAcknowledged, NotTakenYet, policy_of
from cxr_node.deliver.rest import Rest
from cxr_node.errors import AssociationRefused, NotNegotiated, Refused, Unreachable
from cxr_node.settings import Destination
from storage import audit, deliveries, destination_states, jobs, lanes, results
from tests.cxr_node.deliver.conftest import Pacs, free_port, serving, wait_for
from tests.cxr_node.deliver.peers import (
    Hl7Peer,
    OrthancPeer,
    WebPeer,
    ack,
    hl7_serving,
    make_notice,
    plan_notice,
    web_serving,
)

pytestmark = pytest.mark.requirement("SRS-DLV-211")


def state_of(node, delivery_id):
    return node.delivery(delivery_id).state


def state(node, name):
    with node.database.read() as connection:
        return destination_states.get(connection, name)


def tell(node, do, *arguments):
    with node.database.begin() as connection:
        return do(connection, *arguments, by="dr.roe", now=utc_now())


@pytest.mark.parametrize(
    ("error", "again", "rests"),
    [
        (Unreachable("x"), True, True),
        (AssociationRefused("x"), True, True),
        (RejectedPermanent("x"), True, True),
        (Busy("x", 503, None), True, True),
        (Refused("full", 0xA700), True, True),
        (Refused("bad", 0xC000), False, False),
        (NotNegotiated("x"), False, False),
        (NotTakenYet("x"), True, False),
        (NotAcknowledged("x"), True, False),
    ],
)
def test_each_class_of_error_has_its_policy(error, again, rests):
    """A refused AE is no network fault, a bad object none of the destination."""
    policy = policy_of(error)
    assert (policy.again, policy.is_of_destination) == (again, rests)
    assert (error.disposition.value == "retry") is again


def test_a_server_that_says_how_long_it_wants_to_be_left_alone_is_believed():
    """Retry-After: else the node asks again while the server asked it not to."""
    assert Rest().after(Busy("x", 429, 120.0), 100.0).until == 220.0
    assert Rest().after(Busy("x", 503, 0.0), 100.0).until == 100.5


def test_a_destination_in_trouble_is_shown_with_its_last_error_and_left_alone(node):
    """An administrator sees which, since when and why, in one row."""
    destination = Pacs(free_port()).destination()
    (delivery_id,) = node.plan("pacs")
    with node.delivering(destination):
        wait_for(lambda: state(node, "pacs").failures >= 2)
    found = state(node, "pacs")
    assert "connection refused" in found.last_error
    assert found.resting_until > found.last_failure_at
    assert found.last_success_at is None
    assert state_of(node, delivery_id) == "SCHEDULED"


def test_a_restart_does_not_forget_that_a_destination_rests(node, pacs):
    """A node that is restarted in a loop must not knock at a PACS that does not know it with each start."""
    (delivery_id,) = node.plan("pacs")
    with node.database.begin() as connection:
        now = utc_now()
        destination_states.note_failure(
            connection, "pacs", error="x", failures=5, resting_until=now + timedelta(seconds=60), now=now
        )
    with node.delivering(pacs.destination()):
        wait_for(lambda: _lane_job(node, "pacs", delivery_id) is not None)
        assert pacs.received == []
        tell(node, lanes.resume, "pacs")
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED", 5)
    found = state(node, "pacs")
    assert (found.failures, found.resting_until) == (0, None)
    assert found.last_success_at is not None


def _lane_job(node, name, delivery_id):
    with node.database.read() as connection:
        return jobs.get(connection, f"deliver:{name}", str(delivery_id))


def test_a_clock_that_was_set_back_holds_no_lane_for_long(node, pacs):
    """A rest until next year was written by a clock that was wrong."""
    with node.database.begin() as connection:
        now = utc_now()
        until = now + timedelta(days=365)
        destination_states.note_failure(connection, "pacs", error="x", failures=1, resting_until=until, now=now)
    lane = Lane(pacs.destination(), node.sender(pacs.destination()), node.database, node.shelf)
    assert lane.hold_s() <= 3600


def test_a_paused_destination_gets_nothing_until_it_is_resumed_over_restarts_too(node, pacs):
    """PACS maintenance over a night: no error, no attempt used up, nothing lost."""
    assert tell(node, lanes.pause, "pacs")
    assert not tell(node, lanes.pause, "pacs")
    (delivery_id,) = node.plan("pacs")
    for _ in range(2):
        with node.delivering(pacs.destination()):
            wait_for(lambda: _lane_job(node, "pacs", delivery_id) is not None)
            assert _lane_job(node, "pacs", delivery_id).attempts == 0
    assert (pacs.received, state(node, "pacs").paused_by) == ([], "dr.roe")
    with node.delivering(pacs.destination()):
        assert tell(node, lanes.resume, "pacs")
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED", 5)
    with node.database.read() as connection:
        told = {event.event: event.actor for event in audit.events(connection)}
    assert told["destination_paused"] == told["destination_resumed"] == "dr.roe"


def test_a_paused_destination_is_not_asked_for_proof_either(node, pacs):
    """It is in maintenance: every question would fail, and after enough of them the proof is given up."""
    (delivery_id,) = node.plan("pacs")
    with node.delivering(pacs.destination()):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
        tell(node, lanes.pause, "pacs")
    with node.database.begin() as connection:
        jobs.schedule(connection, "prove:pacs", str(delivery_id), run_at=utc_now(), now=utc_now())
    other = node.plan("other")[0]
    with node.delivering(pacs.destination(), Destination(name="other", kind="folder", path=str(node.folder / "out"))):
        wait_for(lambda: state_of(node, other) == "DELIVERED")
        assert node.delivery(delivery_id).proof == "asked"
        tell(node, lanes.resume, "pacs")
        wait_for(lambda: node.delivery(delivery_id).proof == "unavailable")


def test_a_paused_destination_holds_up_no_other(node, pacs, tmp_path):
    """One person's maintenance is another's emergency."""
    tell(node, lanes.pause, "outbox")
    first, second = node.plan("outbox", "pacs")
    with node.delivering(pacs.destination(), Destination(name="outbox", kind="folder", path=str(tmp_path / "out"))):
        wait_for(lambda: state_of(node, second) == "DELIVERED", 5)
    assert state_of(node, first) == "SCHEDULED"


@pytest.mark.requirement("SRS-DLV-204")
def test_application_errors_are_tried_a_bounded_number_of_times(node):
    """A RIS that cannot process a message will not for ever; five hundred tries would hide it for a day."""
    with hl7_serving(Hl7Peer(answer=lambda message: ack(message, "AE"))) as peer:
        delivery_id = plan_notice(node, "ris", make_notice())
        with node.delivering(peer.destination()):
            for tries in range(1, APPLICATION_TRIES + 1):
                wait_for(lambda tries=tries: len(peer.received) >= tries)
                if tries == APPLICATION_TRIES:
                    break
                wait_for(lambda tries=tries: node.delivery(delivery_id).attempts >= tries)
                wait_for(lambda: _hasten(node, delivery_id))
            wait_for(lambda: state_of(node, delivery_id) == "FAILED")
    assert len(set(peer.received)) == 1
    assert len(peer.received) == APPLICATION_TRIES
    assert state(node, "ris").failures == 0  # the listener answers: others may fare better


def _hasten(node, delivery_id):
    with node.database.begin() as connection:
        job = jobs.get(connection, "deliver:ris", str(delivery_id))
        if job is None or job.state != jobs.SCHEDULED:
            return job is not None and job.state == jobs.FAILED
        jobs.hasten(connection, "deliver:ris", [str(delivery_id)], run_at=utc_now())
    return True


@pytest.mark.requirement("SRS-DLV-205")
def test_what_a_destination_leaves_out_is_skipped_not_delivered(node):
    """The worklist must not say that a RIS was told what it was not told."""
    with web_serving(WebPeer(answer=OrthancPeer())) as peer:
        delivery_id = plan_notice(node, "orthanc", make_notice(flagged=False))
        with node.delivering(Destination(name="orthanc", kind="orthanc-label", url=peer.url)):
            wait_for(lambda: state_of(node, delivery_id) == "SKIPPED")
    delivery = node.delivery(delivery_id)
    assert (delivery.reason, delivery.delivered_at) == ("not sent: the study is not flagged", None)
    assert state(node, "orthanc").last_success_at is None
    with node.database.read() as connection:
        assert audit.events(connection)[0].event == "delivery_skipped"


@pytest.mark.requirement("SRS-DLV-009")
def test_a_failed_analysis_supersedes_the_notice_before_it_and_not_the_report(node, pacs):
    """A late image that cannot be analysed must not hold back what is known; the priority is told anew."""
    reported, told = generate_uid(), generate_uid()
    (report,) = node.plan("pacs", study_instance_uid=reported)
    notice = plan_notice(node, "hook", make_notice(told))
    with node.database.begin() as connection:
        for uid in (reported, told):
            now = utc_now()
            results.add(connection, uid, status="failed", flagged=False, ai_priority="", outcome={}, now=now)
    with web_serving(WebPeer()) as peer:
        hook = Destination(name="hook", kind="webhook", url=peer.url, timeout_s=2)
        with node.delivering(pacs.destination(), hook):
            wait_for(lambda: state_of(node, report) == "DELIVERED")
            wait_for(lambda: state_of(node, notice) == "SUPERSEDED")
    assert peer.received == []


@pytest.mark.requirement("SRS-DLV-212")
def test_what_failed_is_sent_again_when_a_person_asks(node, pacs):
    """Somebody repaired the PACS: all of its dead letters go, and no other destination's."""
    planned = [node.plan("pacs")[0] for _ in range(2)]
    other = node.plan("other")[0]
    with node.database.begin() as connection:
        deliveries.set_state(connection, other, deliveries.FAILED, now=utc_now())
    pacs.answer = lambda received: 0xC000
    with node.delivering(pacs.destination()):
        wait_for(lambda: {state_of(node, item) for item in planned} == {"FAILED"})
        pacs.answer = lambda received: 0x0000
        assert lanes.resend_failed(node.database, "pacs", by="dr.roe", now=utc_now()) == 2
        wait_for(lambda: {state_of(node, item) for item in planned} == {"DELIVERED"})
    assert len({item.dataset for item in pacs.received}) == 2
    assert len(pacs.received) == 4


@pytest.mark.requirement("SRS-DLV-212")
def test_what_arrived_can_be_sent_again_and_is_the_same(node, pacs):
    """A PACS restored from last week's backup lacks what it took since."""
    (delivery_id,) = node.plan("pacs")
    with node.delivering(pacs.destination(commit=False)):
        wait_for(lambda: state_of(node, delivery_id) == "DELIVERED")
        assert tell(node, lanes.resend, delivery_id).is_sent
        wait_for(lambda: len(pacs.received) == 2 and state_of(node, delivery_id) == "DELIVERED")
    assert pacs.received[0] == pacs.received[1]


@pytest.mark.requirement("SRS-DLV-213")
def test_a_test_that_was_asked_for_elsewhere_is_made_by_the_stage(node, pacs):
    """The page's process must not open connections of its own; and a paused or resting lane can be tested."""
    tell(node, lanes.pause, "gone")
    for name in ("pacs", "gone", "removed"):
        tell(node, lanes.ask_test, name)
    with (
        serving(Pacs(free_port())) as echoing,
        node.delivering(echoing.destination(), Pacs(free_port()).destination("gone")),
    ):
        wait_for(lambda: all(state(node, name).last_test_at for name in ("pacs", "gone", "removed")))
    assert state(node, "pacs").last_test == ""
    assert "connection refused" in state(node, "gone").last_test
    assert "no destination of this name" in state(node, "removed").last_test


@pytest.mark.requirement("SRS-DLV-213")
def test_a_test_that_breaks_is_told_too(node, monkeypatch):
    """Whoever pressed the button waits for an answer."""

    def broken(self) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Folder, "test", broken)
    tell(node, lanes.ask_test, "outbox")
    with node.delivering(Destination(name="outbox", kind="folder", path=str(node.folder / "out"))):
        wait_for(lambda: state(node, "outbox").last_test_at, 20)
    assert state(node, "outbox").last_test == "outbox: the test could not be made: RuntimeError"
