"""Who sent and who was turned away, from a real acceptor to the rows that an admin sees."""

import socket
import time
from datetime import UTC, datetime

import pytest
from pynetdicom import AE

from cxr_node import metrics
from cxr_node.receive.callers import OBEYED_WITHIN_S, Callers
from cxr_node.requestor import associate
from cxr_node.settings import Caller
from cxr_node.work import recorder as recorder_module
from cxr_node.work.recorder import AUDITED_PER_MINUTE, MOST_CALLERS, Recorder
from storage import associations, audit, callers
from storage.associations import ABORTED, ENDED, LOST, RELEASED, Association
from storage.callers import ROWS_OF_AN_ADDRESS
from storage.errors import StorageBusy
from tests.builders import make_radiograph_dataset
from tests.databases import migrated
from tests.system.conftest import wait_until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def database(tmp_path):
    opened = migrated(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


def ended(receiver):
    """Return the associations that are written down."""
    with receiver.database.read() as connection:
        return associations.recent(connection, limit=100)


def turned_away(database):
    """Return the callers that were turned away."""
    with database.read() as connection:
        return callers.rejected(connection)


def open_association(receiver, calling="CR_ROOM_1", called="CXR_NODE"):
    """Open an association for C-ECHO, whatever becomes of it."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(VERIFICATION)
    return associate(ae, "127.0.0.1", receiver.port, ae_title=called)


@pytest.mark.requirement("SRS-ADM-101")
def test_every_association_is_written_down_with_how_it_ended(receiver):
    """Released, aborted by the sender, lost with its cable: three different calls to the modality's service."""
    dataset = make_radiograph_dataset()
    assert receiver.send(dataset).Status == 0x0000
    open_association(receiver, "ABORTS").abort()
    lost = open_association(receiver, "IS_LOST")
    lost.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: len(ended(receiver)) == 3, 10, "three rows")
    found = {item.calling_ae_title: item for item in ended(receiver)}
    assert {title: item.outcome for title, item in found.items()} == {
        "CR_ROOM_1": RELEASED,
        "ABORTS": ABORTED,
        "IS_LOST": LOST,
    }
    sent = found["CR_ROOM_1"]
    (kept,) = receiver.of(dataset.SOPInstanceUID)
    assert (sent.association_id, sent.bytes) == (kept.association_id, kept.size)
    assert (sent.instances, sent.refused, sent.called_ae_title, sent.peer_address) == (1, 0, "CXR_NODE", "127.0.0.1")
    assert sent.opened_at <= kept.received_at <= sent.closed_at


@pytest.mark.requirement("SRS-ADM-101")
def test_a_refused_image_counts_and_the_stop_of_the_node_is_no_fault_of_the_sender(start_receiver, transport):
    """What was open at a restart must not look like a broken cable."""
    receiver = start_receiver(receive__transport=transport)
    assert receiver.send(make_radiograph_dataset(StudyInstanceUID=None)).Status == 0xC002
    wait_until(lambda: ended(receiver), 10, "its row")
    assert [(item.instances, item.refused, item.bytes) for item in ended(receiver)] == [(0, 1, 0)]
    open_association(receiver, "STAYS")
    receiver.scp.close()
    found = {item.calling_ae_title: item for item in ended(receiver)}
    assert (found["STAYS"].outcome, found["STAYS"].reason) == (ENDED, "the node stopped")


@pytest.mark.requirement("SRS-ADM-101")
def test_a_probe_is_counted_and_no_row(receiver):
    """A load balancer connects and leaves, every second."""

    def probes() -> float:
        return metrics.ASSOCIATIONS.labels("probe")._value.get()

    before = probes()
    socket.create_connection(("127.0.0.1", receiver.port)).close()
    wait_until(lambda: probes() == before + 1, 10, "the probe in the metric")
    open_association(receiver).release()
    wait_until(lambda: ended(receiver), 10, "a row")
    assert len(ended(receiver)) == 1


@pytest.mark.requirement("SRS-ADM-103")
def test_an_unknown_caller_is_listed_let_in_and_out_again_while_the_node_runs(start_receiver, transport):
    """The new modality's first attempt is a row with a button, not a call to who can edit node.toml."""
    receiver = start_receiver(receive__transport=transport, caller='[{ae_title="KNOWN", hosts=["127.0.0.1"]}]')
    assert open_association(receiver, "CT_NEW").is_rejected
    wait_until(lambda: turned_away(receiver.database), 10, "the caller on the list")
    (row,) = turned_away(receiver.database)
    assert (row.calling_ae_title, row.peer_address, row.reason) == ("CT_NEW", "127.0.0.1", "calling_ae_title")
    with receiver.database.begin() as connection:
        allowed = callers.allow(connection, row.calling_ae_title, row.peer_address, by="kim", now=NOON)

    def is_taken() -> bool:
        association = open_association(receiver, "CT_NEW")
        if association.is_established:
            association.release()
        return not association.is_rejected

    started = time.monotonic()
    wait_until(is_taken, 10, "the caller is let in")
    assert time.monotonic() - started < OBEYED_WITHIN_S + 2
    assert open_association(receiver, "CT_OTHER").is_rejected
    with receiver.database.begin() as connection:
        callers.revoke(connection, allowed.id, by="kim", now=NOON)
    wait_until(lambda: not is_taken(), 10, "the caller is let in no more")


