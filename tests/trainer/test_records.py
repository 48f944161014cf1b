"""The trainer's README says what the committed comparisons say."""

import json

import pytest

from tests.conftest import ROOT

RUNS = ROOT / "trainer" / "runs"


@pytest.mark.requirement("SRS-TRN-006")
@pytest.mark.parametrize("path", sorted(RUNS.glob("comparison-*.json")), ids=lambda path: path.stem)
def test_every_row_of_a_committed_comparison_stands_in_the_readme_as_measured(path):
    """A table written by hand drifts from its run."""
    text = (ROOT / "trainer" / "README.md").read_text("utf-8")
    record = json.loads(path.read_text())
    for row in record["rows"]:
        if row["kind"] == "published":
            continue
        figures = [row[key] for key in ("auc", "accuracy", "sensitivity", "specificity")]
        cells = [f"{item['value']:.3f} ({item['low']:.3f} to {item['high']:.3f})" for item in figures]
        start = f"| {row['name']}{' (baseline)' if row['kind'] == 'baseline' else ''} | "
        assert start + " | ".join(cells) in text, row["name"]
    assert f"Gate {'passed' if record['gate']['passed'] else 'NOT passed'}: from {record['gate']['found']:.3f}" in text


@pytest.mark.requirement("SRS-TRN-006")
def test_a_released_packages_record_is_among_the_committed_runs():
    """Whoever doubts a package finds the run it came from."""
    for manifest in (ROOT / "cxr_node" / "packages").glob("*/manifest.json"):
        training = json.loads(manifest.read_text())["training"]
        record = json.loads((RUNS / manifest.parent.name / "run.json").read_text())
        assert record["code"] == training["code"]
        assert record["cohort"]["parts"] == training["cohort"]["parts"]
        assert record["code"]["commit"]
