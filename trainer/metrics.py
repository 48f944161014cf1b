"""The figures of an evaluation and their intervals. NumPy only; each is held against a slow reference in the tests."""

import math
from collections.abc import Callable, Iterator, Sequence
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
    return bootstrap(auc, labels, scores, patients, rng, repeats)


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


def youden_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold of the greatest sensitivity + specificity, midway to the next lower probability.

    Source: Youden 1950.
    """
    return _best_threshold(labels, probabilities, lambda tp, fp, p, n: tp / p - fp / n)


def f1_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the threshold of the greatest F1, midway to the next lower probability."""
    return _best_threshold(labels, probabilities, lambda tp, fp, p, n: 2 * tp / (tp + fp + p))


def _best_threshold(labels: np.ndarray, probabilities: np.ndarray, value: Callable[..., np.ndarray]) -> float:
    order = np.argsort(-probabilities, kind="stable")
    sorted_labels, sorted_values = labels[order] == 1, probabilities[order]
    # A threshold can only stand between two different values.
    ends = np.append(np.flatnonzero(np.diff(sorted_values)), len(order) - 1)
    caught, alarms = np.cumsum(sorted_labels)[ends], np.cumsum(~sorted_labels)[ends]
    best = int(np.argmax(value(caught, alarms, sorted_labels.sum(), (~sorted_labels).sum())))
    last = float(sorted_values[ends[best]])
    return (last + float(sorted_values[ends[best] + 1])) / 2 if ends[best] + 1 < len(order) else last / 2


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold; an image is called from the threshold on."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where nothing is present and nothing called."""
        whole = 2 * self.true_positive + self.false_positive + self.false_negative
        return 2 * self.true_positive / whole if whole else math.nan


def confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> Confusion:
    called, present = probabilities >= threshold, labels == 1
    return Confusion(
        int((called & present).sum()),
        int((called & ~present).sum()),
        int((~called & ~present).sum()),
        int((~called & present).sum()),
    )


def roc_points(labels: np.ndarray, scores: np.ndarray, most: int = 200) -> list[tuple[float, float]]:
    """Return (false positive rate, sensitivity) from (0, 0) to (1, 1), thinned to about `most` points."""
    caught, alarms = _counts(labels, scores)
    points = [(0.0, 0.0), *zip(alarms / max(1, alarms[-1]), caught / max(1, caught[-1]), strict=True)]
    return _thinned([(float(x), float(y)) for x, y in points], most)


def precision_recall_points(labels: np.ndarray, scores: np.ndarray, most: int = 200) -> list[tuple[float, float]]:
    """Return (recall, precision) from the highest score down, thinned to about `most` points."""
    caught, alarms = _counts(labels, scores)
    points = zip(caught / max(1, caught[-1]), caught / (caught + alarms), strict=True)
    return _thinned([(float(x), float(y)) for x, y in points], most)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the sum of precision over the steps of recall; its chance level is the base rate. NaN without a present.

    Source: as scikit-learn defines it (no interpolation).
    """
    if not (labels == 1).any():
        return math.nan
    caught, alarms = _counts(labels, scores)
    recall = caught / caught[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * caught / (caught + alarms)))


def _counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true and false positives for a threshold at each different score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    present = labels[order] == 1
    return np.cumsum(present)[ends], np.cumsum(~present)[ends]


def _thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) > most:
        chosen = np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))
        points = [points[index] for index in chosen]
    return [(round(x, 5), round(y, 5)) for x, y in points]


def bootstrap(
    figure: Callable[[np.ndarray, np.ndarray], float],
    labels: np.ndarray,
    scores: np.ndarray,
    patients: Sequence[str],
    rng: np.random.Generator,
    repeats: int = 1000,
) -> Estimate:
    """Return a figure with the percentile interval of a bootstrap that draws patients, not images."""
    values = [
        value
        for drawn in _drawn(patients, rng, repeats)
        if not math.isnan(value := figure(labels[drawn], scores[drawn]))
    ]
    low, high = np.percentile(values, [2.5, 97.5]) if values else (math.nan, math.nan)
    return Estimate(figure(labels, scores), float(low), float(high), len(labels))


def _drawn(patients: Sequence[str], rng: np.random.Generator, repeats: int) -> Iterator[np.ndarray]:
    _, index = np.unique(np.asarray(patients), return_inverse=True)
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(index))[:-1])
    for _ in range(repeats):
        yield np.concatenate([members[patient] for patient in rng.integers(0, len(members), len(members))])


def within_strata_auc(labels: np.ndarray, scores: np.ndarray, strata: np.ndarray) -> float:
    """Return the AUC over the pairs that share a stratum: what a score tells beyond what made the strata.

    NaN where no stratum has both classes. Source: covariate-adjusted ROC, Janes & Pepe 2009.
    """
    won, pairs = 0.0, 0
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = int((labels[inside] == 1).sum()) * int((labels[inside] == 0).sum())
        if count:
            won += auc(labels[inside], scores[inside]) * count
            pairs += count
    return won / pairs if pairs else math.nan


def fifths(values: np.ndarray) -> np.ndarray:
    """Return (n,) 0 to 4: the fifth of the values that each lies in; equal values share one."""
    return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values)


@dataclass(frozen=True)
class Difference:
    """A figure of one model less that of another on the same cases, with its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def delong_difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """Return the difference of two AUCs on the same cases, with the covariance that pairing gives.

    Source: DeLong, DeLong, Clarke-Pearson 1988.
    """
    present, absent = labels == 1, labels == 0
    m, n = int(present.sum()), int(absent.sum())
    placed = []
    for scores in (first, second):
        together = _midranks(np.concatenate([scores[present], scores[absent]]))
        placed.append(
            ((together[:m] - _midranks(scores[present])) / n, 1 - (together[m:] - _midranks(scores[absent])) / m)
        )
    value = auc(labels, first) - auc(labels, second)
    by_present = np.cov(placed[0][0], placed[1][0])
    by_absent = np.cov(placed[0][1], placed[1][1])
    variance = sum(
        float(matrix[0, 0] + matrix[1, 1] - 2 * matrix[0, 1]) / count
        for matrix, count in ((by_present, m), (by_absent, n))
    )
    deviation = math.sqrt(max(variance, 0.0))
    if deviation == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    return Difference(
        value,
        value - Z95 * deviation,
        value + Z95 * deviation,
        math.erfc(abs(value) / deviation / math.sqrt(2)),
    )


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> float:
    """Return the exact two-sided p of McNemar's test: were the two right on the same cases equally often?

    Source: McNemar 1947; exact binomial form.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log_half = n * math.log(2)
    tail = sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class DecisionPoint:
    """Net benefit at a threshold probability: of acting on the model, and of acting on everyone; nobody is 0."""

    threshold: float
    model: float
    all: float


def decision_curve(labels: np.ndarray, probabilities: np.ndarray, prevalence: float) -> list[DecisionPoint]:
    """Return net benefits at threshold probabilities from 0.01 to 0.99, at a stated prevalence.

    Sensitivity and specificity are the cases'; the prevalence is that of where the model would be used.
    Source: Vickers & Elkin 2006.
    """
    curve = []
    for threshold in np.round(np.arange(0.01, 1.0, 0.01), 2):
        odds = threshold / (1 - threshold)
        caught = float((probabilities[labels == 1] >= threshold).mean())
        alarms = float((probabilities[labels == 0] >= threshold).mean())
        curve.append(
            DecisionPoint(
                float(threshold),
                caught * prevalence - alarms * (1 - prevalence) * odds,
                prevalence - (1 - prevalence) * odds,
            )
        )
    return curve


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
