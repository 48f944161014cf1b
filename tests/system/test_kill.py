"""kill -9 of each process in turn while studies flow: nothing acknowledged is lost, nothing is told twice."""

import os
import random
import signal
import threading
import time

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE

from cxr_node.requestor import associate
from tests.system.conftest import Node, Orthanc, free_port, wait_until

pytestmark = [pytest.mark.real_data, pytest.mark.peer("Orthanc", "ip")]

STUDIES = 50
STAGES = ("receive", "analyze", "deliver", "worklist", "upkeep")


def _send_until_acknowledged(node: Node, dataset, acknowledged: list[str], stop: threading.Event) -> None:
    """What a PACS does: try again until Success."""
    while not stop.is_set():
        ae = AE(ae_title="PACS")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        ae.connection_timeout = 2
        ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
        association = associate(ae, "127.0.0.1", node.port, ae_title="CXR_NODE")
        if association.is_established:
            try:
                answer = association.send_c_store(dataset)
            except (RuntimeError, OSError):
                answer = {}
            if association.is_established:
                association.release()
            if "Status" in answer and answer.Status == 0:
                acknowledged.append(str(dataset.StudyInstanceUID))
                return
        time.sleep(0.1)


@pytest.mark.requirement("SRS-SYS-006", "SRS-RCV-003", "SRS-DLV-105")
@pytest.mark.timeout(400)
def test_every_acknowledged_study_has_one_result_and_one_report(private_network, tmp_path, shared_data):
    """Each stage's process dies at least twice while fifty studies pass, and the supervisor once."""
    orthanc = Orthanc(tmp_path / "pacs", node_port=free_port())
    node = Node(
        tmp_path / "node",
        profile="research",
        port=orthanc.node_port,
        destinations=[
            {
                "name": "pacs",
                "ae_title": "PACS",
                "host": "127.0.0.1",
                "port": orthanc.dicom_port,
                "settle_s": 0.2,
                "commit_timeout_s": 5.0,  # reports that Orthanc made while the receiver was dead are lost
            }
        ],
    )
    orthanc.start()
    stop = threading.Event()
    acknowledged: list[str] = []
    template = dcmread(shared_data / "dicom" / "gdcm-CR-MONO1-10-chest.dcm")
    template.PatientAge = "050Y"
    rng = random.Random(20260101)
    killed = dict.fromkeys(STAGES, 0)
    try:
        node.start()

        def flow() -> None:
            for index in range(STUDIES):
                template.StudyInstanceUID, template.SeriesInstanceUID = generate_uid(), generate_uid()
                template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                template.PatientID = f"KILL-{index}"
                _send_until_acknowledged(node, template, acknowledged, stop)
                time.sleep(0.25)

        sender = threading.Thread(target=flow)
        sender.start()
        for round_number in range(2):
            for stage in STAGES:
                wait_until(lambda stage=stage: node.pids(stage), 30, f"{stage} running")
                time.sleep(rng.uniform(0.2, 1.2))
                for pid in node.pids(stage):
                    os.kill(pid, signal.SIGKILL)
                    killed[stage] += 1
            if round_number == 0:
                assert node.process is not None
                node.process.kill()
                node.process.wait()
                time.sleep(1.0)
                node.start()
        sender.join(200)
        assert not sender.is_alive(), f"{len(acknowledged)} of {STUDIES} acknowledged"
        assert min(killed.values()) >= 2
        for uid in acknowledged:
            study = node.wait_for(uid, 90)
            assert study["status"] == "analysed", study
            assert study["revision"] == 1, study
        wait_until(lambda: all(orthanc.reports(uid) for uid in acknowledged), 90, "every report in Orthanc", every_s=1)
        time.sleep(2)
        assert {uid: len(orthanc.reports(uid)) for uid in acknowledged} == dict.fromkeys(acknowledged, 1)
        wait_until(
            lambda: all(
                [item["state"] for item in node.study(uid)["deliveries"]] == ["COMMITTED"] for uid in acknowledged
            ),
            90,
            "every delivery proved",
            every_s=1,
        )
    finally:
        stop.set()
        node.stop()
        orthanc.stop()
