"""Every kind of object from a running node, made of a real radiograph, and a reader's answer to it."""

import csv
import json
import urllib.request
from pathlib import Path

import cv2
import pytest
from pydicom import dcmread

from cxr_node.reporting import findings_of
from tests.builders import make_radiograph_dataset, to_part_10
from tests.conftest import SHARED_DATA
from tests.system.conftest import Node, wait_until

pytestmark = pytest.mark.real_data

KINDS = ["sc", "sr", "gsps", "kos", "pdf", "feedback"]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node in profile research whose archive is a folder."""
    folder = tmp_path_factory.mktemp("node")
    archive = {"name": "archive", "kind": "folder", "path": str(folder / "archive"), "objects": KINDS, "settle_s": 0.2}
    running = Node(folder, profile="research", destinations=[archive])
    try:
        running.start()
        yield running
    finally:
        running.stop()


def _flagged(node: Node, folder: Path) -> dict:
    """Send images that report and radiologist call pneumonia until one is flagged."""
    with (SHARED_DATA / "cxr14" / "labels.csv").open() as handle:
        rows = [
            row for row in csv.DictReader(handle) if "Pneumonia" in row["Finding Labels"] and row["rsna_target"] == "1"
        ]
    for number, row in enumerate(row for row in rows if int(row["Patient Age"]) >= 18):
        pixels = cv2.imread(str(SHARED_DATA / "cxr14" / row["file"]), cv2.IMREAD_GRAYSCALE)
        dataset = make_radiograph_dataset(255 - pixels, kind="CR", PhotometricInterpretation="MONOCHROME1")
        path = folder / f"{number}.dcm"
        path.write_bytes(to_part_10(dataset))
        node.send(path)
        study = node.wait_for(dataset.StudyInstanceUID)
        if study["flagged"]:
            return study
    raise AssertionError("none of the images crossed the operating point")


def _post(node: Node, uid: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{node.url}/api/studies/{uid}/feedback",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _archived(node: Node, uid: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for path in (node.folder / "archive").rglob("*.dcm"):
        made = dcmread(path)
        if made.StudyInstanceUID == uid:
            found.setdefault(made.SeriesDescription.partition(",")[0], []).append(made)
    return found


@pytest.mark.requirement("SRS-RPT-102")
@pytest.mark.requirement("SRS-WLT-301")
@pytest.mark.timeout(180)
def test_a_flagged_study_sends_every_object_and_takes_an_answer(node, tmp_path):
    """The report names the card that explains it, the reader's answer the finding that the report states."""
    study = _flagged(node, tmp_path)
    uid = study["study_instance_uid"]
    wait_until(lambda: sum(map(len, _archived(node, uid).values())) == 5, 20, "five objects in the archive")
    found = {name: objects[0] for name, objects in _archived(node, uid).items()}
    report, card = found["AI triage result"], found["AI triage card"]
    assert card.SOPInstanceUID in str(report.CurrentRequestedProcedureEvidenceSequence)
    assert (card.Rows, card.Columns) == (720, 1680)
    assert found["AI triage regions (research)"].PresentationLUTShape == "INVERSE"
    assert found["AI triage report"].EncapsulatedDocument.startswith(b"%PDF")

    answer = _post(node, uid, {"verdict": "agree"})
    assert answer["observation_uid"] == findings_of(report)["pneumonia"]
    _post(node, uid, {"verdict": "disagree", "comment": "on second thoughts"})
    wait_until(
        lambda: len(_archived(node, uid).get("Reader's assessment of the AI triage result", [])) == 2,
        20,
        "both answers in the archive",
    )
    assessments = _archived(node, uid)["Reader's assessment of the AI triage result"]
    later = next(item for item in assessments if "PredecessorDocumentsSequence" in item)
    assert answer["sop_instance_uid"] in str(later.PredecessorDocumentsSequence)
    states = wait_until(
        lambda: (
            [(item["object"], item["state"]) for item in node.study(uid)["deliveries"]]
            if all(item["state"] != "SCHEDULED" for item in node.study(uid)["deliveries"])
            else None
        ),
        10,
        "every delivery settled",
    )
    assert {state for _, state in states} == {"DELIVERED"}
    assert len(states) == 7


@pytest.mark.requirement("SRS-RPT-102")
@pytest.mark.timeout(120)
def test_objects_that_come_back_start_no_loop(node, tmp_path):
    """A PACS that sends the whole study sends what the node made of it too."""
    study = _flagged(node, tmp_path)
    uid = study["study_instance_uid"]
    wait_until(lambda: sum(map(len, _archived(node, uid).values())) == 5, 20, "five objects in the archive")

    def analyses() -> int:
        return sum(1 for line in node.log_lines() if line["event"] == "job_settled" and line.get("key") == uid)

    before = analyses()
    for objects in _archived(node, uid).values():
        for made in objects:
            path = tmp_path / f"{made.SOPInstanceUID}.dcm"
            made.save_as(path)
            node.send(path)
    wait_until(lambda: node.study(uid)["images"] == 6, 20, "the objects are here")
    wait_until(lambda: analyses() > before, 30, "the study was looked at again")
    wait_until(lambda: node.study(uid)["status"] == "analysed", 30, "nothing new was found")
    after = node.study(uid)
    assert (after["revision"], after["exclusions"], after["flagged"]) == (1, [], True)
