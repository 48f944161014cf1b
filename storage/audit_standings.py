"""How far somebody came along the chain of the audit trail, kept durably: the export to a repository, verification.

An export has one holder at a time: who holds it does so for a while only, so that another host goes on when it dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.engine import Connection

from storage.audit import AuditEvent
from storage.audit_chain import INHERITED
from storage.audit_tables import audit_seals, audit_standings
from storage.tables import audit_events, insert

SYSLOG = "syslog"
VERIFIED = "verified"
COUNTED_TO = 10_000  # more entries that wait are told as so many


@dataclass(frozen=True)
class Standing:
    """One of them. `seal` and `entry` are the last that were dealt with; `detail` is what came of it."""

    name: str
    seal: int
    entry: int
    owner: str
    leased_until: datetime | None
    detail: dict[str, Any]
    updated_at: datetime


@dataclass(frozen=True)
class Sealed:
    """An entry with the number of its seal; in this order they leave the node."""

    seal: int
    event: AuditEvent


@dataclass(frozen=True)
class Backlog:
    """Sealed entries that have not left: how many (at most `COUNTED_TO`), and the time of the first."""

    entries: int
    since: datetime | None


_COLUMNS = [audit_standings.c[item.name] for item in fields(Standing)]
_EVENT = [audit_events.c[item.name] for item in fields(AuditEvent)]


def get(connection: Connection, name: str) -> Standing | None:
    """Return one."""
    row = connection.execute(select(*_COLUMNS).where(audit_standings.c.name == name)).one_or_none()
    return None if row is None else Standing(**row._mapping)


def put(connection: Connection, name: str, *, seal: int, detail: dict[str, Any], now: datetime) -> None:
    """Write what came of a verification."""
    values = {"seal": seal, "entry": 0, "detail": detail, "updated_at": now}
    connection.execute(
        insert(connection.dialect.name, audit_standings)
        .values(name=name, **values)
        .on_conflict_do_update(index_elements=[audit_standings.c.name], set_=values)
    )


def hold(connection: Connection, name: str, *, owner: str, now: datetime, lease_s: float) -> Standing | None:
    """Take an export or keep it; None while another holds it. A new one begins after what is older than the chain."""
    inherited = connection.execute(
        select(func.max(audit_seals.c.number)).where(audit_seals.c.kind == INHERITED)
    ).scalar_one()
    connection.execute(
        insert(connection.dialect.name, audit_standings)
        .values(name=name, seal=inherited or 0, entry=2**62, detail={}, updated_at=now)
        .on_conflict_do_nothing()
    )
    column = audit_standings.c
    # A lease that ends later than any that is given now is from before the clock was set back.
    latest = now + timedelta(seconds=2 * lease_s)
    is_free = or_(
        column.owner.in_(("", owner)),
        column.leased_until.is_(None),
        column.leased_until < now,
        column.leased_until > latest,
    )
    taken = connection.execute(
        update(audit_standings)
        .where(column.name == name, is_free)
        .values(owner=owner, leased_until=now + timedelta(seconds=lease_s))
    )
    return get(connection, name) if taken.rowcount else None


def advance(
    connection: Connection,
    name: str,
    *,
    owner: str,
    now: datetime,
    detail: dict[str, Any],
    to: Sealed | None = None,
) -> bool:
    """Note how far the holder came, or only what happened; False where it is no longer the holder."""
    values: dict[str, Any] = {"detail": detail, "updated_at": now}
    if to is not None:
        values |= {"seal": to.seal, "entry": to.event.id}
    held = (audit_standings.c.name == name) & (audit_standings.c.owner == owner)
    return bool(connection.execute(update(audit_standings).where(held).values(**values)).rowcount)


def release(connection: Connection, name: str, *, owner: str) -> None:
    """Let another host have it at once."""
    held = (audit_standings.c.name == name) & (audit_standings.c.owner == owner)
    connection.execute(update(audit_standings).where(held).values(owner="", leased_until=None))


def after(connection: Connection, standing: Standing, *, limit: int) -> Sequence[Sealed]:
    """Return the next sealed entries, by seal and id: an entry that was committed late has a later seal."""
    rows = connection.execute(
        select(audit_events.c.seal, *_EVENT)
        .where(_waits(standing))
        .order_by(audit_events.c.seal, audit_events.c.id)
        .limit(limit)
    )
    return [Sealed(row[0], AuditEvent(*row[1:])) for row in rows]


def backlog(connection: Connection, standing: Standing) -> Backlog:
    """Return what waits."""
    some = select(audit_events.c.id).where(_waits(standing)).limit(COUNTED_TO).subquery()
    entries = connection.execute(select(func.count()).select_from(some)).scalar_one()
    first = after(connection, standing, limit=1)
    return Backlog(entries, first[0].event.created_at if first else None)


def _waits(standing: Standing) -> Any:
    column = audit_events.c
    # The first condition says nothing new; it is what lets SQLite begin in the index.
    return and_(
        column.seal >= standing.seal,
        or_(column.seal > standing.seal, and_(column.seal == standing.seal, column.id > standing.entry)),
    )
