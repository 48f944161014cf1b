"""Intended use and labelling say what the gate does, what was measured, and what went wrong."""

import dataclasses
import json
import shutil

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from cxr_node.analyze.acceptance import judge_header
from cxr_node.analyze.routing import route
from cxr_node.findings import ACCEPTANCE_RULES, Exclusion
from cxr_node.inference import BUILTIN, find_package
from regulatory.sources import intended_use
from tests.conftest import ROOT

PAEDIATRIC = "cxr_node/packages/pneumonia-paediatric/manifest.json"


@pytest.fixture
def copy(tmp_path):
    """The files that the source reads, to change."""
    for name in ("regulatory/intended_use.toml", "regulatory/requirements.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    for manifest in (ROOT / "cxr_node" / "packages").glob("*/manifest.json"):
        target = tmp_path / manifest.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copyfile(manifest, target)
    return tmp_path


def _of(material, kind, name):
    (found,) = [item for item in getattr(material, kind) if item.id == name]
    return found


def _change(root, name, change):
    path = root / name
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _header(age):
    header = Dataset()
    header.SOPClassUID, header.Modality, header.BodyPartExamined = ComputedRadiographyImageStorage, "CR", "CHEST"
    header.ViewPosition, header.PhotometricInterpretation, header.SamplesPerPixel = "AP", "MONOCHROME2", 1
    header.Rows = header.Columns = 512
    header.BitsStored, header.PatientAge = 12, age
    return header


@pytest.mark.requirement("SRS-REG-073")
def test_the_page_prints_the_table_that_the_gate_runs_in_its_order():
    """A submission whose document says one thing while the program does another is worth nothing."""
    table = _of(intended_use.gather(ROOT), "tables", "intended-use.acceptance")
    assert [row[0] for row in table.rows] == [rule.reason for rule in ACCEPTANCE_RULES]
    assert {row[2] for row in table.rows} == {rule.accepts for rule in ACCEPTANCE_RULES}


@pytest.mark.requirement("SRS-REG-073")
def test_a_rule_that_changes_changes_the_page(monkeypatch):
    """The sentence is the rule's own."""
    changed = (dataclasses.replace(ACCEPTANCE_RULES[0], accepts="anything at all"), *ACCEPTANCE_RULES[1:])
    monkeypatch.setattr(intended_use, "ACCEPTANCE_RULES", changed)
    table = _of(intended_use.gather(ROOT), "tables", "intended-use.acceptance")
    assert table.rows[0][2] == "anything at all"


@pytest.mark.requirement("SRS-REG-073")
@pytest.mark.parametrize(
    ("age", "package"),
    [
        ("001Y", "pneumonia-paediatric"),
        ("005Y", "pneumonia-paediatric"),
        ("018Y", "pneumonia-adult"),
        ("089Y", "pneumonia-adult"),
    ],
)
def test_the_ages_printed_are_those_that_the_router_takes(age, package):
    """Adults and children apart, at the very ends of the ranges that the labelling prints."""
    packages = [find_package(name, [BUILTIN]) for name in ("pneumonia-adult", "pneumonia-paediatric")]
    assert judge_header(_header(age), "triage") is None
    routed = route(_header(age), "triage", packages)
    assert [found.manifest.name for found in routed.packages] == [package]
    row = next(
        row
        for row in _of(intended_use.gather(ROOT), "tables", "intended-use.populations").rows
        if row[0].startswith(f"`{package}`")
    )
    low, _, rest = row[3].partition(" ")
    years = int(age[:3])
    assert years >= int(low)
    assert rest == "years and older" or years <= int(rest.split()[1])


@pytest.mark.requirement("SRS-REG-073")
@pytest.mark.parametrize("age", ["000Y", "006Y", "017Y"])
def test_an_age_between_the_printed_ones_goes_to_no_model(age):
    """What the labelling leaves out the program leaves out."""
    packages = [find_package(name, [BUILTIN]) for name in ("pneumonia-adult", "pneumonia-paediatric")]
    assert isinstance(route(_header(age), "triage", packages), Exclusion)


@pytest.mark.requirement("SRS-REG-073")
def test_a_changed_threshold_changes_the_figure_and_a_changed_age_the_table(copy):
    """Every number of the page is read from the manifest that the program runs."""

    def change(manifest):
        manifest["operating_points"]["pneumonia"]["threshold"] = 0.123456
        manifest["intended_use"]["age_years"] = [2.0, 4.0]

    _change(copy, PAEDIATRIC, change)
    material = intended_use.gather(copy)
    assert _of(material, "figures", "intended-use.pneumonia-paediatric.threshold").shown == "0.123456"
    assert any("2 to 4 years" in row for row in _of(material, "tables", "intended-use.populations").rows)


@pytest.mark.requirement("SRS-REG-074")
def test_limits_and_failed_criteria_are_printed_with_the_reason_for_the_release():
    """What testing found is the part of a labelling that a reader needs most."""
    material = intended_use.gather(ROOT)
    limits = _of(material, "texts", "intended-use.limitations").markdown
    verdicts = []
    for path in (ROOT / "cxr_node" / "packages").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        assert all(f"- {item}" in limits for item in manifest["limitations"])
        verdicts += [item["passed"] for item in manifest["figures"]["criteria"]]
    printed = [row[3] for row in _of(material, "tables", "intended-use.criteria").rows]
    assert printed.count("FAILED") == verdicts.count(False) > 0
    assert printed.count("passed") == verdicts.count(True) > 0


@pytest.mark.requirement("SRS-REG-074")
def test_a_criterion_that_fails_later_is_printed_as_failed(copy):
    """A page that kept an old verdict would be a lie."""

    def change(manifest):
        for item in manifest["figures"]["criteria"]:
            item["passed"] = False

    before = [row[3] for row in _of(intended_use.gather(copy), "tables", "intended-use.criteria").rows]
    _change(copy, PAEDIATRIC, change)
    after = [row[3] for row in _of(intended_use.gather(copy), "tables", "intended-use.criteria").rows]
    assert after.count("FAILED") > before.count("FAILED")


@pytest.mark.requirement("SRS-REG-073")
def test_reasons_beside_the_table_are_those_that_the_code_can_give(tmp_path, monkeypatch):
    """Read from the calls: a new reason is printed without anybody remembering it."""
    reasons = {reason for reason, _, _ in intended_use.further_reasons()}
    assert {"age", "age-unknown", "two-patients", "unreadable-pixels", "no-model"} <= reasons
    assert not reasons & {rule.reason for rule in ACCEPTANCE_RULES}
    (tmp_path / "analyze").mkdir()
    (tmp_path / "analyze" / "new.py").write_text('Exclusion("too-old", f"made in {year}, expected later")')
    monkeypatch.setattr(intended_use, "CODE", tmp_path)
    assert intended_use.further_reasons() == [("too-old", "made in …, expected later", "cxr_node/analyze/new.py")]


@pytest.mark.requirement("SRS-REG-073")
def test_the_words_of_an_output_are_the_nodes_own(monkeypatch):
    """The labelling quotes the program, and not what somebody remembers of it."""
    rows = _of(intended_use.gather(ROOT), "tables", "intended-use.outputs").rows
    assert len({row[1] for row in rows}) == len(rows) == 5
    assert "This does not say that disease is absent." in rows[1][2]
    real = intended_use.state
    monkeypatch.setattr(
        intended_use, "state", lambda material: dataclasses.replace(real(material), headline="SOMETHING ELSE")
    )
    changed = _of(intended_use.gather(ROOT), "tables", "intended-use.outputs").rows
    assert {row[1] for row in changed} == {"SOMETHING ELSE"}


@pytest.mark.requirement("SRS-REG-074")
def test_a_package_that_is_not_there_reads_not_run(copy):
    """Nothing is printed of a model that nobody has, and the page can still be made."""
    shutil.rmtree(copy / "cxr_node" / "packages" / "pneumonia-adult")
    material = intended_use.gather(copy)
    assert _of(material, "figures", "intended-use.pneumonia-adult.ages").shown == "not run"
    assert _of(material, "figures", "intended-use.pneumonia-adult.threshold").shown == "not run"
    assert _of(material, "figures", "intended-use.pneumonia-paediatric.ages").shown == "1 to 5 years"


@pytest.mark.requirement("SRS-REG-074")
def test_a_failure_that_names_no_requirement_stops_the_source(copy):
    """A promise about failure without a requirement behind it is not printed."""
    path = copy / "regulatory/intended_use.toml"
    path.write_text(path.read_text().replace("SRS-RCV-008", "SRS-RCV-999"))
    with pytest.raises(ValueError, match="SRS-RCV-999"):
        intended_use.gather(copy)
