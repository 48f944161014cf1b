"""Storage commitment at the listener: reports that the node waits for, and requests that modalities make of it."""

import threading

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, generate_uid
from pynetdicom import AE, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel

from cxr_node.clock import utc_now
from cxr_node.requestor import associate
from storage import audit, commitments, deliveries, jobs, results
from storage.errors import StorageBusy
from tests.builders import make_radiograph_dataset

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"


def reference(sop_class_uid, sop_instance_uid, reason=None):
    item = Dataset()
    if sop_class_uid is not None:
        item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item


def without_anything():
    told = Dataset()
    told.RetrieveAETitle = "ARCHIVE"
    return told


def request(*items, transaction_uid=None):
    asked = Dataset()
    asked.TransactionUID = transaction_uid or generate_uid()
    asked.ReferencedSOPSequence = list(items)
    return asked


@pytest.fixture
def open_association(receiver):
    """Open an association to the receiver, released at the end."""
    opened = []

    def open_association(*contexts, as_scp=False, calling="CR_ROOM_1"):
        ae = AE(ae_title=calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.add_requested_context(StorageCommitmentPushModel)
        for context in contexts:
            ae.add_requested_context(context)
        roles = [build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)] if as_scp else []
        association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE", ext_neg=roles)
        assert association.is_established
        opened.append(association)
        return association

    yield open_association
    for association in opened:
        association.release()


def ask(association, asked, *, action=1, instance=WELL_KNOWN_INSTANCE):
    status, _ = association.send_n_action(asked, action, StorageCommitmentPushModel, instance)
    return status.get("Status")


def tell(association, told, *, event_type=1, instance=WELL_KNOWN_INSTANCE):
    status, _ = association.send_n_event_report(told, event_type, StorageCommitmentPushModel, instance)
    return status.get("Status")


def unreported(receiver):
    with receiver.database.read() as connection:
        return commitments.unreported(connection, commitments.unreported_callers(connection))


@pytest.fixture
def awaited(receiver):
    """A delivery whose commitment was asked for under "2.25.1"."""
    now = utc_now()
    with receiver.database.begin() as connection:
        result = results.add(connection, "1.2", status="analysed", flagged=False, ai_priority="", outcome={}, now=now)
        made = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=now)
        deliveries.set_state(
            connection,
            made.id,
            deliveries.DELIVERED,
            now=now,
            sop_instance_uid="2.25.7",
            sop_class_uid=Comprehensive3DSRStorage,
        )
        commitments.begin(connection, "2.25.1", delivery_id=made.id, destination="pacs", now=now)
    return made.id


def transaction(receiver):
    with receiver.database.read() as connection:
        return commitments.get(connection, "2.25.1")


@pytest.mark.requirement("SRS-RCV-101")
@pytest.mark.parametrize("reason", [None, 0x0112, 0x0119])
def test_a_report_is_durable_before_it_is_answered_and_wakes_the_proof(receiver, open_association, awaited, reason):
    """The archive forgets the transaction with our Success. It proposes the SCP's role for itself."""
    told = Dataset()
    told.TransactionUID = "2.25.1"
    if reason is None:
        told.ReferencedSOPSequence = [reference(Comprehensive3DSRStorage, "2.25.7")]
    else:
        told.FailedSOPSequence = [reference(Comprehensive3DSRStorage, "2.25.7", reason)]
    association = open_association(as_scp=True, calling="ARCHIVE_AGENT")
    assert association.accepted_contexts[0].as_scp
    assert tell(association, told, event_type=1 if reason is None else 2) == 0x0000
    found = transaction(receiver)
    assert (found.state, found.failure_reason) == ("COMMITTED" if reason is None else "FAILED", reason)
    with receiver.database.read() as connection:
        assert jobs.get(connection, "prove:pacs", str(awaited)).state == jobs.SCHEDULED


