"""Orders by HL7 and by the worklist of the RIS, and manifests, with a running node."""

import contextlib
import socket
import subprocess
import time

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep, UnifiedProcedureStepPull, UnifiedProcedureStepPush

from cxr_node.requestor import associate
from tests.builders import make_radiograph_dataset
from tests.cxr_node.orders.messages import message
from tests.system.conftest import Node, free_port, wait_until

pytestmark = [pytest.mark.peer("ip", "wlmscpfs"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def worklist(private_network, tmp_path_factory):
    """DCMTK's worklist SCP as the RIS; yields its port and a function that adds an item."""
    folder = tmp_path_factory.mktemp("ris")
    items = folder / "RIS"
    items.mkdir()
    (items / "lockfile").touch()
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["wlmscpfs", "-v", "-dfp", str(folder), str(port)], stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(port), 10, "wlmscpfs listens")
        yield port, lambda **values: _write_item(items / f"{values['AccessionNumber']}.wl", **values)
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write_item(path, **values: str) -> None:
    item, step = Dataset(), Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SpecificCharacterSet = "ISO_IR 100"
    item.PatientName, item.PatientBirthDate, item.PatientSex = "DOE^JANE", "19600101", "F"
    item.RequestedProcedureID, item.RequestedProcedureDescription = "RP1", "Chest"
    for keyword, value in values.items():
        setattr(item, keyword, value)
    step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepID = "DX", "CR_ROOM_1", "SPS1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260101", "101500"
    step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepDescription = "ROE^R", "Chest PA"
    item.ScheduledProcedureStepSequence = [step]
    item.save_as(path, implicit_vr=False, little_endian=True)


@pytest.fixture(scope="module")
def node(worklist, tmp_path_factory):
    """A node that listens for HL7, asks the RIS, and delivers to a folder."""
    folder = tmp_path_factory.mktemp("node")
    hl7_port = free_port()
    ris_port, _ = worklist
    extra = (
        f"[orders]\nhl7_port = {hl7_port}\n"
        f'[orders.ris]\nae_title = "RIS"\nhost = "127.0.0.1"\nport = {ris_port}\ntimeout_s = 5.0\n'
    )
    (folder / "out").mkdir()
    destination = {"name": "out", "kind": "folder", "path": str(folder / "out"), "settle_s": 60.0}
    running = Node(folder / "node", extra=extra, destinations=[destination])
    running.start()
    running.hl7_port = hl7_port
    yield running
    running.stop()


def _order(node: Node, accession: str, patient: str, priority: str) -> None:
    """Send an ORM; the node acknowledges it."""
    segments = (
        f"PID|||{patient}",
        f"ORC|NW|PL-{accession}",
        f"OBR|1|PL-{accession}|||{priority}" + "|" * 13 + accession,
    )
    deadline = time.monotonic() + 20
    while True:  # the stage may be a moment behind the others
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", node.hl7_port), timeout=5)
            break
        assert time.monotonic() < deadline, "nobody listens for HL7"
        time.sleep(0.05)
    with connection:
        connection.sendall(b"\x0b" + message(*segments, control_id=f"C-{accession}-{priority}") + b"\x1c\r")
        received = b""
        while not received.endswith(b"\x1c\r"):
            received += connection.recv(4096) or pytest.fail("no acknowledgement")
    assert f"MSA|AA|C-{accession}-{priority}".encode() in received


def _send(node: Node, **attributes: str) -> Dataset:
    dataset = make_radiograph_dataset(**attributes)
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(dataset.SOPClassUID, ExplicitVRLittleEndian)
    association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
    assert association.is_established
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    return dataset


def _ups_priorities(node: Node, patient: str) -> set[str]:
    """What a UPS query finds for the patient."""
    identifier = Dataset()
    identifier.PatientID = patient
    identifier.ScheduledProcedureStepPriority = ""
    identifier.ProcedureStepState = ""
    ae = AE(ae_title="RIS")
    ae.add_requested_context(UnifiedProcedureStepPull)
    ae.add_requested_context(UnifiedProcedureStepPush)
    association = associate(ae, "127.0.0.1", node.dicom_port, ae_title="CXR_WORKLIST")
    assert association.is_established
    found = {
        str(answer.ScheduledProcedureStepPriority)
        for status, answer in association.send_c_find(identifier, UnifiedProcedureStepPull)
        if status.Status in (0xFF00, 0xFF01)
    }
    association.release()
    return found


def _wait_for_priority(node: Node, uid: str, priority: str) -> dict:
    def look():
        study = node.study(uid)
        return study if study and study["effective_priority"] == priority else None

    return wait_until(look, 20, f"priority {priority}; log:\n{node.log_path.read_text()[-3000:]}")


@pytest.mark.requirement("SRS-SYS-201")
def test_an_order_after_its_study_shows_at_once(node):
    """The ward calls, the RIS sends, the radiologist sees it on top."""
    dataset = _send(node, AccessionNumber="ACC-1", PatientID="PAT-1")
    study = node.wait_for(dataset.StudyInstanceUID)
    assert study["effective_priority"] == "ROUTINE"
    assert "HIGH" not in _ups_priorities(node, "PAT-1")
    _order(node, "ACC-1", "PAT-1", "S")
    study = _wait_for_priority(node, dataset.StudyInstanceUID, "STAT")
    assert (study["ordered_priority"], study["ordered_reason"]) == ("STAT", "HL7 order from the RIS")
    assert study["priority_reason"] == "as ordered (HL7 order from the RIS)"
    assert "HIGH" in wait_until(lambda: _ups_priorities(node, "PAT-1"), 5, "work item")
    _order(node, "ACC-1", "PAT-1", "R")
    assert node.study(dataset.StudyInstanceUID)["effective_priority"] == "STAT"


@pytest.mark.requirement("SRS-SYS-201")
def test_an_order_before_its_study_counts_and_never_for_another_patient(node):
    """The usual order of events; and an accession number that two hospitals use."""
    _order(node, "ACC-2", "PAT-2", "A")
    mine = _send(node, AccessionNumber="ACC-2", PatientID="PAT-2")
    other = _send(node, AccessionNumber="ACC-2", PatientID="PAT-3")
    assert _wait_for_priority(node, mine.StudyInstanceUID, "HIGH")["ordered_priority"] == "HIGH"
    assert node.wait_for(other.StudyInstanceUID)["effective_priority"] == "ROUTINE"


@pytest.mark.requirement("SRS-SYS-201")
def test_the_worklist_of_the_ris_is_asked(node, worklist):
    """A site without HL7: DCMTK's worklist SCP holds the item."""
    _, add_item = worklist
    uid = generate_uid()
    add_item(AccessionNumber="ACC-4", PatientID="PAT-4", StudyInstanceUID=uid, RequestedProcedurePriority="HIGH")
    _send(node, AccessionNumber="ACC-4", PatientID="PAT-4", StudyInstanceUID=uid)
    study = _wait_for_priority(node, uid, "HIGH")
    assert study["ordered_reason"] == "worklist of the RIS"


@pytest.mark.requirement("SRS-SYS-202")
def test_a_completed_step_lets_the_report_go(node):
    """Without it this destination's reports wait for a minute."""
    uid, step_uid = generate_uid(), generate_uid()
    step, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID = uid
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PerformedProcedureStepStatus, step.PerformedProcedureStepID = "IN PROGRESS", "PPS1"
    step.PerformedStationAETitle, step.Modality = "CR_ROOM_1", "DX"
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = "20260101", "101500"
    ae = AE(ae_title="CR_ROOM_1")
    ae.add_requested_context(ModalityPerformedProcedureStep)
    association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
    assert association.is_established
    assert association.send_n_create(step, ModalityPerformedProcedureStep, step_uid)[0].Status == 0x0000
    images = [_send(node, StudyInstanceUID=uid, SeriesInstanceUID="1.2.9") for _ in range(2)]
    wait_until(lambda: len((node.study(uid) or {}).get("exclusions", [])) == 2, 30, "both images looked at")
    assert [item["state"] for item in node.study(uid)["deliveries"] if item["object"] == "sr"] == ["SCHEDULED"]
    done, series = Dataset(), Dataset()
    done.PerformedProcedureStepStatus = "COMPLETED"
    series.SeriesInstanceUID, series.ReferencedImageSequence = "1.2.9", []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        series.ReferencedImageSequence.append(reference)
    done.PerformedSeriesSequence = [series]
    assert association.send_n_set(done, ModalityPerformedProcedureStep, step_uid)[0].Status == 0x0000
    association.release()

    def is_delivered():
        return [
            item for item in node.study(uid)["deliveries"] if item["object"] == "sr" and item["state"] != "SCHEDULED"
        ]

    (delivered,) = wait_until(is_delivered, 20, f"report delivered; log:\n{node.log_path.read_text()[-3000:]}")
    assert delivered["state"] in ("DELIVERED", "COMMITTED")
