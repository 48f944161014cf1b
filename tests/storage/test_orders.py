"""What was ordered meets its study, whichever comes first, and never another patient's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage import audit, jobs, messages, orders, studies
from storage.orders import CANCELED, HL7, MWL, Order
from storage.studies import PatientContext

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RANKS = {"LOW": 0, "ROUTINE": 1, "MEDIUM": 2, "HIGH": 3, "STAT": 4}
ORDER = Order(HL7, "PL1", accession_number="A1", patient_id="P1", priority="STAT", priority_text="S")


def rank(priority: str) -> int:
    return RANKS[priority or "ROUTINE"]


def touch(connection, uid="1.2.3", **context) -> None:
    known = {"accession_number": "A1", "patient_id": "P1", "ordered_priority": "ROUTINE", **context}
    studies.touch(
        connection,
        uid,
        PatientContext(**known),
        ordered_rank=rank(known["ordered_priority"]),
        calling_ae_title="CR_ROOM_1",
        now=NOON,
    )


def apply(connection, uid="1.2.3") -> bool:
    return orders.apply(connection, uid, rank=rank, now=NOON)


@pytest.mark.requirement("SRS-STO-404")
def test_an_order_raises_its_study_and_says_why(database):
    """Ordered and effective priority, the analysis' place in the queue, and a line in the audit trail."""
    with database.begin() as connection:
        orders.put(connection, ORDER, now=NOON)
        assert not apply(connection), "the study is not here"
        touch(connection)
        jobs.schedule(connection, "analyze", "1.2.3", run_at=NOON, now=NOON, priority=1)
        assert apply(connection)
        assert not apply(connection), "once is enough"
        for lower, place in (("LOW", 0), ("HIGH", 3), ("STAT", 4)):
            assert not studies.raise_ordered(connection, "1.2.3", lower, place, "by mistake", NOON)
        study, job = studies.get(connection, "1.2.3"), jobs.get(connection, "analyze", "1.2.3")
        events = [item.event for item in audit.events(connection, study_instance_uid="1.2.3")]
    assert (study.ordered_priority, study.effective_priority, study.priority_rank) == ("STAT", "STAT", 4)
    assert study.ordered_reason == "HL7 order from the RIS"
    assert job.priority == 4
    assert events == ["priority_ordered"]


@pytest.mark.requirement("SRS-STO-404")
def test_a_later_word_of_the_order_lowers_nothing(database):
    """A change to ROUTINE, or a cancellation, is written down; a person at the worklist decides what it means."""
    with database.begin() as connection:
        touch(connection)
        for change in ({}, {"priority": "ROUTINE"}, {"status": CANCELED}):
            orders.put(connection, replace(ORDER, **change), now=NOON)
            apply(connection)
            assert studies.get(connection, "1.2.3").effective_priority == "STAT"
        assert orders.get(connection, HL7, "PL1").status == CANCELED
        touch(connection, "1.2.4")
        assert not apply(connection, "1.2.4"), "a canceled order raises nobody who comes later"


@pytest.mark.requirement("SRS-STO-404")
def test_a_message_that_leaves_out_what_is_known_keeps_it(database):
    """A status change repeats the order number and little else."""
    with database.begin() as connection:
        orders.put(connection, ORDER, now=NOON)
        orders.put(connection, Order(HL7, "PL1", filler_order_number="F1"), now=NOON)
        assert orders.get(connection, HL7, "PL1") == replace(ORDER, filler_order_number="F1")
        orders.put(connection, replace(ORDER, source=MWL), now=NOON)
        assert orders.get(connection, MWL, "PL1") == replace(ORDER, source=MWL)


