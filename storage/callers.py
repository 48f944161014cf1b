"""Who was turned away, counted; and who an admin let in besides the callers of node.toml."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import case, delete, select
from sqlalchemy.engine import Connection

from storage import audit
from storage.site_tables import allowed_callers, rejected_callers
from storage.tables import insert

# Whoever reaches the port can invent AE titles, but hardly addresses: an address crowds out itself first.
ROWS_OF_AN_ADDRESS = 20
ROWS = 500
WORKLIST = "worklist:"  # before the reason, where it was the DICOM port of the worklist that turned somebody away


@dataclass(frozen=True)
class Rejected:
    """Attempts that were turned away for the same reason. `id` is 0 before it is stored."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime
    id: int = 0
    certificate: str = ""  # that it showed last


@dataclass(frozen=True)
class Allowed:
    """An AE title, the address, or network (CIDR), that it may send from, and the certificate that it must show: its
    SHA-256 fingerprint or a name in it, "" for any."""

    id: int
    ae_title: str
    host: str
    created_by: str
    created_at: datetime
    certificate: str = ""


_REJECTED = [rejected_callers.c[field.name] for field in fields(Rejected)]
_ALLOWED = [allowed_callers.c[field.name] for field in fields(Allowed)]
_CALLER = (
    rejected_callers.c.calling_ae_title,
    rejected_callers.c.called_ae_title,
    rejected_callers.c.peer_address,
    rejected_callers.c.reason,
)


def note_rejected(connection: Connection, attempts: Sequence[Rejected]) -> list[Rejected]:
    """Add attempts to what is known of their callers; return those that were not known.

    There are never more than `ROWS_OF_AN_ADDRESS` rows of an address and `ROWS` in all: the oldest go.
    """
    fresh = []
    for item in attempts:
        known = connection.execute(
            select(rejected_callers.c.id).where(
                *(column == getattr(item, column.name) for column in _CALLER),
            )
        ).one_or_none()
        if known is None:
            fresh.append(item)
        _count(connection, item)
    for address in {item.peer_address for item in fresh}:
        _trim(connection, ROWS_OF_AN_ADDRESS, address)
    if fresh:
        _trim(connection, ROWS)
    return fresh


def _count(connection: Connection, item: Rejected) -> None:
    statement = insert(connection.dialect.name, rejected_callers).values(
        **{column.name: getattr(item, column.name) for column in _REJECTED if column.name != "id"}
    )
    new, old = statement.excluded, rejected_callers.c
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=list(_CALLER),
            set_={
                "attempts": old.attempts + new.attempts,
                "certificate": case((new.last_at >= old.last_at, new.certificate), else_=old.certificate),
                "last_at": case((new.last_at > old.last_at, new.last_at), else_=old.last_at),
            },
        )
    )


def _trim(connection: Connection, most: int, address: str | None = None) -> None:
    newest_first = (rejected_callers.c.last_at.desc(), rejected_callers.c.id.desc())
    surplus = select(rejected_callers.c.id).order_by(*newest_first).offset(most).limit(ROWS)
    if address is not None:
        surplus = surplus.where(rejected_callers.c.peer_address == address)
    ids = list(connection.execute(surplus).scalars())
    if ids:
        connection.execute(delete(rejected_callers).where(rejected_callers.c.id.in_(ids)))


def rejected(connection: Connection, *, limit: int = ROWS) -> list[Rejected]:
    """Return who was turned away, the last first."""
    statement = select(*_REJECTED).order_by(rejected_callers.c.last_at.desc(), rejected_callers.c.id.desc())
    return [Rejected(**row._mapping) for row in connection.execute(statement.limit(limit))]


def get_rejected(connection: Connection, rejected_id: int) -> Rejected | None:
    """Return a row, or None."""
    row = connection.execute(select(*_REJECTED).where(rejected_callers.c.id == rejected_id)).one_or_none()
    return None if row is None else Rejected(**row._mapping)


def dismiss(connection: Connection, rejected_id: int) -> bool:
    """Take a row off the list until the caller tries again; False when there is none."""
    return connection.execute(delete(rejected_callers).where(rejected_callers.c.id == rejected_id)).rowcount == 1


def forget_rejected(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` rows without an attempt since that time; return how many."""
    old = select(rejected_callers.c.id).where(rejected_callers.c.last_at < before).limit(limit)
    ids = list(connection.execute(old).scalars())
    return connection.execute(delete(rejected_callers).where(rejected_callers.c.id.in_(ids))).rowcount if ids else 0


def allow(
    connection: Connection, ae_title: str, host: str, *, by: str, now: datetime, certificate: str = ""
) -> Allowed | None:
    """Let a caller in; None where it is let in already."""
    row = connection.execute(
        insert(connection.dialect.name, allowed_callers)
        .values(ae_title=ae_title, host=host, certificate=certificate, created_by=by, created_at=now)
        .on_conflict_do_nothing()
        .returning(*_ALLOWED)
    ).one_or_none()
    if row is None:
        return None
    detail = {"ae_title": ae_title, "host": host} | ({"certificate": certificate} if certificate else {})
    audit.record(connection, "caller_allowed", actor=by, now=now, detail=detail)
    return Allowed(**row._mapping)


def revoke(connection: Connection, allowed_id: int, *, by: str, now: datetime) -> bool:
    """Let the caller in no more; False when there is none of that id. What is open stays until it ends."""
    row = connection.execute(
        delete(allowed_callers).where(allowed_callers.c.id == allowed_id).returning(*_ALLOWED)
    ).one_or_none()
    if row is None:
        return False
    detail = {"ae_title": row.ae_title, "host": row.host}
    if row.certificate:
        detail["certificate"] = row.certificate
    audit.record(connection, "caller_revoked", actor=by, now=now, detail=detail)
    return True


def allowed(connection: Connection) -> list[Allowed]:
    """Return who an admin let in, by AE title."""
    order = (allowed_callers.c.ae_title, allowed_callers.c.host)
    return [Allowed(**row._mapping) for row in connection.execute(select(*_ALLOWED).order_by(*order))]
