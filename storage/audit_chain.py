"""The audit trail as a chain of seals: what is altered, taken out, put in or moved afterwards shows.

Entries are added by many processes in transactions of their own and cost nothing more than before: no process waits
for another to write its entry. Every few seconds one transaction seals what was committed since: a new link holds the
id and the SHA-256 of each entry that it covers and the digest of the link before it, and each entry is marked with its
link. On PostgreSQL an entry may be committed after one with a larger id: it bears no mark, so the next link takes it.

What an attacker can do who may write to the whole database: make entries that are not sealed yet other ones, and
make the whole chain anew. The first lasts for the seconds of `audit.seal_every_s`; the second shows only to who holds a
digest that left the node before (a log line, an audit message, `cxr-node audit head`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, String, Text, cast, delete, func, insert, select, type_coerce, update
from sqlalchemy.engine import Connection

from storage.audit_tables import audit_seals
from storage.errors import StorageError
from storage.tables import audit_events

ORIGIN = "origin"  # number 0, covers nothing; `last_entry` is the newest entry from before there was a chain
INHERITED = "inherited"  # entries from before there was a chain: sealed as they were found
REGULAR = "regular"
SEAL_AT_MOST = 500  # entries; a seal is read as a whole, and SQLite has one writer at a time
_LOCK = 0x63787232  # PostgreSQL advisory lock: one host seals
_LEAF = 8 + 32
_DOMAIN = b"cxr-node audit seal 1\n"


class ChainMissing(StorageError):
    """There is no seal at all, not even the first: somebody took them away."""


class AlreadySealed(StorageError):
    """Entries that were to be sealed are sealed by now, or gone."""


@dataclass(frozen=True)
class Seal:
    """One link. `previous` and `digest` are SHA-256 in hexadecimal; `previous` of the first is empty."""

    number: int
    kind: str
    previous: str
    digest: str
    first_entry: int
    last_entry: int
    entries: int
    leaves: bytes
    created_at: datetime

    def computed(self) -> str:
        """Return the digest that the rest of it gives."""
        told = self.created_at.astimezone(UTC).isoformat(timespec="microseconds")
        head = [self.number, self.kind, self.previous, self.first_entry, self.last_entry, self.entries, told]
        data = _DOMAIN + json.dumps(head, separators=(",", ":")).encode() + b"\n" + self.leaves
        return hashlib.sha256(data).hexdigest()

    def covered(self) -> dict[int, bytes]:
        """Return the SHA-256 of each entry, by its id."""
        parts = (self.leaves[at : at + _LEAF] for at in range(0, len(self.leaves), _LEAF))
        return {int.from_bytes(part[:8], "big"): part[8:] for part in parts}


COLUMNS = [audit_seals.c[field.name] for field in fields(Seal)]


def entries_as_stored(connection: Connection) -> Select[Any]:
    """Return a SELECT of entries as the database holds them, so that no type refuses what somebody put there."""
    column = audit_events.c
    at = type_coerce(column.created_at, String) if connection.dialect.name == "sqlite" else column.created_at
    return select(
        column.id,
        at.label("created_at"),
        column.event,
        column.actor,
        column.study_instance_uid,
        cast(column.detail, Text).label("detail"),
        column.seal,
    )


def leaf(row: Row[Any]) -> bytes:
    """Return the SHA-256 of an entry of `entries_as_stored`, equal on both databases.

    Of an entry that cannot be read as one, what stands there is taken as it is.
    """
    try:
        at = moment(row.created_at).isoformat(timespec="microseconds")
        detail = json.loads(row.detail)
        told = [row.id, at, row.event, row.actor, row.study_instance_uid, detail]
        data = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        data = b"unreadable " + repr(tuple(row)[:-1]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).digest()


def moment(value: datetime | str) -> datetime:
    """Return a time of `entries_as_stored`: SQLite gives its text, in UTC."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC)


def head(connection: Connection) -> Seal:
    """Return the newest link.

    Raises
    ------
    ChainMissing
        There is none.
    """
    row = connection.execute(select(*COLUMNS).order_by(audit_seals.c.number.desc()).limit(1)).one_or_none()
    if row is None:
        raise ChainMissing("audit trail: no seal found, expected at least the first, number 0")
    return Seal(**row._mapping)


def has_unsealed(connection: Connection) -> bool:
    """Whether there is anything to seal: asked before a transaction is opened that writes."""
    return (
        connection.execute(select(audit_events.c.id).where(audit_events.c.seal.is_(None)).limit(1)).first() is not None
    )


def unsealed_since(connection: Connection) -> datetime | None:
    """Return the time of the oldest entry that has no seal yet."""
    first = audit_events.c.seal.is_(None)
    statement = entries_as_stored(connection).where(first).order_by(audit_events.c.id).limit(1)
    row = connection.execute(statement).one_or_none()
    try:
        return None if row is None else moment(row.created_at)
    except (ValueError, TypeError, AttributeError):
        return datetime.fromtimestamp(0, UTC)  # not a time: somebody wrote it, and long ago is what makes it be seen


