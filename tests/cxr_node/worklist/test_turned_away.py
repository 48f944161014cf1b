"""Who is turned away at the DICOM port of the worklist, from the association to the rows that an admin sees."""

import contextlib
import select
import socket
from collections.abc import Callable, Iterator

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from cxr_node.requestor import associate
from cxr_node.settings import Caller, Settings
from cxr_node.worklist import dicom_scp
from cxr_node.worklist.dicom_scp import WorklistScp
from cxr_node.worklist.services import make_services
from storage import Database, audit, callers
from tests.cxr_node.worklist.conftest import Clock
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-CLI-904")


@pytest.fixture
def scp(settings: Settings, database: Database, clock: Clock) -> Iterator[WorklistScp]:
    """A port that one name may use."""
    known = settings.model_copy(update={"caller": (Caller(ae_title="RIS", hosts=("127.0.0.1",)),)})
    made = WorklistScp(known, make_services(known, database, clock))
    made.start()
    yield made
    made.stop()


def ask(scp: WorklistScp, calling: str = "RIS", called: str = "CXR_WORKLIST"):
    """Return an association."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(Verification)
    return associate(ae, "127.0.0.1", scp.port, ae_title=called)


def turned_away(database: Database) -> Callable[[], set[tuple[str, str, str]]]:
    """Return what asks for the rows: calling and called AE title, reason."""

    def rows() -> set[tuple[str, str, str]]:
        with database.read() as connection:
            return {(row.calling_ae_title, row.called_ae_title, row.reason) for row in callers.rejected(connection)}

    return rows


def test_a_stranger_and_a_wrong_name_are_listed_and_in_the_audit_trail(scp, database):
    """A RIS that gets no list is looked for here, as a modality that cannot send is."""
    first = ask(scp)
    assert first.is_established
    first.release()
    assert ask(scp, calling="STRANGER").is_rejected
    assert ask(scp, called="CXR_NODE").is_rejected
    rows = turned_away(database)
    wait_until(lambda: len(rows()) == 2, 20, "both are written")
    assert rows() == {
        ("STRANGER", "CXR_WORKLIST", "worklist:calling_ae_title"),
        ("RIS", "CXR_NODE", "worklist:called_ae_title"),
    }
    with database.read() as connection:
        told = audit.search(connection, audit.Wanted(event="association_refused"), limit=9)
    assert {(item.actor, item.detail["reason"]) for item in told} == {
        ("STRANGER", "worklist:calling_ae_title"),
        ("RIS", "worklist:called_ae_title"),
    }


def test_one_association_too_many_is_refused_for_now(scp, database, monkeypatch):
    """The refusal is a transient one: the caller may come again. The trail does not tell of the node's own state."""
    monkeypatch.setattr(dicom_scp, "MAXIMUM_ASSOCIATIONS", 1)
    held = ask(scp)
    assert held.is_established
    refused = ask(scp)
    assert refused.is_rejected
    assert refused.acceptor.primitive.result == 0x02
    rows = turned_away(database)
    wait_until(lambda: rows() == {("RIS", "CXR_WORKLIST", "worklist:maximum_associations")}, 20, "it is written")
    held.release()
    with database.read() as connection:
        assert not audit.search(connection, audit.Wanted(event="association_refused"), limit=9)


def test_connections_that_say_nothing_do_not_keep_a_caller_out(scp):
    """An address that only connects has its share of the places and no more; everybody else goes on.

    Which of its connections is the one too many is not promised: a thread that just begins is counted twice.
    """
    share = scp._server.most_silent
    silent = [
        socket.create_connection(("127.0.0.1", scp.port), timeout=30, source_address=("127.0.0.2", 0))
        for _ in range(share + 1)
    ]
    try:
        ended = select.select(silent, [], [], 60)[0]
        assert ended, "none of the connections that say nothing was ended"
        with contextlib.suppress(ConnectionResetError):
            assert ended[0].recv(1) == b""
        found = ask(scp)
        assert found.is_established
        found.release()
    finally:
        for connection in silent:
            connection.close()
