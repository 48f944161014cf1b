"""Work items, subscriptions and queued events as rows, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import Database, jobs, studies, subscriptions, work_items
from storage.errors import StorageError
from storage.studies import PatientContext
from storage.work_items import AI, COMPLETED, EXTERNAL, IN_PROGRESS, READING, SCHEDULED

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=1)


def add_study(database: Database, uid: str, *, at: datetime = NOON, origin: str = "") -> None:
    """Put a study there as receive does."""
    with database.begin() as connection:
        studies.touch(connection, uid, PatientContext(), ordered_rank=1, calling_ae_title="CR", now=at)
        if origin:
            studies.set_origin(connection, uid, origin)


def changed(database: Database, **options: object) -> list[str]:
    """Return the studies that stand otherwise than announced."""
    with database.read() as connection:
        found = work_items.changed_studies(connection, since=NOON - timedelta(hours=1), limit=100, **options)
    return [one.study_instance_uid for one in found]


@pytest.mark.requirement("SRS-STO-501")
def test_a_uid_has_one_work_item(database):
    """Two systems that create the same one must not share it without knowing."""
    with database.begin() as connection:
        first = work_items.add(connection, "1.2.3", kind=EXTERNAL, attributes={"00741204": {"vr": "LO"}}, now=NOON)
        assert first is not None
        assert (first.state, first.transaction_uid, first.attributes) == (SCHEDULED, "", {"00741204": {"vr": "LO"}})
        assert work_items.add(connection, "1.2.3", kind=EXTERNAL, now=LATER) is None
        assert work_items.get(connection, "1.2.3") == first
        assert work_items.get(connection, "1.2.4") is None


@pytest.mark.requirement("SRS-STO-501")
def test_the_lock_survives_and_a_change_on_old_knowledge_is_refused(database):
    """Whoever claimed it keeps it, whatever another process still believes."""
    with database.begin() as connection:
        old = work_items.add(connection, "1.2.3", kind=EXTERNAL, now=NOON)
        assert old is not None
        work_items.change(connection, old, state=IN_PROGRESS, transaction_uid="2.25.1", performer="RIS", now=LATER)
    with (
        pytest.raises(StorageError, match=r"work item 1\.2\.3 was changed by somebody else"),
        database.begin() as other,
    ):
        work_items.change(other, old, state=IN_PROGRESS, transaction_uid="2.25.2", performer="PACS", now=LATER)
    with database.read() as connection:
        row = work_items.get(connection, "1.2.3")
    assert row is not None
    assert (row.state, row.transaction_uid, row.performer) == (IN_PROGRESS, "2.25.1", "RIS")


@pytest.mark.requirement("SRS-STO-501")
def test_what_was_acted_on_is_told_from_what_was_only_announced(database):
    """A list of 20,000 must not read 20,000 rows to learn that nobody claimed any."""
    with database.begin() as connection:
        plain = work_items.add(connection, "1.1", kind=READING, study_instance_uid="1", now=NOON)
        claimed = work_items.add(connection, "1.2", kind=READING, study_instance_uid="2", now=NOON)
        work_items.add(connection, "1.3", kind=AI, study_instance_uid="2", now=NOON)
        old = work_items.add(connection, "1.4", kind=EXTERNAL, now=NOON - timedelta(days=30))
        done = work_items.add(connection, "1.5", kind=EXTERNAL, now=NOON - timedelta(days=30))
        assert plain
        assert claimed
        assert old
        assert done
        work_items.set_announced(connection, plain, "1:pending:0:")
        work_items.change(connection, claimed, state=IN_PROGRESS, transaction_uid="2.25.1", now=LATER)
        work_items.change(connection, done, state=COMPLETED, now=NOON - timedelta(days=29))
        since = NOON - timedelta(hours=72)
        assert [row.sop_instance_uid for row in work_items.acted_on(connection, since=since)] == ["1.2", "1.3", "1.4"]
        assert [row.sop_instance_uid for row in work_items.acted_on(connection, since=since, states=[IN_PROGRESS])] == [
            "1.2"
        ]
        assert [row.sop_instance_uid for row in work_items.acted_on(connection, since=since, kinds=[AI])] == ["1.3"]
        marks = work_items.acted_on(connection, since=since)
        rows = work_items.of_ids(connection, [mark.id for mark in marks])
        assert {row.sop_instance_uid: row.acted_at for row in rows.values()} == {
            mark.sop_instance_uid: mark.acted_at for mark in marks
        }
        assert [mark.acted_at for mark in marks] == [LATER, None, None]
        found = work_items.reading(connection, "2")
        assert found is not None
        assert found.sop_instance_uid == "1.2"
        assert work_items.reading(connection, "") is None


@pytest.mark.requirement("SRS-STO-502")
def test_a_study_is_changed_until_its_sign_is_announced(database):
    """Priority, status, revision and the open analysis make the sign; anything of it that changes is told again."""
    add_study(database, "1.2.3")
    assert changed(database) == changed(database, without_row=True) == ["1.2.3"]
    with database.begin() as connection:
        row = work_items.add(connection, "1.1", kind=READING, study_instance_uid="1.2.3", now=NOON)
        assert row is not None
        sign = work_items.sign_of(connection, "1.2.3")
        assert sign == "1:pending:0:"
        work_items.set_announced(connection, row, sign)
    assert changed(database) == changed(database, without_row=True) == []
    with database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2.3", run_at=NOON, now=NOON)
    assert changed(database) == ["1.2.3"]
    with database.begin() as connection:
        assert work_items.sign_of(connection, "1.2.3") == "1:pending:0:SCHEDULED"
        [job] = jobs.claim(connection, ["analyze"], owner="a", now=NOON)
        assert work_items.sign_of(connection, "1.2.3") == "1:pending:0:IN_PROGRESS"
        jobs.complete(connection, job, now=NOON)
        assert work_items.sign_of(connection, "1.2.3") == "1:pending:0:"
        studies.raise_ordered(connection, "1.2.3", "STAT", 4, "order", NOON)
        assert work_items.sign_of(connection, "1.2.3") == "4:pending:0:"
        assert work_items.sign_of(connection, "9") is None
    assert changed(database) == ["1.2.3"]


@pytest.mark.requirement("SRS-STO-502")
def test_old_studies_and_those_of_a_back_catalogue_run_have_no_tasks(database):
    """Nobody reads them here."""
    add_study(database, "1.2.3", at=NOON - timedelta(days=10))
    add_study(database, "1.2.4", origin=studies.BACKFILL)
    assert changed(database) == []


@pytest.mark.requirement("SRS-STO-503")
def test_a_subscription_is_made_changed_and_ended(database):
    """One row for a receiver and a work item; asked for again it is changed, not doubled."""
    with database.begin() as connection:
        subscriptions.put(connection, "RIS", "1.2", keys={}, deletion_lock=True, now=NOON)
        subscriptions.put(connection, "RIS", "1.2", keys={"by": "x"}, deletion_lock=False, now=LATER)
        subscriptions.put(connection, "RIS", "1.3", keys={}, deletion_lock=False, now=NOON)
        subscriptions.put(connection, "PACS", "1.3", keys={}, deletion_lock=False, now=NOON)
        found = subscriptions.get(connection, "RIS", "1.2")
        assert found is not None
        assert (found.keys, found.deletion_lock, found.created_at) == ({"by": "x"}, False, NOON)
        assert subscriptions.receivers(connection) == ["PACS", "RIS"]
        assert [one.ae_title for one in subscriptions.to_instances(connection, ["1.3"])] == ["RIS", "PACS"]
        assert [one.sop_instance_uid for one in subscriptions.of_receiver(connection, "RIS")] == ["1.2", "1.3"]
        assert subscriptions.remove(connection, "RIS", "1.2") == 1
        assert subscriptions.remove(connection, "RIS") == 1
        assert subscriptions.get(connection, "RIS", "1.2") is None
        assert subscriptions.receivers(connection) == ["PACS"]


@pytest.mark.requirement("SRS-STO-503")
def test_events_wait_in_order_for_each_receiver(database):
    """A receiver must not hear COMPLETED before IN PROGRESS."""
    with database.begin() as connection:
        for number in (1, 2, 3):
            subscriptions.enqueue(connection, "RIS", number, "1.2", {"a": number}, now=NOON)
        subscriptions.enqueue(connection, "PACS", 1, "1.2", {}, now=NOON)
        first, second, _ = subscriptions.pending(connection, "RIS", limit=10)
        assert (first.event_type, first.information, second.event_type) == (1, {"a": 1}, 2)
        assert len(subscriptions.pending(connection, "RIS", limit=2)) == 2
        subscriptions.forget(connection, [first.id, second.id])
        assert [event.event_type for event in subscriptions.pending(connection, "RIS", limit=10)] == [3]
        assert sorted(subscriptions.waiting_receivers(connection)) == ["PACS", "RIS"]
        assert subscriptions.count_pending(connection, "RIS") == 1
        assert subscriptions.give_up(connection, "RIS") == 1
        assert subscriptions.waiting_receivers(connection) == ["PACS"]
        subscriptions.forget(connection, [])
