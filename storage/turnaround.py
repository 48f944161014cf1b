"""How long studies took: from the last image to the result, and from opening a study to having read it.

Read from rows that the stages write; nothing is written here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from storage.deliveries import COMMITTED, DELIVERED, FEEDBACK
from storage.studies import BACKFILL
from storage.tables import deliveries, instances, predictions, studies

_BATCH = 1000


@dataclass(frozen=True)
class Turnaround:
    """A study's steps. `last_image_at` is that of the images which its first result could know: a later one does not
    count as waiting. `told_at` and `delivered_at` are the first arrival at any destination, of a notice of priority
    and of another result object; None where there was none yet. `models` names what scored it, name and version.
    """

    last_image_at: datetime
    visible_at: datetime
    told_at: datetime | None
    delivered_at: datetime | None
    models: tuple[str, ...]


def turnarounds(
    connection: Connection, since: datetime, until: datetime, *, priority_kind: str
) -> Iterator[Turnaround | None]:
    """Yield the studies of that time, by their last image, that have a first result.

    None stands for a study whose images are not on record any more, so that it can be counted. What a back-catalogue
    run fetched is left out: nobody waited for it. `priority_kind` is the kind of delivery that only tells a priority.
    """
    last_image = (
        select(func.max(instances.c.received_at))
        .where(
            instances.c.study_instance_uid == studies.c.study_instance_uid,
            instances.c.received_at <= studies.c.notified_at,
        )
        .scalar_subquery()
    )
    statement = (
        select(studies.c.study_instance_uid, studies.c.notified_at, last_image.label("last_image_at"))
        .where(
            studies.c.last_received_at >= since,
            studies.c.last_received_at < until,
            studies.c.origin != BACKFILL,
            studies.c.notified_at.is_not(None),
        )
        .order_by(studies.c.last_received_at, studies.c.id)
    )
    rows = connection.execute(statement).all()
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        uids = [row.study_instance_uid for row in batch]
        told = _first_delivered(connection, uids, deliveries.c.kind == priority_kind)
        delivered = _first_delivered(
            connection,
            uids,
            (deliveries.c.kind != priority_kind) & deliveries.c.kind.not_like(f"{FEEDBACK}%"),
        )
        models = _models(connection, uids)
        for row in batch:
            if row.last_image_at is None:
                yield None
                continue
            uid = row.study_instance_uid
            yield Turnaround(
                row.last_image_at,
                row.notified_at,
                told.get(uid),
                delivered.get(uid),
                tuple(sorted(models.get(uid, ()))),
            )


def _first_delivered(connection: Connection, uids: list[str], kind: object) -> dict[str, datetime]:
    rows = connection.execute(
        select(deliveries.c.study_instance_uid, func.min(deliveries.c.delivered_at))
        .where(
            deliveries.c.study_instance_uid.in_(uids),
            deliveries.c.state.in_((DELIVERED, COMMITTED)),
            deliveries.c.delivered_at.is_not(None),
            kind,  # type: ignore[arg-type]
        )
        .group_by(deliveries.c.study_instance_uid)
    )
    return {row[0]: row[1] for row in rows}


def _models(connection: Connection, uids: list[str]) -> dict[str, set[str]]:
    rows = connection.execute(
        select(instances.c.study_instance_uid, predictions.c.model, predictions.c.model_version)
        .join(predictions, predictions.c.instance_id == instances.c.id)
        .where(instances.c.study_instance_uid.in_(uids))
        .distinct()
    )
    found: dict[str, set[str]] = {}
    for uid, model, version in rows:
        found.setdefault(uid, set()).add(f"{model} {version}")
    return found


def received(connection: Connection, since: datetime, until: datetime) -> list[datetime]:
    """Return when the first image of each study came, of studies whose last image came in that time, in order."""
    rows = connection.execute(
        select(studies.c.first_received_at).where(
            studies.c.last_received_at >= since, studies.c.last_received_at < until, studies.c.origin != BACKFILL
        )
    )
    return sorted(row.first_received_at for row in rows)


def reading_minutes(connection: Connection, since: datetime, until: datetime, *, longest_min: float) -> list[float]:
    """Return the minutes from opening each study to having read it, of studies whose last image came in that time.

    What took longer than `longest_min` was left open rather than read, and does not count.
    """
    rows = connection.execute(
        select(studies.c.opened_at, studies.c.read_at)
        .where(
            studies.c.last_received_at >= since,
            studies.c.last_received_at < until,
            studies.c.opened_at.is_not(None),
            studies.c.read_at.is_not(None),
        )
        .order_by(studies.c.id)
    )
    minutes = ((row.read_at - row.opened_at).total_seconds() / 60 for row in rows)
    return [value for value in minutes if 0 < value <= longest_min]
