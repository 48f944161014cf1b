"""When studies arrive: a steady stream, a day with its hours, or times that were recorded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MINUTES_OF_DAY = 1440


class Arrivals(Protocol):
    """A source of arrival times. `is_steady` tells whether a beginning has to be left out until the list has filled."""

    @property
    def is_steady(self) -> bool: ...

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return (n,) float64, minutes since the first midnight, rising."""
        ...


@dataclass(frozen=True)
class Poisson:
    """So many studies, independent of one another, at a constant rate."""

    per_minute: float
    studies: int

    @property
    def is_steady(self) -> bool:
        return True

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.cumsum(rng.exponential(1 / self.per_minute, self.studies))


@dataclass(frozen=True)
class Day:
    """Days of a department: Poisson with a rate for each hour of day. `hours` holds 24 weights, of any sum."""

    per_day: float
    hours: tuple[float, ...]
    days: int

    def __post_init__(self) -> None:
        if len(self.hours) != 24 or min(self.hours) < 0 or not sum(self.hours) > 0:
            raise ValueError(f"hours: expected 24 weights of 0 or more, not all 0, found {len(self.hours)}")

    @property
    def is_steady(self) -> bool:
        return False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        share = np.tile(np.asarray(self.hours) / sum(self.hours), self.days)
        counts = rng.poisson(self.per_day * share)
        start = np.repeat(np.arange(len(share)) * 60.0, counts)
        return np.sort(start + rng.uniform(0, 60, len(start)))


@dataclass(frozen=True)
class Given:
    """Arrivals as they were recorded, the same in every replication. `minutes` count from the first midnight."""

    minutes: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.minutes:
            raise ValueError("expected arrival times, found none")

    @property
    def is_steady(self) -> bool:
        return False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.sort(np.asarray(self.minutes, np.float64))


# Drawn by hand after the usual course of a hospital's radiography: little at night, most before noon, an evening of
# emergencies. An assumption, not a measurement; a site takes its own log.
SYNTHETIC_HOURS = (1, 1, 1, 1, 1, 2, 3, 5, 9, 10, 10, 9, 7, 8, 8, 7, 6, 5, 4, 4, 3, 3, 2, 2)


def rate_for_load(load: float, mean_read_min: float, readers: Sequence[int]) -> float:
    """Return the arrivals per minute that keep readers, given for each hour of day, busy for that share of time."""
    mean = sum(readers) / len(readers)
    if not (load > 0 and mean_read_min > 0 and mean > 0):
        raise ValueError(f"expected a load, a reading time and readers above 0, found {load}, {mean_read_min}, {mean}")
    return load * mean / mean_read_min


def hours_of(text: str) -> tuple[int, ...]:
    """Read readers by hour of day: ``2``, or shifts as ``08-18:3,18-08:1``; hours that no shift names have nobody.

    Raises
    ------
    ValueError
        Says which part was found and what was expected.
    """
    if text.strip().isdigit():
        count = int(text)
        if not count:
            raise ValueError("readers: expected at least 1, found 0")
        return (count,) * 24
    hours = [0] * 24
    for part in text.split(","):
        try:
            span, _, count_text = part.partition(":")
            begin_text, _, end_text = span.partition("-")
            begin, end, count = int(begin_text), int(end_text), int(count_text)
        except ValueError as error:
            raise ValueError(f"readers: expected HH-HH:COUNT, found {part!r}") from error
        if not (0 <= begin < 24 and 0 <= end <= 24 and count >= 0):
            raise ValueError(f"readers: expected hours from 0 to 24 and a count of 0 or more, found {part!r}")
        length = (end - begin) % 24 or 24
        for hour in range(begin, begin + length):
            hours[hour % 24] += count
    if not any(hours):
        raise ValueError(f"readers: expected somebody at some hour, found {text!r}")
    return tuple(hours)


def changes(hours: Sequence[int], until: float) -> list[tuple[float, int]]:
    """Return (minute, readers from then on), from minute 0 to the first change after `until`."""
    found = [(0.0, hours[0])]
    for hour in range(1, math.ceil(until / 60) + 25):
        if hours[hour % 24] != found[-1][1]:
            found.append((hour * 60.0, hours[hour % 24]))
    return found
