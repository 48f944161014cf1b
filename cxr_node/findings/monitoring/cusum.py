"""Cumulative sums: a small, lasting change of a mean, found after as few cases as its false alarms allow.

Two sums run beside one another (E. S. Page, Biometrika 1954): z is a case as standard deviations from the mean in
control, and

    up   = max(0, up   + z - k)        down = max(0, down - z - k)

An alarm is raised when either passes h. `k` is half of the change that should be found soonest. `h` follows from the
mean number of cases between two false alarms (the in-control average run length, ARL0) that a site can live with: here
it is not taken from the formula for normal values (D. Siegmund, Sequential Analysis, 1985), which scores and flags are
not, but computed for the values that were seen, by the Markov chain of D. Brook and D. A. Evans (Biometrika 1972).

The same method, on summary values of an imaging model, is FDA's own AIM-CU (github.com/DIDSR/AIM-CU).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The change that is found soonest: half a standard deviation. A flag rate of 0.30 that becomes 0.53, 0.10 that becomes
# 0.25; mean scores that move by half of what scores differ among patients. Smaller ones are found too, later.
SHIFT = 0.5
STATES = 200  # of the Markov chain
_LARGEST_H = 4000.0


@dataclass(frozen=True)
class Chart:
    """What values are held against: mean and standard deviation in control, `k` and `h` in standard deviations.

    `arl0` is the mean number of cases between false alarms that `h` was computed for, both sides together; `cases` the
    number that mean and deviation rest on. Estimated from so few, the true figure of a site differs: see `runs`.
    """

    mean: float
    deviation: float
    k: float
    h: float
    arl0: float
    cases: int


@dataclass(frozen=True)
class Sums:
    """Where the two sums stand, after how many cases."""

    up: float = 0.0
    down: float = 0.0
    cases: int = 0

    def after(self, chart: Chart, value: float) -> "Sums":
        """Return the sums with one more case."""
        z = (value - chart.mean) / chart.deviation
        return Sums(max(0.0, self.up + z - chart.k), max(0.0, self.down - z - chart.k), self.cases + 1)

    def side(self, chart: Chart) -> str:
        """Return "up" or "down" where that sum is past the limit, else an empty word."""
        if max(self.up, self.down) <= chart.h:
            return ""
        return "up" if self.up >= self.down else "down"


def design(values: Sequence[float], arl0: float, shift: float = SHIFT) -> Chart:
    """Return the chart of a mean for values that were seen in control.

    Raises
    ------
    ValueError
        Fewer than two values, or `arl0` below 2.
    """
    seen = np.asarray(values, np.float64)
    if len(seen) < 2:
        raise ValueError(f"expected at least two values in control, found {len(seen)}")
    # Values that are all alike have no spread to count in; any other value is then a change.
    mean, deviation = float(seen.mean()), max(float(seen.std(ddof=1)), 1e-6)
    z = (seen - mean) / deviation
    return Chart(mean, deviation, shift / 2, _limit(z, np.full(len(z), 1 / len(z)), shift / 2, arl0), arl0, len(z))


def design_share(part: int, of: int, arl0: float, shift: float = SHIFT) -> Chart:
    """Return the chart of a share for cases that are 1 or 0; half a case is added to each, so that a share of 0 can be
    watched as well."""
    if not 0 <= part <= of or of < 2:
        raise ValueError(f"expected a part of at least two cases, found {part} of {of}")
    mean = (part + 0.5) / (of + 1)
    deviation = float(np.sqrt(mean * (1 - mean)))
    z = (np.array([0.0, 1.0]) - mean) / deviation
    return Chart(mean, deviation, shift / 2, _limit(z, np.array([1 - mean, mean]), shift / 2, arl0), arl0, of)


def run_length(z: np.ndarray, weights: np.ndarray, k: float, h: float) -> float:
    """Return the mean number of cases until either sum passes `h`, both starting at 0.

    Parameters
    ----------
    z : (n,) the values that a case takes, in standard deviations from the chart's mean
    weights : (n,) how probable each is, sum 1
    """
    up, down = _one_sided(z, weights, k, h), _one_sided(-z, weights, k, h)
    return 1 / (1 / up + 1 / down)


def _one_sided(z: np.ndarray, weights: np.ndarray, k: float, h: float) -> float:
    width = h / (STATES - 1)
    targets = np.arange(STATES)[:, None] + (z - k)[None, :] / width
    inside = targets <= STATES - 1  # the others are past the limit
    # A sum between two states counts for both by its distance: rounded to one of them, the few values that a flag has
    # would make the chain drift.
    targets = np.clip(targets, 0, STATES - 1)
    lower = np.minimum(targets.astype(np.int64), STATES - 2)
    upper_part = targets - lower
    rows = np.arange(STATES)[:, None] * STATES
    shares = np.where(inside, np.broadcast_to(weights, targets.shape), 0.0)
    moves = np.bincount((rows + lower).ravel(), (shares * (1 - upper_part)).ravel(), STATES * STATES)
    moves += np.bincount((rows + lower + 1).ravel(), (shares * upper_part).ravel(), STATES * STATES)
    # A chain that never leaves has no run length: with values that never rise above k there is no false alarm.
    staying = np.eye(STATES) * (1 + 1e-12) - moves.reshape(STATES, STATES)
    lengths = np.linalg.solve(staying, np.ones(STATES))
    return float(min(max(lengths[0], 1.0), 1e12))


def _limit(z: np.ndarray, weights: np.ndarray, k: float, arl0: float) -> float:
    if arl0 < 2:
        raise ValueError(f"expected a mean of at least 2 cases between false alarms, found {arl0:g}")
    low, high = 0.05, 8.0
    while run_length(z, weights, k, high) < arl0:
        low, high = high, high * 2
        if high > _LARGEST_H:
            raise ValueError(f"no limit below {_LARGEST_H:g} gives {arl0:g} cases between false alarms")
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(z, weights, k, middle) < arl0 else (low, middle)
    return round(high, 4)
