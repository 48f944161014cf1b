"""Back-catalogue runs: which studies a person had the node fetch, and how far that has come.

A run is RUNNING until each of its studies has come to an end, whatever happens to the process that works on it, and
COMPLETED then. A study of it is

PLANNED    on the list, not asked for
FETCHING   asked for; found so by the next process, it is asked for again
FETCHED    everything the source announced is here
FAILED     given up with a reason; tried again when the run is resumed
SKIPPED    here already by another way, and left alone
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, distinct, func, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.studies import BACKFILL
from storage.tables import backfill_studies, backfills, insert, instances, studies

RUNNING = "RUNNING"
COMPLETED = "COMPLETED"

PLANNED = "PLANNED"
FETCHING = "FETCHING"
FETCHED = "FETCHED"
FAILED = "FAILED"
SKIPPED = "SKIPPED"
STUDY_STATES = (PLANNED, FETCHING, FETCHED, FAILED, SKIPPED)

_BATCH = 500


@dataclass(frozen=True)
class Backfill:
    """One run. `query` is what was asked of the source, as the command line gave it."""

    id: int
    source: str
    query: dict[str, Any]
    state: str
    reason: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class BackfillStudy:
    """One study of a run; `expected` is how many instances the source says it has, 0 where it does not say."""

    backfill_id: int
    study_instance_uid: str
    state: str
    expected: int
    attempts: int
    reason: str
    updated_at: datetime


_COLUMNS = [backfills.c[field.name] for field in fields(Backfill)]
_STUDY_COLUMNS = [backfill_studies.c[field.name] for field in fields(BackfillStudy)]


def plan(
    connection: Connection, source: str, query: Mapping[str, Any], expected: Mapping[str, int], *, now: datetime
) -> Backfill:
    """Make a run of these studies: number of instances by Study Instance UID, in the order they are fetched in.

    A study that is here already is SKIPPED from the start.
    """
    row = connection.execute(
        backfills.insert()
        .values(source=source, query=dict(query), state=RUNNING, created_at=now, updated_at=now)
        .returning(*_COLUMNS)
    ).one()
    uids = list(expected)
    for start in range(0, len(uids), _BATCH):
        batch = uids[start : start + _BATCH]
        here = _here(connection, batch)
        connection.execute(
            insert(connection.dialect.name, backfill_studies),
            [
                {
                    "backfill_id": row.id,
                    "study_instance_uid": uid,
                    "state": SKIPPED if uid in here else PLANNED,
                    "expected": expected[uid],
                    "reason": "is here already" if uid in here else "",
                    "updated_at": now,
                }
                for uid in batch
            ],
        )
    return Backfill(**row._mapping)


def get(connection: Connection, backfill_id: int) -> Backfill | None:
    """Return the run, or None."""
    row = connection.execute(select(*_COLUMNS).where(backfills.c.id == backfill_id)).one_or_none()
    return None if row is None else Backfill(**row._mapping)


def listed(connection: Connection, *, limit: int = 100) -> list[Backfill]:
    """Return the runs, newest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(backfills.c.id.desc()).limit(limit))
    return [Backfill(**row._mapping) for row in rows]


def counts(connection: Connection, backfill_id: int) -> dict[str, int]:
    """Return how many studies of the run are in each state; every state is named."""
    found = dict.fromkeys(STUDY_STATES, 0)
    rows = connection.execute(
        select(backfill_studies.c.state, func.count())
        .where(backfill_studies.c.backfill_id == backfill_id)
        .group_by(backfill_studies.c.state)
    )
    for state, number in rows:
        found[state] = number
    return found


def studies_of(connection: Connection, backfill_id: int, states: Iterable[str] = STUDY_STATES) -> list[BackfillStudy]:
    """Return the run's studies in these states, by Study Instance UID."""
    rows = connection.execute(
        select(*_STUDY_COLUMNS)
        .where(backfill_studies.c.backfill_id == backfill_id, backfill_studies.c.state.in_(list(states)))
        .order_by(backfill_studies.c.study_instance_uid)
    )
    return [BackfillStudy(**row._mapping) for row in rows]


def resume(connection: Connection, backfill_id: int, *, now: datetime) -> int:
    """Plan anew what failed or was under way when the last process ended; return how many studies wait now."""
    connection.execute(
        update(backfill_studies)
        .where(backfill_studies.c.backfill_id == backfill_id, backfill_studies.c.state == FAILED)
        .values(state=PLANNED, attempts=0, reason="", updated_at=now)
    )
    _set(connection, backfill_id, RUNNING, "", now)
    waiting = counts(connection, backfill_id)
    return waiting[PLANNED] + waiting[FETCHING]


