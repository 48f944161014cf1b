"""Counts over time: what the charts and the comparison of models rest on. Every question is bounded by a time range
that an index serves; days are given as instants, for a day begins when the site's clock says so.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, Integer, and_, case, cast, extract, func, literal, or_, select, tuple_
from sqlalchemy.engine import Connection

from storage.studies import BACKFILL, NOT_ANALYSED
from storage.tables import instances, predictions, results, studies

GRAIN = 10_000  # steps of a histogram between probability 0 and 1
LATENCY_STEP_S = 0.01


@dataclass(frozen=True)
class StudyCount:
    """How many studies there are of one state."""

    status: str
    flagged: bool
    verdict: str
    number: int


@dataclass(frozen=True)
class ModelKey:
    """A finding of a package as it was when it scored."""

    digest: str
    finding: str
    model: str
    version: str


@dataclass(frozen=True)
class Comparison:
    """Studies that two models both scored, by what each would have flagged; sums of their probabilities beside.

    `x` is the first model's highest probability of a study, `y` the second's.
    """

    both: int = 0
    only_first: int = 0
    only_second: int = 0
    neither: int = 0
    sum_x: float = 0.0
    sum_y: float = 0.0
    sum_xx: float = 0.0
    sum_yy: float = 0.0
    sum_xy: float = 0.0

    @property
    def studies(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


def study_counts(connection: Connection, since: datetime, until: datetime) -> list[StudyCount]:
    """Count the studies whose last image came in that time; none that a back-catalogue run fetched."""
    column = studies.c
    statement = (
        select(column.status, column.flagged, column.verdict, func.count())
        .where(column.last_received_at >= since, column.last_received_at < until, column.origin != BACKFILL)
        .group_by(column.status, column.flagged, column.verdict)
    )
    return [StudyCount(*row) for row in connection.execute(statement)]


def volume(connection: Connection, since: datetime, until: datetime) -> int:
    """Count all studies whose last image came in that time."""
    column = studies.c.last_received_at
    return connection.execute(select(func.count()).where(column >= since, column < until)).scalar_one()


def latencies(connection: Connection, since: datetime, until: datetime) -> Counter[int]:
    """Return how often each time from the first image to the first result came up, in steps of `LATENCY_STEP_S`."""
    column = studies.c
    if connection.dialect.name == "sqlite":
        seconds = (func.julianday(column.notified_at) - func.julianday(column.first_received_at)) * 86400.0
    else:
        seconds = cast(extract("epoch", column.notified_at - column.first_received_at), Float)
    steps = cast(func.round(seconds / LATENCY_STEP_S), Integer).label("steps")
    statement = (
        select(steps, func.count())
        .where(
            column.last_received_at >= since,
            column.last_received_at < until,
            column.origin != BACKFILL,
            column.notified_at.is_not(None),
        )
        .group_by(steps)
    )
    return Counter({max(0, int(step)): number for step, number in connection.execute(statement)})


def exclusion_reasons(connection: Connection, since: datetime, until: datetime) -> dict[str, int]:
    """Return why studies were not analysed at all: the reason of the first image of each, as current results say."""
    reason = results.c.outcome[("exclusions", 0, "reason")].as_string()
    statement = (
        select(reason, func.count())
        .where(
            results.c.status == NOT_ANALYSED,
            results.c.created_at >= since,
            results.c.created_at < until,
            results.c.superseded_at.is_(None),
        )
        .group_by(reason)
    )
    found: Counter[str] = Counter()
    for name, number in connection.execute(statement):
        found[name or "no-image"] += number
    return dict(found)


def models(connection: Connection, since: datetime, until: datetime) -> list[ModelKey]:
    """Return what scored images in that time: a few looks into the index for each."""
    found: list[ModelKey] = []
    column = predictions.c
    after: tuple[str, str] | None = None
    while True:
        beyond: list[ColumnElement[bool]] = [] if after is None else [_beyond(*after)]
        order = (column.model_digest, column.finding)
        row = connection.execute(select(*order).where(*beyond).order_by(*order).limit(1)).one_or_none()
        if row is None:
            return found
        after = (row.model_digest, row.finding)
        named = connection.execute(
            select(column.model, column.model_version).where(*_of(*after), *_within(since, until)).limit(1)
        ).one_or_none()
        if named is not None:
            found.append(ModelKey(*after, named.model, named.model_version))


def flagged_images(
    connection: Connection, key: ModelKey, threshold: float, since: datetime, until: datetime
) -> tuple[int, int]:
    """Return how many images the model scored in that time, and how many at the threshold or above."""
    above = func.coalesce(func.sum(case((predictions.c.probability >= threshold, 1), else_=0)), 0)
    row = connection.execute(
        select(func.count(), above).where(*_of(key.digest, key.finding), *_within(since, until))
    ).one()
    return int(row[0]), int(row[1])


def histogram(connection: Connection, key: ModelKey, since: datetime, until: datetime) -> dict[int, int]:
    """Return how many images of that time have each probability, in steps of 1 / `GRAIN`."""
    step = cast(func.round(predictions.c.probability * GRAIN), Integer).label("step")
    statement = select(step, func.count()).where(*_of(key.digest, key.finding), *_within(since, until)).group_by(step)
    return {int(found): number for found, number in connection.execute(statement)}


def compare(
    connection: Connection,
    finding: str,
    first: tuple[str, float],
    second: tuple[str, float],
    since: datetime,
    until: datetime,
) -> Comparison:
    """Compare two models, each (digest, threshold), on the studies of which both scored an image, the second in that
    time. A study counts once, by its highest probability."""
    pairs = _pairs(finding, first[0], second[0], since, until).subquery()
    by_first, by_second = pairs.c.x >= first[1], pairs.c.y >= second[1]

    def number(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    def total(value: ColumnElement[float]) -> ColumnElement[float]:
        return func.coalesce(func.sum(value), 0.0)

    row = connection.execute(
        select(
            number(and_(by_first, by_second)),
            number(and_(by_first, ~by_second)),
            number(and_(~by_first, by_second)),
            number(and_(~by_first, ~by_second)),
            total(pairs.c.x),
            total(pairs.c.y),
            total(pairs.c.x * pairs.c.x),
            total(pairs.c.y * pairs.c.y),
            total(pairs.c.x * pairs.c.y),
        )
    ).one()
    return Comparison(*(int(value) for value in row[:4]), *(float(value) for value in row[4:]))


def disagreements(
    connection: Connection,
    finding: str,
    first: tuple[str, float],
    second: tuple[str, float],
    since: datetime,
    until: datetime,
    *,
    limit: int,
) -> list[tuple[str, bool]]:
    """Return studies that only one of the two would have flagged, newest first, and whether that is the first."""
    pairs = _pairs(finding, first[0], second[0], since, until).subquery()
    by_first, by_second = pairs.c.x >= first[1], pairs.c.y >= second[1]
    statement = (
        select(pairs.c.study_instance_uid, pairs.c.x, pairs.c.y)
        .where(or_(and_(by_first, ~by_second), and_(~by_first, by_second)))
        .order_by(pairs.c.at.desc(), pairs.c.study_instance_uid)
        .limit(limit)
    )
    return [(row.study_instance_uid, row.x >= first[1]) for row in connection.execute(statement)]


def _pairs(finding: str, first: str, second: str, since: datetime, until: datetime) -> Any:
    x, y = predictions.alias("x"), predictions.alias("y")
    return (
        select(
            instances.c.study_instance_uid,
            func.max(x.c.probability).label("x"),
            func.max(y.c.probability).label("y"),
            func.max(y.c.created_at).label("at"),
        )
        .select_from(y)
        .join(x, and_(x.c.instance_id == y.c.instance_id, x.c.model_digest == first, x.c.finding == finding))
        .join(instances, instances.c.id == y.c.instance_id)
        .where(y.c.model_digest == second, y.c.finding == finding, y.c.created_at >= since, y.c.created_at < until)
        .group_by(instances.c.study_instance_uid)
    )


def _of(digest: str, finding: str) -> Sequence[ColumnElement[bool]]:
    return (predictions.c.model_digest == digest, predictions.c.finding == finding)


def _within(since: datetime, until: datetime) -> Sequence[ColumnElement[bool]]:
    return (predictions.c.created_at >= since, predictions.c.created_at < until)


def _beyond(digest: str, finding: str) -> ColumnElement[bool]:
    # One comparison of pairs: written with OR, neither database takes it for a place in the index.
    return tuple_(predictions.c.model_digest, predictions.c.finding) > tuple_(literal(digest), literal(finding))