@dataclass(frozen=True)
class Unsealed:
    """The oldest entries that no link covers, and what a link over them holds. All or none of them are inherited."""

    ids: tuple[int, ...]
    leaves: bytes
    is_inherited: bool


def unsealed(connection: Connection) -> Unsealed | None:
    """Return what the next link would cover; None where there is nothing.

    Apart from `seal`, so that hashes are made while nobody waits for the database's write lock. An entry that somebody
    alters in between is sealed as it was, so the next verification tells.
    """
    inherited_to = connection.execute(
        select(func.coalesce(func.max(audit_seals.c.last_entry), 0)).where(audit_seals.c.kind == ORIGIN)
    ).scalar_one()
    rows = connection.execute(
        entries_as_stored(connection)
        .where(audit_events.c.seal.is_(None))
        .order_by(audit_events.c.id)
        .limit(SEAL_AT_MOST)
    ).all()
    if not rows:
        return None
    last = head(connection)
    is_inherited = rows[0].id <= inherited_to and last.kind in (ORIGIN, INHERITED)
    if is_inherited:
        rows = [row for row in rows if row.id <= inherited_to]
    leaves = b"".join(row.id.to_bytes(8, "big") + leaf(row) for row in rows)
    return Unsealed(tuple(row.id for row in rows), leaves, is_inherited)


def seal(connection: Connection, *, now: datetime, found: Unsealed | None = None) -> Seal | None:
    """Add a link over `found`, or over what there is; None where nothing is left to seal or another host is at it.

    Raises
    ------
    ChainMissing
        There is no link to follow. Nothing is sealed: a new first one would hide that the old ones are gone.
    AlreadySealed
        Another host sealed some of them meanwhile; roll back.
    """
    if not _is_ours(connection):
        return None
    last = head(connection)
    found = found if found is not None else unsealed(connection)
    if found is None:
        return None
    kind = INHERITED if found.is_inherited and last.kind in (ORIGIN, INHERITED) else REGULAR
    ids = found.ids
    open_link = Seal(last.number + 1, kind, last.digest, "", min(ids), max(ids), len(ids), found.leaves, now)
    made = replace(open_link, digest=open_link.computed())
    connection.execute(insert(audit_seals).values(**asdict(made)))
    mark = update(audit_events).where(audit_events.c.id.in_(ids), audit_events.c.seal.is_(None))
    if connection.execute(mark.values(seal=made.number)).rowcount != len(ids):
        raise AlreadySealed("audit trail: another host sealed the same entries")
    return made


def _is_ours(connection: Connection) -> bool:
    """Whether this transaction may add a link. Asked of PostgreSQL; on SQLite a transaction that writes is alone."""
    if connection.dialect.name != "postgresql":
        return True
    # Held to the end of the transaction, so the next one sees this link.
    return bool(connection.execute(select(func.pg_try_advisory_xact_lock(_LOCK))).scalar_one())


def last_before(connection: Connection, *, before: datetime) -> Seal | None:
    """Return the newest link that may be cut off: it and all before it were made before that time; never the head."""
    newest = select(func.max(audit_seals.c.number)).scalar_subquery()
    later = (audit_seals.c.created_at >= before) & (audit_seals.c.kind != ORIGIN)
    kept = select(func.min(audit_seals.c.number)).where(later).scalar_subquery()
    statement = (
        select(*COLUMNS)
        .where(
            audit_seals.c.number > 0, audit_seals.c.number < newest, audit_seals.c.number < func.coalesce(kept, newest)
        )
        .order_by(audit_seals.c.number.desc())
        .limit(1)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else Seal(**row._mapping)


def sealed_up_to(connection: Connection, number: int, *, batch: int = 1000) -> Iterator[Sequence[Row[Any]]]:
    """Give the entries of all links up to that one, oldest link first, as they are stored."""
    seal_number, entry = -1, -1
    column = audit_events.c
    while True:
        later = (column.seal > seal_number) | ((column.seal == seal_number) & (column.id > entry))
        rows = connection.execute(
            entries_as_stored(connection)
            .where(column.seal <= number, column.seal >= seal_number, later)
            .order_by(column.seal, column.id)
            .limit(batch)
        ).all()
        if not rows:
            return
        seal_number, entry = rows[-1].seal, rows[-1].id
        yield rows


def cut(connection: Connection, number: int) -> int:
    """Take away every link up to that one, with its entries; return how many entries.

    Who calls it writes the entry `audit_trail_cut` in the same transaction: without it the chain reads as broken.
    """
    gone = connection.execute(delete(audit_events).where(audit_events.c.seal <= number)).rowcount
    connection.execute(delete(audit_seals).where(audit_seals.c.number <= number))
    return gone
