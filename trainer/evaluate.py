"""What a released package does on cases it never saw: through the node's own engine, with intervals and baselines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_node.imaging import preprocess
from cxr_node.inference import Engine, Manifest, probability
from trainer import metrics
from trainer.calibration import logistic_fit, sigmoid
from trainer.cohorts import Case, Cohort

TOO_FEW = 10  # in either class: an AUC on less is not given
BOOTSTRAP_REPEATS = 1000


@dataclass(frozen=True)
class Scored:
    """Cases with the score of each, in the same order."""

    cases: tuple[Case, ...]
    scores: np.ndarray

    def chosen(self, keep: Sequence[bool]) -> "Scored":
        mask = np.asarray(keep, bool)
        return Scored(tuple(case for case, kept in zip(self.cases, mask, strict=True) if kept), self.scores[mask])


@dataclass(frozen=True)
class EvaluationSet:
    """A set of cases to measure on: which, against whose labels, and the sentence that says so."""

    name: str
    says: str
    scored: Scored
    labels: np.ndarray


def score_cases(engine: Engine, cases: Sequence[Case]) -> Scored:
    """Score every case by the node's own way from picture to score."""
    spec = engine.package.manifest.preprocess
    parts = [
        engine.scores(np.stack([preprocess(case.radiograph(), spec) for case in cases[start : start + 32]]))
        for start in range(0, len(cases), 32)
    ]
    return Scored(tuple(cases), np.concatenate(parts)[:, 0].astype(np.float64))


def evaluation_sets(cohort: Cohort, scored: Scored, finding: str) -> list[EvaluationSet]:
    """Return what the test part of a cohort can tell, each set with its caution."""

    def made(name: str, says: str, keep: Sequence[bool], reference: str = "") -> EvaluationSet:
        part = scored.chosen(keep)
        labels = [case.references[reference] if reference else case.labels[finding] for case in part.cases]
        return EvaluationSet(name, says, part, np.array(labels))

    cases = scored.cases
    if cohort.name == "kermany":
        return [
            made("official-test", "The official Kermany test part, untouched until the release.", [True] * len(cases))
        ]
    internal = [case.subset == "internal" for case in cases]
    return [
        made(
            "internal-test",
            "Patients of the official train_val part, held out by patient; label from the NIH report: Pneumonia "
            "against No Finding (and the few images with another finding only). Specificity and AUC come from here, "
            "as the official test part has no negatives at this resolution.",
            internal,
        ),
        made(
            "official-test",
            "Patients of the official NIH test part; all but one of its images here are labelled Pneumonia, so it "
            "gives sensitivity only.",
            [not inside for inside in internal],
        ),
        made(
            "pooled-test",
            "All Pneumonia images of both test sets against the negatives of the internal one. The official test "
            "patients are a sicker group, so part of this AUC may be the group and not the finding.",
            [True] * len(cases),
        ),
        made(
            "rsna-readers",
            "Test images of both sets that the RSNA radiologists read: Lung Opacity against none. Most of them carry "
            "the NIH label Pneumonia, so the negatives are hard ones.",
            [not math.isnan(case.references.get("rsna", math.nan)) for case in cases],
            "rsna",
        ),
    ]


