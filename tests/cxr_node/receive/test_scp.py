"""The Storage SCP, from outside: what is answered, what is kept, who is refused."""

import socket
import struct
import subprocess
import time
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom import AE, build_context

from cxr_node.receive.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES
from cxr_node.requestor import associate
from tests.builders import make_radiograph_dataset


def _wait(condition, within_s=5.0):
    deadline = time.monotonic() + within_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def _established(ae, port):
    association = associate(ae, "127.0.0.1", port, ae_title="CXR_NODE")
    return association if association.is_established else None


def _dataset_bytes(path):
    data = path.read_bytes()
    return data[144 + struct.unpack("<I", data[140:144])[0] :]


@pytest.mark.requirement("SRS-RCV-003")
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_success_means_bytes_row_and_job(receiver, syntax):
    """A modality that hears Success may delete its copy."""
    dataset = make_radiograph_dataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = make_radiograph_dataset().pixel_array.byteswap().tobytes()
    assert receiver.send(dataset).Status == 0x0000
    (kept,) = receiver.of(dataset.SOPInstanceUID)
    stored = dcmread(receiver.files.path(kept.location))
    assert stored.file_meta.TransferSyntaxUID == kept.transfer_syntax_uid == syntax
    assert np.array_equal(stored.pixel_array, make_radiograph_dataset().pixel_array)
    assert receiver.jobs() == {("analyze", "SCHEDULED"): 1}
    assert receiver.study(dataset.StudyInstanceUID).context.patient_name == "DOE^JANE"
    assert receiver.incoming() == []


@pytest.mark.requirement("SRS-RCV-002")
@pytest.mark.parametrize("rows", [1, 300, 2500])
def test_what_is_stored_is_what_was_sent_byte_for_byte(receiver, rows, tmp_path):
    """From one small fragment to many PDUs; nothing is decoded on the way."""
    pixels = np.random.default_rng(rows).integers(0, 4096, (rows, 1024)).astype(np.uint16)
    dataset = make_radiograph_dataset(pixels)
    assert receiver.send(dataset).Status == 0x0000
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    (tmp_path / "sent.dcm").write_bytes(buffer.getvalue())
    (kept,) = receiver.of(dataset.SOPInstanceUID)
    assert _dataset_bytes(receiver.files.path(kept.location)) == _dataset_bytes(tmp_path / "sent.dcm")


@pytest.mark.requirement("SRS-RCV-001")
def test_every_storage_class_and_transfer_syntax_is_negotiated(receiver):
    """A class left out is refused to a PACS for no reason that its administrator sees."""
    ae = AE(ae_title="PACS")
    for index in range(len(STORAGE_CLASSES)):
        ae.requested_contexts = [build_context(STORAGE_CLASSES[index], syntax) for syntax in TRANSFER_SYNTAXES]
        association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
        assert association.is_established
        accepted = {str(context.transfer_syntax[0]) for context in association.accepted_contexts}
        association.release()
        assert accepted == set(TRANSFER_SYNTAXES)
        if index >= 2:
            break


@pytest.mark.requirement("SRS-RCV-005")
def test_an_instance_sent_twice_is_one_instance(receiver):
    """A PACS that heard no answer sends again."""
    dataset = make_radiograph_dataset()
    assert receiver.send(dataset).Status == receiver.send(dataset).Status == 0x0000
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1
    uids = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    again = make_radiograph_dataset(**{keyword: dataset[keyword].value for keyword in uids})
    again.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert receiver.send(again).Status == 0x0000
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1
    assert receiver.study(dataset.StudyInstanceUID).conflicts == 0


@pytest.mark.requirement("SRS-RCV-005")
def test_another_object_under_a_known_uid_is_kept_apart_and_reported(receiver):
    """Orthanc answers Success and drops it; a different picture must not vanish."""
    dataset = make_radiograph_dataset()
    other = make_radiograph_dataset(
        np.full((300, 300), 77, np.uint8),
        SOPInstanceUID=dataset.SOPInstanceUID,
        StudyInstanceUID=dataset.StudyInstanceUID,
    )
    assert receiver.send(dataset).Status == receiver.send(other).Status == receiver.send(other).Status == 0x0000
    kept = receiver.of(dataset.SOPInstanceUID)
    assert [item.variant for item in kept] == [0, 1]
    assert receiver.study(dataset.StudyInstanceUID).conflicts == 1
    assert dcmread(receiver.files.path(kept[1].location)).Rows == 300


