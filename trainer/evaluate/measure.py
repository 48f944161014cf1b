"""The figures of a set at a locked operating point, with intervals; of subgroups too."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from trainer import metrics
from trainer.calibration import logit as logit_of
from trainer.calibration import reliability, sigmoid
from trainer.cohorts import Case
from trainer.evaluate.baselines import Baseline
from trainer.evaluate.sets import EvaluationSet
from trainer.predictor import Locked

TOO_FEW = 10  # in either class: an AUC on less is not given
SUBGROUP_PRESENT = 30  # with the finding: below, a subgroup is named and not measured
BOOTSTRAP_REPEATS = 1000
# Stated prevalences: NIH's of pneumonia, a screening list, an emergency department, an enriched list.
PREVALENCES = (0.013, 0.05, 0.1, 0.2)
_AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
_SOURCE_OF_CURVE_PREVALENCE = 0.1


def measure(item: EvaluationSet, finding: str, locked: Locked, *, curves: bool = True) -> dict[str, Any]:
    """Return the figures of a set; what cannot be measured on it has no key.

    `curves` adds what is drawn: ROC, precision-recall, reliability bins, decision curve, histogram.
    """
    labels, scores = item.labels, item.scored.of(finding)
    probabilities = locked.probabilities(scores)
    patients = [case.patient for case in item.scored.cases]
    figures: dict[str, Any] = {"says": item.says, **_counts(item)}
    figures |= at_threshold(labels, probabilities, locked.point.threshold)
    both = min(figures["present"], figures["absent"]) >= TOO_FEW
    if both:
        rng = np.random.default_rng(1)
        figures |= {
            "auc": metrics.delong(labels, probabilities).to_json(),
            "auc_patient_bootstrap": metrics.bootstrap_auc(
                labels, probabilities, patients, rng, BOOTSTRAP_REPEATS
            ).to_json(),
            "average_precision": metrics.bootstrap(
                metrics.average_precision, labels, probabilities, patients, rng, BOOTSTRAP_REPEATS
            ).to_json(),
            "predictive_values": predictive_values(labels, probabilities, locked.point.threshold),
            "calibration": {"before": reliability(labels, scores), "after": reliability(labels, probabilities)},
        }
    if both and curves:
        edges = np.linspace(0, 1, 21)
        figures |= {
            "roc": metrics.roc_points(labels, probabilities),
            "precision_recall": metrics.precision_recall_points(labels, probabilities),
            "decision_curve": [
                {key: round(value, 5) for key, value in asdict(point).items()}
                for point in metrics.decision_curve(
                    labels, _at_prevalence(probabilities, _SOURCE_OF_CURVE_PREVALENCE), _SOURCE_OF_CURVE_PREVALENCE
                )
            ],
            "decision_curve_prevalence": _SOURCE_OF_CURVE_PREVALENCE,
            "histogram": {
                "edges": [round(float(edge), 3) for edge in edges],
                "present": np.histogram(probabilities[labels == 1], edges)[0].tolist(),
                "absent": np.histogram(probabilities[labels == 0], edges)[0].tolist(),
            },
        }
    groups = subgroups(item, finding, locked)
    if groups:
        figures["subgroups"] = groups
    return figures


def at_threshold(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return counts and proportions, with Wilson's intervals, of calls from the threshold on."""
    counts = metrics.confusion(labels, probabilities, threshold)
    present, absent = int((labels == 1).sum()), int((labels == 0).sum())
    called = counts.true_positive + counts.false_positive
    figures: dict[str, Any] = {"confusion": asdict(counts)}
    # One negative has no specificity worth printing.
    if present >= TOO_FEW:
        figures["sensitivity"] = metrics.wilson(counts.true_positive, present).to_json()
    if absent >= TOO_FEW:
        figures["specificity"] = metrics.wilson(counts.true_negative, absent).to_json()
    if present >= TOO_FEW and absent >= TOO_FEW:
        right = counts.true_positive + counts.true_negative
        figures["accuracy"] = metrics.wilson(right, present + absent).to_json()
        if called:
            figures["precision"] = metrics.wilson(counts.true_positive, called).to_json()
        figures["f1"] = round(counts.f1, 4)
    return figures


