"""Sets, figures, subgroups and baselines on cases whose answers are known."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from cxr_node.inference import OperatingPoint
from trainer import metrics
from trainer.cli import main
from trainer.cohorts import Case, Cohort
from trainer.evaluate import baselines, evaluation_sets, measure
from trainer.evaluate.saliency import smooth_gradients
from trainer.predictor import Locked, Scores

from .conftest import draw

HALF = Locked(1.0, 0.0, OperatingPoint("half", 0.5, 0.9, 0.9, "made up"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "x.png"
    draw(path, False, np.random.default_rng(1))
    return path


def nih_like(picture, count=400):
    """A cohort in which AP tells the label, as in the selection of NIH at hand."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(count):
        label = float(rng.random() < 0.5)
        view = "AP" if rng.random() < (0.8 if label else 0.3) else "PA"
        part, subset = ("train", "internal") if number < 200 else ("test", "internal" if number < 350 else "official")
        if subset == "official" and not label:
            continue
        cases.append(
            Case(
                f"c{number}",
                picture,
                {"pneumonia": label, "effusion": float(label and number % 2)},
                f"p{number // 2}",
                part,
                age=50 if number % 3 else 70,
                sex="F" if number % 4 else "M",
                view=view,
                subset=subset,
                source="cxr14",
                references={"rsna": label if number % 2 else math.nan},
            )
        )
    return Cohort("nih", "drawn", tuple(cases), "")


def scored(cases, values):
    return Scores(tuple(cases), ("pneumonia",), np.asarray(values, float)[:, np.newaxis])


@pytest.mark.requirement("SRS-TRN-003")
def test_the_sets_of_a_cohort_say_what_they_lack(picture):
    """An AUC against a handful of negatives would be printed, and believed."""
    cohort = nih_like(picture)
    test = cohort.part("test")
    sets = evaluation_sets(cohort, scored(test, np.linspace(0.01, 0.99, len(test))), "pneumonia")
    assert [item.name for item in sets] == ["internal-test", "official-test", "pooled-test", "rsna-readers"]
    assert "sensitivity only" in sets[1].says
    assert set(sets[1].labels) == {1.0}
    assert len(sets[3].labels) == sum(not math.isnan(case.references["rsna"]) for case in test)
    figures = measure(sets[1], "pneumonia", HALF)
    assert "auc" not in figures
    assert "specificity" not in figures
    assert "sensitivity" in figures


