"""The statements behind `storage.jobs` that stand in the way of every image, each put together once."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Integer, bindparam, case, func, literal_column, select
from sqlalchemy.engine import Connection, Row

from storage.tables import insert, jobs

SCHEDULED = "SCHEDULED"
IN_PROGRESS = "IN_PROGRESS"
COMPLETED = "COMPLETED"
FAILED = "FAILED"


def is_in(state: str) -> ColumnElement[bool]:
    """Return the condition that a job is in that state."""
    # Written out, not bound: a partial index serves only a query that is seen to imply its condition.
    return jobs.c.state == literal_column(f"'{state}'")


@cache
def scheduling(dialect: str, with_payload: bool, keep_sooner: bool) -> Any:
    """Return the statement of `jobs.schedule`, put together once: it stands in the way of every image."""
    statement = insert(dialect, jobs)
    new, old = statement.excluded, jobs.c
    settled = old.state.in_([COMPLETED, FAILED])
    changes: dict[str, Any] = {
        "state": case((old.state == IN_PROGRESS, IN_PROGRESS), else_=SCHEDULED),
        "wanted": old.wanted + 1,
        "run_at": new.run_at,
        "priority": case((new.priority > old.priority, new.priority), else_=old.priority),
        "attempts": case((settled, 0), else_=old.attempts),
        "reason": case((settled, ""), else_=old.reason),
        "settled_at": None,
    }
    if keep_sooner:
        waits = (old.state == SCHEDULED) | ((old.state == IN_PROGRESS) & (old.wanted > old.claimed))
        changes["run_at"] = case((waits & (old.run_at < new.run_at), old.run_at), else_=new.run_at)
    if with_payload:
        changes["payload"] = new.payload
    return statement.on_conflict_do_update(index_elements=[old.kind, old.key], set_=changes)


# Both are one step into ix_jobs_claim. Asked for all priorities at once, a database walks every job that is due, or
# every one that waits, and a claim costs 40 ms when an archive was down for a day and 100,000 deliveries wait for it.
_NEXT_PRIORITY = (
    select(jobs.c.priority)
    .where(is_in(SCHEDULED), jobs.c.kind == bindparam("kind"), jobs.c.priority < bindparam("below"))
    .order_by(jobs.c.priority.desc())
    .limit(1)
)
_DUE = (
    select(jobs.c.id, jobs.c.attempts, jobs.c.run_at)
    .where(
        is_in(SCHEDULED),
        jobs.c.kind == bindparam("kind"),
        jobs.c.priority == bindparam("priority"),
        jobs.c.run_at <= bindparam("now"),
    )
    .order_by(jobs.c.run_at, jobs.c.id)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)
FIRST = select(jobs.c.run_at).where(is_in(SCHEDULED), jobs.c.kind == bindparam("kind")).order_by(jobs.c.run_at).limit(1)
FIRST_LEASE_END = (
    select(jobs.c.lease_expires_at)
    .where(is_in(IN_PROGRESS), jobs.c.lease_expires_at.is_not(None))
    .order_by(jobs.c.lease_expires_at)
    .limit(1)
)
_ABOVE_ALL = 2**31 - 1
_ALONE_LOCK = 0x63787232  # PostgreSQL advisory lock: who claims alone asks for (this, hash of the kind)


def nobody_has(connection: Connection, kinds: Sequence[str]) -> bool:
    """Whether nobody has a lease on a job of these kinds, and nobody can get one before this transaction ends."""
    if connection.dialect.name == "postgresql":
        # Two claims at once would each see no lease yet. SQLite has one writer at a time anyway.
        for kind in sorted(kinds):
            connection.execute(select(func.pg_advisory_xact_lock(_ALONE_LOCK, func.hashtext(kind))))
    leased = select(jobs.c.id).where(is_in(IN_PROGRESS), jobs.c.kind.in_(kinds)).limit(1)
    return connection.execute(leased).first() is None


def due(connection: Connection, kinds: Sequence[str], *, now: datetime, limit: int) -> list[Row[Any]]:
    """Return (id, attempts, run_at) of due jobs, locked, by priority and then by time."""
    found: list[Row[Any]] = []
    below = _ABOVE_ALL
    while len(found) < limit:
        tops = {
            kind: connection.execute(_NEXT_PRIORITY, {"kind": kind, "below": below}).scalar_one_or_none()
            for kind in kinds
        }
        level = max((top for top in tops.values() if top is not None), default=None)
        if level is None:
            break
        rows: list[Any] = [
            row
            for kind, top in tops.items()
            if top == level
            for row in connection.execute(_DUE, {"kind": kind, "priority": level, "now": now, "limit": limit})
        ]
        found += sorted(rows, key=lambda row: (row.run_at, row.id))
        below = level
    return found[:limit]