@pytest.mark.requirement("SRS-RCV-101")
def test_a_report_without_role_selection_is_taken(receiver, open_association, awaited):
    """Some archives propose no role; what they say is understood all the same."""
    told = request(reference(Comprehensive3DSRStorage, "2.25.7"), transaction_uid="2.25.1")
    assert tell(open_association(), told) == 0x0000
    assert transaction(receiver).state == "COMMITTED"


@pytest.mark.requirement("SRS-RCV-102")
def test_a_report_that_nobody_waits_for_is_answered_and_ignored(receiver, open_association, awaited):
    """Refused, it would come again for days."""
    association = open_association(as_scp=True)
    about = reference(Comprehensive3DSRStorage, "2.25.7")
    assert tell(association, request(about, transaction_uid="2.25.404")) == 0x0000
    assert tell(association, request(about, transaction_uid="2.25.1")) == 0x0000
    late = Dataset()
    late.TransactionUID = "2.25.1"
    late.FailedSOPSequence = [reference(Comprehensive3DSRStorage, "2.25.7", 0x0112)]
    assert tell(association, late, event_type=2) == 0x0000
    assert transaction(receiver).state == "COMMITTED"


@pytest.mark.requirement("SRS-RCV-102")
@pytest.mark.parametrize(
    ("told", "options", "status"),
    [
        (request(reference("1.2", "2.25.7"), transaction_uid="2.25.1"), {"event_type": 3}, 0x0113),
        (request(reference("1.2", "2.25.7"), transaction_uid="2.25.1"), {"instance": "1.2.3"}, 0x0112),
        (request(reference(None, "2.25.7"), transaction_uid="2.25.1"), {}, 0x0115),
        (request(transaction_uid="2.25.1"), {}, 0x0115),
        (without_anything(), {}, 0x0115),
        (None, {}, 0x0115),
    ],
    ids=["event type", "instance", "no class", "no references", "empty", "nothing"],
)
def test_a_report_that_says_nothing_is_refused(receiver, open_association, awaited, told, options, status):
    """The archive's log must show that its report was not understood; the transaction stays open."""
    assert tell(open_association(as_scp=True), told, **options) == status
    assert transaction(receiver).state == "ASKING"


@pytest.mark.requirement("SRS-RCV-103")
def test_a_request_is_durable_before_it_is_answered(receiver, open_association):
    """A modality may forget what it asked for, and with the report delete its images."""
    image = make_radiograph_dataset()
    assert receiver.send(image).Status == 0x0000
    asked = request(reference(image.SOPClassUID, image.SOPInstanceUID))
    assert ask(open_association(), asked) == 0x0000
    (kept,) = unreported(receiver)
    assert kept.items == [[image.SOPClassUID, image.SOPInstanceUID]]
    assert (kept.transaction_uid, kept.calling_ae_title, kept.called_ae_title, kept.peer_address) == (
        asked.TransactionUID,
        "CR_ROOM_1",
        "CXR_NODE",
        "127.0.0.1",
    )
    with receiver.database.read() as connection:
        assert jobs.get(connection, "commitment-report", str(kept.id)).state == jobs.SCHEDULED
        assert "commitment_requested" in [event.event for event in audit.events(connection)]


@pytest.mark.requirement("SRS-RCV-103")
def test_a_request_whose_answer_was_lost_is_one_request(receiver, open_association):
    """The same again is reported again; another under its transaction UID is refused."""
    asked = request(reference("1.2", "2.25.7"))
    association = open_association()
    assert [ask(association, asked) for _ in range(2)] == [0x0000, 0x0000]
    other = request(reference("1.2", "2.25.8"), transaction_uid=asked.TransactionUID)
    assert ask(association, other) == 0x0115
    (kept,) = unreported(receiver)
    assert kept.items == [["1.2", "2.25.7"]]
    with receiver.database.begin() as connection:
        commitments.set_report(connection, kept.id, reported_at=utc_now(), reason="")
    assert ask(association, asked) == 0x0000
    assert len(unreported(receiver)) == 1


