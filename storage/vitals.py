"""Questions about how the node stands, each bounded: asked every few seconds, with 100,000 studies as with ten."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select, text
from sqlalchemy.engine import Connection

from storage.jobs import FAILED, IN_PROGRESS, SCHEDULED
from storage.studies import BACKFILL, PENDING
from storage.tables import ON_LIST, deliveries, destination_states, instances, jobs, studies

MOST_COUNTED = 1000  # "1,000 or more" says enough of what went wrong
MOST_WAITING = 200_000  # no node has so much waiting and comes out of it
MOST_STUDIES = 4000  # newest ones of a time span, for its percentiles
MOST_INSTANCES = 5000
_DAY = timedelta(hours=24)


@dataclass(frozen=True)
class Queue:
    """Jobs of one kind: due now, later, and being worked on; since when the oldest of those due waits."""

    kind: str
    due: int
    later: int
    running: int
    oldest_due_at: datetime | None


@dataclass(frozen=True)
class Latency:
    """From a study's last image to its priority, s, over the newest studies of a time span.

    `studies` says of how many; `is_part`: there were more. A study that still waits counts with the time until now.
    The figures are None where there were no studies.
    """

    studies: int
    is_part: bool
    p50_s: float | None
    p95_s: float | None
    above_1_s: float | None  # share, 0 to 1


@dataclass(frozen=True)
class Growth:
    """Bytes that the newest instances of the last 24 hours took, over so many seconds."""

    bytes: int
    seconds: float


def queues(connection: Connection, *, now: datetime) -> list[Queue]:
    """Return every kind that something waits of or runs, by name. Walks the backlog, never the history."""
    found: dict[str, tuple[int, int, int, datetime | None]] = {}
    # Bounded, and apart from the counting: asked for both at once SQLite walks the history, in the order of the kinds.
    backlog = select(jobs.c.kind, jobs.c.run_at).where(_is(SCHEDULED)).limit(MOST_WAITING).subquery()
    is_due = backlog.c.run_at <= now
    waiting = select(
        backlog.c.kind,
        func.count().filter(is_due),
        func.count().filter(~is_due),
        func.min(backlog.c.run_at).filter(is_due),
    ).group_by(backlog.c.kind)
    for kind, due, later, oldest in connection.execute(waiting):
        found[kind] = (due, later, 0, oldest)
    running = select(jobs.c.kind).where(_is(IN_PROGRESS)).limit(MOST_WAITING).subquery()
    for kind, number in connection.execute(select(running.c.kind, func.count()).group_by(running.c.kind)):
        due, later, _, oldest = found.get(kind, (0, 0, 0, None))
        found[kind] = (due, later, number, oldest)
    return [Queue(kind, *found[kind]) for kind in sorted(found)]


def failed_jobs(connection: Connection) -> int:
    """Return how many jobs were given up, up to `MOST_COUNTED`."""
    some = select(jobs.c.id).where(_is(FAILED)).limit(MOST_COUNTED).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def failed_deliveries(connection: Connection) -> int:
    """Return how many deliveries were given up, up to `MOST_COUNTED`."""
    some = select(deliveries.c.id).where(deliveries.c.state == FAILED).limit(MOST_COUNTED).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def destinations(connection: Connection, *, now: datetime) -> tuple[set[str], set[str]]:
    """Return the names of destinations that are paused, and of those left alone after failures."""
    state = destination_states.c
    rows = connection.execute(
        select(state.name, state.paused).where(or_(state.paused.is_(True), state.resting_until > now))
    ).all()
    return {name for name, paused in rows if paused}, {name for name, paused in rows if not paused}


def oldest_pending(connection: Connection) -> datetime | None:
    """Return since when the study that waits longest for its first result has been here; None when none waits."""
    on_list: ColumnElement[bool] = literal_column(f"({ON_LIST})")
    # Flagged ones have a result; asked so, the first entry of a part of ix_studies_on_list answers.
    waiting = (on_list, studies.c.flagged.is_(False), studies.c.status == PENDING)
    return connection.execute(select(func.min(studies.c.first_received_at)).where(*waiting)).scalar_one()


def latency(connection: Connection, *, since: datetime, now: datetime) -> Latency:
    """Return how fast priorities came, of studies whose last image came since then.

    Left out: what a back-catalogue run fetched, and studies with an image after their first result.
    """
    last, told = studies.c.last_received_at, studies.c.notified_at
    counts = or_(told >= last, and_(told.is_(None), studies.c.status == PENDING))
    newest = (
        select(last, told)
        .where(last >= since, last <= now, counts, studies.c.origin != BACKFILL)
        .order_by(last.desc(), studies.c.id.desc())
        .limit(MOST_STUDIES + 1)
    )
    rows = connection.execute(newest).all()
    seconds = sorted(((told_at or now) - last_at).total_seconds() for last_at, told_at in rows[:MOST_STUDIES])
    if not seconds:
        return Latency(0, False, None, None, None)
    above = sum(value > 1.0 for value in seconds) / len(seconds)
    return Latency(len(seconds), len(rows) > MOST_STUDIES, _quantile(seconds, 0.5), _quantile(seconds, 0.95), above)


def growth(connection: Connection, *, now: datetime) -> Growth | None:
    """Return how fast instances fill the disk; None where too little came in the last day to tell."""
    newest = (
        select(instances.c.size, instances.c.received_at)
        .where(instances.c.deleted_at.is_(None), instances.c.received_at > now - _DAY)
        .order_by(instances.c.received_at.desc())
        .limit(MOST_INSTANCES)
        .subquery()
    )
    number, size, first = connection.execute(
        select(func.count(), func.sum(newest.c.size), func.min(newest.c.received_at))
    ).one()
    if number < 2:
        return None
    seconds = (now - first).total_seconds() if number == MOST_INSTANCES else _DAY.total_seconds()
    return Growth(int(size), max(seconds, 1.0))


def database_bytes(connection: Connection) -> int:
    """Return how large the database is."""
    if connection.dialect.name == "sqlite":
        pages, size = (connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in ("page_count", "page_size"))
        return int(pages) * int(size)
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _is(state: str) -> ColumnElement[bool]:
    # Written out, not bound: a partial index serves only a query that is seen to imply its condition.
    return jobs.c.state == literal_column(f"'{state}'")


def _quantile(ordered: list[float], share: float) -> float:
    """Return the value that so many are not above: the nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
