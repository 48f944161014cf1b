"""Drawings of the regulatory file: made of the records, the same for the same record, legible without colour."""

import copy
import json
import re
from xml.etree import ElementTree

import pytest

from regulatory.sources import drawings, drawings_cohorts
from regulatory.sources.records import RUNS
from tests.conftest import ROOT
from tests.regulatory.committed import copy_records

SVG = "{http://www.w3.org/2000/svg}"
EVALUATION = json.loads((ROOT / RUNS / "pneumonia-paediatric" / "evaluation.json").read_text())
SET = EVALUATION["sets"]["official-test"]
WHERE = "pneumonia-paediatric, official-test, n = 545"


def _words(svg):
    return " ".join("".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def _lines(svg, group="axes_1"):
    """The curves of an axes, each by its dashes; the grid and the ticks lie in groups of their own."""
    axes = next(item for item in ElementTree.fromstring(svg).iter(f"{SVG}g") if item.get("id") == group)
    found = []
    for item in axes.findall(f"{SVG}g"):
        path = item.find(f"{SVG}path")
        if item.get("id", "").startswith("line2d") and path is not None:
            dashes = re.search(r"stroke-dasharray: ([^;]*)", path.get("style", ""))
            found.append(dashes[1] if dashes else "solid")
    return found


@pytest.mark.requirement("SRS-REG-028")
def test_the_same_record_gives_the_same_bytes():
    """A drawing that changes by itself would make the check of the file cry wolf."""
    first = drawings.drawn("roc", json.dumps(SET), WHERE)
    drawings.drawn.cache_clear()
    assert drawings.drawn("roc", json.dumps(SET), WHERE) == first
    assert "Matplotlib" not in first
    assert not re.search(r"<dc:date>", first)


@pytest.mark.requirement("SRS-REG-028")
def test_another_figure_gives_another_drawing():
    other = copy.deepcopy(SET)
    other["auc"]["value"] = 0.9
    assert "AUC 0.900" in _words(drawings.drawn("roc", json.dumps(other), WHERE))
    assert "AUC 0.972" in _words(drawings.drawn("roc", json.dumps(SET), WHERE))


@pytest.mark.requirement("SRS-REG-028")
@pytest.mark.parametrize("kind", [kind for kind, *_ in drawings.OF_MAIN_SET])
def test_a_drawing_says_on_how_many_images_it_rests_and_what_its_axes_are(kind):
    words = _words(drawings.drawn(kind, json.dumps(SET), WHERE))
    assert "n = 545" in words
    labels = {
        "roc": ("Sensitivity", "False positive rate"),
        "precision-recall": ("Precision", "Recall"),
        "reliability": ("Mean predicted probability", "Share with the finding"),
        "decision-curve": ("Threshold probability", "Net benefit"),
        "subgroups-plot": ("AUC", "Specificity"),
    }[kind]
    assert all(label in words for label in labels)


@pytest.mark.requirement("SRS-REG-028")
def test_lines_of_one_drawing_differ_in_their_dashes():
    """Printed in gray, colours of like lightness are one colour."""
    for kind, most in (("roc", 2), ("decision-curve", 3), ("precision-recall", 2)):
        dashes = [item for item in _lines(drawings.drawn(kind, json.dumps(SET), WHERE)) if item]
        curves = dashes[:most]
        assert len(set(curves)) == most, (kind, dashes)


@pytest.mark.requirement("SRS-REG-028")
def test_the_two_losses_differ_in_dashes_and_marker():
    log = json.dumps(
        [
            {"epoch": 0.0, "loss": 0.5, "tune_loss": 0.4, "tune_auc": 0.8},
            {"epoch": 1.0, "loss": 0.4, "tune_loss": 0.3, "tune_auc": 0.9},
        ]
    )
    svg = drawings.drawn("learning-curves", log, "x: 10 train, 5 tune images")
    assert set(_lines(svg)[:2]) == {"solid", _lines(svg)[1]}
    assert _lines(svg)[1] != "solid"
    markers = re.findall(r'<use xlink:href="(#m[^"]+)"', svg)
    assert len(set(markers)) >= 2
    assert "10 train, 5 tune images" in _words(svg)


@pytest.mark.requirement("SRS-REG-028")
def test_what_was_not_measured_is_drawn_as_words():
    """An empty frame could pass for a curve that was forgotten."""
    assert drawings.drawn("roc", json.dumps({}), WHERE) == ""
    assert "roc not run" in _words(drawings.nothing("x: roc not run"))


@pytest.mark.requirement("SRS-REG-028")
def test_every_drawing_is_there_and_well_formed():
    found = drawings.gather(ROOT).drawings
    assert len({drawing.id for drawing in found}) == len(found)
    for drawing in found:
        words = _words(drawing.svg)
        assert "not run" not in words, drawing.id
        assert "not measured" not in words or "subgroups" in drawing.id, drawing.id
        assert drawing.alt
        assert drawing.command
        assert (ROOT / drawing.source.split(", ")[0]).is_file()


@pytest.mark.requirement("SRS-REG-028")
def test_a_cohorts_drawings_say_of_how_many_images_and_differ_without_colour():
    """Gray values are of a sample: the number above them is that of the pictures read."""
    found = {drawing.id: drawing.svg for drawing in drawings_cohorts.gather(ROOT).drawings}
    assert "n = 1,930" in _words(found["nih.age-plot"])
    assert "n = 1,000 images read of 4,963" in _words(found["kermany.intensity-health-plot"])
    assert len(found["nih.comorbidity-plot"].split("<pattern")) > 1, "the second bars are not hatched"
    assert len(set(re.findall(r"stroke-dasharray: [^;\"]*", found["nih.age-plot"]))) >= 2


@pytest.mark.requirement("SRS-REG-028")
def test_a_cohort_that_was_not_explored_is_drawn_as_words(tmp_path):
    root = copy_records(tmp_path)
    (root / RUNS / "exploration-nih.json").unlink()
    material = drawings_cohorts.gather(root)
    plots = next(figure.value for figure in material.figures if figure.id == "nih.plots")
    assert plots == ("per-patient-plot",)
    svg = next(drawing.svg for drawing in material.drawings if drawing.id == "nih.per-patient-plot")
    assert "nih: exploration not run" in _words(svg)
