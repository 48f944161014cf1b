"""Real radiographs, sent from outside with DCMTK, each handled as a chest node should."""

import csv
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SHARED_DATA
from tests.system.conftest import Node, with_own_uids

pytestmark = [pytest.mark.peer("storescu", "dcmsend"), pytest.mark.real_data]

# What the node must do with each file in profile research: None is analysed, otherwise the exclusion's reason.
EXPECTED = {
    "udacity_test1.dcm": None,
    "udacity_test2.dcm": None,
    "udacity_test3.dcm": None,
    "udacity_test4.dcm": "body-part",
    "udacity_test5.dcm": "modality",
    "udacity_test6.dcm": "view",
    "RG1_J2KI.dcm": None,
    "gdcm-CR-MONO1-10-chest.dcm": None,
    "xrv_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": None,
    "xrv_Fake_MONOHR1.dcm": "inverted-polarity",
    "canon_966_fixed_deid.dcm": None,
    "RG3_UNC.dcm": "body-part",
    "RG3_J2KI.dcm": "body-part",
    "RG3_J2KR.dcm": "body-part",
    "RG3_JLSL.dcm": "body-part",
    "RG3_JLSN.dcm": "body-part",
    "RG3_JPLL.dcm": "body-part",
    "RG3_JPLY.dcm": "body-part",
    "RG3_RLE.dcm": "body-part",
    "kodak_hand_J2KR.dcm": "body-part",
    "fodicom_teeth_modalitylut.dcm": "body-part",
    "milvue_ai_result_sc.dcm": "modality",
    "orthanc_RF.dcm": "sop-class",
    "orthanc_pelvis_nopixels.dcm": "body-part",
    "charset_JapMulti_nopixels.dcm": "size",
    "charset_KoreanMulti_nopixels.dcm": "size",
    "clunie_CR_chest_textpage.dcm": "not-a-chest",
    "clunie_DX_textpage.dcm": "view",
}


@pytest.mark.requirement("SRS-ANA-001")
def test_every_file_of_the_table_has_its_expectation():
    """A file added to the table must not be passed over."""
    with (SHARED_DATA / "dicom" / "table.csv").open() as handle:
        assert sorted(row["file"] for row in csv.DictReader(handle)) == sorted(EXPECTED)


@pytest.fixture(scope="module")
def research(tmp_path_factory):
    """A node of profile research; studies do not disturb one another."""
    node = Node(tmp_path_factory.mktemp("research"), profile="research")
    try:
        node.start()
        yield node
    finally:
        node.stop()


def _dcmsend(node, *paths):
    """Send with DCMTK's dcmsend, which proposes for each file the transfer syntax it has."""
    done = subprocess.run(
        ["dcmsend", "-v", "-aec", "CXR_NODE", "127.0.0.1", str(node.port), *map(str, paths)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.requirement("SRS-ANA-001", "SRS-RCV-001")
@pytest.mark.timeout(300)
def test_every_file_sent_with_storescu_is_handled_as_its_table_suggests(research, tmp_path, shared_data):
    """Files 1, 4, 5 and 6 share a SOP Instance UID, and so do the MONOCHROME twins: each is sent under its own."""
    node = research
    sent = {}
    for name in EXPECTED:
        path = tmp_path / name
        sent[name] = with_own_uids(shared_data / "dicom" / name, path).StudyInstanceUID
    node.send(*[tmp_path / name for name in EXPECTED])
    for name in EXPECTED:
        # storescu proposes few transfer syntaxes a class: what it could not send goes alone.
        if node.study(sent[name]) is None:
            _dcmsend(node, tmp_path / name)
    wrong = {}
    for name, reason in EXPECTED.items():
        study = node.wait_for(sent[name], 60)
        found = [item["reason"] for item in study["exclusions"]]
        analysed = [item for item in study["findings"] if 0.0 <= item["probability"] <= 1.0]
        if (reason is None) != bool(analysed) or (reason is not None and found != [reason]):
            wrong[name] = (study["status"], found, study["exclusions"])
        for item in study["exclusions"]:
            assert item["message"], name
        assert study["status"] == ("analysed" if reason is None else "not_analysed"), (name, study)
    assert not wrong


@pytest.mark.requirement("SRS-ANA-001")
def test_the_strict_profile_takes_no_secondary_capture(start_node, tmp_path, shared_data):
    """The six files of a well-known course are Secondary Capture with the view in the wrong attribute."""
    node = start_node(profile="triage")
    uid = with_own_uids(shared_data / "dicom" / "udacity_test1.dcm", tmp_path / "one.dcm").StudyInstanceUID
    node.send(tmp_path / "one.dcm")
    study = node.wait_for(uid)
    assert study["status"] == "not_analysed"
    assert [item["reason"] for item in study["exclusions"]] == ["sop-class"]
    assert study["effective_priority"] == study["ordered_priority"] == "ROUTINE"


@pytest.mark.requirement("SRS-ANA-003")
def test_age_decides_which_model_looks(research, tmp_path, shared_data):
    """A child's chest scored by an adult model is a hazard, and the other way round."""
    node = research
    source = shared_data / "dicom" / "RG1_J2KI.dcm"
    uids = {}
    for age in ("040Y", "018Y", "005Y", "001Y", "013M", "017Y", "006Y", "006M"):
        path = Path(tmp_path / f"{age}.dcm")
        uids[age] = with_own_uids(source, path, PatientAge=age, PatientBirthDate="").StudyInstanceUID
    _dcmsend(node, *[tmp_path / f"{age}.dcm" for age in uids])
    models = {}
    for age, uid in uids.items():
        study = node.wait_for(uid)
        models[age] = study["findings"][0]["model"] if study["findings"] else study["exclusions"][0]["reason"]
    assert models == {
        "040Y": "pneumonia-adult",
        "018Y": "pneumonia-adult",
        "005Y": "pneumonia-paediatric",
        "001Y": "pneumonia-paediatric",
        "013M": "pneumonia-paediatric",
        "017Y": "age",
        "006Y": "age",
        "006M": "age",
    }
