"""Results, and the pages of validation that are made of them."""

import json
import re

import jsonschema
import pytest

from regulatory import results
from regulatory.figures import gather
from regulatory.pages import PAGES
from regulatory.render import render_page
from regulatory.results import ResultsError, read_evaluation
from regulatory.sources import SOURCES, validation, validation_tables
from regulatory.sources.records import PACKAGES, RUNS, released
from tests.conftest import ROOT
from tests.regulatory.committed import NAMES, PACKAGE, changed, copy_records, figures, table

OURS = (
    "cohorts",
    "cohorts_leaks",
    "models",
    "cards",
    "validation",
    "validation_tables",
    "drawings",
    "drawings_cohorts",
)


@pytest.fixture
def copied(tmp_path):
    return copy_records(tmp_path)


@pytest.mark.requirement("SRS-REG-020")
@pytest.mark.parametrize("name", NAMES)
def test_a_committed_evaluation_is_of_the_form_by_the_model_and_by_the_schema(name):
    """Two readers of the form, ours and a library's, so that the schema that is handed out is true."""
    path = ROOT / RUNS / name / "evaluation.json"
    found = read_evaluation(path)
    jsonschema.validate(found, json.loads((ROOT / results.SCHEMA_FILE).read_text()))


@pytest.mark.requirement("SRS-REG-020")
def test_the_schema_is_that_of_the_code():
    assert (ROOT / results.SCHEMA_FILE).read_text("utf-8") == results.schema()


def _no_threshold(value):
    del value["operating_point"]["threshold"]


def _odd_key(value):
    value["sets"]["official-test"]["specifity"] = 0.9


def _more_present(value):
    value["sets"]["official-test"]["present"] += 1


def _other_sensitivity(value):
    value["sets"]["official-test"]["sensitivity"]["value"] = 0.98


def _outside_interval(value):
    value["sets"]["official-test"]["auc"]["high"] = 0.9


def _no_such_set(value):
    value["main_set"] = "another"


@pytest.mark.requirement("SRS-REG-020")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_no_threshold, "operating_point.threshold: Field required"),
        (_odd_key, "specifity"),
        (_more_present, "are not 545 images"),
        (_other_sensitivity, "not that of the confusion matrix"),
        (_outside_interval, "above its upper limit"),
        (_no_such_set, "main_set 'another'"),
    ],
)
def test_results_that_contradict_themselves_are_refused_by_name(copied, change, said):
    """A typing error in a results file must not become a page."""
    path = copied / RUNS / PACKAGE / "evaluation.json"
    changed(path, change)
    with pytest.raises(ResultsError, match=f"{PACKAGE}/evaluation.json") as error:
        released(copied)
    assert said in str(error.value)


@pytest.mark.requirement("SRS-REG-021")
def test_an_evaluation_is_printed_while_it_is_of_the_package():
    for package in released(ROOT):
        assert package.why_not == "", package.name
        assert package.evaluation["sets"][package.main_set]["auc"]["value"] > 0


@pytest.mark.requirement("SRS-REG-021")
def test_a_new_threshold_leaves_no_old_figure(copied):
    """The classic defect: a document with one threshold, its figures with another."""
    before = figures(validation.gather(ROOT))
    changed(
        copied / PACKAGES / PACKAGE / "manifest.json",
        lambda value: value["operating_points"]["pneumonia"].update(threshold=0.6),
    )
    material = validation.gather(copied)
    after = figures(material)
    name = f"{PACKAGE}.official-test.sensitivity"
    assert before[name].shown.startswith("0.986")
    assert after[name].shown == "not measured"
    assert after[f"{PACKAGE}.threshold"].shown == "0.6000"
    rows = {row[0]: row[1:] for row in table(material, f"{PACKAGE}.at-threshold").rows}
    assert set(rows["official-test"]) == {"not measured"}
    reason = next(text for text in material.texts if text.id == f"{PACKAGE}.not-run").markdown
    assert "threshold is 0.50794 there and 0.6 here" in reason


@pytest.mark.requirement("SRS-REG-021")
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("manifest.json", lambda value: value.update(version="9.9.9")),
        ("manifest.json", lambda value: value["calibration"]["pneumonia"].update(slope=1.0)),
        ("manifest.json", lambda value: value["figures"]["test"]["official-test"]["auc"].update(value=0.99)),
        ("manifest.json", lambda value: value["preprocess"].update(size=[128, 128])),
    ],
    ids=["version", "calibration", "figure", "input"],
)
def test_an_evaluation_of_another_package_does_not_count(copied, file, change):
    changed(copied / PACKAGES / PACKAGE / file, change)
    package = next(item for item in released(copied) if item.name == PACKAGE)
    assert package.evaluation == {}
    assert package.why_not.startswith("not measured: the committed evaluation is not of this package")


@pytest.mark.requirement("SRS-REG-021")
def test_words_of_the_manifest_may_change_and_the_figures_stay(copied):
    """A limit that is put more clearly makes no new evaluation necessary, and the report says that the bytes differ."""
    changed(copied / PACKAGES / PACKAGE / "manifest.json", lambda value: value.update(limitations=["Said better."]))
    material = validation.gather(copied)
    assert figures(material)[f"{PACKAGE}.official-test.auc"].shown.startswith("0.972")
    assert figures(material)[f"{PACKAGE}.same-manifest"].shown == "no"
    assert "Said better." in next(text for text in material.texts if text.id == f"{PACKAGE}.limits").markdown


