"""The figures of the charts: counted from storage for the days of the site's zone, the same for page, CSV and API."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy.engine import Connection

from cxr_node.worklist.figures import Drift, Proportion, drift, percentile, proportion
from storage import statistics
from storage.statistics import LATENCY_STEP_S, ModelKey, StudyCount
from storage.studies import ANALYSED, FAILED, NOT_ANALYSED, PENDING

HOURS = 48
RECENT_DAYS, BEFORE_DAYS = 7, 28
AGREE, DISAGREE, UNSURE = "agree", "disagree", "unsure"


@dataclass(frozen=True)
class Day:
    """The studies whose last image came on a day. Seconds are from the first image to the first result."""

    day: date
    studies: int
    analysed: int
    flagged: int
    not_analysed: int
    failed: int
    pending: int
    flag_rate: Proportion
    latency_p50_s: float | None
    latency_p95_s: float | None


@dataclass(frozen=True)
class Hour:
    """The studies whose last image came in an hour."""

    start: datetime
    studies: int


@dataclass(frozen=True)
class ModelFigures:
    """One finding of one package: how many images it would flag, by day and in all, and how its scores moved.

    `threshold` is None where the package is not on the disk any more: then nothing is known of flags.
    """

    key: ModelKey
    threshold: float | None
    images: int
    flag_rate: Proportion
    by_day: tuple[Proportion, ...]
    drift: Drift


@dataclass(frozen=True)
class Readers:
    """What readers said of studies with a result. `ppv` is of flagged studies, `agreement` of all with a verdict."""

    flagged: int
    flagged_with_verdict: int
    not_flagged: int
    not_flagged_with_verdict: int
    unsure: int
    ppv: Proportion
    agreement: Proportion


@dataclass(frozen=True)
class Statistics:
    """All figures of a range of days."""

    at: datetime
    days: tuple[Day, ...]
    hours: tuple[Hour, ...]
    studies: int
    flag_rate: Proportion
    exclusions: Mapping[str, int]
    latency_p50_s: float | None
    latency_p95_s: float | None
    models: tuple[ModelFigures, ...]
    readers: Readers


def count(
    connection: Connection, *, now: datetime, zone: ZoneInfo, days: int, thresholds: Mapping[tuple[str, str], float]
) -> Statistics:
    """Return the figures of the last days, today included.

    Parameters
    ----------
    thresholds : by (digest, finding)
    """
    bounds = day_bounds(now, zone, days)
    per_day = [(day, _day(connection, day, since, until)) for day, since, until in bounds]
    since, until = bounds[0][1], bounds[-1][2]
    all_counts = [item for _, (_, counts, _) in per_day for item in counts]
    latencies: Counter[int] = sum((found for _, (_, _, found) in per_day), Counter())
    return Statistics(
        at=now,
        days=tuple(told for _, (told, _, _) in per_day),
        hours=_hours(connection, now),
        studies=sum(item.number for item in all_counts),
        flag_rate=_flag_rate(all_counts),
        exclusions=dict(
            sorted(statistics.exclusion_reasons(connection, since, until).items(), key=lambda item: (-item[1], item[0]))
        ),
        latency_p50_s=_seconds(latencies, 0.5),
        latency_p95_s=_seconds(latencies, 0.95),
        models=tuple(
            _model(connection, key, thresholds.get((key.digest, key.finding)), bounds, now)
            for key in statistics.models(connection, min(since, now - timedelta(days=RECENT_DAYS + BEFORE_DAYS)), until)
        ),
        readers=_readers(all_counts),
    )


def day_bounds(now: datetime, zone: ZoneInfo, days: int) -> list[tuple[date, datetime, datetime]]:
    """Return each day with its first instant and the first of the next; days that change the clock are 23 or 25 h."""
    today = now.astimezone(zone).date()
    listed = [today - timedelta(days=back) for back in reversed(range(days))]
    return [
        (day, datetime.combine(day, time(), zone), datetime.combine(day + timedelta(days=1), time(), zone))
        for day in listed
    ]


def _day(
    connection: Connection, day: date, since: datetime, until: datetime
) -> tuple[Day, list[StudyCount], Counter[int]]:
    counts = statistics.study_counts(connection, since, until)
    latencies = statistics.latencies(connection, since, until)

    def number(status: str) -> int:
        return sum(item.number for item in counts if item.status == status)

    return (
        Day(
            day=day,
            studies=sum(item.number for item in counts),
            analysed=number(ANALYSED),
            flagged=sum(item.number for item in counts if item.flagged),
            not_analysed=number(NOT_ANALYSED),
            failed=number(FAILED),
            pending=number(PENDING),
            flag_rate=_flag_rate(counts),
            latency_p50_s=_seconds(latencies, 0.5),
            latency_p95_s=_seconds(latencies, 0.95),
        ),
        counts,
        latencies,
    )


def _flag_rate(counts: list[StudyCount]) -> Proportion:
    """Of the studies that were analysed: those not analysed could not be flagged."""
    analysed = [item for item in counts if item.status == ANALYSED]
    return proportion(sum(item.number for item in analysed if item.flagged), sum(item.number for item in analysed))


def _seconds(latencies: Counter[int], share: float) -> float | None:
    step = percentile(latencies, share)
    return None if step is None else round(step * LATENCY_STEP_S, 2)


def _hours(connection: Connection, now: datetime) -> tuple[Hour, ...]:
    last = now.replace(minute=0, second=0, microsecond=0)
    starts = [last - timedelta(hours=back) for back in reversed(range(HOURS))]
    return tuple(Hour(start, statistics.volume(connection, start, start + timedelta(hours=1))) for start in starts)


def _model(
    connection: Connection,
    key: ModelKey,
    threshold: float | None,
    bounds: list[tuple[date, datetime, datetime]],
    now: datetime,
) -> ModelFigures:
    # A threshold above every probability: images are counted, flags are not.
    by_day = [statistics.flagged_images(connection, key, threshold or 2.0, since, until) for _, since, until in bounds]
    images = sum(scored for scored, _ in by_day)
    is_known = threshold is not None
    edge = now - timedelta(days=RECENT_DAYS)
    before = statistics.histogram(connection, key, edge - timedelta(days=BEFORE_DAYS), edge)
    recent = statistics.histogram(connection, key, edge, now + timedelta(seconds=1))
    return ModelFigures(
        key=key,
        threshold=threshold,
        images=images,
        flag_rate=proportion(sum(flagged for _, flagged in by_day), images if is_known else 0),
        by_day=tuple(proportion(flagged, scored if is_known else 0) for scored, flagged in by_day),
        drift=drift(before, recent),
    )


def _readers(counts: list[StudyCount]) -> Readers:
    with_result = [item for item in counts if item.status == ANALYSED or item.flagged]

    def number(flagged: bool, *verdicts: str) -> int:
        return sum(item.number for item in with_result if item.flagged is flagged and item.verdict in verdicts)

    decided = (AGREE, DISAGREE)
    agreed, with_verdict = number(True, AGREE), number(True, *decided)
    other_agreed, other_verdict = number(False, AGREE), number(False, *decided)
    return Readers(
        flagged=sum(item.number for item in with_result if item.flagged),
        flagged_with_verdict=with_verdict,
        not_flagged=sum(item.number for item in with_result if not item.flagged),
        not_flagged_with_verdict=other_verdict,
        unsure=number(True, UNSURE) + number(False, UNSURE),
        ppv=proportion(agreed, with_verdict),
        agreement=proportion(agreed + other_agreed, with_verdict + other_verdict),
    )
