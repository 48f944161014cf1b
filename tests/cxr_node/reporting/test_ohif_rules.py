"""Reports held against the rules by which viewers load them, restated from their code.

OHIF: extensions/cornerstone-dicom-sr/src/getSopClassHandlerModule.ts of OHIF/Viewers (MIT), read at commits cccb0bf and
0012c30 and in a later copy; they are called here after the releases they are about: 3.8, 3.9 and 3.11. The code runs
when the report is loaded, and again for every display set that is added after that. dcmjs gives a sequence of one item
the attributes of that item, a longer one none.
Weasis: SRReader.java of nroduit/Weasis (EPL-2.0 OR Apache-2.0): any tree, as long as each value type has its value.
"""

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from cxr_node.findings import Exclusion
from cxr_node.reporting import Assessment, build_feedback, encode
from tests.builders import DEVICE, NOON, make_material, make_objects, make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-RPT-108")

RELEASES = ("3.8", "3.9", "3.11")
LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")


class Undefined(Exception):
    """JavaScript's TypeError: a property of undefined was read."""


def _only(sequence):
    """Return what dcmjs gives as the sequence's attributes."""
    if sequence is None:
        raise Undefined("ContentSequence is undefined")
    return sequence[0] if len(sequence) == 1 else Dataset()


def _name(item: Dataset) -> str:
    if not item.get("ConceptNameCodeSequence"):
        raise Undefined("ConceptNameCodeSequence is undefined")
    return item.ConceptNameCodeSequence[0].CodeValue


def _coordinates(release: str, item: Dataset) -> dict | None:
    found = {"type": item.get("ValueType"), "sop": None}
    if release == "3.8" and item.get("RelationshipType") not in ("INFERRED FROM", "CONTAINS"):
        return None
    below = item.get("ContentSequence")
    if release == "3.11":
        found["sop"] = _only(below).get("ReferencedSOPSequence") if below else None
    elif found["type"] == "SCOORD":
        found["sop"] = _only(below).get("ReferencedSOPSequence")
    return found


def _measurements(release: str, root: list[Dataset]) -> list[dict]:
    library = next((item for item in root if _name(item) == "111028"), None)
    if library is None and release != "3.11":
        raise Undefined("ImageLibrary is undefined")
    container = next((item for item in root if _name(item) == "126010"), None)
    if container is None:
        if release == "3.11":
            return []
        raise Undefined("ImagingMeasurements is undefined")
    found = []
    for group in container.get("ContentSequence") or []:
        if _name(group) != "125007":
            continue
        items = list(group.ContentSequence)
        assert [item for item in items if _name(item) == "112040"], "TrackingUniqueIdentifierItem.UID"
        assert [item for item in items if _name(item) == "112039"], "TrackingIdentifier.TextValue"
        assert not [item for item in items if item.ValueType in ("SCOORD", "SCOORD3D")], "TID 1410 has rules of its own"
        coordinates = [
            _coordinates(release, _only(item.get("ContentSequence"))) for item in items if item.ValueType == "NUM"
        ]
        labels = [
            f"{item.ConceptNameCodeSequence[0].CodeMeaning}: {item.MeasuredValueSequence[0].NumericValue}"
            for item in items
            if item.ValueType == "NUM"
        ]
        found.append({"coords": [item for item in coordinates if item is not None], "labels": labels})
    return found


def _add_to_display_set(release: str, measurements: list[dict], image: Dataset) -> list[str]:
    """Return the instances that something is drawn on, of the display set of one image."""
    drawn = []
    for measurement in measurements:
        for number, coordinate in enumerate(measurement["coords"] or [None]):
            if coordinate is None:
                if release == "3.11":
                    raise Undefined("coords[0] is undefined")
                continue
            if coordinate["sop"] is None:
                if release == "3.8":
                    raise Undefined("ReferencedSOPSequence is undefined")
                if release == "3.9" and image.get("FrameOfReferenceUID") is None:
                    raise Undefined("ImageOrientationPatient of an image without a frame of reference")
                continue
            if release == "3.11" and number:
                continue
            uid = coordinate["sop"][0].ReferencedSOPInstanceUID
            if uid == image.SOPInstanceUID:
                drawn.append(uid)
    return drawn


