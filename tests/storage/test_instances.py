"""Each received object has a row, and each SOP Instance UID one meaning."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from storage import instances
from storage.errors import DuplicateInstance
from storage.instances import Instance

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def add(connection, sop_instance_uid="1.2.3.4", **changes) -> Instance:
    values = {
        "series_instance_uid": "1.2.3",
        "study_instance_uid": "1.2",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.4.90",
        "variant": 0,
        "size": 15_000_000_000,
        "location": f"instances/ab/{sop_instance_uid}",
        "calling_ae_title": "CR_ROOM_1",
        "called_ae_title": "CXR_NODE",
        "peer_address": "192.0.2.7",
        "association_id": "a1",
        "received_at": NOON,
    }
    return instances.add(connection, sop_instance_uid=sop_instance_uid, **{**values, **changes})


@pytest.mark.requirement("SRS-STO-019")
def test_an_instance_comes_back_as_it_was_added(database):
    """Analysis and delivery know of it only what its row says."""
    with database.begin() as connection:
        added = add(connection)
    with database.read() as connection:
        assert instances.by_sop_instance_uid(connection, "1.2.3.4") == [added]
        assert instances.of_study(connection, "1.2") == [added]
        assert instances.by_sop_instance_uid(connection, "1.2.3") == []
    assert (added.size, added.received_at, added.variant) == (15_000_000_000, NOON, 0)


@pytest.mark.requirement("SRS-STO-019")
def test_a_second_row_for_an_instance_is_refused_and_the_transaction_goes_on(database):
    """The caller answers with what it finds then: the same bytes again, or a conflict to keep apart."""
    with database.begin() as connection:
        first = add(connection, size=1)
        with pytest.raises(DuplicateInstance):
            add(connection, size=2)
        second = add(connection, size=2, variant=1)
        assert instances.by_sop_instance_uid(connection, "1.2.3.4") == [first, second]
        assert [found.size for found in instances.of_study(connection, "1.2")] == [1, 2]


@pytest.mark.requirement("SRS-STO-019")
def test_of_two_associations_that_send_one_instance_at_once_one_adds_it(database):
    """A sender that timed out sends again while the first is still being stored."""
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def receive() -> None:
        start.wait()
        try:
            with database.begin() as connection:
                add(connection)
            outcomes.append("added")
        except DuplicateInstance:
            outcomes.append("duplicate")

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["added", "duplicate", "duplicate", "duplicate"]


@pytest.mark.requirement("SRS-STO-020")
def test_retention_takes_the_oldest_and_what_it_took_may_come_again(database):
    """A study sent again after a year is a new arrival, not a conflict."""
    with database.begin() as connection:
        old = add(connection, "1.1", received_at=NOON - timedelta(days=400))
        older = add(connection, "1.2", received_at=NOON - timedelta(days=500))
        new = add(connection, "1.3")
        before = NOON - timedelta(days=365)
        assert instances.older_than(connection, before, 10) == [older, old]
        assert instances.older_than(connection, before, 1) == [older]
        assert instances.mark_deleted(connection, [older.id, old.id], now=NOON) == 2
        assert instances.mark_deleted(connection, [old.id], now=NOON) == 0
        assert instances.older_than(connection, before, 10) == []
        assert instances.of_study(connection, "1.2") == [new]
        assert instances.by_sop_instance_uid(connection, "1.1") == []
        again = add(connection, "1.1")
        assert again.id not in (old.id, older.id)
        assert instances.by_sop_instance_uid(connection, "1.1") == [again]


@pytest.mark.requirement("SRS-STO-020")
def test_files_that_no_row_names_can_be_told_from_those_that_one_does(database):
    """A crash between the rename and the commit leaves such a file."""
    with database.begin() as connection:
        add(connection, "1.1", location="instances/aa/kept")
        gone = add(connection, "1.2", location="instances/aa/deleted")
        instances.mark_deleted(connection, [gone.id], now=NOON)
        asked = ["instances/aa/kept", "instances/aa/deleted", "instances/aa/left"]
        assert instances.known_locations(connection, asked) == {"instances/aa/kept"}
