"""The line from end to end: a PACS pushes, the report comes back, the study rises."""

import csv
import subprocess
import time

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.conftest import SHARED_DATA
from tests.pixelmed import errors_in, pixelmed_outputs
from tests.system.conftest import Node, Orthanc, free_port, wait_until, with_own_uids

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.peer("Orthanc", "ip", "storescu", "findscu", "dsrdump", "dciodvfy", "DicomSRValidator"),
]


def _pacs(orthanc: Orthanc, settle_s: float = 0.5) -> dict[str, object]:
    return {
        "name": "pacs",
        "kind": "c-store",
        "ae_title": "PACS",
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
        "settle_s": settle_s,
    }


@pytest.fixture(scope="module")
def line(private_network, tmp_path_factory):
    """A node and Orthanc that know each other."""
    folder = tmp_path_factory.mktemp("line")
    orthanc = Orthanc(folder / "pacs", node_port=free_port())
    node = Node(folder / "node", profile="research", destinations=[_pacs(orthanc)], port=orthanc.node_port)
    orthanc.start()
    try:
        node.start()
        yield node, orthanc
    finally:
        node.stop()
        orthanc.stop()


def _picture(name: str) -> np.ndarray:
    pixels = cv2.imread(str(SHARED_DATA / "cxr14" / name), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(pixels, (1024, 1024), interpolation=cv2.INTER_LINEAR)


def _write_radiograph(path, template, pixels, **attributes):
    dataset = dcmread(template)
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return dataset


@pytest.fixture(scope="module")
def pneumonia_cases():
    """Names of adult images that report and radiologist both call pneumonia or opacity."""
    with (SHARED_DATA / "cxr14" / "labels.csv").open() as handle:
        rows = [
            row
            for row in csv.DictReader(handle)
            if "Pneumonia" in row["Finding Labels"] and row["rsna_target"] == "1" and int(row["Patient Age"]) >= 18
        ]
    return [row["file"] for row in rows]


@pytest.mark.requirement("SRS-SYS-001")
@pytest.mark.timeout(240)
def test_a_pushed_study_gets_its_report_and_rises(line, tmp_path, shared_data, pneumonia_cases):
    """Orthanc pushes; the SR is in the same study; validators are content; both worklists show the flag first."""
    node, orthanc = line
    template = shared_data / "dicom" / "udacity_test1.dcm"
    earlier = with_own_uids(shared_data / "dicom" / "udacity_test4.dcm", tmp_path / "ribs.dcm", PatientID="P-RIBS")
    orthanc.push(orthanc.upload(tmp_path / "ribs.dcm"))
    flagged = None
    for index, name in enumerate(pneumonia_cases[:12]):
        path = tmp_path / f"{index}.dcm"
        dataset = _write_radiograph(
            path, template, _picture(name), PatientID=f"P-{index}", AccessionNumber=f"ACC{index}"
        )
        orthanc.push(orthanc.upload(path))
        study = node.wait_for(dataset.StudyInstanceUID)
        assert study["status"] == "analysed", study
        if study["flagged"]:
            flagged = dataset
            break
    assert flagged is not None, "none of twelve images that a radiologist calls opacity crossed the operating point"
    assert study["ai_priority"] == study["effective_priority"] == "HIGH"
    assert study["ordered_priority"] == "ROUTINE"

    reports = wait_until(lambda: orthanc.reports(flagged.StudyInstanceUID), 30, "the report in Orthanc")
    assert len(reports) == 1
    report = orthanc.download(reports[0]["_id"], tmp_path / "sr.dcm")
    assert dcmread(report).PatientID == flagged.PatientID
    dump = subprocess.run(["dsrdump", "-Er", str(report)], capture_output=True, text=True, errors="replace")
    assert dump.returncode == 0, dump.stderr
    assert "Pneumonia" in dump.stdout
    checked = subprocess.run(["dciodvfy", "-new", str(report)], capture_output=True, text=True, errors="replace")
    assert not [text for text in checked.stderr.splitlines() if text.startswith("Error")]
    (output,) = pixelmed_outputs([report])
    assert "Found Root Template TID_1500" in output
    assert errors_in(output) == []

    studies = node.studies()
    assert studies[0]["study_instance_uid"] == study["study_instance_uid"]
    assert earlier.StudyInstanceUID in [item["study_instance_uid"] for item in studies[1:]]
    delivered = wait_until(
        lambda: [item for item in node.study(flagged.StudyInstanceUID)["deliveries"] if item["state"] == "COMMITTED"],
        30,
        "the delivery shown, and Orthanc's commitment to it",
    )
    assert [(item["destination"], item["object"]) for item in delivered] == [("pacs", "sr")]

    found = subprocess.run(
        [
            *("findscu", "-W", "-aec", "CXR_WORKLIST", "-k", f"StudyInstanceUID={flagged.StudyInstanceUID}"),
            *("-k", "RequestedProcedurePriority", "-k", "AccessionNumber", "127.0.0.1", str(node.dicom_port)),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=30,
    )
    assert "[HIGH" in found.stdout + found.stderr, found.stderr


@pytest.mark.requirement("SRS-SYS-002")
def test_an_excluded_study_gets_a_report_that_says_so(line, tmp_path, shared_data):
    """Silence must not look like a clear chest."""
    node, orthanc = line
    dataset = with_own_uids(shared_data / "dicom" / "RG3_UNC.dcm", tmp_path / "tibia.dcm")
    orthanc.push(orthanc.upload(tmp_path / "tibia.dcm"))
    assert node.wait_for(dataset.StudyInstanceUID)["status"] == "not_analysed"
    reports = wait_until(lambda: orthanc.reports(dataset.StudyInstanceUID), 30, "the report in Orthanc")
    report = orthanc.download(reports[0]["_id"], tmp_path / "sr.dcm")
    dump = subprocess.run(
        ["dsrdump", "-Er", "+Pl", str(report)], capture_output=True, text=True, errors="replace"
    ).stdout
    assert "ot analysed" in dump
    assert "EXTREMITY" in dump


@pytest.mark.requirement("SRS-SYS-003")
def test_a_late_image_makes_a_new_revision_that_names_its_predecessor(line, tmp_path, shared_data):
    """A second projection an hour later is part of the same study."""
    node, orthanc = line
    template = shared_data / "dicom" / "udacity_test1.dcm"
    pixels = dcmread(template).pixel_array
    first = _write_radiograph(tmp_path / "a.dcm", template, pixels, PatientID="P-LATE")
    orthanc.push(orthanc.upload(tmp_path / "a.dcm"))
    wait_until(lambda: orthanc.reports(first.StudyInstanceUID), 30, "the first report in Orthanc")
    wait_until(lambda: node.study(first.StudyInstanceUID)["deliveries"][0]["state"] == "COMMITTED", 30, "committed")
    second = _write_radiograph(
        tmp_path / "b.dcm",
        template,
        np.ascontiguousarray(pixels[:, ::-1]),
        PatientID="P-LATE",
        StudyInstanceUID=first.StudyInstanceUID,
    )
    node.send(tmp_path / "b.dcm")
    study = node.wait_for(first.StudyInstanceUID, revision=2)
    assert study["revision"] == 2
    wait_until(lambda: len(orthanc.reports(first.StudyInstanceUID)) == 2, 30, "the second report in Orthanc")
    reports = [
        dcmread(orthanc.download(item["_id"], tmp_path / f"{item['_id']}.dcm"))
        for item in orthanc.reports(first.StudyInstanceUID)
    ]
    successor = next(report for report in reports if "PredecessorDocumentsSequence" in report)
    predecessor = next(report for report in reports if report is not successor)
    assert predecessor.SOPInstanceUID in str(successor.PredecessorDocumentsSequence)
    assert second.SOPInstanceUID in str(successor.CurrentRequestedProcedureEvidenceSequence)
    # Pushing the whole study again, reports and all, must change nothing: no loop between PACS and node.
    orthanc.push(orthanc.upload(tmp_path / "a.dcm"))
    time.sleep(3)
    assert node.study(first.StudyInstanceUID)["revision"] == 2
    assert len(orthanc.reports(first.StudyInstanceUID)) == 2


@pytest.mark.requirement("SRS-LOG-001")
def test_the_log_holds_nothing_of_the_patient(line, tmp_path, shared_data):
    """Names planted in every text of a header appear nowhere in the log."""
    node, orthanc = line
    planted = {
        "PatientName": "ZZPLANTED^NAME",
        "PatientID": "ZZPLANTEDID",
        "PatientBirthDate": "19411207",
        "AccessionNumber": "ZZPLANTEDACC",
        "StudyDescription": "ZZPLANTED STUDY",
        "SeriesDescription": "ZZPLANTED SERIES",
        "ReferringPhysicianName": "ZZPLANTED^DOCTOR",
        "InstitutionName": "ZZPLANTED HOSPITAL",
        "PatientComments": "ZZPLANTED COMMENT",
    }
    for name, more in {"ok": {}, "bad_body": {"BodyPartExamined": "ZZPLANTED"}, "bad_bits": {"BitsStored": 40}}.items():
        dataset = with_own_uids(
            shared_data / "dicom" / "udacity_test1.dcm", tmp_path / f"{name}.dcm", **planted, **more
        )
        node.send(tmp_path / f"{name}.dcm")
        node.wait_for(dataset.StudyInstanceUID)
        wait_until(lambda uid=dataset.StudyInstanceUID: orthanc.reports(uid), 30, "delivered")
    text = node.log_path.read_text(errors="replace")
    assert dataset.StudyInstanceUID in text
    assert "ZZPLANTED" not in text
    assert "19411207" not in text


@pytest.mark.requirement("SRS-SYS-004")
def test_a_job_ends_in_one_log_line(line):
    """Its story in one place: what, how often tried, how long, how it ended."""
    node, _ = line
    settled = [item for item in node.log_lines() if item["event"] == "job_settled"]
    assert {item["kind"] for item in settled} >= {"analyze", "deliver"}
    for item in settled:
        assert {"job_id", "key", "result", "attempt", "seconds"} <= set(item)


@pytest.mark.requirement("SRS-SYS-005")
def test_the_node_stops_within_ten_seconds(line):
    """A service manager kills what takes longer."""
    node, _ = line
    assert node.stop() < 10
    node.start()