@pytest.mark.requirement("SRS-REG-021")
def test_without_an_evaluation_every_page_reads_not_run(copied):
    (copied / RUNS / PACKAGE / "evaluation.json").unlink()
    material = validation.gather(copied)
    assert figures(material)[f"{PACKAGE}.official-test.auc"].shown == "not run"
    assert table(material, f"{PACKAGE}.sets").rows[0][1:] == ("not run",) * 8
    others = validation_tables.gather(copied)
    for key in ("baselines", "subgroups"):
        assert table(others, f"{PACKAGE}.{key}").rows[0][0] == "not run"


@pytest.mark.requirement("SRS-REG-021")
def test_every_page_is_made_without_any_evaluation_run_or_exploration(copied):
    """A page that breaks where nothing was measured would be mended by measuring nothing."""
    for path in [*(copied / RUNS).glob("*/*"), *(copied / RUNS).glob("*.json")]:
        path.unlink()
    catalogue = gather(copied, {topic: SOURCES[topic] for topic in OURS})
    assert [problem for problem in catalogue.problems if "raised" in problem] == []
    pages = [page for page in PAGES if page.file[:2] in ("06", "07", "08")]
    assert len(pages) >= 16
    made = {page.file: render_page(page, catalogue, "0.0.0").text for page in pages}
    for file in ("06_data/cohorts.md", "08_validation/report.md", "07_model/pneumonia-adult_training.md"):
        assert "not run" in made[file], file
    figures_printed = re.findall(
        r"\[([^]]*)\]\([^)]*#figure-[a-z-]+\.[a-z-]*test\.auc\)", made["08_validation/report.md"]
    )
    assert figures_printed
    assert set(figures_printed) == {"not run"}


@pytest.mark.requirement("SRS-REG-022")
@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_is_printed_with_what_came_of_it(name):
    """A criterion that was missed is the one that a reader needs."""
    manifest = json.loads((ROOT / PACKAGES / name / "manifest.json").read_text())
    rows = table(validation.gather(ROOT), f"{name}.criteria").rows
    wanted = manifest["figures"]["criteria"]
    assert [row[0] for row in rows] == [item["says"] for item in wanted]
    assert [row[2] for row in rows] == ["met" if item["passed"] else "**NOT MET**" for item in wanted]
    for row, item in zip(rows, wanted, strict=True):
        assert row[3] == item.get("released_despite", row[3])
        assert bool(row[3]) == (not item["passed"])


@pytest.mark.requirement("SRS-REG-022")
def test_a_criterion_that_was_missed_lately_changes_the_count(copied):
    def miss(value):
        value["figures"]["criteria"][1]["passed"] = False

    before = figures(validation.gather(ROOT))[f"{PACKAGE}.criteria-met"].value
    changed(copied / PACKAGES / PACKAGE / "manifest.json", miss)
    assert figures(validation.gather(copied))[f"{PACKAGE}.criteria-met"].value == before - 1


@pytest.mark.requirement("SRS-REG-023")
def test_a_group_with_too_few_images_has_no_figure():
    """A figure on a handful of images would be quoted all the same."""
    seen = 0
    for package in released(ROOT):
        rows = table(validation_tables.gather(ROOT), f"{package.name}.subgroups").rows
        groups = package.sets[package.main_set]["subgroups"]
        entries = [entry for members in groups.values() for entry in members.values()]
        assert len(rows) == len(entries)
        for row, entry in zip(rows, entries, strict=True):
            few = "too_few" in entry
            seen += few
            assert row[4].startswith("too few") == few
            assert any(character.isdigit() for character in row[6]) != few
    assert seen, "no group is too small: the records changed, and this test asks nothing any more"


@pytest.mark.requirement("SRS-REG-026")
def test_the_protocol_claims_a_date_only_for_the_file_that_was_trained_with(copied):
    """The record holds the hash of then: a criterion written later must not look as if it had been there."""

    def dated(root):
        rows = table(validation.gather(root), "validation.protocol").rows
        return next(row[2] for row in rows if row[0] == PACKAGE and row[1].startswith("words"))

    package = next(item for item in released(copied) if item.name == PACKAGE)
    changed(
        copied / RUNS / PACKAGE / "run.json",
        lambda value: value["config"].update(sha256=package.config_sha256),
    )
    assert dated(copied).startswith("yes")
    path = copied / "trainer" / "configs" / f"{PACKAGE}.toml"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("at_least = 0.96", "at_least = 0.97"))
    assert dated(copied).startswith("not shown by these records")


@pytest.mark.requirement("SRS-REG-026")
def test_settings_that_differ_from_those_of_the_run_are_named(copied):
    path = copied / "trainer" / "configs" / f"{PACKAGE}.toml"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("rotate_degrees = 10.0", "rotate_degrees = 20.0"))
    package = next(item for item in released(copied) if item.name == PACKAGE)
    assert package.config_differences == ("augment",)


@pytest.mark.requirement("SRS-REG-029")
def test_every_released_package_has_its_pages():
    files = {page.file for page in PAGES}
    for name in NAMES:
        assert {f"07_model/{name}_training.md", f"07_model/{name}_card.md"} <= files


@pytest.mark.requirement("SRS-REG-030")
def test_the_gate_page_prints_rates_with_interval_and_what_was_not_measured(copied):
    path = copied / "cxr_node" / "imaging" / "plausibility.json"

    def more_refused(value):
        value["test"]["all"]["as it is"] = {"excluded": 11, "of": 1114, "rate": 0.0099, "ci95": [0.0055, 0.0176]}

    changed(path, more_refused)
    assert figures(validation_tables.gather(copied))["gate.over-refusal"].shown == "1.0 % (0.5 to 1.8)"
    path.unlink()
    material = validation_tables.gather(copied)
    assert figures(material)["gate.over-refusal"].shown == "not run"
    assert table(material, "gate.turns").rows[0][0] == "not run"
