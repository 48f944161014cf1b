"""Key Object Selection."""

import pytest

from cxr_node.findings import ImageAnalysis
from cxr_node.reporting import render_text
from cxr_node.reporting.key_object import build_kos
from tests.builders import make_material, make_radiograph_dataset, make_score

pytestmark = pytest.mark.requirement("SRS-RPT-106")

# CID 7011: a PACS hides what these titles refer to.
REJECTIONS = {"113001", "113037", "113038", "113039"}


def test_the_flagged_images_are_the_key_objects():
    """In content and evidence alike, the highest probability first."""
    first = make_radiograph_dataset()
    others = [make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID) for _ in range(2)]
    material = make_material(first, *others)
    images = tuple(
        ImageAnalysis(item.image, (make_score(probability),))
        for item, probability in zip(material.outcome.images, (0.6, 0.1, 0.8), strict=True)
    )
    selection = build_kos(make_material(first, *others, outcome=type(material.outcome)("1.2.3", images)))
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in selection.ContentSequence
        if item.ValueType == "IMAGE"
    ]
    assert named == [others[1].SOPInstanceUID, first.SOPInstanceUID]
    (study,) = selection.CurrentRequestedProcedureEvidenceSequence
    held = [
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert sorted(held) == sorted(named)


def test_a_selection_reads_as_text():
    """It has neither completion nor verification flag."""
    text = render_text(build_kos(make_material()))
    assert "Of Interest" in text
    assert "Status      none stated" in text


def test_the_title_hides_nothing_and_images_have_no_concept_name():
    """TID 2010 row 8; a rejection note would take the images from the reader."""
    selection = build_kos(make_material())
    title = selection.ConceptNameCodeSequence[0].CodeValue
    assert title == "113000"
    assert title not in REJECTIONS
    assert all("ConceptNameCodeSequence" not in item for item in selection.ContentSequence if item.ValueType == "IMAGE")
    (description,) = [
        item.TextValue for item in selection.ContentSequence if item.ValueType == "TEXT" and "triage" in item.TextValue
    ]
    assert "not reviewed by a physician" in description