@pytest.mark.requirement("SRS-RCV-006")
@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        ({"StudyInstanceUID": None}, 0xC002),
        ({"SeriesInstanceUID": ""}, 0xC002),
        ({"StudyInstanceUID": "../../etc/passwd"}, 0xC001),
        ({"SeriesInstanceUID": "1.2.abc"}, 0xC001),
        ({"StudyInstanceUID": "1." + "2" * 70}, 0xC001),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_dataset_without_usable_uids_is_answered_with_a_failure(receiver, attributes, status):
    """No row can be made of it; its sender hears why, and nothing is left behind."""
    from pydicom import config

    dataset = make_radiograph_dataset()
    with config.disable_value_validation():
        for keyword, value in attributes.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        answer = receiver.send(dataset)
    assert answer.Status == status
    assert 0 < len(answer.ErrorComment) <= 64
    assert receiver.of(dataset.SOPInstanceUID) == []
    assert receiver.incoming() == []


@pytest.mark.requirement("SRS-RCV-006")
def test_an_image_without_pixels_is_kept(receiver):
    """The analysis says what is wrong with it; the sender did nothing that C-STORE forbids."""
    dataset = make_radiograph_dataset(PixelData=None)
    assert receiver.send(dataset).Status == 0x0000
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1


@pytest.mark.requirement("SRS-RCV-006")
def test_command_and_dataset_must_name_one_instance(receiver):
    """Otherwise the answer would be about another object."""
    dataset = make_radiograph_dataset()
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = generate_uid()
    request.Priority = 2
    body = Dataset()
    body.update(dict(dataset.items()))
    request.DataSet = BytesIO(encode(body, False, True))
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert answer.Status == 0xA900


@pytest.mark.requirement("SRS-RCV-007")
def test_names_of_every_script_reach_the_worklist(receiver):
    """Decoded with the dataset's own character set."""
    name = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce"
    dataset = make_radiograph_dataset(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    assert receiver.send(dataset).Status == 0x0000
    assert receiver.study(dataset.StudyInstanceUID).context.patient_name == name


@pytest.mark.requirement("SRS-RCV-007")
@pytest.mark.parametrize("place", ["top", "request"])
def test_the_ordered_priority_is_taken_from_the_request(receiver, place):
    """STAT goes first from the moment it arrives."""
    attributes = {"RequestedProcedurePriority": "STAT"}
    if place == "request":
        item = Dataset()
        item.RequestedProcedurePriority = "STAT"
        attributes = {"RequestAttributesSequence": [item]}
    dataset = make_radiograph_dataset(**attributes)
    assert receiver.send(dataset).Status == 0x0000
    study = receiver.study(dataset.StudyInstanceUID)
    assert (study.ordered_priority, study.effective_priority) == ("STAT", "STAT")


@pytest.mark.requirement("SRS-RCV-004")
@pytest.mark.parametrize(
    ("overrides", "calling", "called", "expected"),
    [
        ({}, "CR_ROOM_1", "WRONG", (1, 1, 7)),
        ({"caller": '[{ae_title = "PACS", hosts = ["127.0.0.1"]}]'}, "CR_ROOM_1", "CXR_NODE", (1, 1, 3)),
        ({"caller": '[{ae_title = "PACS", hosts = ["10.0.0.0/8"]}]'}, "PACS", "CXR_NODE", (1, 1, 3)),
        ({"receive__per_caller_associations": "1"}, "PACS", "CXR_NODE", (2, 3, 2)),
        ({"receive__maximum_associations": "1"}, "OTHER", "CXR_NODE", (2, 3, 2)),
    ],
)
def test_a_caller_who_may_not_send_is_refused_with_the_reason(
    start_receiver, transport, overrides, calling, called, expected
):
    """A PACS administrator reads the reason in the PACS' own log."""
    receiver = start_receiver(receive__transport=transport, **overrides)
    ae = AE(ae_title="PACS")
    ae.add_requested_context("1.2.840.10008.1.1")
    held = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE") if expected[0] == 2 else None
    ae.ae_title = calling
    refused = associate(ae, "127.0.0.1", receiver.port, ae_title=called)
    try:
        assert refused.is_rejected
        answer = refused.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == expected
    finally:
        if held is not None:
            held.release()
    if held is not None:
        again = _wait(lambda: _established(ae, receiver.port))
        assert again
        again.release()


@pytest.mark.requirement("SRS-RCV-008")
def test_a_full_disk_is_answered_out_of_resources(start_receiver, transport):
    """The sender keeps its copy and tries again later."""
    receiver = start_receiver(receive__transport=transport, receive__min_free_gb="1000000")
    dataset = make_radiograph_dataset()
    assert receiver.send(dataset).Status == 0xA700
    assert receiver.of(dataset.SOPInstanceUID) == []
    assert receiver.incoming() == []


@pytest.mark.requirement("SRS-RCV-009")
def test_the_end_of_the_association_makes_the_study_due(start_receiver, transport):
    """Release, and a connection that breaks, end the waiting at once."""
    receiver = start_receiver(receive__transport=transport, receive__quiet_period_s="3600")
    from datetime import UTC, datetime

    from storage import jobs

    for end in ("release", "abort"):
        dataset = make_radiograph_dataset()
        ae = AE(ae_title="CR_ROOM_1")
        ae.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
        association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
        assert association.send_c_store(dataset).Status == 0
        with receiver.database.begin() as connection:
            assert jobs.claim(connection, ["analyze"], owner="t", now=datetime.now(UTC)) == []
        getattr(association, end)()

        def claimed():
            with receiver.database.begin() as connection:
                return jobs.claim(connection, ["analyze"], owner="t", now=datetime.now(UTC))

        assert _wait(claimed), end


@pytest.mark.requirement("SRS-RCV-010")
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff" + b"x" * 64, b"", b"\x04" * 4096]
)
def test_garbage_on_the_port_harms_nobody(receiver, garbage):
    """Port scanners and load balancers connect all day."""
    with socket.create_connection(("127.0.0.1", receiver.port)) as probe:
        probe.sendall(garbage)
    assert receiver.send(make_radiograph_dataset()).Status == 0x0000


