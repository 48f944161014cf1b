"""Geometry of the charts: values in, places of marks out. The template draws them as SVG, every text escaped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 12.0, 30.0
ROW = 34.0
LABEL_WIDTH = 300.0
MOST_LABELS = 8


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A bar and what it says."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Series:
    """A line with the band around it, as lists of points; `name` is the css class. A gap begins a new line."""

    name: str
    label: str
    lines: tuple[str, ...]
    bands: tuple[str, ...] = ()
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of a chart that lies: a bar or a dot with its interval."""

    y: float
    label: str
    says: str
    to: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Upright:
    """A chart over time."""

    width: float
    height: float
    bottom: float
    left: float
    right: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    bars: tuple[Bar, ...] = ()
    series: tuple[Series, ...] = ()


@dataclass(frozen=True)
class Lying:
    """A chart of rows."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    rows: tuple[Row, ...]
    across: tuple[Tick, ...]
    limits: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Point:
    """A value with its interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def bars(labels: Sequence[str], values: Sequence[int], unit: str) -> Upright:
    """Return bars over time."""
    top, ticks = _scale(max(values, default=0), whole=True)
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    drawn = tuple(
        Bar(
            round(LEFT + place * slot + slot * 0.12, 1),
            _up(value, top),
            round(slot * 0.76, 1),
            round(HEIGHT - BOTTOM - _up(value, top), 1),
            f"{label}: {value} {unit}",
        )
        for place, (label, value) in enumerate(zip(labels, values, strict=True))
    )
    return Upright(WIDTH, HEIGHT, HEIGHT - BOTTOM, LEFT, WIDTH - RIGHT, _labels(labels), ticks, bars=drawn)


def lines(
    labels: Sequence[str],
    named: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    percent: bool = False,
    unit: str = "",
) -> Upright:
    """Return lines over time, each (css class, label, points), with bands where points have intervals."""
    highest = max(
        (
            value
            for _, _, points in named
            for point in points
            for value in (point.value, point.high)
            if value is not None
        ),
        default=0.0,
    )
    top, ticks = _scale(min(1.0, highest) if percent else highest, percent=percent, unit=unit)
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    places = [round(LEFT + (place + 0.5) * slot, 1) for place in range(len(labels))]
    series = tuple(_series(name, label, points, places, top) for name, label, points in named)
    return Upright(WIDTH, HEIGHT, HEIGHT - BOTTOM, LEFT, WIDTH - RIGHT, _labels(labels), ticks, series=series)


def rows(
    labeled: Sequence[tuple[str, Point, str]],
    *,
    top: float | None = None,
    percent: bool = False,
    limits: Sequence[tuple[float, str]] = (),
) -> Lying:
    """Return rows, each (label, value with interval, what it says)."""
    values = [value for _, point, _ in labeled for value in (point.value, point.high) if value is not None]
    highest = top if top is not None else max([*values, *(at for at, _ in limits)], default=0.0)
    end, ticks = _scale(highest, percent=percent)
    left, right = LABEL_WIDTH, WIDTH - 90.0

    def across(value: float) -> float:
        return round(left + min(1.0, value / end) * (right - left), 1)

    bottom = TOP + ROW * max(1, len(labeled))
    return Lying(
        WIDTH,
        bottom + BOTTOM,
        left,
        right,
        bottom,
        tuple(
            Row(
                TOP + ROW * place + ROW / 2,
                label if len(label) <= 34 else label[:33] + "…",
                says,
                across(point.value or 0.0),
                None if point.low is None else across(point.low),
                None if point.high is None else across(point.high),
            )
            for place, (label, point, says) in enumerate(labeled)
        ),
        tuple(Tick(across(value), tick.label) for value, tick in ((_of(tick, end), tick) for tick in ticks)),
        tuple(Tick(across(at), label) for at, label in limits),
    )


def _series(name: str, label: str, points: Sequence[Point], places: Sequence[float], top: float) -> Series:
    drawn: list[str] = []
    bands: list[str] = []
    dots: list[tuple[float, float]] = []
    run: list[tuple[float, Point]] = []
    for x, point in [*zip(places, points, strict=True), (0.0, Point(None))]:
        if point.value is not None:
            run.append((x, point))
            continue
        if run:
            drawn.append(" ".join(f"{at},{_up(item.value or 0.0, top)}" for at, item in run))
            dots += [(at, _up(item.value or 0.0, top)) for at, item in run]
            if run[0][1].low is not None:
                edge = [f"{at},{_up(item.high or 0.0, top)}" for at, item in run]
                edge += [f"{at},{_up(item.low or 0.0, top)}" for at, item in reversed(run)]
                bands.append(" ".join(edge))
        run = []
    return Series(name, label, tuple(drawn), tuple(bands), tuple(dots))


def _up(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - min(1.0, value / top) * (HEIGHT - BOTTOM - TOP), 1)


def _of(tick: Tick, end: float) -> float:
    """Return the value of a tick from its place on the upright axis."""
    return (HEIGHT - BOTTOM - tick.at) / (HEIGHT - BOTTOM - TOP) * end


def _scale(
    highest: float, *, percent: bool = False, whole: bool = False, unit: str = ""
) -> tuple[float, tuple[Tick, ...]]:
    """Return the end of an axis and its ticks: steps of 1, 2 or 5 times a power of ten, about four of them."""
    if highest <= 0:
        highest = 1.0 if whole or not percent else 0.1
    rough = highest / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    number = max(1, math.ceil(highest / step - 1e-9))
    top = step * number
    places = max(0, -math.floor(math.log10(step) + 1e-9) - (2 if percent else 0))

    def text(value: float) -> str:
        return f"{value * 100:.{places}f} %" if percent else f"{value:.{places}f}{unit}"

    return top, tuple(Tick(_up(step * place, top), text(step * place)) for place in range(number + 1))


def _labels(labels: Sequence[str]) -> tuple[Tick, ...]:
    """Return the labels that find room below the axis."""
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    every = max(1, math.ceil(len(labels) / MOST_LABELS))
    return tuple(
        Tick(round(LEFT + (place + 0.5) * slot, 1), label) for place, label in enumerate(labels) if place % every == 0
    )