def _load(release: str, report: Dataset, image: Dataset) -> list[str] | None:
    """Return what is drawn, None for a document that OHIF shows as text."""
    if report.ConceptNameCodeSequence[0].CodeValue != "126000":
        return None
    return _add_to_display_set(release, _measurements(release, list(report.ContentSequence)), image)


def _report(material) -> Dataset:
    return dcmread(BytesIO(encode(make_objects(material)["sr"])))


@pytest.fixture(scope="module")
def image():
    return make_radiograph_dataset()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    "material",
    [
        {},
        {"probability": 0.1},
        {"exclusions": {0: LATERAL}},
        {"probability": 0.1, "was_flagged": True, "revision": 2},
        {"probability": 0.1, "profile": "research"},
    ],
    ids=["flagged", "not-flagged", "excluded", "taken-back", "research"],
)
def test_a_report_without_coordinates_breaks_no_release_of_ohif(image, release, material):
    """It draws nothing, and the images are shown."""
    assert _load(release, _report(make_material(image, **material)), image) == []


@pytest.mark.parametrize("release", RELEASES)
def test_a_region_is_drawn_on_its_image(image, release):
    """Profile research: one group for the region, with the number as its label."""
    report = _report(make_material(image, profile="research"))
    assert _load(release, report, image) == [image.SOPInstanceUID]
    assert _measurements(release, list(report.ContentSequence))[0]["labels"] == ["Probability of pneumonia: 90.0"]


@pytest.mark.parametrize("release", RELEASES)
def test_the_rules_catch_what_they_are_here_for(image, release):
    """A group of TID 1501 without coordinates, with a number or without, breaks one release or another."""
    broken = []
    for keeps_number in (True, False):
        report = _report(make_material(image, profile="research"))
        (group,) = next(item for item in report.ContentSequence if _name(item) == "126010").ContentSequence
        if keeps_number:
            number = next(item for item in group.ContentSequence if item.ValueType == "NUM")
            number.ContentSequence = number.ContentSequence[0].ContentSequence  # the image itself
            number.ContentSequence[0].RelationshipType = "INFERRED FROM"
        else:
            group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "NUM"]
        try:
            _load(release, report, image)
        except Undefined:
            broken.append("number" if keeps_number else "none")
    assert broken == (["none"] if release == "3.11" else ["number"])


@pytest.mark.parametrize("release", RELEASES)
def test_feedback_is_shown_as_text(image, release):
    """It is no measurement report, so nothing is looked for in it."""
    report = _report(make_material(image))
    assessment = Assessment("agree", "pneumonia", "", "reader")
    made = build_feedback(assessment, report, device=DEVICE, content_time=NOON)
    assert _load(release, made, image) is None


VALUES = {
    "TEXT": "TextValue",
    "CODE": "ConceptCodeSequence",
    "NUM": "MeasuredValueSequence",
    "UIDREF": "UID",
    "PNAME": "PersonName",
    "IMAGE": "ReferencedSOPSequence",
    "COMPOSITE": "ReferencedSOPSequence",
    "SCOORD": "GraphicType",
}


def _unreadable(item: Dataset) -> list[str]:
    kind = item.ValueType
    wrong = [] if kind == "CONTAINER" or item.get(VALUES.get(kind, "")) else [f"{kind} without a value"]
    if kind not in ("CONTAINER", "IMAGE", "SCOORD") and not item.get("ConceptNameCodeSequence"):
        wrong.append(f"{kind} without a name")
    for child in item.get("ContentSequence") or []:
        wrong += _unreadable(child)
    return wrong


def test_weasis_has_a_name_and_a_value_for_every_item(image):
    """It prints the tree; a value type that it does not know is printed as missing."""
    material = make_material(image, profile="research")
    report = _report(material)
    feedback = build_feedback(Assessment("disagree", "pneumonia", "no", "r"), report, device=DEVICE, content_time=NOON)
    documents = [
        report,
        feedback,
        make_objects(material)["kos"],
        _report(replace(material, heat_maps={})),
        _report(make_material(image, exclusions={0: LATERAL})),
    ]
    for document in documents:
        assert _unreadable(document) == []
