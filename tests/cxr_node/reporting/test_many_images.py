"""A report about ten thousand images: short, and true."""

import pytest

from cxr_node.findings import Exclusion
from cxr_node.reporting import encode
from cxr_node.reporting.listed import MOST_LISTED
from cxr_node.reporting.sr import build_sr
from tests.builders import make_material, make_radiograph_dataset


def _study(images: int, *, excluded: int, values: bool = False):
    """A study whose first images are excluded, all for one reason, each with a value of its own where told."""
    first = make_radiograph_dataset()
    datasets = [first]
    for number in range(1, images):
        dataset = make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID, PixelData=None)
        dataset.SOPInstanceUID = f"1.2.3.{number}"
        datasets.append(dataset)
    exclusions = {
        number: Exclusion(
            "view",
            "View Position is LL, expected PA or AP",
            "(0018,5101) View Position",
            f"L{number}" if values else "LL",
        )
        for number in range(excluded)
    }
    return make_material(*datasets, exclusions=exclusions)


def _entries(report) -> list[str]:
    evaluations = report.ContentSequence[-1]
    return [
        item.TextValue
        for item in evaluations.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "NOT-ANALYSED"
    ]


def _evidence(report) -> list[str]:
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    return [
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


def _referred(item) -> set[str]:
    found = {reference.ReferencedSOPInstanceUID for reference in item.get("ReferencedSOPSequence") or []}
    for child in item.get("ContentSequence") or []:
        found |= _referred(child)
    return found


@pytest.mark.requirement("SRS-ANA-306")
def test_few_excluded_images_are_listed_one_by_one():
    """Whoever looks for an image finds it, with its reason."""
    report = build_sr(_study(MOST_LISTED + 1, excluded=MOST_LISTED))
    assert len(_entries(report)) == MOST_LISTED
    assert len(_evidence(report)) == MOST_LISTED + 1


@pytest.mark.requirement("SRS-ANA-306")
@pytest.mark.parametrize("values", [False, True], ids=["same value", "each its own"])
def test_many_images_excluded_for_one_reason_are_one_entry_with_their_number(values):
    """A CT of ten thousand slices that came with the radiograph says one thing of itself, and megabytes to nobody."""
    report = build_sr(_study(300, excluded=298, values=values))
    (entry,) = _entries(report)
    assert "298 images, of which the first is referred to" in entry
    assert "(view)" in entry
    evidence = _evidence(report)
    assert len(evidence) == len(set(evidence)) == 3
    assert set(evidence) == _referred(report)  # what the content refers to: PS3.3 C.17.2
    impression = report.ContentSequence[-1].ContentSequence
    assert any("298 of 300 images were not analysed" in item.get("TextValue", "") for item in impression)
    assert len(encode(report)) < 40_000