@pytest.mark.requirement("SRS-RCV-104")
@pytest.mark.parametrize(
    ("asked", "options", "status"),
    [
        (request(reference("1.2", "2.25.7")), {"action": 2}, 0x0123),
        (request(reference("1.2", "2.25.7")), {"instance": "1.2.3"}, 0x0112),
        (request(reference(None, "2.25.7")), {}, 0x0115),
        (request(reference("1.2", "2.25.7"), transaction_uid="no uid"), {}, 0x0115),
        (request(), {}, 0x0115),
        (None, {}, 0x0115),
    ],
    ids=["action", "instance", "no class", "no transaction", "no references", "nothing"],
)
def test_a_request_that_cannot_be_kept_is_refused(receiver, open_association, asked, options, status):
    """What was not understood must not look like a promise."""
    assert ask(open_association(), asked, **options) == status
    assert unreported(receiver) == []


@pytest.mark.requirement("SRS-RCV-104")
def test_a_database_that_is_gone_is_no_promise(receiver, open_association, awaited, monkeypatch):
    """The modality asks again; the archive reports again."""

    def gone(*_, **__):
        raise StorageBusy("the database is gone")

    association = open_association(as_scp=True)
    monkeypatch.setattr(commitments, "add_request", gone)
    monkeypatch.setattr(commitments, "report", gone)
    assert ask(open_association(), request(reference("1.2", "2.25.7"))) == 0x0110
    told = request(reference(Comprehensive3DSRStorage, "2.25.7"), transaction_uid="2.25.1")
    assert tell(association, told) == 0x0110


@pytest.mark.requirement("SRS-RCV-103")
def test_a_long_request_and_images_share_an_association(receiver, open_association):
    """A CT of 3,000 slices: its request is many fragments long, and no file of ours."""
    image = make_radiograph_dataset()
    association = open_association(image.SOPClassUID)
    asked = request(*(reference("1.2.840.10008.5.1.4.1.1.2", f"2.25.{10**30 + number}") for number in range(3000)))
    assert association.send_c_store(image).Status == 0x0000
    assert ask(association, asked) == 0x0000
    second = make_radiograph_dataset()
    assert association.send_c_store(second).Status == 0x0000
    (kept,) = unreported(receiver)
    assert len(kept.items) == 3000
    assert receiver.of(second.SOPInstanceUID)
    assert receiver.incoming() == []


@pytest.mark.requirement("SRS-RCV-104")
def test_a_message_that_never_ends_fills_no_memory(start_receiver, monkeypatch):
    """A dataset that is no instance is kept in memory, so it has a limit."""
    monkeypatch.setattr("cxr_node.receive.transport._LONGEST_IN_MEMORY", 100_000)
    receiver = start_receiver(receive__transport="stream")
    ae = AE(ae_title="CR_ROOM_1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(StorageCommitmentPushModel)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    asked = request(*(reference("1.2.840.10008.5.1.4.1.1.2", f"2.25.{10**30 + number}") for number in range(3000)))
    assert ask(association, asked) is None
    association.join(5)
    assert association.is_aborted
    assert unreported(receiver) == []


@pytest.mark.requirement("SRS-RCV-104")
def test_only_listed_callers_are_heard(start_receiver):
    """A report decides whether a result counts as safe."""
    receiver = start_receiver(caller='[{ae_title="ARCHIVE", hosts=["127.0.0.1"]}]')
    ae = AE(ae_title="SOMEBODY")
    ae.add_requested_context(StorageCommitmentPushModel)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    assert association.is_rejected


@pytest.mark.requirement("SRS-RCV-103")
def test_requests_of_many_callers_at_once_are_all_kept(receiver, open_association):
    associations = [open_association(calling=f"CR_{number}") for number in range(8)]
    asked = [request(reference("1.2", "2.25.7")) for _ in associations]
    statuses = [None] * 8

    def work(number):
        statuses[number] = ask(associations[number], asked[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [0x0000] * 8
    assert {item.calling_ae_title for item in unreported(receiver)} == {f"CR_{number}" for number in range(8)}
