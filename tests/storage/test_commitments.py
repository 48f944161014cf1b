"""Transactions of storage commitment: those the node asked for, and those it was asked for."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from storage import commitments, deliveries, jobs, results
from storage.commitments import ASKED, ASKING, CLOSED, COMMITTED, EXPIRED, FAILED
from storage.errors import StorageError

pytestmark = pytest.mark.requirement("SRS-STO-101")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SR, OTHER = "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"
UID = "2.25.7"


@pytest.fixture
def connection(database):
    with database.begin() as opened:
        yield opened


@pytest.fixture
def delivery(connection):
    result = results.add(connection, "1.2", status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON)
    made = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=NOON)
    deliveries.set_state(connection, made.id, deliveries.DELIVERED, now=NOON, sop_instance_uid=UID, sop_class_uid=SR)
    deliveries.ask_proof(connection, made.id, now=NOON)
    return made


def begin(connection, delivery, transaction_uid="2.25.1", minutes=0):
    commitments.begin(
        connection,
        transaction_uid,
        delivery_id=delivery.id,
        destination="pacs",
        now=NOON + timedelta(minutes=minutes),
    )


def report(connection, transaction_uid="2.25.1", *, succeeded=(), failed=()):
    return commitments.report(
        connection, transaction_uid, succeeded=succeeded, failed=dict(failed), now=NOON + timedelta(hours=1)
    )


@pytest.mark.parametrize("before", [ASKING, ASKED, EXPIRED])
def test_a_report_is_kept_and_wakes_the_proof_of_its_delivery(connection, delivery, before):
    """Whoever takes the report may be another process than the one that asked."""
    begin(connection, delivery)
    commitments.set_unanswered(connection, "2.25.1", before)
    kept = report(connection, succeeded=[("9.9", "9.9"), (SR, UID)])
    assert (kept.state, kept.failure_reason, kept.delivery_id) == (COMMITTED, None, delivery.id)
    job = jobs.get(connection, "prove:pacs", str(delivery.id))
    assert (job.state, job.run_at) == ("SCHEDULED", NOON + timedelta(hours=1))
    assert report(connection, failed={(SR, UID): 0x0112}.items()) is None, "the first report stands"
    assert commitments.get(connection, "2.25.1") == kept


@pytest.mark.parametrize(
    ("succeeded", "failed", "reason"),
    [([], {(SR, UID): 0x0112}, 0x0112), ([(SR, UID)], {(SR, UID): 0x0119}, 0x0119), ([(OTHER, UID)], {}, 0x0119)],
)
def test_a_report_of_failure_keeps_its_reason(connection, delivery, succeeded, failed, reason):
    """Also where the peer commits to the UID in another SOP class: that is another object."""
    begin(connection, delivery)
    kept = report(connection, succeeded=succeeded, failed=failed.items())
    assert (kept.state, kept.failure_reason) == (FAILED, reason)


def test_a_report_that_nobody_waits_for_changes_nothing(connection, delivery):
    """Unknown, closed, or about another object."""
    begin(connection, delivery)
    assert report(connection, "2.25.404", succeeded=[(SR, UID)]) is None
    assert report(connection, succeeded=[(SR, "2.25.8")]) is None
    commitments.close(connection, delivery.id)
    assert report(connection, succeeded=[(SR, UID)]) is None
    assert commitments.get(connection, "2.25.1").state == CLOSED
    assert jobs.get(connection, "prove:pacs", str(delivery.id)) is None


def test_what_was_reported_is_not_asked_about_any_more(connection, delivery):
    """The process that waits for the answer to its request must not undo the report that came first."""
    begin(connection, delivery)
    assert commitments.set_unanswered(connection, "2.25.1", ASKED)
    report(connection, succeeded=[(SR, UID)])
    assert not commitments.set_unanswered(connection, "2.25.1", EXPIRED)
    begin(connection, delivery, "2.25.2", minutes=5)
    assert [item.state for item in commitments.of_delivery(connection, delivery.id)] == [COMMITTED, ASKING]


@pytest.mark.parametrize("is_report_first", [True, False])
def test_a_report_is_not_put_off_by_the_one_who_asked(database, is_report_first):
    """Two processes at once: the report wants the proof now, the end of the request wants it after the time-out."""
    with database.begin() as connection:
        result = results.add(connection, "1.2", status="analysed", flagged=True, ai_priority="", outcome={}, now=NOON)
        made = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=NOON)
        deliveries.set_state(
            connection, made.id, deliveries.DELIVERED, now=NOON, sop_instance_uid=UID, sop_class_uid=SR
        )
        begin(connection, made)
        jobs.schedule(connection, "prove:pacs", str(made.id), run_at=NOON, now=NOON)
        jobs.claim(connection, ["prove:pacs"], owner="deliver:1", now=NOON)
    holding, done = threading.Event(), threading.Event()

    def first() -> None:
        with database.begin() as connection:
            step(connection, is_report_first)
            holding.set()
            done.wait(0.3)  # the other one waits meanwhile

    def step(connection, is_report) -> None:
        if is_report:
            report(connection, succeeded=[(SR, UID)])
        else:
            is_owed = commitments.set_unanswered(connection, "2.25.1", ASKED)
            at = NOON + timedelta(hours=9) if is_owed else NOON
            jobs.schedule(connection, "prove:pacs", str(made.id), run_at=at, now=NOON)

    thread = threading.Thread(target=first)
    thread.start()
    assert holding.wait(30)
    with database.begin() as connection:
        step(connection, not is_report_first)
    done.set()
    thread.join(10)
    with database.read() as connection:
        job = jobs.get(connection, "prove:pacs", str(made.id))
        assert commitments.get(connection, "2.25.1").state == COMMITTED
    assert job.run_at <= NOON + timedelta(hours=1)


@pytest.mark.requirement("SRS-STO-102")
def test_the_same_request_is_one_and_another_caller_may_use_its_transaction_uid(connection):
    """A modality that missed the answer asks again."""

    def ask(calling="CR_ROOM_1", items=((SR, UID),)):
        return commitments.add_request(
            connection,
            "2.25.1",
            calling_ae_title=calling,
            called_ae_title="CXR_NODE",
            peer_address="192.0.2.1",
            items=items,
            now=NOON,
        )

    first = ask()
    assert ask() == first == commitments.get_request(connection, first.id)
    assert ask(items=((SR, "2.25.9"),)).items == [[SR, UID]]
    assert ask("CR_ROOM_2").id != first.id
    both = ["CR_ROOM_1", "CR_ROOM_2"]
    assert commitments.unreported_callers(connection) == both
    assert [item.id for item in commitments.unreported(connection, both)] == [first.id, ask("CR_ROOM_2").id]
    commitments.set_report(connection, first.id, reported_at=NOON, reason="")
    assert commitments.unreported(connection, ["CR_ROOM_1"]) == []
    assert commitments.unreported_callers(connection) == ["CR_ROOM_2"]


@pytest.mark.requirement("SRS-STO-102")
def test_old_requests_are_forgotten_the_oldest_first(connection):
    """Requests come with every study of every modality, for years."""
    for day in range(4):
        commitments.add_request(
            connection,
            f"2.25.{day}",
            calling_ae_title="CR",
            called_ae_title="CXR_NODE",
            peer_address="",
            items=[(SR, UID)],
            now=NOON + timedelta(days=day),
        )
    before = NOON + timedelta(days=2)
    assert commitments.forget_requests(connection, before=before, limit=1) == 1
    assert commitments.forget_requests(connection, before=before, limit=10) == 1
    assert commitments.forget_requests(connection, before=before, limit=10) == 0
    assert len(commitments.unreported(connection, ["CR"])) == 2


@pytest.mark.requirement("SRS-STO-103")
def test_a_proof_settles_only_what_is_delivered_and_open(connection, delivery):
    """A delivery that was sent again meanwhile is not failed by the answer about the sending before."""
    settle = {"method": "query", "reason": "gone", "now": NOON}
    assert deliveries.send_again(connection, delivery.id, reason="lost", now=NOON)
    found = deliveries.get(connection, delivery.id)
    assert (found.state, found.proof, found.resends, found.attempts) == ("SCHEDULED", "", 1, 1)
    assert not deliveries.settle_proof(connection, delivery.id, deliveries.PROOF_FAILED, **settle)
    deliveries.set_state(connection, delivery.id, deliveries.DELIVERED, now=NOON)
    deliveries.ask_proof(connection, delivery.id, now=NOON)
    assert deliveries.settle_proof(connection, delivery.id, deliveries.PROOF_UNAVAILABLE, **settle)
    assert deliveries.get(connection, delivery.id).state == "DELIVERED"
    assert deliveries.settle_proof(connection, delivery.id, deliveries.PROVED, **settle)
    found = deliveries.get(connection, delivery.id)
    assert (found.state, found.proof, found.proof_at) == ("COMMITTED", "proved", NOON)
    assert not deliveries.settle_proof(connection, delivery.id, deliveries.PROOF_FAILED, **settle)
    assert not deliveries.send_again(connection, delivery.id, reason="lost", now=NOON)
    with pytest.raises(StorageError, match="expected proved, unavailable or failed"):
        deliveries.settle_proof(connection, delivery.id, "maybe", **settle)


@pytest.mark.requirement("SRS-STO-103")
def test_choosing_what_to_send_is_no_try(connection, delivery):
    """The count of tries is what an administrator reads; a lesser SR class is no failure."""
    deliveries.choose(
        connection, delivery.id, sop_instance_uid="2.25.9", sop_class_uid=OTHER, reason="another class", now=NOON
    )
    found = deliveries.get(connection, delivery.id)
    assert (found.sop_instance_uid, found.sop_class_uid, found.reason) == ("2.25.9", OTHER, "another class")
    assert found.attempts == delivery.attempts + 1, "that of the delivery itself"
