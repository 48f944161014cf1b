"""Figures of quality and change, as functions of counts: proportions, agreement, drift, percentiles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cxr_node.findings.monitoring.histogram import LARGE_SHIFT, SMALL_SHIFT, stability_index
from storage.statistics import Comparison

Z95 = 1.959964
BINS = 10
# Below these a drift figure says more of chance than of the images.
FEWEST_RECENT = 200
FEWEST_BEFORE = 500
_CHI2_95_9 = 16.919  # 95 % point of chi-square with BINS - 1 degrees of freedom


@dataclass(frozen=True)
class Proportion:
    """A share with its 95 % interval; None where nothing was counted."""

    part: int
    of: int
    value: float | None
    low: float | None
    high: float | None


def proportion(part: int, of: int) -> Proportion:
    """Return part / of with Wilson's interval (E. B. Wilson, J. Am. Stat. Assoc. 1927)."""
    if of <= 0:
        return Proportion(part, of, None, None, None)
    share, square = part / of, Z95 * Z95
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z95 / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return Proportion(part, of, share, max(0.0, middle - half), min(1.0, middle + half))


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """Return the smallest value that at least `share` of all lie at or below (nearest rank); None for none."""
    total = sum(counts.values())
    if not total:
        return None
    rank, seen = max(1, math.ceil(share * total)), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= rank:
            return value
    return None


@dataclass(frozen=True)
class Agreement:
    """How far two models agree. `kappa` is None where chance alone makes them agree always, or nothing was counted;
    `correlation` where one of them always gives the same. `rates_p` is how often models that flag equally many studies
    differ by as many or more (McNemar's exact test); it says nothing of who is right."""

    agree: Proportion
    flagged_first: Proportion
    flagged_second: Proportion
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    correlation: float | None
    rates_p: float | None = None


def agreement(found: Comparison) -> Agreement:
    """Return agreement, Cohen's kappa with its large-sample interval, and Pearson's correlation.

    Source of the interval: J. L. Fleiss, J. Cohen, B. S. Everitt, Psychological Bulletin 1969.
    """
    n = found.studies
    first, second = found.both + found.only_first, found.both + found.only_second
    kappa, error = _kappa(found)
    return Agreement(
        agree=proportion(found.both + found.neither, n),
        flagged_first=proportion(first, n),
        flagged_second=proportion(second, n),
        kappa=kappa,
        kappa_low=None if kappa is None or error is None else max(-1.0, kappa - Z95 * error),
        kappa_high=None if kappa is None or error is None else min(1.0, kappa + Z95 * error),
        correlation=_correlation(found),
        rates_p=mcnemar(found.only_first, found.only_second) if n else None,
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test from the pairs that differ (Q. McNemar, Psychometrika 1947)."""
    pairs = only_first + only_second
    tail = sum(math.comb(pairs, fewer) for fewer in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * (tail / 2**pairs))


def _kappa(found: Comparison) -> tuple[float | None, float | None]:
    n = found.studies
    if not n:
        return None, None
    table = ((found.both / n, found.only_first / n), (found.only_second / n, found.neither / n))
    rows = [sum(row) for row in table]
    columns = [table[0][place] + table[1][place] for place in (0, 1)]
    observed = table[0][0] + table[1][1]
    expected = sum(row * column for row, column in zip(rows, columns, strict=True))
    if expected >= 1:
        return None, None
    kappa = (observed - expected) / (1 - expected)
    on = sum(table[i][i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    off = (1 - kappa) ** 2 * sum(table[i][1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    variance = (on + off - (kappa - expected * (1 - kappa)) ** 2) / ((1 - expected) ** 2 * n)
    return kappa, math.sqrt(max(0.0, variance))


def _correlation(found: Comparison) -> float | None:
    n = found.studies
    if n < 2:
        return None
    spread_x = found.sum_xx - found.sum_x**2 / n
    spread_y = found.sum_yy - found.sum_y**2 / n
    if spread_x <= 1e-12 or spread_y <= 1e-12:
        return None
    return max(-1.0, min(1.0, (found.sum_xy - found.sum_x * found.sum_y / n) / math.sqrt(spread_x * spread_y)))


@dataclass(frozen=True)
class Drift:
    """How far the scores of late lie from those before.

    `index` is the population stability index, None where there are too few images; `chance` is what it stays below in
    19 of 20 weeks when nothing changed.
    """

    recent: int
    before: int
    index: float | None
    chance: float | None

    @property
    def word(self) -> str:
        """Return what to make of it."""
        if self.index is None or self.chance is None:
            return "too few images"
        if self.index < max(SMALL_SHIFT, self.chance):
            return "no shift seen"
        return "large shift" if self.index >= LARGE_SHIFT else "moderate shift"


def drift(before: Mapping[int, int], recent: Mapping[int, int]) -> Drift:
    """Return the population stability index over tenths of the scores before.

    Sum over the bins of (r - b) * ln(r / b), with half a case added to each bin so that an empty one stays finite.
    Its 95 % point without any change is about chi-square with BINS - 1 degrees of freedom times (1/m + 1/n)
    (B. Yurdakul, Statistical Properties of Population Stability Index, 2018).
    """
    n_before, n_recent = sum(before.values()), sum(recent.values())
    if n_before < FEWEST_BEFORE or n_recent < FEWEST_RECENT:
        return Drift(n_recent, n_before, None, None)
    edges = _edges(before, n_before)
    was, now = _binned(before, edges), _binned(recent, edges)
    return Drift(n_recent, n_before, stability_index(was, now), _CHI2_95_9 * (1 / n_recent + 1 / n_before))


def _edges(counts: Mapping[int, int], total: int) -> list[int]:
    """Return the highest step of each bin but the last; scores that pile up on one step make fewer bins."""
    edges: list[int] = []
    seen, crossed = 0, 1
    for step in sorted(counts):
        seen += counts[step]
        if seen >= total:  # the last bin has no end
            break
        if seen * BINS >= total * crossed:
            edges.append(step)
            crossed = seen * BINS // total + 1
    return edges or [max(counts)]  # all on one step: what lies above it is another bin


def _binned(counts: Mapping[int, int], edges: list[int]) -> list[int]:
    binned = [0] * (len(edges) + 1)
    for step, number in counts.items():
        binned[sum(step > edge for edge in edges)] += number
    return binned
