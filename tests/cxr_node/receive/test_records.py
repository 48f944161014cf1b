"""Associations that finish images at the same time share a transaction, and nothing else."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cxr_node.receive import records
from cxr_node.receive.records import GroupWriter, Outcome, Record, Sender
from storage import Database, instances, jobs, manifests, studies
from storage.errors import DuplicateInstance, StorageBusy
from storage.manifests import Listed
from storage.studies import PatientContext
from tests.databases import migrated

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Any:
    database = migrated(f"sqlite:///{tmp_path / 'db'}")
    yield database
    database.dispose()


def make_record(number: int, *, study: str = "1.2.9", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "sop_instance_uid": f"1.2.3.{number}",
        "series_instance_uid": "1.2.8",
        "study_instance_uid": study,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "variant": 0,
        "size": 1,
        "location": f"instances/00/{number}.dcm",
        "sender": Sender("CR_ROOM_1", "CXR_NODE", "192.0.2.1", "a1"),
        "at": NOON + timedelta(seconds=number),
        "context": PatientContext(),
        "names_priority": False,
    }
    return Record(**{**values, **changes})


def make_writer(database: Any) -> GroupWriter:
    return GroupWriter(database, quiet_period_s=1.0, asks_for_orders=False)


class Slow:
    """A database whose first transaction waits until it is let go, and that counts transactions."""

    def __init__(self, database: Database) -> None:
        self._database, self.dialect = database, database.dialect
        self.has_begun, self.may_go = threading.Event(), threading.Event()
        self.transactions = 0
        self.fails_at_commit = False

    @contextlib.contextmanager
    def begin(self) -> Any:
        self.transactions += 1
        if self.transactions == 1:
            self.has_begun.set()
            assert self.may_go.wait(30)
        with self._database.begin() as connection:
            yield connection
        if self.fails_at_commit:
            raise StorageBusy("connection lost during commit")


def write_together(slow: Slow, writer: GroupWriter, first: Record, others: list[Record]) -> list[Outcome]:
    """Write `first`, and the others while it is being written; return what came of each."""
    with ThreadPoolExecutor(1 + len(others)) as pool:
        waiting = [pool.submit(writer.write, first)]
        assert slow.has_begun.wait(30)
        for number, record in enumerate(others):
            waiting.append(pool.submit(writer.write, record))
            while len(writer._waiting) < number + 1:
                threading.Event().wait(0.005)
        slow.may_go.set()
        return [item.result(30) for item in waiting]


def stored(database: Database, record: Record) -> int:
    with database.read() as connection:
        return len(instances.by_sop_instance_uid(connection, record.sop_instance_uid))


@pytest.mark.requirement("SRS-RCV-332")
def test_those_who_come_while_one_is_written_share_the_next_transaction(database):
    """Eight associations wait for two commits, not for eight."""
    slow = Slow(database)
    sent = [make_record(number, study=f"1.2.9.{number % 3}") for number in range(8)]
    outcomes = write_together(slow, make_writer(slow), sent[0], sent[1:])
    assert [outcome.error for outcome in outcomes] == [None] * 8
    assert sum(outcome.is_new_study for outcome in outcomes) == 3
    assert slow.transactions == 2
    assert all(stored(database, record) == 1 for record in sent)
    with database.read() as connection:
        assert jobs.counts(connection) == {("analyze", "SCHEDULED"): 3}
        assert studies.get(connection, "1.2.9.1").images == 3


@pytest.mark.requirement("SRS-RCV-903")
@pytest.mark.parametrize(("dialect", "transactions"), [("sqlite", 2), ("postgresql", 3)])
def test_associations_that_end_share_a_transaction(database, dialect, transactions):
    """Each end makes the jobs of its studies due. Where several write at once, records and ends stay apart: crosswise,
    two transactions would each hold the job that the other waits for."""
    slow = Slow(database)
    writer = make_writer(slow)
    writer._is_alone = dialect == "sqlite"
    sent = [make_record(number, study=f"1.2.9.{number}") for number in range(3)]
    for record in sent[1:]:
        make_writer(database).write(record)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(writer.write, sent[0])]
        assert slow.has_begun.wait(30)
        waiting.append(pool.submit(writer.hasten, ["1.2.9.1"], NOON))
        waiting.append(pool.submit(writer.write, make_record(9, study="1.2.9.7")))
        waiting.append(pool.submit(writer.hasten, ["1.2.9.2"], NOON))
        while len(writer._waiting) < 3:
            threading.Event().wait(0.005)
        slow.may_go.set()
        assert [item.result(30).error for item in waiting] == [None] * 4
    assert slow.transactions == transactions
    with database.read() as connection:
        due = {number: jobs.get(connection, "analyze", f"1.2.9.{number}").run_at for number in (0, 1, 2, 7)}
    assert due[1] == due[2] == NOON
    assert due[0] > NOON
    assert due[7] > NOON


@pytest.mark.requirement("SRS-RCV-332")
def test_a_duplicate_is_told_to_its_own_sender_only(database):
    """The others of its transaction are kept."""
    slow = Slow(database)
    sent = [make_record(1), make_record(2), make_record(1, location="instances/00/x.dcm"), make_record(3)]
    outcomes = write_together(slow, make_writer(slow), sent[0], sent[1:])
    assert [type(outcome.error) for outcome in outcomes] == [type(None), type(None), DuplicateInstance, type(None)]
    assert slow.transactions == 2
    assert [stored(database, make_record(number)) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.requirement("SRS-RCV-332")
def test_a_record_that_cannot_be_written_does_not_take_the_others_with_it(database):
    """A transaction fails as a whole: then each is tried alone."""
    slow = Slow(database)
    sent = [make_record(0), make_record(1), make_record(2, size=object()), make_record(3)]
    outcomes = write_together(slow, make_writer(slow), sent[0], sent[1:])
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True]
    assert not outcomes[2].is_of_unknown_end
    assert [stored(database, record) for record in sent] == [1, 1, 0, 1]


@pytest.mark.requirement("SRS-RCV-332")
def test_a_commit_of_unknown_end_is_told_to_all_and_not_done_again(database):
    """Done again, rows that are there would look like those of another, and their files be taken away."""
    slow = Slow(database)
    slow.fails_at_commit = True
    sent = [make_record(number) for number in range(4)]
    outcomes = write_together(slow, make_writer(slow), sent[0], sent[1:])
    assert all(isinstance(outcome.error, StorageBusy) and outcome.is_of_unknown_end for outcome in outcomes)
    assert slow.transactions == 2


@pytest.mark.requirement("SRS-RCV-332")
def test_a_locked_database_is_waited_for_once(database, monkeypatch):
    """Each alone would wait as long again, one after the other, while their senders' time-outs run."""
    slow = Slow(database)
    monkeypatch.setattr(records, "_SOON_S", -1.0)
    sent = [make_record(0), make_record(1, size=object()), make_record(2)]
    outcomes = write_together(slow, make_writer(slow), sent[0], sent[1:])
    assert [outcome.error is None for outcome in outcomes] == [True, False, False]
    assert slow.transactions == 2
    assert [outcome.is_of_unknown_end for outcome in outcomes[1:]] == [False, False]