@pytest.mark.requirement("SRS-ADM-102")
def test_each_reason_is_told_apart(start_receiver):
    """Letting a caller in does not help one that calls another name, or a node that is full."""
    receiver = start_receiver(receive__maximum_associations="2", receive__per_caller_associations="1")
    held = [open_association(receiver, "A"), open_association(receiver, "B")]
    for calling, called in (("A", "CXR_NODE"), ("A", "OTHER"), ("C", "CXR_NODE")):
        assert open_association(receiver, calling, called).is_rejected
    held[1].release()
    wait_until(lambda: receiver.scp.open_associations == 1, 10, "a place is free")
    assert open_association(receiver, "A").is_rejected
    held[0].release()
    wait_until(lambda: sum(row.attempts for row in turned_away(receiver.database)) == 4, 10, "all on the list")
    found = {(row.calling_ae_title, row.called_ae_title, row.reason) for row in turned_away(receiver.database)}
    assert found == {
        ("A", "CXR_NODE", "maximum_associations"),
        ("A", "OTHER", "called_ae_title"),
        ("C", "CXR_NODE", "maximum_associations"),
        ("A", "CXR_NODE", "per_caller_associations"),
    }
    with receiver.database.read() as connection:
        told = [event.detail["reason"] for event in audit.events(connection) if event.event == "association_refused"]
    assert told == ["called_ae_title"]


@pytest.mark.requirement("SRS-ADM-102")
def test_a_flood_of_invented_names_costs_a_bounded_number_of_rows(database):
    """Whoever reaches the port could else fill disk and audit trail by connecting."""
    moment = 0.0
    recorder = Recorder(database, now=lambda: NOON, gather_s=0.01, clock=lambda: moment)
    for number in range(MOST_CALLERS + 300):
        recorder.rejected(f"X{number}", "CXR_NODE", "10.9.9.9", "calling_ae_title")
    recorder.close()
    assert len(turned_away(database)) == ROWS_OF_AN_ADDRESS
    with database.read() as connection:
        assert len(audit.events(connection, limit=1000)) <= AUDITED_PER_MINUTE
    moment = 61.0
    after = Recorder(database, now=lambda: NOON, gather_s=0.01, clock=lambda: moment)
    after.rejected("LATER", "CXR_NODE", "10.9.9.9", "calling_ae_title")
    after.close()
    with database.read() as connection:
        assert audit.events(connection, limit=1)[0].actor == "LATER"


@pytest.mark.requirement("SRS-ADM-102")
def test_attempts_past_the_limit_of_a_minute_are_told_as_a_number(database):
    """The trail says how many there were, though not their invented names."""
    moment = 0.0
    recorder = Recorder(database, now=lambda: NOON, gather_s=0.01, clock=lambda: moment)
    for number in range(AUDITED_PER_MINUTE + 7):
        recorder.rejected(f"X{number}", "CXR_NODE", "10.9.9.9", "calling_ae_title")
    wait_until(lambda: turned_away(database), 10, "the first are written")
    moment = 61.0
    recorder.rejected("LATER", "CXR_NODE", "10.9.9.9", "calling_ae_title")
    recorder.close()
    with database.read() as connection:
        told = audit.events(connection, limit=1000)
    singly = sum(event.event == "association_refused" for event in told)
    together = sum(event.detail["attempts"] for event in told if event.event == "associations_refused")
    assert singly + together == AUDITED_PER_MINUTE + 8
    assert together > 0


@pytest.mark.requirement("SRS-ADM-101")
def test_what_the_database_did_not_take_is_written_once_it_does(database, monkeypatch):
    """A backup locks it for a minute; the list of that minute is not lost, and no sender waits for it."""
    recorder = Recorder(database, gather_s=0.01)
    calls = []

    def add(connection, items):
        calls.append(len(items))
        if len(calls) == 1:
            raise StorageBusy("locked")
        associations.add(connection, items)

    monkeypatch.setattr(recorder_module, "associations", type("Shut", (), {"add": staticmethod(add)}))
    recorder.ended(Association("a1", "CR", "CXR_NODE", "10.1.0.5", NOON, NOON))
    wait_until(lambda: len(calls) >= 2, 10, "a second try")
    recorder.close()
    with database.read() as connection:
        assert [item.association_id for item in associations.recent(connection, limit=9)] == ["a1"]


@pytest.mark.requirement("SRS-ADM-103")
def test_who_is_allowed_by_admins_is_read_once_a_second_at_most(database):
    """A flood of callers must not become one of queries; while the database is gone, what was known holds."""
    moment = 0.0
    book = Callers([Caller(ae_title="KNOWN", hosts=("10.0.0.0/8",))], database, clock=lambda: moment)
    assert not book.allows("CT", "10.1.0.77")
    with database.begin() as connection:
        callers.allow(connection, "CT", "10.1.0.0/24", by="kim", now=NOON)
    assert not book.allows("CT", "10.1.0.77")
    moment = OBEYED_WITHIN_S
    assert book.allows("CT", "10.1.0.77")
    assert not book.allows("CT", "10.1.1.77")
    assert book.allows("KNOWN", "10.200.0.1")
    database.downgrade("base")
    moment = 10.0
    assert book.allows("CT", "10.1.0.77")
