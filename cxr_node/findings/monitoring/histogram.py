"""Histograms with bins of their own, and the population stability index between two of them.

The index compares shares of bins: sum of (r - b) * ln(r / b). It is what scorecards have been watched with since the
1990s; its usual limits (0.1 and 0.25: N. Siddiqi, Credit Risk Scorecards, 2006) hold for thousands of cases. For the
few hundred images that a hospital has in a week, chance alone goes past 0.1, so `chance` says how far.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SMALL_SHIFT = 0.1
LARGE_SHIFT = 0.25
# Bins that hold less of the reference than this are joined to their neighbour: an index over bins of one or two images
# tells of them alone.
LEAST_SHARE = 0.1
FEWEST = 100  # images on either side, below which no index is given
_Z95 = 1.644853626951  # 95 % point of the normal distribution, one-sided


@dataclass(frozen=True)
class Bins:
    """Where values are counted: between `edges` for numbers, by `names` for words.

    A number x lies in bin i where edges[i - 1] <= x < edges[i]; the first and the last bin have no end. A word that is
    none of the names lies in one more bin after them.
    """

    edges: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.edges) == bool(self.names):
            raise ValueError("bins: expected edges for numbers or names for words, found both or neither")
        if any(not low < high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"bins: expected edges that rise, found {self.edges}")

    def __len__(self) -> int:
        return len(self.edges or self.names) + 1

    def place(self, value: float | str) -> int:
        """Return the number of the bin, from 0.

        Raises
        ------
        TypeError
            A word for bins of numbers, or the other way round.
        """
        if self.names:
            if not isinstance(value, str):
                raise TypeError(f"expected a word for bins {self.names}, found {value!r}")
            return self.names.index(value) if value in self.names else len(self.names)
        if isinstance(value, str) or math.isnan(value):
            raise TypeError(f"expected a number for bins {self.edges}, found {value!r}")
        return bisect_right(self.edges, value)

    def told(self, place: int) -> str:
        """Return what a bin holds, for people."""
        if self.names:
            return self.names[place] if place < len(self.names) else "other"
        if place == 0:
            return f"below {self.edges[0]:g}"
        if place == len(self.edges):
            return f"{self.edges[-1]:g} and above"
        return f"{self.edges[place - 1]:g} to {self.edges[place]:g}"


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each bin; `unknown` had none."""

    bins: Bins
    counts: tuple[int, ...]
    unknown: int = 0

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bins) or min((*self.counts, self.unknown)) < 0:
            raise ValueError(f"expected {len(self.bins)} counts of 0 or more, found {self.counts} and {self.unknown}")

    @property
    def total(self) -> int:
        return sum(self.counts)

    @classmethod
    def of(cls, bins: Bins, values: Iterable[float | str | None]) -> "Histogram":
        """Count values; None, NaN and an empty word are unknown."""
        counts, unknown = [0] * len(bins), 0
        for value in values:
            if value is None or value == "" or (not isinstance(value, str) and math.isnan(value)):
                unknown += 1
            else:
                counts[bins.place(value)] += 1
        return cls(bins, tuple(counts), unknown)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back to an equal value."""
        told: dict[str, Any] = {"edges": list(self.bins.edges)} if self.bins.edges else {"names": list(self.bins.names)}
        return {**told, "counts": list(self.counts), "unknown": self.unknown}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Histogram":
        """Build from parsed JSON; KeyError, TypeError or ValueError tell what is wrong with it."""
        bins = Bins(
            tuple(float(edge) for edge in value.get("edges", ())), tuple(str(name) for name in value.get("names", ()))
        )
        return cls(bins, tuple(int(count) for count in value["counts"]), int(value.get("unknown", 0)))


@dataclass(frozen=True)
class Shift:
    """How far one histogram lies from another. `index` is None where either holds fewer than `FEWEST` values.

    `chance` is what the index stays below in 19 of 20 comparisons when nothing differs.
    """

    before: int
    recent: int
    index: float | None
    chance: float | None

    @property
    def is_large(self) -> bool:
        """Whether it is beyond the customary limit and beyond chance."""
        return self.index is not None and self.chance is not None and self.index >= max(LARGE_SHIFT, self.chance)

    @property
    def word(self) -> str:
        """Return what to make of it."""
        if self.index is None or self.chance is None:
            return "too few images"
        if self.index < max(SMALL_SHIFT, self.chance):
            return "no shift seen"
        return "large shift" if self.is_large else "moderate shift"


def shift(before: Histogram, recent: Histogram) -> Shift:
    """Return how far `recent` lies from `before`; both have the same bins.

    Neighbouring bins of numbers are joined until each holds a tenth of `before`; half a value is added to each bin so
    that an empty one stays finite. Without any change the index is about chi-square with one degree of freedom less
    than bins, times (1/m + 1/n) (B. Yurdakul, Statistical Properties of Population Stability Index, 2018).

    Raises
    ------
    ValueError
        The bins differ.
    """
    if before.bins != recent.bins:
        raise ValueError("expected histograms over the same bins")
    n_before, n_recent = before.total, recent.total
    if n_before < FEWEST or n_recent < FEWEST:
        return Shift(n_before, n_recent, None, None)
    was, now = _joined(before, recent)
    index = stability_index(was, now)
    chance = chi_square_95(max(1, len(was) - 1)) * (1 / n_before + 1 / n_recent)
    return Shift(n_before, n_recent, index, chance)


def stability_index(was: Sequence[int], now: Sequence[int]) -> float:
    """Return the population stability index over the same bins, half a value added to each."""
    n_was, n_now, total = sum(was), sum(now), 0.0
    for b, r in zip(was, now, strict=True):
        share_b = (b + 0.5) / (n_was + 0.5 * len(was))
        share_r = (r + 0.5) / (n_now + 0.5 * len(now))
        total += (share_r - share_b) * math.log(share_r / share_b)
    return total


def chi_square_95(degrees: int) -> float:
    """Return the 95 % point of chi-square (E. B. Wilson, M. M. Hilferty, PNAS 1931; within 0.7 % from 2 degrees on)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _Z95 * math.sqrt(part)) ** 3


def _joined(before: Histogram, recent: Histogram) -> tuple[list[int], list[int]]:
    if before.bins.names:  # words have no neighbours
        used = [place for place in range(len(before.bins)) if before.counts[place] or recent.counts[place]]
        return [before.counts[place] for place in used], [recent.counts[place] for place in used]
    least = LEAST_SHARE * before.total
    was, now = [0], [0]
    for b, r in zip(before.counts, recent.counts, strict=True):
        if was[-1] >= least:
            was.append(0)
            now.append(0)
        was[-1] += b
        now[-1] += r
    if len(was) > 1 and was[-1] < least:
        b, r = was.pop(), now.pop()
        was[-1] += b
        now[-1] += r
    return was, now