@pytest.mark.requirement("SRS-STO-405")
@pytest.mark.parametrize(
    ("order", "study", "expected"),
    [
        ({}, {}, True),
        ({"accession_number": "A1 "}, {}, True),
        ({"accession_number": "a1"}, {}, False),
        ({"accession_number": "A2"}, {}, False),
        ({"accession_number": ""}, {"accession_number": ""}, False),
        ({"patient_id": "P2"}, {}, False),
        ({"patient_id": "p1"}, {}, False),
        ({"patient_id": ""}, {}, True),
        ({}, {"patient_id": ""}, True),
        ({"issuer_of_patient_id": "HOSP"}, {}, True),
        ({"issuer_of_patient_id": "HOSP"}, {"issuer_of_patient_id": "CLINIC"}, False),
        ({"accession_number": "", "study_instance_uid": "1.2.3"}, {}, True),
        ({"accession_number": "", "study_instance_uid": "1.2.3", "patient_id": "P2"}, {}, False),
        ({"accession_number": "", "study_instance_uid": "1.2.4"}, {}, False),
        ({"study_instance_uid": "1.2.4"}, {}, True),
    ],
)
def test_an_order_is_of_a_study_that_shares_its_number_and_denies_no_patient(database, order, study, expected):
    """Accession numbers are used again, and by other hospitals: another patient's study is never raised."""
    with database.begin() as connection:
        touch(connection, **study)
        found = orders.put(connection, replace(ORDER, **order), now=NOON)
        assert orders.matches(found, studies.get(connection, "1.2.3")) is expected
        assert apply(connection) is expected
        of_order = {study.study_instance_uid for study in orders.studies_of(connection, found)}
        assert of_order == ({"1.2.3"} if expected else set())


@pytest.mark.requirement("SRS-STO-405")
def test_the_most_urgent_order_counts(database):
    """Two orders of one accession, by HL7 and by worklist."""
    with database.begin() as connection:
        touch(connection, ordered_priority="MEDIUM")
        orders.put(connection, replace(ORDER, priority="HIGH", source=MWL), now=NOON)
        orders.put(connection, replace(ORDER, priority="ROUTINE"), now=NOON)
        orders.put(connection, replace(ORDER, order_key="PL2", priority=""), now=NOON)
        assert apply(connection)
        study = studies.get(connection, "1.2.3")
    assert (study.ordered_priority, study.ordered_reason) == ("HIGH", "worklist of the RIS")


@pytest.mark.requirement("SRS-STO-406")
def test_a_message_is_kept_word_for_word_and_known_again(database):
    """The same control id with other words is another message: senders count anew after a restart."""
    with database.begin() as connection:
        for body, answer in (("MSH|a", "ack 1"), ("MSH|b", "ack 2")):
            messages.add(
                connection,
                direction=messages.IN,
                peer="10.0.0.1",
                control_id="C1",
                message_type="ORM^O01",
                body=body,
                acknowledgement=answer,
                code="AA",
                now=NOON,
            )
        assert orders.answered(connection, "10.0.0.1", "C1", "MSH|a") == "ack 1"
        assert orders.answered(connection, "10.0.0.1", "C1", "MSH|b") == "ack 2"
        assert orders.answered(connection, "10.0.0.1", "C1", "MSH|c") is None
        assert orders.answered(connection, "10.0.0.2", "C1", "MSH|a") is None


@pytest.mark.requirement("SRS-STO-403")
def test_old_orders_and_messages_are_forgotten(database):
    """They hold names and numbers of patients."""
    with database.begin() as connection:
        for number in range(3):
            at = NOON + timedelta(days=number)
            orders.put(connection, replace(ORDER, order_key=f"PL{number}"), now=at)
            messages.add(
                connection,
                direction=messages.IN,
                peer="p",
                control_id=str(number),
                message_type="ORM",
                body="b",
                acknowledgement="a",
                code="AA",
                now=at,
            )
        before = NOON + timedelta(days=2)
        assert orders.forget(connection, before=before, limit=1) == 1
        assert orders.forget(connection, before=before, limit=5) == 1
        assert messages.forget(connection, before=before, limit=5) == 2
        assert orders.get(connection, HL7, "PL2") is not None
        assert orders.answered(connection, "p", "2", "b") == "a"