def begin(connection: Connection, backfill_id: int, study_instance_uid: str, *, now: datetime) -> bool:
    """Ask for the study next: it is FETCHING and counts one attempt more.

    Returns
    -------
    bool
        False where it came by another way since it was planned: it is SKIPPED then, and stays what it is.
    """
    is_here = bool(_here(connection, [study_instance_uid]))
    _set_study(
        connection,
        backfill_id,
        study_instance_uid,
        now,
        state=SKIPPED if is_here else FETCHING,
        reason="came by another way meanwhile" if is_here else "",
        attempts=backfill_studies.c.attempts + (0 if is_here else 1),
    )
    return not is_here


def settle(
    connection: Connection, backfill_id: int, study_instance_uid: str, state: str, *, reason: str = "", now: datetime
) -> None:
    """Say what came of the attempt."""
    _set_study(connection, backfill_id, study_instance_uid, now, state=state, reason=reason)


def complete(connection: Connection, backfill_id: int, *, now: datetime) -> bool:
    """End the run if no study of it waits any more; whether it ended."""
    waiting = counts(connection, backfill_id)
    if waiting[PLANNED] or waiting[FETCHING]:
        return False
    _set(connection, backfill_id, COMPLETED, "", now)
    return True


def is_backfill(connection: Connection, study_instance_uid: str) -> bool:
    """Whether what comes of the study is what a run asked for.

    True from the moment it is asked for, not from when it is planned: a study that waits on a list and is sent by its
    modality meanwhile is a live one, and belongs on the worklist.
    """
    return connection.execute(_ASKED_FOR, {"study": study_instance_uid}).first() is not None


# Put together once: it is asked for every new study.
_ASKED_FOR = (
    select(backfill_studies.c.backfill_id)
    .where(
        backfill_studies.c.study_instance_uid == bindparam("study"),
        (backfill_studies.c.state == FETCHING) | (backfill_studies.c.state == FETCHED),
    )
    .limit(1)
)


def is_over(connection: Connection, study_instance_uid: str) -> bool:
    """Whether a run has fetched the study whole, and none fetches it now: an image that is new then is a live one."""
    states = set(
        connection.execute(
            select(backfill_studies.c.state).where(backfill_studies.c.study_instance_uid == study_instance_uid)
        ).scalars()
    )
    return FETCHED in states and FETCHING not in states


def arrived(connection: Connection, study_instance_uid: str) -> int:
    """Return how many instances of the study came here, those included that retention has deleted since."""
    return int(
        connection.execute(
            select(func.count(distinct(instances.c.sop_instance_uid))).where(
                instances.c.study_instance_uid == study_instance_uid
            )
        ).scalar_one()
    )


def _here(connection: Connection, study_instance_uids: list[str]) -> set[str]:
    """Return those that need no fetching: all that came by another way, and what a run has fetched whole."""
    fetched = select(backfill_studies.c.study_instance_uid).where(
        backfill_studies.c.study_instance_uid == studies.c.study_instance_uid, backfill_studies.c.state == FETCHED
    )
    found = connection.execute(
        select(studies.c.study_instance_uid).where(
            studies.c.study_instance_uid.in_(study_instance_uids), (studies.c.origin != BACKFILL) | fetched.exists()
        )
    )
    return set(found.scalars())


def _set(connection: Connection, backfill_id: int, state: str, reason: str, now: datetime) -> None:
    changed = connection.execute(
        update(backfills).where(backfills.c.id == backfill_id).values(state=state, reason=reason, updated_at=now)
    ).rowcount
    if changed != 1:
        raise StorageError(f"there is no back-catalogue run {backfill_id}")


def _set_study(connection: Connection, backfill_id: int, study_instance_uid: str, now: datetime, **values: Any) -> None:
    changed = connection.execute(
        update(backfill_studies)
        .where(
            backfill_studies.c.backfill_id == backfill_id,
            backfill_studies.c.study_instance_uid == study_instance_uid,
        )
        .values(updated_at=now, **values)
    ).rowcount
    if changed != 1:
        raise StorageError(f"the study is not on the list of back-catalogue run {backfill_id}")
