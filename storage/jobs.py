"""The queue. One row per (kind, key) holds the whole truth about a job.

SCHEDULED    waits for `run_at`; a failed attempt waits here too, for its next try
IN_PROGRESS  leased to a worker until `lease_expires_at`; whoever finds the lease expired may take the job
COMPLETED    settled, in the transaction that holds its rows
FAILED       given up with a reason (the dead letters); scheduling it again revives it
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.engine import Connection

from storage.job_statements import (
    COMPLETED,
    FAILED,
    FIRST,
    FIRST_LEASE_END,
    IN_PROGRESS,
    SCHEDULED,
    due,
    is_in,
    nobody_has,
    scheduling,
)
from storage.tables import jobs


@dataclass(frozen=True)
class Job:
    """A job as it was when it was read.

    `priority` is higher for more urgent; `wanted` counts how often it was scheduled and `claimed` is `wanted` at the
    last claim, so wanted > claimed says that something arrived since. (`claimed`, `attempts`) only ever grows: it tells
    one lease from the next.
    """

    id: int
    kind: str
    key: str
    state: str
    priority: int
    run_at: datetime
    attempts: int
    lease_owner: str
    lease_expires_at: datetime | None
    wanted: int
    claimed: int
    reason: str
    payload: dict[str, Any]
    created_at: datetime


_COLUMNS = [jobs.c[field.name] for field in fields(Job)]


def schedule(
    connection: Connection,
    kind: str,
    key: str,
    *,
    run_at: datetime,
    now: datetime,
    priority: int = 0,
    payload: dict[str, Any] | None = None,
    keep_sooner: bool = False,
) -> None:
    """Want the job done, at `run_at` or later.

    A SCHEDULED one moves to `run_at`, or with `keep_sooner` stays where it is if that is sooner; one IN_PROGRESS runs
    again after it is settled, for what it works on may be older than what is wanted now; a COMPLETED or FAILED one
    starts anew. Its priority never sinks.
    """
    connection.execute(
        scheduling(connection.dialect.name, payload is not None, keep_sooner),
        {
            "kind": kind,
            "key": key,
            "state": SCHEDULED,
            "priority": priority,
            "run_at": run_at,
            "wanted": 1,
            "payload": payload or {},
            "created_at": now,
        },
    )


def hasten(connection: Connection, kind: str, keys: Collection[str], *, run_at: datetime) -> None:
    """Let SCHEDULED jobs run at `run_at` if they would wait for longer."""
    # In two steps: asked for keys and time at once, a database may walk all that wait instead of looking up these.
    known = list(connection.execute(select(jobs.c.id).where(jobs.c.kind == kind, jobs.c.key.in_(list(keys)))).scalars())
    late = select(jobs.c.id).where(is_in(SCHEDULED), jobs.c.id.in_(known), jobs.c.run_at > run_at)
    # By id: two transactions that hasten the same jobs would else each hold what the other waits for.
    ids = list(connection.execute(late.order_by(jobs.c.id).with_for_update()).scalars())
    if ids:
        connection.execute(update(jobs).where(jobs.c.id.in_(ids)).values(run_at=run_at))


def move(connection: Connection, kind: str, key: str, *, run_at: datetime) -> bool:
    """Let a SCHEDULED job run at `run_at`, sooner or later than it would; False where it is not SCHEDULED."""
    of_job = (jobs.c.kind == kind, jobs.c.key == key, jobs.c.state == SCHEDULED)
    return connection.execute(update(jobs).where(*of_job).values(run_at=run_at)).rowcount == 1


def raise_priority(connection: Connection, kind: str, key: str, *, priority: int) -> bool:
    """Let a job that is not settled come before less urgent ones; its priority never sinks. True where it rose."""
    of_job = (jobs.c.kind == kind, jobs.c.key == key, jobs.c.state.in_([SCHEDULED, IN_PROGRESS]))
    lower = jobs.c.priority < priority
    return connection.execute(update(jobs).where(*of_job, lower).values(priority=priority)).rowcount == 1


def claim(
    connection: Connection,
    kinds: Sequence[str],
    *,
    owner: str,
    now: datetime,
    lease_s: float = 30.0,
    limit: int = 1,
    alone: bool = False,
    recover: bool = True,
) -> list[Job]:
    """Lease up to `limit` due jobs to `owner`: the most urgent first, then the oldest.

    Leases that ran out are taken back first, so no other process needs to be alive for it. A job that was tried before
    comes alone: should it kill the process, no other job of the claim dies with it.

    Parameters
    ----------
    alone : nothing is leased while anybody, on whatever host, has a lease on a job of these kinds: what must be done in
        order is done by one at a time
    recover : False leaves leases that ran out alone, for the clock was set and they may be those of the living
    """
    if recover:
        recover_expired(connection, now=now)
    if alone and not nobody_has(connection, kinds):
        return []
    candidates = due(connection, kinds, now=now, limit=limit)
    if not candidates:
        return []
    ids = [candidates[0].id] if candidates[0].attempts else [row.id for row in candidates if not row.attempts]
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(ids))
        .values(
            state=IN_PROGRESS,
            attempts=jobs.c.attempts + 1,
            lease_owner=owner,
            lease_expires_at=now + timedelta(seconds=lease_s),
            claimed=jobs.c.wanted,
        )
        .returning(*_COLUMNS)
    )
    by_id = {row.id: Job(**row._mapping) for row in rows}
    return [by_id[id_] for id_ in ids]


def renew(connection: Connection, job: Job, *, now: datetime, lease_s: float) -> bool:
    """Keep the lease; False when it is lost."""
    return _change(connection, job, lease_expires_at=now + timedelta(seconds=lease_s))


def complete(connection: Connection, job: Job, *, now: datetime) -> bool:
    """Settle a job that is done; one that was wanted again meanwhile is SCHEDULED again.

    Returns
    -------
    bool
        False when the lease is lost: the caller rolls back, for another worker does the same. A lease that ran out is
        lost once somebody took the job back, and not before.
    """
    return _settle(connection, job, COMPLETED, reason="", now=now)


def retry(
    connection: Connection, job: Job, *, run_at: datetime, reason: str, now: datetime, counted: bool = True
) -> bool:
    """Let a job whose attempt failed wait for its next try; False when the lease is lost.

    An attempt that is not `counted` is given back; the job is wanted once more instead, so that (`claimed`, `attempts`)
    goes on growing.
    """
    given_back = {} if counted else {"attempts": jobs.c.attempts - 1, "wanted": jobs.c.wanted + 1}
    return _change(
        connection,
        job,
        state=SCHEDULED,
        run_at=run_at,
        reason=reason,
        lease_owner="",
        lease_expires_at=None,
        **given_back,
    )


def fail(connection: Connection, job: Job, *, reason: str, now: datetime) -> bool:
    """Give a job up; one that was wanted again meanwhile is SCHEDULED again. False when the lease is lost."""
    return _settle(connection, job, FAILED, reason=reason, now=now)


def release_owner(connection: Connection, owner_prefix: str, *, now: datetime) -> int:
    """End the leases of a process that is known to be dead; return how many. End the prefix at a separator."""
    return _take_back(connection, jobs.c.lease_owner.startswith(owner_prefix, autoescape=True))


def recover_expired(connection: Connection, *, now: datetime) -> int:
    """Take back every job whose lease ran out; return how many. Each keeps its attempts and its place in the order."""
    return _take_back(connection, jobs.c.lease_expires_at <= now)


def clock_set_back(connection: Connection, *, by_s: float, now: datetime) -> int:
    """Let what waits wait as long as it would have, after the clock was set back by so much; return how many jobs.

    What was planned before lies that far ahead now; what lies less far ahead than that was planned since, or is late by
    ten minutes at most. A lease ends in a minute, unless its holder, who is alive then, renews it.
    """
    ahead = now + timedelta(seconds=min(by_s / 2, 600.0))
    waiting = connection.execute(
        select(jobs.c.id, jobs.c.run_at)
        .where(is_in(SCHEDULED), jobs.c.run_at > ahead)
        .with_for_update(skip_locked=True)
    ).all()
    for row in waiting:
        run_at = row.run_at - timedelta(seconds=by_s)
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(run_at=run_at))
    leased = connection.execute(
        update(jobs)
        .where(is_in(IN_PROGRESS), jobs.c.lease_expires_at > now + timedelta(seconds=by_s / 2))
        .values(lease_expires_at=now + timedelta(seconds=60))
    ).rowcount
    return len(waiting) + leased


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """Return how many jobs there are of each (kind, state). Walks the table (30 ms for 100,000): not for a loop."""
    rows = connection.execute(select(jobs.c.kind, jobs.c.state, func.count()).group_by(jobs.c.kind, jobs.c.state))
    return {(kind, state): number for kind, state, number in rows}


def oldest_due(connection: Connection, kind: str, *, now: datetime) -> datetime | None:
    """Return since when the longest waiting job has been due; None when none is."""
    first = next_run_at(connection, [kind])
    return first if first is not None and first <= now else None


def next_lease_end(connection: Connection) -> datetime | None:
    """Return when the first lease ends, of whatever kind; None when nothing is leased."""
    return connection.execute(FIRST_LEASE_END).scalar_one_or_none()


def next_run_at(connection: Connection, kinds: Sequence[str]) -> datetime | None:
    """Return when the next SCHEDULED job is due, which may be past; None when there is none."""
    firsts = [connection.execute(FIRST, {"kind": kind}).scalar_one_or_none() for kind in kinds]
    return min((first for first in firsts if first is not None), default=None)


def failed(connection: Connection, limit: int) -> list[Job]:
    """Return the dead letters, newest first."""
    rows = connection.execute(
        select(*_COLUMNS).where(is_in(FAILED)).order_by(jobs.c.settled_at.desc(), jobs.c.id.desc()).limit(limit)
    )
    return [Job(**row._mapping) for row in rows]


def forget_completed(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` jobs completed before that time; return how many. Scheduled again, each is a new one."""
    old = (
        select(jobs.c.id)
        .where(is_in(COMPLETED), jobs.c.settled_at < before)
        .order_by(jobs.c.settled_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(old).scalars())
    return connection.execute(delete(jobs).where(jobs.c.id.in_(ids))).rowcount if ids else 0


def get(connection: Connection, kind: str, key: str) -> Job | None:
    """Return the job, or None."""
    row = connection.execute(select(*_COLUMNS).where(jobs.c.kind == kind, jobs.c.key == key)).one_or_none()
    return None if row is None else Job(**row._mapping)


def reasons(connection: Connection, kind: str, keys: Collection[str]) -> dict[str, str]:
    """Return what the last try of each job met, by key."""
    rows = connection.execute(select(jobs.c.key, jobs.c.reason).where(jobs.c.kind == kind, jobs.c.key.in_(keys)))
    return {row.key: row.reason for row in rows}


def backoff_s(attempt: int, rng: random.Random, base_s: float = 1.0, cap_s: float = 300.0) -> float:
    """Return how long to wait after the attempt that failed (1 for the first).

    Exponential with full jitter: anywhere in (0, min(cap, base * 2 ** (attempt - 1))], so that what failed together is
    not tried together. Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015.
    """
    doublings = min(max(attempt, 1) - 1, 64)
    return min(cap_s, base_s * 2.0**doublings) * (1.0 - rng.random())


def _held(job: Job) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == job.id,
        jobs.c.state == IN_PROGRESS,
        jobs.c.lease_owner == job.lease_owner,
        jobs.c.claimed == job.claimed,
        jobs.c.attempts == job.attempts,
    )


def _change(connection: Connection, job: Job, **values: Any) -> bool:
    return connection.execute(update(jobs).where(_held(job)).values(**values)).rowcount == 1


def _settle(connection: Connection, job: Job, state: str, *, reason: str, now: datetime) -> bool:
    again = jobs.c.wanted > jobs.c.claimed
    instant = literal(now, jobs.c.run_at.type)
    return _change(
        connection,
        job,
        state=case((again, SCHEDULED), else_=state),
        run_at=case((and_(again, jobs.c.run_at < instant), instant), else_=jobs.c.run_at),
        attempts=case((again, 0), else_=jobs.c.attempts),
        reason=reason,
        settled_at=now,
        lease_owner="",
        lease_expires_at=None,
    )


def _take_back(connection: Connection, condition: ColumnElement[bool]) -> int:
    # A row that another transaction holds is being settled or taken back there.
    ids = list(
        connection.execute(
            select(jobs.c.id).where(is_in(IN_PROGRESS), condition).with_for_update(skip_locked=True)
        ).scalars()
    )
    if not ids:
        return 0
    return connection.execute(
        update(jobs).where(jobs.c.id.in_(ids)).values(state=SCHEDULED, lease_owner="", lease_expires_at=None)
    ).rowcount
