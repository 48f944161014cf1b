"""Reports of storage commitment to those who asked the node."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from cxr_node.clock import utc_now
from cxr_node.deliver import proof
from cxr_node.deliver.commitment import PUSH_MODEL, Reporter
from cxr_node.settings import Peer, Settings
from storage import audit, commitments, instances, jobs
from tests.cxr_node.deliver.conftest import free_port

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass
class Modality:
    """A peer that hears reports; `answer` is the status it gives."""

    port: int
    answer: int = 0x0000
    heard: list[tuple[int, Dataset]] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    roles: list[tuple[bool | None, bool | None]] = field(default_factory=list)

    def peer(self) -> Peer:
        return Peer(ae_title="CR_ROOM_1", host="127.0.0.1", port=self.port)


@contextlib.contextmanager
def listening(modality: Modality) -> Iterator[Modality]:
    def hear(event: evt.Event) -> tuple[int, None]:
        modality.heard.append((event.request.EventTypeID, event.event_information))
        modality.callers.append(event.assoc.requestor.ae_title.strip())
        context = event.assoc.accepted_contexts[0]
        modality.roles.append((context.as_scu, context.as_scp))
        return modality.answer, None

    ae = AE(ae_title="CR_ROOM_1")
    ae.require_called_aet = True
    ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", modality.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hear)])
    try:
        yield modality
    finally:
        server.shutdown()


@pytest.fixture
def modality() -> Iterator[Modality]:
    with listening(Modality(free_port())) as running:
        yield running


def settings_of(node, *peers: Peer) -> Settings:
    return Settings(node={"data_dir": str(node.folder / "var")}, peer=peers)


def keep_image(node, sop_class_uid=DX) -> str:
    uid, data = generate_uid(), b"image"
    path = node.files.new_temporary()
    path.write_bytes(data)
    location = node.files.keep(path, uid, 0)
    with node.database.begin() as connection:
        instances.add(
            connection,
            sop_instance_uid=uid,
            series_instance_uid="1.2",
            study_instance_uid="1.2",
            sop_class_uid=sop_class_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            variant=0,
            size=len(data),
            location=location,
            calling_ae_title="CR_ROOM_1",
            called_ae_title="CXR_NODE",
            peer_address="127.0.0.1",
            association_id="a",
            received_at=utc_now(),
        )
    return uid


def ask(node, *items: tuple[str, str]) -> int:
    """What the listener writes down for N-ACTION; return the request's id."""
    now = utc_now()
    with node.database.begin() as connection:
        made = commitments.add_request(
            connection,
            generate_uid(),
            calling_ae_title="CR_ROOM_1",
            called_ae_title="CXR_NODE",
            peer_address="127.0.0.1",
            items=items,
            now=now,
        )
        jobs.schedule(connection, "commitment-report", str(made.id), run_at=now, now=now)
    return made.id


def work(node, settings: Settings) -> None:
    """Run the stage's own worker until nothing is due."""
    reports = proof.make_workers(settings, node.database, node.files)[0]
    while reports.run_once():
        pass


def request_of(node, request_id: int):
    with node.database.read() as connection:
        return commitments.get_request(connection, request_id)


def job_of(node, request_id: int):
    with node.database.read() as connection:
        return jobs.get(connection, "commitment-report", str(request_id))


@pytest.mark.requirement("SRS-DLV-108")
def test_a_request_for_what_the_node_holds_is_committed(node, modality):
    """Over an association of the node's own, in the role of the SCP, under the name that was asked."""
    uids = [keep_image(node), keep_image(node, CR)]
    request_id = ask(node, (DX, uids[0]), (CR, uids[1]))
    work(node, settings_of(node, modality.peer()))
    ((event_type, told),) = modality.heard
    assert event_type == 1
    assert told.TransactionUID == request_of(node, request_id).transaction_uid
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in told.ReferencedSOPSequence] == [
        (DX, uids[0]),
        (CR, uids[1]),
    ]
    assert "FailedSOPSequence" not in told
    assert modality.callers == ["CXR_NODE"]
    assert modality.roles == [(True, False)], "the modality stays the SCU of what it asked for"
    assert request_of(node, request_id).reported_at is not None
    with node.database.read() as connection:
        (event,) = audit.events(connection)
    assert (event.event, event.detail["committed"], event.detail["refused"]) == ("commitment_reported", 2, 0)


