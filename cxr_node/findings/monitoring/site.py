"""What a model does at one site, held against labels that the site made: figures, and a threshold for its patients.

A threshold chosen and measured on the same cases looks a little better than it is; the interval of the threshold, from
a bootstrap over cases, says how much it hangs on which cases were labelled.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Z95 = 1.959963984540054
FEWEST = 30  # of either class, below which nothing is proposed
HALF_WIDTH = 0.05  # of the interval of the sensitivity asked for; what "enough" means
REPEATS = 1000
_MARGIN = 1e-7


@dataclass(frozen=True)
class Share:
    """A share with Wilson's 95 % interval (E. B. Wilson, J. Am. Stat. Assoc. 1927); NaN where nothing was counted."""

    part: int
    of: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.of:
            return "not measured (no case)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}), {self.part} of {self.of}"


@dataclass(frozen=True)
class Predictive:
    """Predictive values at a prevalence, from sensitivity and specificity (Bayes); NaN where there is none."""

    prevalence: float
    ppv: float
    npv: float


@dataclass(frozen=True)
class AtThreshold:
    """What flagging from this probability on does to the labelled cases."""

    threshold: float
    sensitivity: Share
    specificity: Share
    predictive: Predictive


@dataclass(frozen=True)
class Line:
    """The logistic regression of the label on the logit of the probability (D. R. Cox, Biometrika 1958), with 95 %
    intervals: slope 1 and intercept 0 are a calibration that fits this site."""

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_low: float
    intercept_high: float


@dataclass(frozen=True)
class SiteStudy:
    """The whole of it. `proposed` and `line` are None where there are too few cases; `threshold_low` and `_high` are
    the 2.5 and 97.5 percentiles of the proposed threshold. `wanted` is the sensitivity asked for, `needed` the number
    of cases with the finding from which its interval is at most 5 points either side."""

    cases: int
    present: int
    wanted: float
    needed: int
    now: AtThreshold
    proposed: AtThreshold | None
    threshold_low: float
    threshold_high: float
    line: Line | None

    @property
    def is_too_small(self) -> bool:
        return self.proposed is None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what could not be had is null."""
        return dict(_without_nan(asdict(self)))


def site_study(
    labels: np.ndarray, probabilities: np.ndarray, *, threshold: float, wanted: float, prevalence: float | None = None
) -> SiteStudy:
    """Hold a model against labels.

    Parameters
    ----------
    labels : (n,) 1 present, 0 absent
    probabilities : (n,) calibrated, as the node computed them
    threshold : of the operating point now
    wanted : the sensitivity that the proposed threshold reaches
    prevalence : of the site; None: that of the labels

    Raises
    ------
    ValueError
        No label, a label that is neither, or shares outside (0, 1).
    """
    if not 0 < wanted < 1 or not (prevalence is None or 0 < prevalence < 1):
        raise ValueError(f"expected sensitivity and prevalence between 0 and 1, found {wanted} and {prevalence}")
    if not len(labels) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"expected labels 1 and 0, found {sorted({float(value) for value in labels})}")
    present = int(labels.sum())
    share = present / len(labels) if prevalence is None else prevalence
    now = at_threshold(labels, probabilities, threshold, share)
    needed = cases_needed(wanted)
    if min(present, len(labels) - present) < FEWEST:
        return SiteStudy(len(labels), present, wanted, needed, now, None, math.nan, math.nan, None)
    proposed = reaching(probabilities[labels == 1], wanted)
    low, high = _interval(probabilities[labels == 1], wanted)
    found = at_threshold(labels, probabilities, proposed, share)
    return SiteStudy(len(labels), present, wanted, needed, now, found, low, high, _line(labels, probabilities))


def at_threshold(labels: np.ndarray, probabilities: np.ndarray, threshold: float, prevalence: float) -> AtThreshold:
    """Return the figures of one threshold; a probability at it is flagged."""
    flagged = probabilities >= threshold
    sensitivity = wilson(int((flagged & (labels == 1)).sum()), int((labels == 1).sum()))
    specificity = wilson(int((~flagged & (labels == 0)).sum()), int((labels == 0).sum()))
    return AtThreshold(
        threshold, sensitivity, specificity, predictive(sensitivity.value, specificity.value, prevalence)
    )


def wilson(part: int, of: int) -> Share:
    """Return part / of with its interval."""
    if not of:
        return Share(part, of, math.nan, math.nan, math.nan)
    share, spread = part / of, Z95 * Z95 / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return Share(part, of, share, max(0.0, middle - half), min(1.0, middle + half))


def predictive(sensitivity: float, specificity: float, prevalence: float) -> Predictive:
    """Return what a flag, and no flag, say at a prevalence."""
    flagged = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    other = prevalence * (1 - sensitivity) + (1 - prevalence) * specificity
    return Predictive(
        prevalence,
        prevalence * sensitivity / flagged if flagged else math.nan,
        (1 - prevalence) * specificity / other if other else math.nan,
    )


def reaching(present: np.ndarray, wanted: float) -> float:
    """Return the highest threshold that flags at least that share of the cases with the finding."""
    ordered = np.sort(present)[::-1]
    return float(ordered[max(1, math.ceil(wanted * len(ordered) - 1e-9)) - 1])


def cases_needed(wanted: float, half_width: float = HALF_WIDTH) -> int:
    """Return how many cases with the finding it takes for an interval of a sensitivity that is no wider."""
    number = FEWEST
    while True:
        found = wilson(round(wanted * number), number)
        if (found.high - found.low) / 2 <= half_width:
            return number
        number += 1


def _interval(present: np.ndarray, wanted: float) -> tuple[float, float]:
    rng = np.random.default_rng(1)  # the same labels give the same interval
    drawn = rng.choice(present, (REPEATS, len(present)))
    found = [reaching(row, wanted) for row in drawn]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _line(labels: np.ndarray, probabilities: np.ndarray) -> Line | None:
    """Fit by Newton's method; None where the classes are separated and the likelihood has no greatest value."""
    inside = np.clip(probabilities, _MARGIN, 1 - _MARGIN)
    design = np.column_stack([np.ones(len(labels)), np.log(inside / (1 - inside))])
    beta, curvature = np.zeros(2), np.eye(2)
    for _ in range(50):
        fitted = 0.5 * (1 + np.tanh(0.5 * (design @ beta)))
        curvature = (design.T * (fitted * (1 - fitted))) @ design
        if np.linalg.cond(curvature) > 1e12:
            return None
        step = np.linalg.solve(curvature, design.T @ (labels - fitted))
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    half = Z95 * np.sqrt(np.diag(np.linalg.inv(curvature)))
    (intercept, slope), (intercept_half, slope_half) = beta, half
    return Line(
        float(slope),
        float(slope - slope_half),
        float(slope + slope_half),
        float(intercept),
        float(intercept - intercept_half),
        float(intercept + intercept_half),
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
