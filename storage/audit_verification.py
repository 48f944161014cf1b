"""Looks whether the audit trail is what was sealed, and tells where it is not. Reads only, in small transactions."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.engine import Connection

from storage.audit_chain import COLUMNS, INHERITED, ORIGIN, Seal, entries_as_stored, leaf, moment, unsealed_since
from storage.audit_tables import audit_seals
from storage.database import Database
from storage.tables import audit_events

CUT = "audit_trail_cut"  # the entry that says which links were taken away on purpose
LATE_AFTER = timedelta(hours=1)
MOST_BREAKS = 100
_SEALS_AT_ONCE = 200
_ENTRIES_AT_ONCE = 2000


@dataclass(frozen=True)
class Break:
    """One place where the trail is not what was sealed. `entry` is 0 where the link itself is meant."""

    seal: int
    entry: int
    found: str

    def __str__(self) -> str:
        return (
            f"entry {self.entry} (seal {self.seal}): {self.found}" if self.entry else f"seal {self.seal}: {self.found}"
        )


@dataclass(frozen=True)
class Verification:
    """What was found.

    `breaks` are the first `MOST_BREAKS`; `is_head_known` is None where no digest was asked for; `late` counts entries
    that were sealed long after the time they bear: sealing stood still then, or somebody added them with an old time.
    """

    seals: int = 0
    entries: int = 0
    inherited: int = 0
    head_number: int = -1
    head: str = ""
    good_to: datetime | None = None  # when the last link was sealed before which nothing is broken
    breaks: tuple[Break, ...] = ()
    broken: int = 0
    unsealed: int = 0
    unsealed_since: datetime | None = None
    late: int = 0
    first_late: int = 0
    cut_before: int = 0  # number of the first link that is left; 0: from the beginning
    is_head_known: bool | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is broken, the digest that was asked for included."""
        return not self.broken and self.is_head_known is not False


@dataclass
class _Walk:
    seals: int = 0
    entries: int = 0
    inherited: int = 0
    last: Seal | None = None
    first: Seal | None = None
    good_to: datetime | None = None
    breaks: list[Break] = field(default_factory=list)
    broken: int = 0
    late: int = 0
    first_late: int = 0
    cuts: set[tuple[int, str]] = field(default_factory=set)
    digests_found: set[str] = field(default_factory=set)

    def tell(self, seal: int, entry: int, found: str) -> None:
        self.broken += 1
        if len(self.breaks) < MOST_BREAKS:
            self.breaks.append(Break(seal, entry, found))


def verify(database: Database, *, head: str = "", is_stopping: Callable[[], bool] | None = None) -> Verification | None:
    """Walk the whole chain, in constant memory, while others write.

    Parameters
    ----------
    head : a digest that left the node before; the chain must contain it, else its end was cut off or it was made anew
    is_stopping : asked between batches; None is returned when it says so
    """
    walk = _Walk()
    while True:
        if is_stopping is not None and is_stopping():
            return None
        with database.read() as connection:
            links = _next_links(connection, walk.last.number if walk.last else -1)
            if not links:
                _strays(connection, walk)
                return _result(connection, walk, head)
            rows = _entries(connection, links[0].number, links[-1].number)
            for link in links:
                _look(walk, link, rows.get(link.number, []), head)


def _next_links(connection: Connection, after: int) -> list[Seal]:
    column = audit_seals.c
    sizes = connection.execute(
        select(column.number, column.entries).where(column.number > after).order_by(column.number).limit(_SEALS_AT_ONCE)
    ).all()
    taken = total = 0
    for size in sizes:
        total += size.entries
        if taken and total > _ENTRIES_AT_ONCE:
            break
        taken += 1
    if not taken:
        return []
    up_to = sizes[taken - 1].number
    statement = select(*COLUMNS).where(column.number > after, column.number <= up_to).order_by(column.number)
    return [Seal(**row._mapping) for row in connection.execute(statement)]


def _entries(connection: Connection, first: int, last: int) -> dict[int, list[Row[Any]]]:
    by_seal: dict[int, list[Row[Any]]] = {}
    column = audit_events.c
    statement = entries_as_stored(connection).where(column.seal >= first, column.seal <= last)
    for row in connection.execute(statement.order_by(column.seal, column.id)):
        by_seal.setdefault(row.seal, []).append(row)
    return by_seal


