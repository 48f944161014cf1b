"""How many cases a validation needs: exact power of the Wilson and Clopper-Pearson limits, and Hanley and McNeil's AUC.

Values in, numbers out; no library beyond Python's own, so that a reviewer can follow each line.
"""

import math
from collections.abc import Callable
from functools import cache

from trainer.metrics import Z95, wilson

Meets = Callable[[int, int, float], bool]  # successes, cases, goal: whether the lower limit is above it
_STAYS = 60  # power goes up and down with n; a number counts when the next ones hold it too
_MOST = 20_000


def wilson_lower(successes: int, n: int) -> float:
    """Return the lower limit of Wilson's 95 % interval."""
    return wilson(successes, n).low


def exact_lower(successes: int, n: int) -> float:
    """Return the lower limit of the exact 95 % interval. Source: Clopper and Pearson, Biometrika 1934.

    The proportion at which `successes` or more out of `n` have a probability of 0.025, found by bisection.
    """
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if at_least(successes, n, middle) > 0.025 else (middle, high)
    return low


def wilson_meets(successes: int, n: int, goal: float) -> bool:
    """Return whether the lower limit of Wilson's interval is above the goal."""
    return wilson_lower(successes, n) > goal


def exact_meets(successes: int, n: int, goal: float) -> bool:
    """Return whether the exact lower limit is above the goal: so many or more were too unlikely at the goal itself."""
    return at_least(successes, n, goal) < 0.025


def at_least(successes: int, n: int, share: float) -> float:
    """Return the probability of so many successes or more out of `n` trials."""
    if share <= 0:
        return 1.0 if successes <= 0 else 0.0
    if share >= 1:
        return 1.0
    return math.fsum(_mass(k, n, share) for k in range(max(0, successes), n + 1))


def _mass(k: int, n: int, share: float) -> float:
    ways = _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


@cache
def _log_factorial(n: int) -> float:
    return math.lgamma(n + 1)


def fewest_successes(n: int, goal: float, meets: Meets = wilson_meets) -> int | None:
    """Return the fewest successes out of `n` whose lower limit is above the goal; None where `n` are not enough.

    Found by bisection: the limit rises with the successes.
    """
    if not meets(n, n, goal):
        return None
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle, n, goal) else (middle + 1, high)
    return low


def power(n: int, expected: float, goal: float, meets: Meets = wilson_meets) -> float:
    """Return the probability that the lower limit of `n` cases is above the goal where the true share is `expected`."""
    needed = fewest_successes(n, goal, meets)
    return 0.0 if needed is None else at_least(needed, n, expected)


@cache
def cases_for(expected: float, goal: float, wanted_power: float, meets: Meets = wilson_meets) -> int:
    """Return the number of cases from which on the power is at least the wanted one.

    Raises
    ------
    ValueError
        The expected share is not above the goal, or no number below 20,000 is enough.
    """
    if not 0 < goal < expected <= 1:
        raise ValueError(f"expected a share above the goal {goal}, found {expected}")
    run = 0
    # With half as many as a lucky study needs the power is far below one half.
    first = max(1, cases_for_observed(expected, goal) // 2) if wanted_power >= 0.5 else 1
    for n in range(first, _MOST):
        run = run + 1 if power(n, expected, goal, meets) >= wanted_power else 0
        if run > _STAYS:
            return n - _STAYS
    raise ValueError(f"more than {_MOST} cases: expected {expected} is too near to the goal {goal}")


def cases_for_observed(observed: float, goal: float) -> int:
    """Return the fewest cases at which a share observed just so has Wilson's lower limit above the goal.

    Half of all studies of a device this good would miss the goal with so few: see `cases_for` for one that has power.
    Solved for n: the limit is the smaller root of (p - g)^2 = z^2 g (1 - g) / n, Wilson, JASA 1927.
    """
    if not 0 < goal < observed <= 1:
        raise ValueError(f"expected a share above the goal {goal}, found {observed}")
    return math.floor(Z95**2 * goal * (1 - goal) / (observed - goal) ** 2) + 1


def cases_for_half_width(share: float, half_width: float) -> int:
    """Return the fewest cases at which Wilson's interval around a share is no wider than twice `half_width`."""
    for n in range(1, _MOST):
        found = wilson(round(share * n), n)
        if (found.high - found.low) / 2 <= half_width:
            return n
    raise ValueError(f"more than {_MOST} cases for a half width of {half_width}")


def auc_standard_error(auc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC. Source: Hanley and McNeil, Radiology 1982, formula 1."""
    if positives < 1 or negatives < 1:
        raise ValueError(f"expected cases with and without, found {positives} and {negatives}")
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    ) / (positives * negatives)
    return math.sqrt(variance)


def auc_lower(auc: float, positives: int, negatives: int) -> float:
    """Return the lower limit of the 95 % interval of an AUC observed so."""
    return auc - Z95 * auc_standard_error(auc, positives, negatives)


def with_losses(cases: int, share_lost: float) -> int:
    """Return how many to collect so that `cases` are left."""
    if not 0 <= share_lost < 1:
        raise ValueError(f"expected a share of at least 0 and below 1, found {share_lost}")
    return math.ceil(cases / (1 - share_lost) - 1e-9)