@pytest.mark.requirement("SRS-DLV-108")
def test_what_the_node_does_not_hold_is_told_with_the_reason(node, modality):
    """Never heard of, another class, and a row whose bytes are gone: the modality must keep all of these."""
    held, other, gone = keep_image(node), keep_image(node, CR), keep_image(node)
    with node.database.read() as connection:
        (row,) = instances.by_sop_instance_uid(connection, gone)
    os.unlink(node.files.path(row.location))
    ask(node, (DX, held), (DX, other), (DX, gone), (DX, "2.25.404"))
    work(node, settings_of(node, modality.peer()))
    ((event_type, told),) = modality.heard
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [held]
    assert {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.FailedSOPSequence} == {
        other: 0x0119,
        gone: 0x0112,
        "2.25.404": 0x0112,
    }


@pytest.mark.requirement("SRS-DLV-108")
def test_a_peer_that_is_down_is_reported_to_when_it_is_back(node):
    modality = Modality(free_port())
    request_id = ask(node, (DX, keep_image(node)))
    settings = settings_of(node, modality.peer())
    work(node, settings)
    job = job_of(node, request_id)
    assert job.state == jobs.SCHEDULED
    assert "peer CR_ROOM_1: CR_ROOM_1 at 127.0.0.1" in job.reason
    with listening(modality):
        with node.database.begin() as connection:
            jobs.hasten(connection, "commitment-report", [str(request_id)], run_at=utc_now())
        work(node, settings)
    assert len(modality.heard) == 1
    assert request_of(node, request_id).reported_at is not None


@pytest.mark.requirement("SRS-DLV-108")
@pytest.mark.parametrize(("status", "state"), [(0x0110, jobs.SCHEDULED), (0x0112, jobs.FAILED)])
def test_a_report_that_the_peer_refuses_is_sent_again_where_that_may_help(node, modality, status, state):
    modality.answer = status
    request_id = ask(node, (DX, "2.25.404"))
    work(node, settings_of(node, modality.peer()))
    job = job_of(node, request_id)
    assert (job.state, f"0x{status:04X}" in job.reason) == (state, True)
    if state == jobs.FAILED:
        assert request_of(node, request_id).reason == job.reason


@pytest.mark.requirement("SRS-DLV-109")
def test_without_an_address_the_request_is_kept_and_says_what_to_add(node, modality):
    """The modality waits in vain until somebody adds it: then its report gets out without being asked for again."""
    request_id = ask(node, (DX, keep_image(node)))
    work(node, settings_of(node))
    kept = request_of(node, request_id)
    assert kept.reported_at is None
    assert "no [[peer]] section names CR_ROOM_1: add one" in kept.reason
    assert job_of(node, request_id).state == jobs.COMPLETED, "nothing to try until node.toml changes"
    with node.database.read() as connection:
        assert [event.event for event in audit.events(connection)] == ["commitment_unreportable"]
    work(node, settings_of(node, modality.peer()))
    assert len(modality.heard) == 1
    assert request_of(node, request_id).reported_at is not None


@pytest.mark.requirement("SRS-DLV-108")
def test_a_report_that_got_out_is_not_sent_again(node, modality):
    """A process that died after the peer's answer sends it once more; one that did not, does not."""
    request_id = ask(node, (DX, keep_image(node)))
    settings = settings_of(node, modality.peer())
    work(node, settings)
    work(node, settings)
    assert len(modality.heard) == 1
    reporter = Reporter(settings, node.database, node.files)
    ((_, outcome),) = list(reporter.handle([job_of(node, request_id)]))
    assert not isinstance(outcome, Exception)
    assert len(modality.heard) == 1