def _look(walk: _Walk, link: Seal, rows: Sequence[Row[Any]], head: str) -> None:
    before = walk.broken
    if walk.last is None:
        walk.first = link
        if link.number == 0 and (link.kind != ORIGIN or link.previous):
            walk.tell(0, 0, f"is of kind {link.kind!r}, expected the first of the chain")
    else:
        if link.number != walk.last.number + 1:
            walk.tell(link.number, 0, f"follows seal {walk.last.number}: those between are missing")
        elif link.previous != walk.last.digest:
            walk.tell(link.number, 0, f"does not follow seal {walk.last.number} as that stands there now")
        if link.kind == INHERITED and walk.last.kind not in (ORIGIN, INHERITED):
            walk.tell(link.number, 0, "says that its entries are older than the chain, and is not at its beginning")
    if link.computed() != link.digest:
        walk.tell(link.number, 0, "was altered: its digest is not that of what stands in it")
    for entry, found in _differences(link, rows):
        walk.tell(link.number, entry, found)
    if walk.broken == before:
        walk.cuts.update(_cuts(rows))
        if head and link.digest == head:
            walk.digests_found.add(head)
    if not walk.broken:
        walk.good_to = link.created_at
    walk.seals += 1
    walk.entries += len(rows)
    if link.kind == INHERITED:
        walk.inherited += len(rows)
    else:
        for row in rows:
            if _is_late(link, row):
                walk.late += 1
                walk.first_late = walk.first_late or row.id
    walk.last = link


def _differences(link: Seal, rows: Sequence[Row[Any]]) -> Iterator[tuple[int, str]]:
    covered = link.covered()
    for row in rows:
        expected = covered.pop(row.id, None)
        if expected is None:
            yield row.id, "was put in after the seal was made"
        elif expected != leaf(row):
            yield row.id, "was altered"
    for entry in sorted(covered):
        yield entry, "is missing: it was deleted, or moved away from its seal"


def _cuts(rows: Sequence[Row[Any]]) -> Iterator[tuple[int, str]]:
    for row in rows:
        if row.event == CUT:
            detail = json.loads(row.detail)
            yield int(detail["seal"]), str(detail["digest"])


def _is_late(link: Seal, row: Row[Any]) -> bool:
    try:
        return link.created_at - moment(row.created_at) > LATE_AFTER
    except (ValueError, TypeError, AttributeError):
        return False  # told of as unreadable elsewhere, or sealed so


def _strays(connection: Connection, walk: _Walk) -> None:
    """Find entries that name a link that is not there: nobody would ever seal or verify them."""
    column = audit_events.c
    newest = -1 if walk.last is None else walk.last.number
    is_there = select(audit_seals.c.number).where(audit_seals.c.number == column.seal).exists()
    seals = select(column.seal).distinct().where(column.seal.is_not(None)).subquery()
    gone = select(seals.c.seal).where(
        ~select(audit_seals.c.number).where(audit_seals.c.number == seals.c.seal).exists()
    )
    for number in connection.execute(gone.order_by(seals.c.seal).limit(MOST_BREAKS)).scalars().all():
        for entry in connection.execute(
            select(column.id).where(column.seal == number, ~is_there).order_by(column.id).limit(MOST_BREAKS)
        ).scalars():
            place = "is gone" if number <= newest else "was never made"
            walk.tell(number, entry, f"is marked with a seal that {place}")


def _result(connection: Connection, walk: _Walk, head: str) -> Verification:
    first, last = walk.first, walk.last
    if first is None or last is None:
        walk.tell(0, 0, "no seal found, expected at least the first")
    elif first.number > 0 and (first.number - 1, first.previous) not in walk.cuts:
        walk.tell(first.number, 0, "is the first that is left, and no entry says that those before it were cut off")
    unsealed = connection.execute(select(func.count()).where(audit_events.c.seal.is_(None))).scalar_one()
    return Verification(
        seals=walk.seals,
        entries=walk.entries,
        inherited=walk.inherited,
        head_number=-1 if last is None else last.number,
        head="" if last is None else last.digest,
        good_to=walk.good_to,
        breaks=tuple(walk.breaks),
        broken=walk.broken,
        unsealed=unsealed,
        unsealed_since=unsealed_since(connection),
        late=walk.late,
        first_late=walk.first_late,
        cut_before=0 if first is None else first.number,
        is_head_known=head in walk.digests_found if head else None,
    )
