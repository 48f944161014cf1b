"""Logistic fits: Platt's line from score to probability, and the small models that serve as baselines."""

from typing import Any

import numpy as np

from trainer import metrics

_SCORE_MARGIN = 1e-7


def logit(scores: np.ndarray) -> np.ndarray:
    """Return log(s / (1 - s)), with the same margin that the node keeps from 0 and 1."""
    inside = np.clip(np.asarray(scores, np.float64), _SCORE_MARGIN, 1 - _SCORE_MARGIN)
    return np.log(inside / (1 - inside))


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(values, np.float64)))


def platt(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return (slope, intercept) of the calibrated probability sigmoid(slope * logit(score) + intercept).

    Both classes weigh the same, so the probability holds where half of the images show the finding; it does not carry
    the cohort's own mix to a site. Targets are Platt's: not quite 0 and 1, so that a tuning part that the model
    separates gives no infinite slope.

    Source: Platt 1999, section 2.2.
    """
    present, absent = int((labels == 1).sum()), int((labels == 0).sum())
    if not present or not absent:
        raise ValueError(f"calibration needs both classes, found {present} present and {absent} absent")
    targets = np.where(labels == 1, (present + 1) / (present + 2), 1 / (absent + 2))
    weights = np.where(labels == 1, 0.5 / present, 0.5 / absent) * len(labels)
    intercept, slope = logistic_fit(logit(scores)[:, np.newaxis], targets, weights)
    if slope <= 0:
        raise ValueError(
            f"the scores rise where the finding is absent (slope {slope:.3f}): no calibration turns that round"
        )
    return float(slope), float(intercept)


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """Return how probabilities stand to frequencies: slope, intercept, Brier score, calibration error, bins.

    Slope 1 and intercept 0 are perfect: the logistic regression of the label on the logit of the probability; NaN where
    a class is missing. Source: Cox 1958; Van Calster et al. 2019.
    """
    both = 0 < (labels == 1).sum() < len(labels)
    intercept, slope = (
        logistic_fit(logit(probabilities)[:, np.newaxis], labels, ridge=1e-6) if both else (np.nan, np.nan)
    )
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    return {
        "slope": round(float(slope), 4),
        "intercept": round(float(intercept), 4),
        "brier": round(metrics.brier(labels, probabilities), 4),
        "expected_calibration_error": round(metrics.expected_calibration_error(labels, probabilities, bins), 4),
        "bins": [
            {
                "mean": round(float(probabilities[inside].mean()), 4),
                "frequency": round(float(labels[inside].mean()), 4),
                "n": int(inside.sum()),
            }
            for bin_ in range(bins)
            if (inside := index == bin_).any()
        ],
    }


def logistic_fit(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None, ridge: float = 0.0
) -> np.ndarray:
    """Return (intercept, coefficients…) of the logistic model of greatest likelihood, by Newton's method.

    `targets` may lie between 0 and 1. `ridge` is half the penalty on squared coefficients, the intercept left free.
    """
    design = np.column_stack([np.ones(len(features)), features]).astype(np.float64)
    weights = np.ones(len(design)) if weights is None else weights
    penalty = np.diag([0.0, *[ridge] * features.shape[1]])
    beta = np.zeros(design.shape[1])

    def loss(beta: np.ndarray) -> float:
        value = design @ beta
        return float(weights @ (np.logaddexp(0, value) - targets * value) + 0.5 * beta @ penalty @ beta)

    for _ in range(100):
        fitted = sigmoid(design @ beta)
        gradient = design.T @ (weights * (fitted - targets)) + penalty @ beta
        curvature = (design.T * (weights * fitted * (1 - fitted))) @ design + penalty
        # Without a penalty the curvature may be singular; with one it is not, and solving is a hundred times faster.
        step = np.linalg.solve(curvature, gradient) if ridge else np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size, before = 1.0, loss(beta)
        while loss(beta - size * step) > before and size > 1e-8:
            size /= 2
        beta = beta - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return beta
