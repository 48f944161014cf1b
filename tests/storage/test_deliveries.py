"""A delivery says where an object goes and how far it got."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import deliveries, results
from storage.deliveries import COMMITTED, DELIVERED, FAILED, SCHEDULED, SUPERSEDED
from storage.errors import StorageError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def connection(database):
    with database.begin() as opened:
        yield opened


def add_result(connection, study_instance_uid="1.2"):
    return results.add(
        connection, study_instance_uid, status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON
    )


def add(connection, result, destination="PACS"):
    return deliveries.add(connection, result.id, kind="sr", destination=destination, now=NOON)


@pytest.mark.requirement("SRS-STO-022")
def test_a_delivery_is_planned_once_for_a_result_a_kind_and_a_destination(connection):
    """A settlement that is done twice must not deliver twice."""
    result = add_result(connection)
    first = add(connection, result)
    assert add(connection, result) == first
    second = add(connection, result, "ARCHIVE")
    assert deliveries.of_study(connection, "1.2") == [first, second]
    assert (first.state, first.study_instance_uid, first.revision, first.attempts) == (SCHEDULED, "1.2", 1, 0)
    with pytest.raises(StorageError, match="result 99"):
        deliveries.add(connection, 99, kind="sr", destination="PACS", now=NOON)


@pytest.mark.requirement("SRS-STO-022")
def test_a_delivery_tells_its_way_from_the_first_try_to_the_commitment(connection):
    """What a person asks first: did it arrive, when, and if not, why."""
    delivery = add(connection, add_result(connection))
    minutes = [NOON + timedelta(minutes=number) for number in range(4)]
    deliveries.set_state(connection, delivery.id, SCHEDULED, now=minutes[1], reason="no connection")
    tried = deliveries.get(connection, delivery.id)
    assert (tried.state, tried.reason, tried.attempts, tried.delivered_at) == (SCHEDULED, "no connection", 1, None)
    deliveries.set_state(
        connection, delivery.id, DELIVERED, now=minutes[2], sop_instance_uid="2.25.7", sop_class_uid=SR
    )
    deliveries.set_state(connection, delivery.id, COMMITTED, now=minutes[3])
    done = deliveries.get(connection, delivery.id)
    assert (done.state, done.reason, done.attempts) == (COMMITTED, "", 2)
    assert (done.sop_instance_uid, done.sop_class_uid) == ("2.25.7", SR)
    assert (done.delivered_at, done.updated_at) == (minutes[2], minutes[3])


@pytest.mark.requirement("SRS-STO-022")
def test_a_state_or_a_delivery_that_is_none_is_refused(connection):
    """A misspelt state would be a delivery that nobody looks for."""
    delivery = add(connection, add_result(connection))
    with pytest.raises(StorageError, match="SENT"):
        deliveries.set_state(connection, delivery.id, "SENT", now=NOON)
    with pytest.raises(StorageError, match="99"):
        deliveries.set_state(connection, 99, DELIVERED, now=NOON)
    assert deliveries.get(connection, 99) is None


@pytest.mark.requirement("SRS-STO-022")
def test_a_newer_revision_stops_what_is_not_delivered_of_older_ones(connection):
    """Two reports of one study annoy; a report delivered stays delivered."""
    first, second, other = add_result(connection), add_result(connection), add_result(connection, "9.9")
    states = {"WAITING": None, "THERE": DELIVERED, "SAFE": COMMITTED, "DEAD": FAILED}
    planned = {name: add(connection, first, name) for name in states}
    for name, state in states.items():
        if state is not None:
            deliveries.set_state(connection, planned[name].id, state, now=NOON)
    newer, foreign = add(connection, second), add(connection, other)
    later = NOON + timedelta(minutes=1)
    stopped = deliveries.supersede_older(connection, "1.2", 2, now=later)
    assert stopped == [planned["WAITING"].id, planned["DEAD"].id]
    assert {delivery.destination: delivery.state for delivery in deliveries.of_study(connection, "1.2")} == {
        "WAITING": SUPERSEDED,
        "THERE": DELIVERED,
        "SAFE": COMMITTED,
        "DEAD": SUPERSEDED,
        "PACS": SCHEDULED,
    }
    assert deliveries.get(connection, newer.id) == newer
    assert deliveries.get(connection, foreign.id) == foreign
    assert deliveries.supersede_older(connection, "1.2", 2, now=later) == []


@pytest.mark.requirement("SRS-STO-022")
def test_deliveries_that_wait_for_commitment_are_found_longest_first(connection):
    """A PACS that never commits must be asked again."""
    result = add_result(connection)
    for number, name in enumerate(("C", "A", "B")):
        delivery = add(connection, result, name)
        deliveries.set_state(connection, delivery.id, DELIVERED, now=NOON + timedelta(minutes=number))
    before = NOON + timedelta(minutes=2)
    waiting = deliveries.in_state(connection, DELIVERED, before=before, limit=10)
    assert [delivery.destination for delivery in waiting] == ["C", "A"]