@pytest.mark.requirement("SRS-TRN-003")
def test_figures_are_those_counted_by_hand(picture):
    cohort = nih_like(picture)
    cases = [case for case in cohort.part("test") if case.subset == "internal"]
    labels = np.array([case.labels["pneumonia"] for case in cases])
    rng = np.random.default_rng(2)
    values = np.clip(0.5 + 0.2 * (labels - 0.5) + rng.normal(0, 0.15, len(labels)), 0.01, 0.99)
    item = evaluation_sets(cohort, scored(cases, values), "pneumonia")[0]
    figures = measure(replace(item, scored=scored(cases, values), labels=labels), "pneumonia", HALF)
    called = values >= 0.5
    true_positive = int((called & (labels == 1)).sum())
    assert figures["confusion"]["true_positive"] == true_positive
    assert figures["confusion"]["false_positive"] == int((called & (labels == 0)).sum())
    assert figures["precision"]["value"] == pytest.approx(true_positive / called.sum(), abs=1e-4)
    assert figures["f1"] == pytest.approx(2 * true_positive / (called.sum() + labels.sum()), abs=1e-4)
    assert figures["auc"]["value"] == pytest.approx(metrics.auc(labels, values), abs=1e-4)
    assert figures["base_rate"] == pytest.approx(labels.mean(), abs=1e-4)
    assert figures["roc"][0] == (0.0, 0.0)
    assert figures["roc"][-1] == (1.0, 1.0)
    assert sum(figures["histogram"]["present"]) == labels.sum()
    assert sum(item["n"] for item in figures["calibration"]["after"]["bins"]) == len(labels)
    predictive = figures["predictive_values"]["0.05"]
    sensitivity, specificity = figures["sensitivity"]["value"], figures["specificity"]["value"]
    expected = 0.05 * sensitivity / (0.05 * sensitivity + 0.95 * (1 - specificity))
    assert predictive["ppv"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.requirement("SRS-TRN-012")
def test_subgroups_are_measured_or_called_too_few(picture):
    """A sensitivity on eleven men is a rumour."""
    cohort = nih_like(picture)
    test = cohort.part("test")
    item = evaluation_sets(cohort, scored(test, np.linspace(0.01, 0.99, len(test))), "pneumonia")[2]
    groups = measure(item, "pneumonia", HALF)["subgroups"]
    assert set(groups) == {"sex", "view", "age", "co_finding"}
    men = [case for case in item.scored.cases if case.sex == "M" and case.labels["pneumonia"] == 1]
    assert len(men) < 30
    assert groups["sex"]["M"]["too_few"] == f"{len(men)} with the finding, 30 needed"
    assert "auc" not in groups["sex"]["M"]
    assert groups["sex"]["F"]["sensitivity"]["n"] == groups["sex"]["F"]["present"] >= 30
    # Positives with the co-finding against every negative, as negatives have none.
    effusion = groups["co_finding"]["effusion"]
    with_effusion = [case for case in item.scored.cases if case.labels["effusion"] == 1]
    assert effusion["present"] == len(with_effusion)
    assert effusion["absent"] == int((item.labels == 0).sum())


@pytest.mark.requirement("SRS-TRN-003")
def test_baselines_find_what_tells_the_label_without_anatomy(picture, tmp_path):
    """Where the view tells the label the metadata baseline must find it: that is what the model has to beat."""
    cohort = nih_like(picture)
    test = [case for case in cohort.part("test") if case.subset == "internal"]
    labels = np.array([case.labels["pneumonia"] for case in test])
    found = {item.name: item for item in baselines(cohort.part("train"), test, "pneumonia")}
    assert set(found) == {"always-positive", "file-size", "mean-gray", "metadata", "pca-48"}
    assert metrics.delong(labels, found["metadata"].probabilities).low > 0.6
    assert metrics.auc(labels, found["always-positive"].probabilities) == 0.5
    assert metrics.auc(labels, found["file-size"].probabilities) == 0.5, "one picture has one size"
    # A picture that gets longer with the finding gives itself away.
    sized = []
    for case in cohort.cases:
        path = tmp_path / f"{case.identifier}.png"
        path.write_bytes(picture.read_bytes() + b"\0" * int(500 * case.labels["pneumonia"]))
        sized.append(replace(case, path=path))
    train = [case for case in sized if case.part == "train"]
    test = [case for case in sized if case.part == "test" and case.subset == "internal"]
    found = {item.name: item for item in baselines(train, test, "pneumonia")}
    assert metrics.auc(labels, found["file-size"].probabilities) == 1.0


@pytest.mark.requirement("SRS-TRN-012")
def test_saliency_lies_on_the_pixels_that_move_the_score():
    """A map that lies elsewhere than the network looks would reassure for nothing."""
    import keras

    inputs = keras.Input((32, 32, 1))
    region = keras.layers.Cropping2D(((4, 20), (18, 6)))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(region)
    x = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(x)
    saliency = smooth_gradients(keras.Model(inputs, x), np.full((32, 32), 0.5, np.float32), 0)
    assert saliency.shape == (32, 32)
    assert saliency[6:10, 20:24].min() > 0.9
    assert saliency[:, :10].max() < 0.01


@pytest.mark.requirement("SRS-TRN-012")
def test_evaluate_writes_figures_scores_and_grids(drawn_data, config_file, tmp_path):
    """A data scientist reads the page; a program reads the JSON; whoever doubts reads the scores."""
    run = tmp_path / "run"
    common = ["--data", str(drawn_data)]
    assert main(["train", str(config_file), *common, "--out", str(run), "--weights", "none"]) == 0
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(run), *common, "--out", str(out), "--part", "test"]) == 0
    record = json.loads((out / "evaluation.json").read_text())
    assert record["schema"] == "cxr-train evaluation 1"
    assert record["main_set"] == "official-test"
    assert set(record["sets"]) == {"official-test", "tune", "tune-perturbed"}
    assert record["training"]["log"][1]["epoch"] == 2
    assert record["training"]["config"]["training"]["seed"] == 5
    assert any("cross-population: not run" in sentence for sentence in record["not_run"])
    rows = list(csv.DictReader((out / "scores-test.csv").open()))
    assert len(rows) == 24
    probabilities = np.array([float(row["pneumonia probability"]) for row in rows])
    labels = np.array([float(row["pneumonia label"]) for row in rows])
    threshold = record["operating_point"]["threshold"]
    called = (probabilities >= threshold) & (labels == 1)
    assert record["sets"]["official-test"]["confusion"]["true_positive"] == int(called.sum())
    missed = record["sets"]["official-test"]["confusion"]["false_negative"]
    assert (out / "missed.png").is_file() == bool(missed)
    assert (out / "figures").is_dir()
    assert main(["evaluate", str(tmp_path), *common, "--out", str(out)]) == 2