@pytest.mark.requirement("SRS-RCV-332")
def test_many_threads_are_all_served(database):
    """Nobody is forgotten when the turn is handed on."""
    writer = make_writer(database)
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda number: writer.write(make_record(number)), range(200)))
    assert [outcome.error for outcome in outcomes] == [None] * 200
    assert not writer._is_writing
    with database.read() as connection:
        assert studies.get(connection, "1.2.9").images == 200


@pytest.mark.requirement("SRS-RCV-330")
def test_a_long_manifest_is_not_counted_for_every_image(database, monkeypatch):
    """A study of n announced images must not cost n times n; and the last image makes it due at once."""
    announced = [make_record(number) for number in range(400)]
    with database.begin() as connection:
        listed = [Listed(item.sop_instance_uid, item.sop_class_uid, "1.2.8", True) for item in announced]
        manifests.add(
            connection,
            "ian",
            "7.1",
            ["1.2.9"],
            state=manifests.COMPLETED,
            instances=listed,
            calling_ae_title="PACS",
            now=NOON,
        )
    looks = []
    real = manifests.awaited
    monkeypatch.setattr(manifests, "awaited", lambda *arguments: looks.append(1) or real(*arguments))
    writer = make_writer(database)
    for record in announced[:-1]:
        assert writer.write(record).error is None
    assert len(looks) < 80
    with database.read() as connection:
        assert jobs.next_run_at(connection, ["analyze"]) > announced[-2].at
    assert writer.write(announced[-1]).error is None
    with database.read() as connection:
        assert jobs.next_run_at(connection, ["analyze"]) == announced[-1].at
