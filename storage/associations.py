"""Associations that ended, and requests by STOW-RS: who sent, from where, how much, and how it ended."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection

from storage.site_tables import associations

RELEASED = "released"  # as agreed; of a request by STOW-RS: answered
ABORTED = "aborted"  # by the sender
LOST = "lost"  # the connection ended without a word
ENDED = "ended"  # by the node: its stop, silence, or a message that is none
OUTCOMES = (RELEASED, ABORTED, LOST, ENDED)

_AT_ONCE = 500


@dataclass(frozen=True)
class Association:
    """One association. `instances` were answered with Success, `refused` with a failure; `bytes` of those kept.

    `association_id` is that of the instances it brought; `reason` says why the node ended it, or refused a request.
    """

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    opened_at: datetime
    closed_at: datetime
    instances: int = 0
    refused: int = 0
    bytes: int = 0
    outcome: str = RELEASED
    reason: str = ""


_COLUMNS = [associations.c[field.name] for field in fields(Association)]


def add(connection: Connection, ended: Sequence[Association]) -> None:
    """Add associations that ended."""
    if ended:
        connection.execute(insert(associations), [asdict(item) for item in ended])


def of(connection: Connection, association_ids: Collection[str]) -> list[Association]:
    """Return those that ended, oldest first; one that is open has no row yet."""
    wanted = sorted(set(association_ids) - {""})
    found: list[Association] = []
    for at in range(0, len(wanted), _AT_ONCE):
        some = associations.c.association_id.in_(wanted[at : at + _AT_ONCE])
        found += [Association(**row._mapping) for row in connection.execute(select(*_COLUMNS).where(some))]
    return sorted(found, key=lambda item: (item.opened_at, item.association_id))


def recent(
    connection: Connection, *, limit: int, offset: int = 0, calling_ae_title: str = "", outcome: str = ""
) -> list[Association]:
    """Return associations, the last that ended first; of one caller or outcome where asked."""
    statement = select(*_COLUMNS).order_by(associations.c.closed_at.desc(), associations.c.id.desc())
    if calling_ae_title:
        statement = statement.where(associations.c.calling_ae_title == calling_ae_title)
    if outcome:
        statement = statement.where(associations.c.outcome == outcome)
    return [Association(**row._mapping) for row in connection.execute(statement.limit(limit).offset(offset))]


def forget(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` associations that ended before that time; return how many."""
    old = select(associations.c.id).where(associations.c.closed_at < before).order_by(associations.c.closed_at)
    ids = list(connection.execute(old.limit(limit)).scalars())
    return connection.execute(delete(associations).where(associations.c.id.in_(ids))).rowcount if ids else 0
