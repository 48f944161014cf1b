"""The ladder: the same cases, thresholds locked beforehand, tests that pair, and a gate that can refuse."""

import json

import numpy as np
import pytest

from trainer import compare as compare_module
from trainer.cli import main
from trainer.compare import PUBLISHED, compare, published_rows
from trainer.evaluate import Baseline
from trainer.metrics import delong_difference
from trainer.predictor import run_predictor


@pytest.fixture(scope="module")
def runs(drawn_data, config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    for name, epochs in (("long", "4"), ("short", "1")):
        arguments = ["train", str(config_file), "--data", str(drawn_data), "--out", str(folder / name)]
        assert main([*arguments, "--epochs", epochs]) == 0
    return folder


@pytest.mark.requirement("SRS-TRN-008")
def test_every_row_is_measured_on_the_same_cases_with_a_threshold_from_tune(runs, drawn_data, tmp_path, capsys):
    arguments = ["compare", str(runs / "long"), str(runs / "short"), "--data", str(drawn_data), "--part", "test"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "comparison.json").read_text())
    ours = [row for row in record["rows"] if row["kind"] == "ours"]
    assert [row["name"] for row in ours] == ["long", "short"]
    kinds = {row["kind"] for row in record["rows"]}
    assert kinds == {"ours", "baseline", "published"}
    measured = [row for row in record["rows"] if row["kind"] != "published"]
    assert {row["auc"]["n"] for row in measured} == {24}
    assert all("accuracy" in row for row in measured)
    assert {pair["b"] for pair in record["paired"]} == {row["name"] for row in measured[1:]}
    assert "gate" in capsys.readouterr().out
    published = {row["name"] for row in record["rows"] if row["kind"] == "published"}
    assert {"student MLP", "student CNN", "student VGG16"} <= published


@pytest.mark.requirement("SRS-TRN-008")
def test_the_gate_asks_the_lower_limit_against_the_best_baseline(runs, drawn_cohort, tmp_path, monkeypatch):
    """A point estimate above a baseline on a few images is luck as often as not."""
    labels = np.array([case.labels["pneumonia"] for case in drawn_cohort.part("test")])
    model = run_predictor(runs / "long")
    for share, passed in ((0.6, True), (1.0, False)):
        rng = np.random.default_rng(3)
        guess = np.where(rng.random(24) < share, labels, rng.random(24)) * 0.8 + 0.1
        monkeypatch.setattr(
            compare_module,
            "baselines",
            lambda train, cases, finding, guess=guess: [Baseline("clue", "", guess)] if len(cases) == 24 else [],
        )
        gate = compare([model], drawn_cohort, tmp_path, part="test")["gate"]
        assert gate["best_baseline"]["name"] == "clue"
        assert gate["passed"] is (gate["found"] > gate["best_baseline"]["auc"])
        assert gate["passed"] is passed


@pytest.mark.requirement("SRS-TRN-003")
def test_the_paired_difference_agrees_with_a_bootstrap_of_the_same_cases():
    rng = np.random.default_rng(4)
    labels = (rng.random(300) < 0.4).astype(float)
    shared = labels + rng.normal(0, 1, 300)
    first, second = shared + rng.normal(0, 0.3, 300), shared + rng.normal(0, 6, 300)
    found = delong_difference(labels, first, second)
    from trainer.metrics import auc

    drawn = [rng.integers(0, 300, 300) for _ in range(800)]
    spread = np.std([auc(labels[d], first[d]) - auc(labels[d], second[d]) for d in drawn])
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(spread, rel=0.12)
    assert delong_difference(labels, first, first).p == 1.0
    assert found.p < 0.05


@pytest.mark.requirement("SRS-TRN-008")
def test_what_others_published_has_a_source_and_fits_its_cohort():
    import tomllib

    rows = tomllib.loads(PUBLISHED.read_text("utf-8"))["row"]
    assert all(row["source"] and row["says"] for row in rows)
    assert all(0 < row[key] <= 1 for row in rows for key in ("auc", "accuracy") if key in row)
    assert {row["name"] for row in published_rows("nih", "pneumonia")} >= {"CheXNet", "Wang et al."}
    assert published_rows("folder", "pneumonia") == []