@pytest.mark.requirement("SRS-STO-407")
def test_what_a_person_has_read_is_raised_by_no_order_and_leaves_the_list_until_it_is_reopened(database):
    """Its place on the list means nothing any more; the first time of reading counts."""
    with database.begin() as connection:
        touch(connection)
        assert studies.mark_read(connection, "1.2.3", NOON)
        assert not studies.mark_read(connection, "1.2.3", NOON + timedelta(hours=1))
        assert not studies.mark_read(connection, "9.9", NOON)
        orders.put(connection, ORDER, now=NOON)
        assert not apply(connection)
        assert not studies.raise_ordered(connection, "1.2.3", "STAT", 4, "by hand", NOON)
        studies.set_outcome(
            connection,
            "1.2.3",
            status="analysed",
            flagged=True,
            ai_priority="HIGH",
            effective_priority="HIGH",
            priority_rank=3,
            notified_at=NOON,
            revision=1,
        )
        study = studies.get(connection, "1.2.3")
        assert studies.listed(connection, since=NOON) == []
        events = [item.event for item in audit.events(connection, study_instance_uid="1.2.3")]
        assert (study.effective_priority, study.ordered_priority, study.read_at) == ("ROUTINE", "ROUTINE", NOON)
        assert studies.reopen(connection, "1.2.3", NOON)
        assert not studies.reopen(connection, "1.2.3", NOON)
        assert apply(connection)
        again = studies.get(connection, "1.2.3")
        assert [item.study_instance_uid for item in studies.listed(connection, since=NOON)] == ["1.2.3"]
    assert events == ["study_marked_read"]
    assert (again.effective_priority, again.read_at, again.reopened) == ("STAT", None, 1)


@pytest.mark.requirement("SRS-STO-407")
def test_a_study_of_a_back_catalogue_run_is_not_listed(database):
    """It was read years ago."""
    with database.begin() as connection:
        touch(connection)
        touch(connection, "1.2.4")
        studies.set_origin(connection, "1.2.4", studies.BACKFILL)
        assert [study.study_instance_uid for study in studies.listed(connection, since=NOON)] == ["1.2.3"]
        assert studies.get(connection, "1.2.4").origin == "backfill"


@pytest.mark.requirement("SRS-STO-404")
def test_the_first_image_is_told_from_a_later_one_and_its_request_is_the_reason(database):
    """What is done once for a study is done with its first image; a default is nobody's order."""
    with database.begin() as connection:
        known = PatientContext(ordered_priority="ROUTINE")
        options = {"ordered_rank": 1, "calling_ae_title": "CR"}
        first = studies.touch(connection, "1.2.3", known, now=NOON, **options)
        assert studies.get(connection, "1.2.3").ordered_reason == ""
        later = NOON + timedelta(seconds=1)
        second = studies.touch(connection, "1.2.3", known, now=later, ordered_reason="request in the images", **options)
        assert (first.is_new, second.is_new) == (True, False)
        assert studies.get(connection, "1.2.3").ordered_reason == "request in the images"
        assert studies.raise_ordered(connection, "1.2.3", "HIGH", 3, "HL7 order from the RIS", NOON)
        studies.touch(connection, "1.2.3", known, now=later, ordered_reason="request in the images", **options)
        assert studies.get(connection, "1.2.3").ordered_reason == "HL7 order from the RIS"


@pytest.mark.requirement("SRS-STO-408")
def test_a_job_that_may_wait_delays_none_that_may_not(database):
    """A second look at the end of a long wait must not take the place of the analysis that is due now."""
    later, sooner = NOON + timedelta(seconds=300), NOON + timedelta(seconds=1)
    with database.begin() as connection:
        jobs.schedule(connection, "analyze", "1", run_at=sooner, now=NOON)
        jobs.schedule(connection, "analyze", "1", run_at=later, now=NOON, keep_sooner=True)
        assert jobs.get(connection, "analyze", "1").run_at == sooner
        (job,) = jobs.claim(connection, ["analyze"], owner="t:1:", now=sooner)
        jobs.schedule(connection, "analyze", "1", run_at=later, now=NOON, keep_sooner=True)
        assert jobs.complete(connection, job, now=sooner)
        again = jobs.get(connection, "analyze", "1")
        assert (again.state, again.run_at) == ("SCHEDULED", later)
        jobs.schedule(connection, "analyze", "1", run_at=sooner, now=NOON)
        assert jobs.get(connection, "analyze", "1").run_at == sooner
        assert jobs.move(connection, "analyze", "1", run_at=later)
        assert jobs.raise_priority(connection, "analyze", "1", priority=4)
        assert not jobs.raise_priority(connection, "analyze", "1", priority=3)
        assert jobs.get(connection, "analyze", "1").priority == 4
        (job,) = jobs.claim(connection, ["analyze"], owner="t:1:", now=later)
        assert not jobs.move(connection, "analyze", "1", run_at=sooner)
        jobs.complete(connection, job, now=later)
        assert not jobs.raise_priority(connection, "analyze", "1", priority=9)
