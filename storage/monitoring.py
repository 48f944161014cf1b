"""What monitoring rests on: figures of each image, scores, outcomes and verdicts in the order they came, and charts.

Every question is bounded by a time that an index serves, and by a number of rows. Studies that a back-catalogue run
fetched are left out: they are of another time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection

from storage.monitoring_tables import image_measures, monitors
from storage.studies import ANALYSED, BACKFILL, NOT_ANALYSED
from storage.tables import feedback, insert, instances, predictions, results, studies

VERDICTS = ("agree", "disagree")


@dataclass(frozen=True)
class ImageMeasures:
    """What was measured of one image; `exclusion` is why its pixels excluded it, empty where they did not."""

    instance_id: int
    created_at: datetime
    exclusion: str
    age_years: float | None
    sex: str
    view: str
    modality: str
    mean_gray: float | None
    contrast: float | None
    upright: float | None


@dataclass(frozen=True)
class Seen:
    """One case of a chart: when it came, of which study, and its value."""

    at: datetime
    study_instance_uid: str
    value: float


@dataclass(frozen=True)
class Measured:
    """An image that a model scored: its probability, and what was measured of it (None where nothing was)."""

    at: datetime
    probability: float
    measures: ImageMeasures | None


@dataclass(frozen=True)
class Monitor:
    """Where a chart stands. `alarm` is empty where there is none; `state` is for whoever keeps it."""

    name: str
    model_digest: str
    finding: str
    model: str
    model_version: str
    alarm: str
    alarm_at: datetime | None
    state: dict[str, Any]
    started_at: datetime
    updated_at: datetime


_MEASURES = [image_measures.c[field.name] for field in fields(ImageMeasures)]
_MONITOR = [monitors.c[field.name] for field in fields(Monitor)]
_KEY = ("name", "model_digest", "finding")


def add_measures(connection: Connection, rows: Sequence[ImageMeasures]) -> None:
    """Keep what was measured; an image that was measured before keeps what it had."""
    for row in rows:
        connection.execute(insert(connection.dialect.name, image_measures).values(**vars(row)).on_conflict_do_nothing())


def scored(
    connection: Connection, digest: str, finding: str, *, since: datetime, until: datetime, limit: int
) -> list[Seen]:
    """Return the probabilities that a model gave in that time, oldest first."""
    column = predictions.c
    statement = (
        select(column.created_at, instances.c.study_instance_uid, column.probability)
        .join(instances, instances.c.id == column.instance_id)
        .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
        .where(
            column.model_digest == digest,
            column.finding == finding,
            column.created_at >= since,
            column.created_at < until,
            studies.c.origin != BACKFILL,
        )
        .order_by(column.created_at, column.instance_id)
        .limit(limit)
    )
    return [Seen(*row) for row in connection.execute(statement)]


def refused(connection: Connection, *, since: datetime, until: datetime, limit: int) -> list[Seen]:
    """Return, for each image whose pixels were looked at in that time, 1 where they excluded it, oldest first."""
    column = image_measures.c
    statement = (
        select(column.created_at, instances.c.study_instance_uid, column.exclusion)
        .join(instances, instances.c.id == column.instance_id)
        .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
        .where(column.created_at >= since, column.created_at < until, studies.c.origin != BACKFILL)
        .order_by(column.created_at, column.instance_id)
        .limit(limit)
    )
    return [Seen(at, uid, float(bool(reason))) for at, uid, reason in connection.execute(statement)]


def not_analysed(connection: Connection, *, since: datetime, until: datetime, limit: int) -> list[Seen]:
    """Return, for each study whose first result came in that time, 1 where no image was analysed, oldest first."""
    column = results.c
    statement = (
        select(column.created_at, column.study_instance_uid, column.status)
        .join(studies, studies.c.study_instance_uid == column.study_instance_uid)
        .where(
            column.status.in_((ANALYSED, NOT_ANALYSED)),
            column.revision == 1,
            column.created_at >= since,
            column.created_at < until,
            studies.c.origin != BACKFILL,
        )
        .order_by(column.created_at, column.id)
        .limit(limit)
    )
    return [Seen(at, uid, float(status == NOT_ANALYSED)) for at, uid, status in connection.execute(statement)]


def verdicts(connection: Connection, *, since: datetime, until: datetime, limit: int) -> list[Seen]:
    """Return, for each verdict of a reader in that time, 1 where it disagrees with the result, oldest first."""
    column = feedback.c
    statement = (
        select(column.created_at, column.study_instance_uid, column.verdict)
        .where(column.verdict.in_(VERDICTS), column.created_at >= since, column.created_at < until)
        .order_by(column.created_at, column.id)
        .limit(limit)
    )
    return [Seen(at, uid, float(verdict == "disagree")) for at, uid, verdict in connection.execute(statement)]


def measured(
    connection: Connection, digest: str, finding: str, *, since: datetime, until: datetime, limit: int, newest: bool
) -> list[Measured]:
    """Return images that a model scored in that time, the newest or the oldest of them, with what was measured."""
    column = predictions.c
    order = column.created_at.desc() if newest else column.created_at
    statement = (
        select(column.created_at.label("scored_at"), column.probability, *_MEASURES)
        .join(instances, instances.c.id == column.instance_id)
        .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
        .outerjoin(image_measures, image_measures.c.instance_id == column.instance_id)
        .where(
            column.model_digest == digest,
            column.finding == finding,
            column.created_at >= since,
            column.created_at < until,
            studies.c.origin != BACKFILL,
        )
        .order_by(order, column.instance_id)
        .limit(limit)
    )
    return [
        Measured(row[0], row[1], ImageMeasures(*row[2:]) if row[2] is not None else None)
        for row in connection.execute(statement)
    ]


def listed(connection: Connection) -> list[Monitor]:
    """Return every chart, in a stable order."""
    order = [monitors.c[name] for name in ("model", "model_digest", "finding", "name")]
    return [Monitor(**row._mapping) for row in connection.execute(select(*_MONITOR).order_by(*order).limit(1000))]


def save(connection: Connection, monitor: Monitor) -> None:
    """Keep where a chart stands."""
    values = vars(monitor)
    connection.execute(
        insert(connection.dialect.name, monitors)
        .values(**values)
        .on_conflict_do_update(
            index_elements=[monitors.c[name] for name in _KEY],
            set_={name: value for name, value in values.items() if name not in _KEY},
        )
    )


def forget(connection: Connection, *, kept: Sequence[str]) -> int:
    """Remove the charts of every model but those of these digests; charts of the node stay. Return how many."""
    column = monitors.c.model_digest
    return connection.execute(delete(monitors).where(column != "", column.not_in(tuple(kept)))).rowcount


def probabilities(connection: Connection, digest: str, finding: str, uids: Sequence[str]) -> dict[str, float]:
    """Return what a model said of studies or images, by their UID; of a study the highest of its images.

    Those that it did not score are left out.
    """
    found: dict[str, float] = {}
    for begin in range(0, len(uids), 500):
        asked = uids[begin : begin + 500]
        for column in (instances.c.study_instance_uid, instances.c.sop_instance_uid):
            statement = (
                select(column, func.max(predictions.c.probability))
                .join(instances, instances.c.id == predictions.c.instance_id)
                .where(predictions.c.model_digest == digest, predictions.c.finding == finding, column.in_(asked))
                .group_by(column)
            )
            found.update((uid, value) for uid, value in connection.execute(statement))
    return found
