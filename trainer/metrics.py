"""The figures of an evaluation and their intervals. NumPy only; each is held against a slow reference in the tests."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of images it rests on."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "n": self.n,
        }

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve; a tie counts one half. NaN where a class is empty."""
    present, absent = scores[labels == 1], scores[labels == 0]
    if not len(present) or not len(absent):
        return math.nan
    ranks = _midranks(np.concatenate([present, absent]))
    return float((ranks[: len(present)].sum() - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent)))


def delong(labels: np.ndarray, scores: np.ndarray) -> Estimate:
    """Return the AUC with DeLong's interval, on the logit scale so that it stays inside [0, 1].

    Source: DeLong, DeLong, Clarke-Pearson 1988; the fast form of Sun & Xu 2014.
    """
    present, absent = scores[labels == 1], scores[labels == 0]
    m, n = len(present), len(absent)
    value = auc(labels, scores)
    if m < 2 or n < 2:
        return Estimate(value, math.nan, math.nan, m + n)
    together = _midranks(np.concatenate([present, absent]))
    placed_present = (together[:m] - _midranks(present)) / n
    placed_absent = 1 - (together[m:] - _midranks(absent)) / m
    deviation = math.sqrt(float(placed_present.var(ddof=1)) / m + float(placed_absent.var(ddof=1)) / n)
    if not 0 < value < 1:
        return Estimate(value, value, value, m + n)
    logit, step = math.log(value / (1 - value)), Z95 * deviation / (value * (1 - value))
    return Estimate(value, _sigmoid(logit - step), _sigmoid(logit + step), m + n)


def bootstrap_auc(
    labels: np.ndarray, scores: np.ndarray, patients: Sequence[str], rng: np.random.Generator, repeats: int = 1000
) -> Estimate:
    """Return the AUC with the percentile interval of a bootstrap that draws patients, not images."""
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    members = [np.flatnonzero(index == patient) for patient in range(index.max() + 1)]
    values = []
    for _ in range(repeats):
        drawn = np.concatenate([members[patient] for patient in rng.integers(0, len(members), len(members))])
        value = auc(labels[drawn], scores[drawn])
        if not math.isnan(value):
            values.append(value)
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(auc(labels, scores), float(low), float(high), len(labels))


def wilson(successes: int, n: int) -> Estimate:
    """Return a proportion with Wilson's score interval."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    share, spread = successes / n, Z95**2 / n
    center = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the limits are exactly 0 and 1, which rounding would miss by a hair.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return Estimate(share, low, high, n)


def sensitivity(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Estimate:
    present = probabilities[labels == 1]
    return wilson(int((present >= threshold).sum()), len(present))


def specificity(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Estimate:
    absent = probabilities[labels == 0]
    return wilson(int((absent < threshold).sum()), len(absent))


def threshold_for_sensitivity(labels: np.ndarray, probabilities: np.ndarray, wanted: float) -> float:
    """Return the highest threshold of at least `wanted` sensitivity: midway below the last case that it must catch."""
    present = np.sort(probabilities[labels == 1])[::-1]
    last = float(present[math.ceil(wanted * len(present)) - 1])
    below = probabilities[probabilities < last]
    return (last + float(below.max())) / 2 if len(below) else last / 2


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float(np.mean((probabilities - labels) ** 2))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the mean gap between probability and frequency over `bins` bins of equal width, weighted by count."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    total = 0.0
    for bin_ in range(bins):
        inside = index == bin_
        if inside.any():
            total += inside.sum() * abs(float(probabilities[inside].mean()) - float(labels[inside].mean()))
    return total / len(labels)


def _midranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))
