"""What a person tells a lane, and what it remembers, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import audit, deliveries, destination_states, jobs, lanes, messages, results
from storage.destination_states import Counts, DestinationState

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def plan(database, uid="1.2", *, kind="sr", destination="pacs", status="analysed", state=None):
    """Add a study's next result and its delivery; return the delivery's id."""
    with database.begin() as connection:
        result = results.add(connection, uid, status=status, flagged=False, ai_priority="", outcome={}, now=NOON)
        found = deliveries.add(connection, result.id, kind=kind, destination=destination, now=NOON).id
        if state:
            deliveries.set_state(connection, found, state, now=NOON)
    return found


@pytest.mark.requirement("SRS-STO-201")
def test_a_destination_that_nothing_is_known_of_is_well(database):
    """A new line in node.toml needs no row."""
    with database.read() as connection:
        assert destination_states.get(connection, "new") == DestinationState("new")


@pytest.mark.requirement("SRS-STO-201")
def test_failure_success_pause_and_test_change_their_own_columns_only(database):
    """Lane, tester and two admins write the same row: none may undo what another wrote."""
    with database.begin() as connection:
        destination_states.note_failure(connection, "pacs", error="down", failures=3, resting_until=LATER, now=NOON)
        assert destination_states.pause(connection, "pacs", by="dr.roe", now=NOON)
        assert not destination_states.pause(connection, "pacs", by="dr.poe", now=NOON)
        destination_states.note_test(connection, "pacs", "port closed", now=NOON)
        destination_states.note_success(connection, "pacs", now=LATER)
        found = destination_states.get(connection, "pacs")
    assert (found.paused, found.paused_by) == (True, "dr.roe")
    assert (found.failures, found.resting_until, found.last_success_at) == (0, None, LATER)
    assert (found.last_error, found.last_failure_at) == ("down", NOON)
    assert (found.last_test, found.last_test_at) == ("port closed", NOON)


@pytest.mark.requirement("SRS-STO-201")
def test_deliveries_are_counted_by_destination(database):
    """What waits, what needs a person, what arrived lately."""
    for number, state in enumerate((None, "FAILED", "DELIVERED", "COMMITTED", "SKIPPED", "SUPERSEDED")):
        plan(database, f"1.{number}", state=state)
    plan(database, "2.1", destination="other")
    with database.read() as connection:
        assert destination_states.counts(connection, now=LATER) == {
            "pacs": Counts(waiting=1, failed=1, delivered=2),
            "other": Counts(waiting=1),
        }
        tomorrow = destination_states.counts(connection, now=NOON + timedelta(days=2))
    assert tomorrow["pacs"].delivered == 0


@pytest.mark.requirement("SRS-STO-202")
@pytest.mark.parametrize("state", ["FAILED", "DELIVERED", "SKIPPED"])
def test_a_resend_opens_the_delivery_and_schedules_its_job(database, state):
    """It counts as no try, and the audit trail says who asked."""
    delivery_id = plan(database, state=state)
    with database.begin() as connection:
        before = deliveries.get(connection, delivery_id)
        assert lanes.resend(connection, delivery_id, by="dr.roe", now=LATER).is_sent
        after = deliveries.get(connection, delivery_id)
        job = jobs.get(connection, "deliver", str(delivery_id))
        event = audit.events(connection)[0]
    assert (after.state, after.attempts) == ("SCHEDULED", before.attempts)
    assert "dr.roe" in after.reason
    assert (job.state, job.run_at) == ("SCHEDULED", LATER)
    assert (event.event, event.actor) == ("delivery_resent", "dr.roe")


@pytest.mark.requirement("SRS-STO-202")
def test_a_delivery_that_waits_for_its_next_try_goes_at_once(database):
    """Nobody wants to wait five minutes for a PACS that is repaired."""
    delivery_id = plan(database)
    with database.begin() as connection:
        jobs.schedule(connection, "deliver:pacs", str(delivery_id), run_at=LATER + timedelta(hours=9), now=NOON)
        assert lanes.resend(connection, delivery_id, by="x", now=LATER).is_sent
        assert jobs.get(connection, "deliver:pacs", str(delivery_id)).run_at == LATER


@pytest.mark.requirement("SRS-STO-202")
def test_what_is_proved_to_be_held_is_not_sent_again(database):
    """Only a lost object needs it, and this one is not lost."""
    delivery_id = plan(database, state="COMMITTED")
    with database.begin() as connection:
        done = lanes.resend(connection, delivery_id, by="x", now=LATER)
    assert (done.is_sent, "proved to be held" in done.reason) == (False, True)


@pytest.mark.requirement("SRS-STO-202")
def test_an_older_revision_is_not_sent_again(database):
    """Two reports of one study, the older arriving last, would be read in the wrong order."""
    old = plan(database, state="DELIVERED")
    new = plan(database, state="FAILED")
    with database.begin() as connection:
        done = lanes.resend(connection, old, by="x", now=LATER)
        assert (done.is_sent, "older revision" in done.reason) == (False, True)
        assert deliveries.get(connection, old).state == "DELIVERED"
    assert lanes.resend_failed(database, "pacs", by="x", now=LATER) == 1
    with database.begin() as connection:
        assert deliveries.get(connection, new).state == "SCHEDULED"
        assert not lanes.resend(connection, 10**6, by="x", now=LATER).is_sent


@pytest.mark.requirement("SRS-STO-202")
def test_after_a_failed_analysis_the_report_is_newest_and_its_notice_is_not(database):
    """A failed analysis tells a new priority, and has no report."""
    report, notice = plan(database), plan(database, "1.3", kind="priority")
    said = plan(database, "1.4", kind="feedback:1")
    with database.begin() as connection:
        for uid in ("1.2", "1.3", "1.4"):
            results.add(connection, uid, status="failed", flagged=False, ai_priority="", outcome={}, now=LATER)
        newest = [lanes.is_newest(connection, deliveries.get(connection, item)) for item in (report, notice, said)]
    assert newest == [True, False, True]


@pytest.mark.requirement("SRS-STO-203")
def test_a_message_is_kept_word_for_word_with_its_answer(database):
    """Also what no parser could read."""
    body, answer = "MSH|^~\\&|ä\rPID|1||山田\r", "MSH|^~\\&\rMSA|AA|1\r"
    delivery_id = plan(database)
    with database.begin() as connection:
        for code in ("DRY-RUN", ""):
            message_id = messages.add(
                connection,
                direction="out",
                peer="ris",
                control_id="1",
                message_type="ORU^R01",
                body=body,
                now=NOON,
                delivery_id=delivery_id,
                code=code,
            )
        messages.acknowledge(connection, message_id, acknowledgement=answer, code="AA")
        first, second = messages.of_delivery(connection, delivery_id)
        assert [item.id for item in messages.of_peer(connection, "ris")] == [second.id, first.id]
    assert (first.code, first.acknowledgement) == ("DRY-RUN", "")
    assert (second.body, second.acknowledgement, second.code) == (body, answer, "AA")


@pytest.mark.requirement("SRS-STO-203")
def test_old_messages_are_forgotten(database):
    """They hold patients' names."""
    with database.begin() as connection:
        for number in range(3):
            messages.add(
                connection,
                direction="in",
                peer="ris",
                control_id=str(number),
                message_type="ORM^O01",
                body="x",
                now=NOON + timedelta(days=number),
            )
        assert messages.forget(connection, before=NOON + timedelta(days=2), limit=10) == 2
        assert [item.control_id for item in messages.of_peer(connection, "ris")] == ["2"]