def subgroups(item: EvaluationSet, finding: str, locked: Locked) -> dict[str, dict[str, Any]]:
    """Return figures by sex, age band, view, source, subset and co-finding; groups with few are named as too few.

    A co-finding's and a subset's positives are held against every negative of the set, as negatives have none.
    """
    cases = item.scored.cases
    absent = item.labels == 0

    def co_finding(name: str) -> Callable[[Case], bool]:
        return lambda case: case.labels.get(name) == 1

    def among_positives(keep: Callable[[Case], bool]) -> np.ndarray:
        return absent | np.array([keep(case) for case in cases], bool)

    groups: dict[str, dict[str, np.ndarray]] = {
        key: {
            str(value): np.array([getattr(case, key) == value for case in cases])
            for value in sorted({getattr(case, key) for case in cases} - {""})
        }
        for key in ("sex", "view", "source")
    }
    groups["age"] = {
        f"{low} to {high - 1}" if high < 200 else f"{low} and older": np.array(
            [low <= case.age < high for case in cases]
        )
        for low, high in _AGE_BANDS
    }
    positive_subsets = {case.subset for case, label in zip(cases, item.labels, strict=True) if label == 1}
    subsets = positive_subsets - {"internal", "official", ""}
    groups["subset"] = {
        subset: among_positives(lambda case, wanted=subset: case.subset == wanted)  # type: ignore[misc]
        for subset in sorted(subsets)
    }
    names = {name for case in cases for name in case.labels} - {finding, "abnormal"}
    groups["co_finding"] = {name: among_positives(co_finding(name)) for name in sorted(names)}
    result: dict[str, dict[str, Any]] = {}
    for key, members in groups.items():
        found = {
            value: _subgroup(item.chosen(mask), finding, locked)
            for value, mask in members.items()
            if (mask & ~absent).any()
        }
        # One sex, view or source is the whole set again; one co-finding is not.
        if found and (len(members) > 1 or key in ("subset", "co_finding")):
            result[key] = found
    return result


def _subgroup(item: EvaluationSet, finding: str, locked: Locked) -> dict[str, Any]:
    counts = _counts(item)
    if counts["present"] < SUBGROUP_PRESENT:
        return {**counts, "too_few": f"{counts['present']} with the finding, {SUBGROUP_PRESENT} needed"}
    probabilities = locked.probabilities(item.scored.of(finding))
    figures = {**counts, **at_threshold(item.labels, probabilities, locked.point.threshold)}
    if counts["absent"] >= TOO_FEW:
        figures["auc"] = metrics.delong(item.labels, probabilities).to_json()
    return figures


def beside_baseline(item: EvaluationSet, finding: str, guess: Baseline) -> dict[str, Any]:
    """Return a baseline's AUC, and the model's and its own among cases that it takes for alike (the same fifth).

    A model that only reads the baseline's clue has no AUC left there.
    """
    strata = metrics.fifths(guess.probabilities)
    patients = [case.patient for case in item.scored.cases]
    indices = np.arange(len(strata))

    def within(scores: np.ndarray) -> dict[str, Any]:
        # The bootstrap hands out labels and scores; the strata travel as the index of the case.
        def figure(labels: np.ndarray, drawn: np.ndarray) -> float:
            return metrics.within_strata_auc(labels, scores[drawn], strata[drawn])

        return metrics.bootstrap(figure, item.labels, indices, patients, np.random.default_rng(1), 500).to_json()

    figures: dict[str, Any] = {"says": guess.says, "auc": metrics.delong(item.labels, guess.probabilities).to_json()}
    if len(np.unique(strata)) > 1:
        figures["model_within_fifths"] = within(item.scored.of(finding))
        figures["baseline_within_fifths"] = within(guess.probabilities)
    return figures


def _counts(item: EvaluationSet) -> dict[str, Any]:
    present = int((item.labels == 1).sum())
    return {
        "images": len(item.labels),
        "patients": len({case.patient for case in item.scored.cases}),
        "present": present,
        "absent": len(item.labels) - present,
        "base_rate": round(present / len(item.labels), 4) if len(item.labels) else math.nan,
    }


def predictive_values(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, dict[str, float]]:
    """Return PPV and NPV at stated prevalences: the cohorts' own mix is nobody's."""
    caught = metrics.sensitivity(labels, probabilities, threshold).value
    spared = metrics.specificity(labels, probabilities, threshold).value
    values = {}
    for prevalence in PREVALENCES:
        flagged = caught * prevalence + (1 - spared) * (1 - prevalence)
        passed = spared * (1 - prevalence) + (1 - caught) * prevalence
        values[f"{prevalence:g}"] = {
            "ppv": round(caught * prevalence / flagged, 4) if flagged else math.nan,
            "npv": round(spared * (1 - prevalence) / passed, 4) if passed else math.nan,
        }
    return values


def _at_prevalence(probabilities: np.ndarray, prevalence: float) -> np.ndarray:
    """Return the probabilities moved from the even mix they are calibrated for to a prevalence. Source: Bayes."""
    shifted: np.ndarray = sigmoid(logit_of(probabilities) + math.log(prevalence / (1 - prevalence)))
    return shifted
