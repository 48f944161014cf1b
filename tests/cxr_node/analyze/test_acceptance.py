"""The acceptance table: each rule has what it takes and what it excludes."""

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from cxr_node.analyze.acceptance import ACCEPTANCE, judge_header

pytestmark = pytest.mark.requirement("SRS-ANA-001")


def make_header(**attributes: object) -> Dataset:
    """A header that every rule takes, changed as told; None deletes."""
    header = Dataset()
    values = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": 2000,
        "Columns": 2000,
        "BitsStored": 12,
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(header, keyword, value)
    return header


def coded(keyword: str, value: str, scheme: str) -> dict[str, object]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, scheme
    return {keyword: [item]}


ACCEPTED = [
    ("sop-class", "triage", {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR"}),
    ("sop-class", "research", {"SOPClassUID": SecondaryCaptureImageStorage}),
    ("modality", "triage", {"Modality": "CR"}),
    ("body-part", "triage", {"BodyPartExamined": "PORTABLE CHEST"}),
    ("body-part", "triage", {"BodyPartExamined": "THORAX"}),
    ("body-part", "triage", {"BodyPartExamined": "", **coded("AnatomicRegionSequence", "T-D3000", "SNM3")}),
    ("body-part", "triage", {"BodyPartExamined": None, **coded("AnatomicRegionSequence", "816094009", "SCT")}),
    ("view", "triage", {"ViewPosition": "AP"}),
    ("view", "triage", {"ViewPosition": None, **coded("ViewCodeSequence", "R-10214", "SNM3")}),
    ("view", "triage", {"ViewPosition": "", **coded("ViewCodeSequence", "399348003", "SCT")}),
    ("view", "research", {"ViewPosition": None, "PatientPosition": "AP"}),
    ("photometric", "triage", {"PhotometricInterpretation": "MONOCHROME1"}),
    ("frames", "triage", {"NumberOfFrames": 1}),
    ("size", "triage", {"Rows": 224, "Columns": 224}),
    ("bits", "triage", {"BitsStored": 8}),
    ("bits", "triage", {"BitsStored": 16}),
]

EXCLUDED = [
    ("sop-class", "triage", {"SOPClassUID": CTImageStorage}),
    ("sop-class", "triage", {"SOPClassUID": DigitalXRayImageStorageForProcessing}),
    ("sop-class", "triage", {"SOPClassUID": SecondaryCaptureImageStorage}),
    ("sop-class", "triage", {"SOPClassUID": None}),
    ("modality", "triage", {"Modality": "CT"}),
    ("modality", "triage", {"Modality": None}),
    ("body-part", "triage", {"BodyPartExamined": "RIBCAGE"}),
    ("body-part", "triage", {"BodyPartExamined": None}),
    ("body-part", "triage", {"BodyPartExamined": "HAND", **coded("AnatomicRegionSequence", "816094009", "SCT")}),
    ("view", "triage", {"ViewPosition": "LL"}),
    ("view", "triage", {"ViewPosition": None}),
    ("view", "triage", {"ViewPosition": None, "PatientPosition": "PA"}),
    ("view", "research", {"ViewPosition": None, "PatientPosition": "XX"}),
    ("view", "triage", {"ViewPosition": None, **coded("ViewCodeSequence", "399173006", "SCT")}),
    ("photometric", "triage", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
    ("photometric", "triage", {"PhotometricInterpretation": None}),
    ("frames", "triage", {"NumberOfFrames": 20}),
    ("size", "triage", {"Rows": 128}),
    ("size", "triage", {"Columns": None}),
    ("bits", "triage", {"BitsStored": 1}),
    ("bits", "triage", {"BitsStored": None}),
]


@pytest.mark.parametrize(("reason", "profile", "attributes"), ACCEPTED)
def test_a_rule_takes_what_it_says_it_takes(reason, profile, attributes):
    """Too strict a gate is silence over patients the models are meant for."""
    assert judge_header(make_header(**attributes), profile) is None


@pytest.mark.parametrize(("reason", "profile", "attributes"), EXCLUDED)
def test_a_rule_excludes_with_its_reason_attribute_and_value(reason, profile, attributes):
    """A person must be able to find the attribute at fault."""
    exclusion = judge_header(make_header(**attributes), profile)
    assert exclusion is not None
    assert exclusion.reason == reason
    assert exclusion.attribute.startswith("(")
    assert exclusion.message


def test_every_rule_has_a_case_on_both_sides():
    """A rule added without cases is a rule nobody tried."""
    reasons = {rule.reason for rule in ACCEPTANCE}
    assert {case[0] for case in ACCEPTED} == reasons
    assert {case[0] for case in EXCLUDED} == reasons


def test_an_exclusion_shows_no_control_characters_and_no_long_text():
    """A header's text goes to a page, a log and a report."""
    exclusion = judge_header(make_header(BodyPartExamined="A\x1b[31mB" + "x" * 200), "triage")
    assert exclusion is not None
    assert exclusion.value.isprintable()
    assert len(exclusion.value) <= 64
    assert len(exclusion.message) < 200


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("Rows", "US", [2000, 2000]),
        ("BitsStored", "US", []),
        ("Modality", "CS", ["DX", "CR"]),
        ("ViewPosition", "CS", ["PA", "AP"]),
        ("PhotometricInterpretation", "CS", "MONO\\CHROME2"),
        ("BodyPartExamined", "CS", "B\ufffdcken"),
        ("NumberOfFrames", "IS", [1, 20]),
    ],
)
def test_values_of_the_wrong_kind_are_excluded_not_raised(keyword, vr, value):
    """A sender's header may hold anything."""
    header = make_header()
    header.add_new(keyword, vr, value)
    assert judge_header(header, "triage") is not None
