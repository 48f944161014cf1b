"""The risk file: rows that are whole, controls that are tested, figures that are measured."""

import json
import re

import pytest

from regulatory import risk, trace
from regulatory.sources import orphans
from regulatory.sources import risk as pages
from tests.conftest import ROOT
from tests.regulatory.trees import copied, edit, figure, run, small, table

RISKS = risk.read(ROOT / "regulatory" / "risks.toml")


@pytest.mark.requirement("SRS-REG-043")
def test_the_hazards_that_this_device_is_known_for_are_there():
    """A table that lost one of these would not be one of this device."""
    told = " ".join(f"{hazard.title} {hazard.sequence}" for hazard in RISKS.hazards).lower()
    for words in (
        "missed flag", "starvation", "monochrome1", "child", "stale threshold", "silent failure", "automation bias",
        "drift", "fatigue", "uid", "lateral", "exclusion", "clock", "stranger", "upgrade", "overload", "identity",
    ):  # fmt: skip
        assert words in told, words
    assert len(RISKS.hazards) >= 25


@pytest.mark.requirement("SRS-REG-043")
def test_every_hazard_is_told_in_sentences_and_every_text_is_without_a_figure_of_its_own():
    """A sensitivity typed here would stay when a model changes; a basis names where a figure is from."""
    number = re.compile(r"\d+(?:\.\d+)? ?%|\b0\.\d+|\b\d{3,}\b(?!-)")
    for hazard in RISKS.hazards:
        texts = [hazard.sequence, hazard.harm, hazard.basis, hazard.residual, *(item.what for item in hazard.controls)]
        assert all(text.endswith(".") for text in texts), hazard.id
        for text in texts:
            bare = re.sub(r"\{[^{}]*\}|SRS-[A-Z]{3}-\d{3}|decision \d{4}|SHA-256|PS3\.\d+", "", text)
            assert not number.search(bare), (hazard.id, text)


@pytest.mark.requirement("SRS-REG-043")
def test_no_severity_is_lowered_by_information_alone():
    """What a label says makes nothing that happens less severe."""
    order = [grade.name for grade in RISKS.severities]
    for hazard in RISKS.hazards:
        if order.index(hazard.severity_after) < order.index(hazard.severity_before):
            assert {control.kind for control in hazard.controls} - {"information"}, hazard.id


@pytest.mark.requirement("SRS-REG-043")
def test_threats_that_hazards_name_are_interfaces_of_the_threat_model():
    """Safety and security are read together."""
    from regulatory import threats

    known = {interface.name for interface in threats.read().interfaces}
    assert {name for hazard in RISKS.hazards for name in hazard.threats} <= known


BROKEN = {
    "a grade of no scale": ('severity_before = "serious"', 'severity_before = "bad"', "found 'bad', expected one of"),
    "a control without a requirement": ('["SRS-AAA-001"]', "[]", "at least one requirement"),
    "a control of no kind": ('kind = "design"', 'kind = "luck"', "RC-01a: expected a kind of"),
    "no control": (
        'controls = [{kind = "design", what = "It sees.", requirements = ["SRS-AAA-001"]}]',
        "controls = []",
        "HAZ-01 has no control",
    ),
    "a cell of the matrix that is missing": (', often = "weigh"}', "}", "matrix.minor: found"),
    "more severe after control": ('severity_before = "serious"', 'severity_before = "minor"\n', ""),
    "a word missing": ('harm = "Delay."\n', "", "HAZ-01:"),
}  # fmt: skip


@pytest.mark.requirement("SRS-REG-043")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_row_that_is_not_whole_is_refused_by_name(fault, tmp_path):
    """By hazard or control, with what was expected."""
    old, new, told = BROKEN[fault]
    path = small(tmp_path) / "regulatory" / "risks.toml"
    edit(path, old, new)
    if fault == "more severe after control":
        edit(path, 'severity_after = "minor"', 'severity_after = "serious"')
        told = "HAZ-01: more severe after control than before"
    with pytest.raises(ValueError, match=re.escape(told)):
        risk.read(path)


@pytest.mark.requirement("SRS-REG-043")
def test_a_hazard_twice_is_refused(tmp_path):
    """An id leads to one row."""
    path = small(tmp_path) / "regulatory" / "risks.toml"
    text = path.read_text()
    path.write_text(text + "\n[[hazard]]" + text.partition("[[hazard]]")[2])
    with pytest.raises(ValueError, match="HAZ-01"):
        risk.read(path)


@pytest.mark.requirement("SRS-REG-043")
def test_a_control_tells_what_its_tests_came_to(tmp_path):
    """Not run without a record; a failed one fails the build by the control's name."""
    root = small(tmp_path)
    assert table(pages.gather(root), "risk.verification").rows[0][-1] == trace.NOT_RUN
    run(root, AAA_001={"failed": 1, "failing": ["tests/test_first.py::test_it_sees"]})
    assert table(pages.gather(root), "risk.verification").rows[0][-1] == trace.FAILED
    with pytest.raises(trace.BrokenTrace, match="control RC-01a"):
        orphans.gather(root)


@pytest.mark.requirement("SRS-REG-043")
def test_a_basis_is_told_with_the_figures_of_the_manifest(tmp_path):
    """A model with another sensitivity changes the hazard; one without that test reads not measured."""
    root = copied(tmp_path)
    path = root / "cxr_node" / "packages" / "pneumonia-adult" / "manifest.json"
    manifest = json.loads(path.read_text())
    shown = manifest["figures"]["test"]["official-test"]["sensitivity"]
    before = dict(table(pages.gather(root), "risk.HAZ-01").rows)["Basis of the estimate"]
    assert f"{shown['value']:.3f} ({shown['low']:.3f} to {shown['high']:.3f})" in before
    shown["value"] = 0.123
    path.write_text(json.dumps(manifest))
    assert "0.123 (" in dict(table(pages.gather(root), "risk.HAZ-01").rows)["Basis of the estimate"]
    del manifest["figures"]["test"]["official-test"]
    path.write_text(json.dumps(manifest))
    changed = table(pages.gather(root), "risk.HAZ-01")
    assert pages.NOT_MEASURED in dict(changed.rows)["Basis of the estimate"]
    assert changed.command.startswith(pages.TRAINED)
    path.unlink()
    with pytest.raises(ValueError, match="HAZ-01: the basis names"):
        pages.gather(root)


@pytest.mark.requirement("SRS-REG-044")
def test_every_residual_risk_that_is_not_acceptable_by_itself_stands_in_the_report(tmp_path):
    """And the report says that nobody has weighed it against a benefit."""
    made = pages.gather(copied(tmp_path))
    left = {row[0] for row in table(made, "risk.left").rows}
    assert left == {hazard.id for hazard in RISKS.hazards if RISKS.after(hazard) != "acceptable"}
    assert left, "a prototype of these models has risks left"
    report = (ROOT / "regulatory" / "text" / "risk_report.md").read_text()
    assert 't("risk.left")' in report
    assert "was not shown to be acceptable" in report


@pytest.mark.requirement("SRS-REG-044")
def test_a_residual_risk_that_grows_enters_the_report(tmp_path):
    """By the matrix of the file, not by hand."""
    root = small(tmp_path)
    assert table(pages.gather(root), "risk.left").rows[0][0] == "HAZ-01"
    edit(root / "regulatory" / "risks.toml", 'probability_after = "often"', 'probability_after = "rare"')
    made = pages.gather(root)
    assert table(made, "risk.left").rows == ()
    assert figure(made, "risk.after.acceptable").value == 1
