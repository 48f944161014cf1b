"""The audit trail: who did what to which study, and when. Rows are added, never changed; `audit_chain` seals them."""

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, cast, func, select
from sqlalchemy.engine import Connection

from storage.tables import audit_events, insert

# A text is looked for in this many of the newest entries that everything else fits: there is no index over details.
TEXT_WITHIN = 50_000
# Ids and times grow together, but for processes that write at once: what an id says of a time holds within this.
_SLACK = timedelta(minutes=10)


@dataclass(frozen=True)
class AuditEvent:
    """One entry. `actor` is a login, an AE title or a stage; `study_instance_uid` is empty where there is none."""

    id: int
    created_at: datetime
    event: str
    actor: str
    study_instance_uid: str
    detail: dict[str, Any]


_COLUMNS = [audit_events.c[field.name] for field in fields(AuditEvent)]


def record(
    connection: Connection,
    event: str,
    *,
    actor: str,
    now: datetime,
    study_instance_uid: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Add an entry, in the transaction of what it tells of."""
    connection.execute(
        insert(connection.dialect.name, audit_events).values(
            created_at=now, event=event, actor=actor, study_instance_uid=study_instance_uid, detail=detail or {}
        )
    )


def events(connection: Connection, *, study_instance_uid: str | None = None, limit: int = 200) -> list[AuditEvent]:
    """Return the newest entries, newest first; of one study if asked."""
    statement = select(*_COLUMNS).order_by(audit_events.c.id.desc()).limit(limit)
    if study_instance_uid is not None:
        statement = statement.where(audit_events.c.study_instance_uid == study_instance_uid)
    return [AuditEvent(**row._mapping) for row in connection.execute(statement)]


@dataclass(frozen=True)
class Wanted:
    """What is looked for; what is empty or None does not narrow. `before` is the id that a page ends in front of."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = ""
    event: str = ""
    study_instance_uid: str = ""
    text: str = ""
    before: int | None = None


def search(connection: Connection, wanted: Wanted, *, limit: int) -> list[AuditEvent]:
    """Return entries, newest first. The text is looked for in event, actor and detail, whatever the case of letters."""
    column = audit_events.c
    conditions = []
    for name in ("actor", "event", "study_instance_uid"):
        if getattr(wanted, name):
            conditions.append(column[name] == getattr(wanted, name))
    if wanted.before is not None:
        conditions.append(column.id < wanted.before)
    if wanted.since is not None:
        # Times alone would have a database walk the trail from its end: the ids around them are two looks.
        first = select(column.id).where(column.created_at >= wanted.since - _SLACK).order_by(column.created_at).limit(1)
        conditions += [column.created_at >= wanted.since, column.id >= _or(connection, first, 2**62)]
    if wanted.until is not None:
        last = select(column.id).where(column.created_at < wanted.until + _SLACK).order_by(column.created_at.desc())
        conditions += [column.created_at < wanted.until, column.id <= _or(connection, last.limit(1), 0)]
    statement = select(*_COLUMNS).where(*conditions).order_by(column.id.desc())
    if wanted.text:
        newest = select(*_COLUMNS).where(*conditions).order_by(column.id.desc()).limit(TEXT_WITHIN).subquery()
        found = func.lower(newest.c.event + " " + newest.c.actor + " " + cast(newest.c.detail, Text))
        statement = (
            select(newest).where(found.contains(wanted.text.lower(), autoescape=True)).order_by(newest.c.id.desc())
        )
    return [AuditEvent(**row._mapping) for row in connection.execute(statement.limit(limit))]


def event_names(connection: Connection) -> list[str]:
    """Return the events that were ever written, sorted: one look into the index for each."""
    found: list[str] = []
    while True:
        after = [audit_events.c.event > found[-1]] if found else []
        name = connection.execute(select(func.min(audit_events.c.event)).where(*after)).scalar_one()
        if name is None:
            return found
        found.append(name)


def newest(connection: Connection, event: str, *, limit: int = 1) -> list[AuditEvent]:
    """Return the newest entries of an event, newest first."""
    return search(connection, Wanted(event=event), limit=limit)


def _or(connection: Connection, statement: Any, otherwise: int) -> int:
    found: int | None = connection.execute(statement).scalar_one_or_none()
    return otherwise if found is None else found
