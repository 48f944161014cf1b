"""Who sends images, how often, and who has fallen silent.

A sender is a calling AE title with a modality; `ix_studies_sender` answers for it, however many studies there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.engine import Connection

from storage import audit
from storage.site_tables import silences
from storage.tables import insert, studies

MOST_SENDERS = 100  # an AE title and a modality are texts that a sender writes
LATELY = timedelta(hours=24)
_PACE_OF = 200  # newest studies
_MOST_COUNTED = 10_000


@dataclass(frozen=True)
class Sender:
    """Who sends. `lately` counts studies of the last 24 hours, up to 10,000; `pace_per_day` is of its newest studies
    until the last of them, None where there are too few to tell."""

    calling_ae_title: str
    modality: str
    last_at: datetime
    lately: int
    pace_per_day: float | None


@dataclass(frozen=True)
class Silence:
    """A sender that is silent for too long. `last_at` is of the last image before; muted: an admin knows."""

    id: int
    calling_ae_title: str
    modality: str
    last_at: datetime
    noticed_at: datetime
    muted_at: datetime | None
    muted_by: str

    @property
    def sender(self) -> tuple[str, str]:
        """Calling AE title and modality."""
        return self.calling_ae_title, self.modality


_SILENCE = [silences.c[field.name] for field in fields(Silence)]


def last_images(connection: Connection, *, limit: int = MOST_SENDERS) -> dict[tuple[str, str], datetime]:
    """Return when each (calling AE title, modality) sent its last image; of up to `limit`, in their order."""
    found = {}
    for title, modality in _pairs(connection, limit):
        last = select(func.max(studies.c.last_received_at)).where(*_of(title, modality))
        found[(title, modality)] = connection.execute(last).scalar_one()
    return found


def listed(connection: Connection, *, now: datetime, limit: int = MOST_SENDERS) -> list[Sender]:
    """Return who sends, by AE title and modality."""
    return [
        Sender(
            title,
            modality,
            last,
            _lately(connection, title, modality, now),
            _pace_per_day(connection, title, modality, last),
        )
        for (title, modality), last in last_images(connection, limit=limit).items()
    ]


def _pairs(connection: Connection, limit: int) -> Iterator[tuple[str, str]]:
    # From one pair to the next by the index, in two steps: DISTINCT would walk every study, and so would SQLite for
    # both columns at once.
    title, modality = studies.c.calling_ae_title, studies.c.modality
    first = select(title, modality).order_by(title, modality).limit(1)
    row = connection.execute(first).one_or_none()
    for _ in range(limit):
        if row is None:
            return
        yield row[0], row[1]
        same = connection.execute(first.where(title == row[0], modality > row[1])).one_or_none()
        row = same or connection.execute(first.where(title > row[0])).one_or_none()


def _of(title: str, modality: str) -> tuple[ColumnElement[bool], ...]:
    return studies.c.calling_ae_title == title, studies.c.modality == modality


def _lately(connection: Connection, title: str, modality: str, now: datetime) -> int:
    some = select(studies.c.id).where(*_of(title, modality), studies.c.last_received_at > now - LATELY)
    return int(connection.execute(select(func.count()).select_from(some.limit(_MOST_COUNTED).subquery())).scalar_one())


def _pace_per_day(connection: Connection, title: str, modality: str, last: datetime) -> float | None:
    times = (
        select(studies.c.last_received_at)
        .where(*_of(title, modality))
        .order_by(studies.c.last_received_at.desc())
        .limit(_PACE_OF)
        .subquery()
    )
    number, first = connection.execute(select(func.count(), func.min(times.c.last_received_at))).one()
    days = (last - first).total_seconds() / 86400
    return (number - 1) / days if number > 2 and days > 0.04 else None


def silent(connection: Connection) -> list[Silence]:
    """Return silences, the longest first."""
    order = (silences.c.last_at, silences.c.calling_ae_title, silences.c.modality)
    return [Silence(**row._mapping) for row in connection.execute(select(*_SILENCE).order_by(*order))]


def note_silence(
    connection: Connection, calling_ae_title: str, modality: str, *, last_at: datetime, now: datetime
) -> bool:
    """Note that a sender is silent; False where that is known."""
    made = connection.execute(
        insert(connection.dialect.name, silences)
        .values(calling_ae_title=calling_ae_title, modality=modality, last_at=last_at, noticed_at=now)
        .on_conflict_do_nothing()
        .returning(silences.c.id)
    ).one_or_none()
    return made is not None


def end_silence(connection: Connection, silence_id: int) -> bool:
    """Note that a sender is heard again, or that nobody waits for it any more; False where that is known."""
    return connection.execute(delete(silences).where(silences.c.id == silence_id)).rowcount == 1


def mute(connection: Connection, silence_id: int, *, by: str, now: datetime) -> bool:
    """Stop the alarm of a silence until the sender is heard again; False where there is none to stop."""
    row = connection.execute(
        update(silences)
        .where(silences.c.id == silence_id, silences.c.muted_at.is_(None))
        .values(muted_at=now, muted_by=by)
        .returning(silences.c.calling_ae_title, silences.c.modality)
    ).one_or_none()
    if row is None:
        return False
    detail = {"calling_ae_title": row.calling_ae_title, "modality": row.modality}
    audit.record(connection, "silence_muted", actor=by, now=now, detail=detail)
    return True