@pytest.mark.requirement("SRS-RCV-010")
def test_a_sender_that_leaves_in_the_middle_leaves_no_file(start_receiver):
    """And what it had not finished is not kept."""
    receiver = start_receiver(receive__transport="stream")
    dataset = make_radiograph_dataset(np.zeros((2000, 2000), np.uint16))
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = associate(ae, "127.0.0.1", receiver.port, ae_title="CXR_NODE")
    link = association.dul.socket.socket
    sent = 0
    original = link.send

    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.Priority = 2
    request.DataSet = BytesIO(encode(dataset, False, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    pdus = []
    from pynetdicom.pdu import P_DATA_TF

    for primitive in message.encode_msg(1, 16382):
        pdu = P_DATA_TF()
        pdu.from_primitive(primitive)
        pdus.append(pdu.encode())
    for data in pdus[: len(pdus) // 2]:
        sent += original(data)
    assert _wait(receiver.incoming)
    link.shutdown(socket.SHUT_RDWR)
    assert _wait(lambda: not receiver.incoming())
    assert receiver.of(dataset.SOPInstanceUID) == []
    assert sent > 0


@pytest.mark.requirement("SRS-RCV-010")
def test_a_silent_peer_is_let_go(start_receiver, transport):
    """A thread that waits for ever is a thread lost."""
    receiver = start_receiver(receive__transport=transport, receive__idle_timeout_s="0.5")
    with socket.create_connection(("127.0.0.1", receiver.port)) as probe:
        probe.sendall(b"\x01\x00")
        assert _wait(lambda: not receiver.scp._server.active_associations, 10)


@pytest.mark.requirement("SRS-RCV-001")
@pytest.mark.peer("echoscu", "storescu", "dcmsend")
def test_dcmtk_verifies_and_stores(receiver, tmp_path):
    """The reference implementation, from outside."""
    address = ["127.0.0.1", str(receiver.port)]
    assert subprocess.run(["echoscu", "-aec", "CXR_NODE", *address], timeout=30).returncode == 0
    dataset = make_radiograph_dataset()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    done = subprocess.run(["storescu", "-aec", "CXR_NODE", *address, str(tmp_path / "a.dcm")], timeout=30)
    assert done.returncode == 0
    assert len(receiver.of(dataset.SOPInstanceUID)) == 1


@pytest.mark.requirement("SRS-RCV-010")
def test_a_hundred_probes_leave_nothing_open(receiver):
    """Load balancers connect and drop all day; each must not hold a place for a minute."""
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", receiver.port)):
            pass
    assert _wait(lambda: not receiver.scp._server.active_associations, 10)
    assert receiver.send(make_radiograph_dataset()).Status == 0x0000