def measure(item: EvaluationSet, manifest: Manifest, finding: str, *, views: bool = True) -> dict[str, Any]:
    """Return the figures of a set at the manifest's operating point."""
    threshold = manifest.operating_points[finding].threshold
    probabilities = np.array([probability(manifest, finding, float(score)) for score in item.scored.scores])
    labels = item.labels
    present, absent = int((labels == 1).sum()), int((labels == 0).sum())
    correct = int(((probabilities >= threshold) == (labels == 1)).sum())
    figures: dict[str, Any] = {
        "says": item.says,
        "images": len(labels),
        "patients": len({case.patient for case in item.scored.cases}),
        "present": present,
        "absent": absent,
    }
    # One negative has no specificity worth printing, and an AUC against it still less.
    if present >= TOO_FEW:
        figures["sensitivity"] = metrics.sensitivity(labels, probabilities, threshold).to_json()
    if absent >= TOO_FEW:
        figures["specificity"] = metrics.specificity(labels, probabilities, threshold).to_json()
    if present >= TOO_FEW and absent >= TOO_FEW:
        patients = [case.patient for case in item.scored.cases]
        figures |= {
            "auc": metrics.delong(labels, probabilities).to_json(),
            "auc_patient_bootstrap": metrics.bootstrap_auc(
                labels, probabilities, patients, np.random.default_rng(1), BOOTSTRAP_REPEATS
            ).to_json(),
            "accuracy": metrics.wilson(correct, len(labels)).to_json(),
            "brier": round(metrics.brier(labels, probabilities), 4),
            "expected_calibration_error": round(metrics.expected_calibration_error(labels, probabilities), 4),
            "predictive_values": _predictive_values(labels, probabilities, threshold),
        }
    if views:
        found = sorted({case.view for case in item.scored.cases if case.view})
        if len(found) > 1:
            figures["by_view"] = {
                view: measure(
                    _subset(item, [case.view == view for case in item.scored.cases]), manifest, finding, views=False
                )
                for view in found
            }
        subsets = sorted({case.subset for case in item.scored.cases} - {"normal", "internal", "official", ""})
        if subsets:
            figures["by_subset"] = {
                subset: measure(
                    _subset(item, [case.subset in (subset, "normal") for case in item.scored.cases]),
                    manifest,
                    finding,
                    views=False,
                )
                for subset in subsets
            }
    return figures


def _subset(item: EvaluationSet, keep: Sequence[bool]) -> EvaluationSet:
    return EvaluationSet(item.name, "", item.scored.chosen(keep), item.labels[np.asarray(keep, bool)])


def _predictive_values(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, dict[str, float]]:
    """Return PPV and NPV at stated prevalences: the cohorts' own mix is nobody's."""
    caught = metrics.sensitivity(labels, probabilities, threshold).value
    spared = metrics.specificity(labels, probabilities, threshold).value
    values = {}
    for prevalence in (0.013, 0.05, 0.1, 0.2):
        flagged = caught * prevalence + (1 - spared) * (1 - prevalence)
        passed = spared * (1 - prevalence) + (1 - caught) * prevalence
        values[f"{prevalence:g}"] = {
            "ppv": round(caught * prevalence / flagged, 4) if flagged else math.nan,
            "npv": round(spared * (1 - prevalence) / passed, 4) if passed else math.nan,
        }
    return values


def baselines(cohort: Cohort, item: EvaluationSet, finding: str) -> dict[str, Any]:
    """Return what can be had without looking at anatomy: learned on the train part, measured on the set."""
    present = int((item.labels == 1).sum())
    known = [case for case in cohort.part("train") if not math.isnan(case.labels[finding])]
    train_labels = np.array([case.labels[finding] for case in known])
    results: dict[str, Any] = {
        "always-positive": {
            "says": "Every image flagged.",
            "auc": 0.5,
            "sensitivity": 1.0,
            "specificity": 0.0,
            "accuracy": round(present / len(item.labels), 4),
        }
    }
    recipes = {
        "file-size": ("The logarithm of the file's size in bytes.", _file_size),
        "mean-gray": ("The mean gray value of the picture.", _mean_gray),
    }
    if any(case.age > 0 for case in known):
        recipes["metadata"] = ("Logistic regression on view, age and sex; no pixels.", _metadata)
    for name, (says, features) in recipes.items():
        source = [case for case in known if case.source == item.scored.cases[0].source]
        kept = np.array([case.source == item.scored.cases[0].source for case in known])
        beta = logistic_fit(features(source), train_labels[kept], ridge=1.0)
        guess = sigmoid(np.column_stack([np.ones(len(item.labels)), features(item.scored.cases)]) @ beta)
        results[name] = {"says": says, "auc": metrics.delong(item.labels, guess).to_json()}
    return results


def _file_size(cases: Sequence[Case]) -> np.ndarray:
    return np.array([[math.log(case.path.stat().st_size)] for case in cases]) - 9.0


def _mean_gray(cases: Sequence[Case]) -> np.ndarray:
    return np.array([[float(case.radiograph().grayscale.mean()) * 10 - 5] for case in cases])


def _metadata(cases: Sequence[Case]) -> np.ndarray:
    return np.array(
        [[case.view == "AP", case.sex == "M", 0.0 if math.isnan(case.age) else (case.age - 50) / 20] for case in cases],
        np.float64,
    )