@pytest.mark.requirement("SRS-STO-202")
def test_a_night_of_refusals_is_sent_again_whole(database, monkeypatch):
    """In several transactions; and what waits for its next try goes at once when the lane is resumed."""
    monkeypatch.setattr(lanes, "_IN_A_TRANSACTION", 2)
    monkeypatch.setattr(lanes, "_AT_ONCE", 2)
    failed = [plan(database, f"1.{number}", state="FAILED") for number in range(5)]
    other = plan(database, "2.1", destination="other", state="FAILED")
    assert lanes.resend_failed(database, "pacs", by="x", now=LATER) == 5
    with database.begin() as connection:
        assert {deliveries.get(connection, item).state for item in failed} == {"SCHEDULED"}
        assert deliveries.get(connection, other).state == "FAILED"
        for number, item in enumerate(failed):
            late = LATER + timedelta(minutes=number)
            for lane in ("deliver:pacs", "deliver:other"):
                jobs.schedule(connection, lane, str(item), run_at=late, now=NOON)
        lanes.resume(connection, "pacs", by="x", now=LATER)
        found = [jobs.get(connection, "deliver:pacs", str(item)).run_at for item in failed]
        assert found == [LATER] * 5
        assert jobs.get(connection, "deliver:other", str(failed[4])).run_at > LATER
