"""The report: valid by every validator at hand, readable, and never more certain than the model."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedSRStorage,
)

from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score, StudyOutcome
from cxr_node.reporting import Device, Material, as_class, build_sr, encode, render_text
from cxr_node.reporting.sr import printed_percent
from tests.pixelmed import errors_in, pixelmed_outputs

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEVICE = Device("cxr-node", "cxr-node project", "cxr-node", "0001", "0.1.0", "2.25.1")
LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")

NAMES = {
    "ascii": (None, "DOE^JANE"),
    "latin-1": ("ISO_IR 100", "M\u00fcller^J\u00f6rg"),
    "cyrillic": ("ISO_IR 144", "\u041b\u044e\u043ace\u043c\u0431yp\u0433"),
    "japanese": (
        ["", "ISO 2022 IR 87"],
        "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
    ),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9"),
    "chinese": ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c"),
    "utf-8": ("ISO_IR 192", "\u0141ukasz^\u017b"),
}


def make_header(charset=None, name="DOE^JANE", **attributes) -> Dataset:
    header = Dataset()
    if charset is not None:
        header.SpecificCharacterSet = charset
    values = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "Modality": "DX",
        "PatientName": name,
        "PatientID": "P1",
        "PatientBirthDate": "19600101",
        "PatientSex": "F",
        "StudyID": "1",
        "StudyDate": "20260101",
        "StudyTime": "101530",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "WHO^DOCTOR",
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(header, keyword, value)
    return header


def make_score(probability=0.9, threshold=0.5, finding="pneumonia", model="pneumonia-adult") -> Score:
    return Score(finding, model, "1.0.0", "ab" * 32, probability, threshold, "locked", probability >= threshold)


def make_image(number: int, *scores: Score, exclusion=None, series=1, sop_class=DigitalXRayImageStorageForPresentation):
    reference = ImageReference(f"1.2.3.4.{series}.{number}", sop_class, f"1.2.3.4.{series}")
    return ImageAnalysis(reference, tuple(scores), exclusion)


def make_report(images, header=None, revision=1, predecessor=None) -> Dataset:
    outcome = StudyOutcome("1.2.3.4", tuple(images))
    headers = {image.image.sop_instance_uid: header or make_header() for image in images}
    return build_sr(
        Material(
            outcome,
            headers,
            device=DEVICE,
            revision=revision,
            predecessors={"sr": predecessor} if predecessor is not None else {},
            content_time=NOON,
            time_zone=UTC,
        )
    )


def requested() -> Dataset:
    item = Dataset()
    item.AccessionNumber = "A1"
    item.RequestedProcedureID = "RP1"
    item.RequestedProcedureDescription = "Chest"
    return item


STUDIES = {
    "positive": [make_image(1, make_score(0.9))],
    "negative": [make_image(1, make_score(0.1))],
    "excluded": [make_image(1, exclusion=LATERAL)],
    "mixed": [make_image(1, make_score(0.9)), make_image(2, exclusion=LATERAL)],
    "mixed_negative": [make_image(1, make_score(0.2)), make_image(2, exclusion=LATERAL, series=2)],
    "several_images": [make_image(1, make_score(0.9)), make_image(2, make_score(0.1), series=2)],
    "two_models": [make_image(1, make_score(0.9), make_score(0.7, finding="abnormal", model="abnormal-adult"))],
    "cr": [make_image(1, make_score(0.9), sop_class=ComputedRadiographyImageStorage)],
}


def all_reports() -> dict[str, Dataset]:
    """Every kind of study and patient, and every SOP class of some."""
    reports = {name: make_report(images) for name, images in STUDIES.items()}
    for name, (charset, patient) in NAMES.items():
        reports[f"name_{name}"] = make_report(STUDIES["positive"], make_header(charset, patient))
    empty = dict.fromkeys(
        (
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
            *("AccessionNumber", "ReferringPhysicianName"),
        )
    )
    reports["type_2_absent"] = make_report(STUDIES["positive"], make_header(**empty))
    odd = {"PatientSex": "X", "PatientBirthDate": "1960", "StudyTime": "10:15:30", "StudyDate": "2026.01.01"}
    reports["odd_values"] = make_report(STUDIES["positive"], make_header(**odd))
    reports["with_request"] = make_report(
        STUDIES["positive"],
        make_header(RequestAttributesSequence=[requested()], IssuerOfPatientID="HOSP", StudyDescription="Chest PA"),
    )
    reports["revised"] = make_report(STUDIES["mixed"], revision=2, predecessor=reports["positive"])
    for name in ("positive", "negative", "excluded", "revised"):
        for sop_class in (ComprehensiveSRStorage, EnhancedSRStorage):
            reports[f"{name}_{sop_class.rpartition('.')[2]}"] = as_class(reports[name], sop_class)
    return reports


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    paths = {}
    for name, report in all_reports().items():
        paths[name] = folder / f"{name}.dcm"
        paths[name].write_bytes(encode(report))
    return paths


@pytest.mark.peer("dciodvfy")
@pytest.mark.requirement("SRS-RPT-001")
def test_dciodvfy_finds_no_error(written):
    """Modules, value representations, evidence."""
    wrong = {}
    for name, path in written.items():
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        if errors:
            wrong[name] = errors
    assert not wrong


LOOKED_AT = ["positive", "negative", "excluded", "mixed", "two_models", "revised", "positive_33", "positive_22"]


@pytest.fixture(scope="module")
def validated(written) -> dict[str, str]:
    """What pixelmed prints for each kind of report."""
    return dict(zip(LOOKED_AT, pixelmed_outputs([written[name] for name in LOOKED_AT]), strict=True))


@pytest.mark.peer("DicomSRValidator")
@pytest.mark.requirement("SRS-RPT-001")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", LOOKED_AT)
def test_pixelmed_finds_no_error(validated, name):
    """Templates and context groups; its exit status is always 0."""
    assert "Found Root Template TID_1500" in validated[name]
    assert errors_in(validated[name]) == []


@pytest.mark.peer("dsrdump")
@pytest.mark.requirement("SRS-RPT-001")
def test_dsrdump_reads_every_report(written):
    """A second reader of the content tree."""
    for name, path in written.items():
        done = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, (name, done.stderr)
        assert "AI: " in done.stdout, name


@pytest.mark.requirement("SRS-RPT-002")
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_patient_keeps_the_name_whatever_its_character_set(written, name):
    """The report must be filed under the same person."""
    found = dcmread(written[f"name_{name}"])
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName).rstrip("^") == NAMES[name][1]


@pytest.mark.requirement("SRS-RPT-003")
@pytest.mark.parametrize("name", ["negative", "excluded", "mixed_negative"])
def test_a_study_that_is_not_flagged_is_never_called_clear(written, name):
    """No Absent, no Normal, no finding: readers list findings without looking at presence."""
    text = render_text(dcmread(written[name]))
    for word in ("Absent", "Normal\n", "Suspected", "Finding: Pneumonia"):
        assert word not in text


@pytest.mark.requirement("SRS-RPT-003")
def test_a_flagged_study_says_suspected_and_preliminary(written):
    """And that nobody has looked yet."""
    report = dcmread(written["positive"])
    text = render_text(report)
    assert "Pneumonia: Suspected" in text
    assert "Finding: Pneumonia" in text
    assert "not reviewed by a physician" in text
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


@pytest.mark.requirement("SRS-RPT-004")
def test_an_excluded_image_is_named_with_its_reason(written):
    """Silence must not look like a clear chest."""
    text = render_text(dcmread(written["excluded"]))
    assert "AI: not analysed: View Position is LL" in text
    assert "Image not analysed: View Position is LL, expected PA or AP (view). Found in (0018,5101)" in text
    assert "No algorithms succeeded" in text
    assert "1 of 2 images were not analysed" in render_text(dcmread(written["mixed"]))


@pytest.mark.requirement("SRS-RPT-005")
def test_the_same_analysis_is_the_same_bytes():
    """A resend must be the same object."""
    first, second = all_reports(), all_reports()
    assert {name: encode(report) for name, report in first.items()} == {
        name: encode(report) for name, report in second.items()
    }


@pytest.mark.requirement("SRS-RPT-005")
def test_what_differs_has_a_uid_of_its_own():
    """A PACS drops a different object with a known UID and answers Success."""
    reports = [make_report(images) for images in STUDIES.values()]
    reports += [make_report(STUDIES["positive"], revision=2), make_report([make_image(1, make_score(0.91))])]
    reports += [as_class(reports[0], sop_class) for sop_class in (ComprehensiveSRStorage, EnhancedSRStorage)]
    uids = [str(report.SOPInstanceUID) for report in reports]
    assert len(set(uids)) == len(uids)
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)


@pytest.mark.requirement("SRS-RPT-006")
def test_evidence_and_predecessor_are_complete(written):
    """A display opens the images from the report, a reader the report before."""
    report = dcmread(written["revised"])
    evidence = str(report.CurrentRequestedProcedureEvidenceSequence)
    assert "1.2.3.4.1.1" in evidence
    assert "1.2.3.4.1.2" in evidence
    predecessor = dcmread(written["positive"])
    assert predecessor.SOPInstanceUID in str(report.PredecessorDocumentsSequence)
    assert report.SeriesInstanceUID == predecessor.SeriesInstanceUID
    assert report.SOPClassUID == Comprehensive3DSRStorage


@pytest.mark.requirement("SRS-RPT-006")
def test_the_request_travels_with_the_report(written):
    """A RIS files it by accession number and requested procedure."""
    (item,) = dcmread(written["with_request"]).ReferencedRequestSequence
    assert (item.AccessionNumber, item.RequestedProcedureID) == ("A1", "RP1")


@pytest.mark.requirement("SRS-RPT-007")
def test_images_of_two_patients_make_no_report():
    """One patient's score under the other's name."""
    images = STUDIES["several_images"]
    headers = {image.image.sop_instance_uid: make_header(PatientID=f"P{number}") for number, image in enumerate(images)}
    with pytest.raises(ValueError, match="more than one patient"):
        build_sr(Material(StudyOutcome("1.2.3.4", tuple(images)), headers, DEVICE, revision=1, content_time=NOON))


@pytest.mark.requirement("SRS-RPT-008")
@given(
    probability=st.floats(0, 1),
    threshold=st.floats(0.001, 0.999).map(lambda value: round(value, 3)),
)
def test_the_printed_number_never_contradicts_the_decision(probability, threshold):
    """49.96 below a threshold of 50 must not print as 50.0."""
    score = make_score(probability, threshold)
    shown = float(printed_percent(score))
    assert 0 <= shown <= 100
    assert shown >= threshold * 100 - 1e-9 if score.flagged else shown < threshold * 100
