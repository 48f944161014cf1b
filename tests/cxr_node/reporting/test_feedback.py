"""A reader's assessment as a document."""

from datetime import timedelta
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from cxr_node.reporting import Assessment, as_class, build_feedback, encode, findings_of, render_text
from tests.builders import DEVICE, NOON, make_material, make_objects, make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-RPT-109")


@pytest.fixture(scope="module")
def flagged() -> Dataset:
    return make_objects(make_material(make_radiograph_dataset(IssuerOfPatientID="HOSPITAL")))["sr"]


@pytest.fixture(scope="module")
def not_flagged() -> Dataset:
    return make_objects(make_material(probability=0.1))["sr"]


def _feedback(report, verdict="agree", finding="pneumonia", comment="", reader="dr-meier", **more) -> Dataset:
    assessment = Assessment(verdict, finding, comment, reader)
    return build_feedback(assessment, report, device=DEVICE, content_time=more.pop("at", NOON), **more)


def _items(document: Dataset) -> dict[str, Dataset]:
    assessed = document.ContentSequence[-1]
    assert assessed.ConceptNameCodeSequence[0].CodeMeaning == "Result Assessment"
    return {item.ConceptNameCodeSequence[0].CodeValue: item for item in assessed.ContentSequence}


@pytest.mark.parametrize(("verdict", "code"), [("agree", "AIRAI_12"), ("disagree", "AIRAI_16"), ("unsure", "AIRAI_14")])
def test_the_verdict_is_on_the_finding_and_its_report(flagged, verdict, code):
    """The Observation UID is what AIRA consumers match by."""
    made = _feedback(flagged, verdict)
    items = _items(made)
    assert items["AIRAI_06"].ConceptCodeSequence[0].CodeValue == code
    assert findings_of(flagged)["pneumonia"] == items["AIR005"].UID
    assert items["AIRAI_04"].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == flagged.SOPInstanceUID
    assert flagged.SOPInstanceUID in str(made.CurrentRequestedProcedureEvidenceSequence)
    assert made.ReferencedInstanceSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "AIRAI_21"


def test_a_missed_finding_rejects_the_report_as_a_whole(not_flagged):
    """There is no Observation UID for what was not stated."""
    items = _items(_feedback(not_flagged, "disagree"))
    assert findings_of(not_flagged) == {}
    assert {"AIRAI_03", "AIR005"}.isdisjoint(items)
    assert items["AIRAI_06"].ConceptCodeSequence[0].CodeMeaning == "Rejected"
    assert items["121106"].TextValue == "The reader sees pneumonia, which the result did not flag."


def test_a_login_is_not_an_identity(flagged):
    """UNVERIFIED, and the document says how the reader is known."""
    made = _feedback(flagged, reader="dr^meier=x\\y")
    text = render_text(made)
    assert made.VerificationFlag == "UNVERIFIED"
    assert "VerifyingObserverSequence" not in made
    assert "Observer Type: Person" in text
    assert "Status      COMPLETE, UNVERIFIED\n" in text
    assert "Person Observer Name: dr meier x y" in text
    assert "not verified in any other way" in text


def test_a_later_verdict_names_the_former(flagged):
    """A reader may change their mind, and nothing is taken back."""
    first = _feedback(flagged)
    second = _feedback(flagged, "disagree", at=NOON + timedelta(minutes=1), predecessor=first)
    assert first.SOPInstanceUID in str(second.PredecessorDocumentsSequence)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


def test_it_is_filed_with_the_patient_of_the_report(flagged):
    """And written the same way twice."""
    made = dcmread(BytesIO(encode(_feedback(flagged, comment="Gr\u00fc\u00dfe, \u5c71"))))
    assert (made.PatientID, made.IssuerOfPatientID) == ("P1", "HOSPITAL")
    assert made.StudyInstanceUID == flagged.StudyInstanceUID
    assert (made.Modality, made.SeriesNumber) == ("SR", 9006)
    assert _items(made)["121106"].TextValue == "Gr\u00fc\u00dfe, \u5c71"
    assert encode(_feedback(flagged)) == encode(_feedback(flagged))


def test_the_finding_is_found_in_every_class_of_the_report(flagged):
    """A destination may have taken the report as Comprehensive or Enhanced SR."""
    twin = as_class(flagged, "1.2.840.10008.5.1.4.1.1.88.22")
    assert findings_of(twin) == findings_of(flagged) != {}
    assert twin.SOPInstanceUID in str(_feedback(twin).CurrentRequestedProcedureEvidenceSequence)
