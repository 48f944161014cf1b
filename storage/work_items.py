"""Work items: Unified Procedure Steps as rows, with the lock of whoever performs them.

SCHEDULED    waits for somebody
IN PROGRESS  claimed; `transaction_uid` is the lock, known to the performer alone
COMPLETED    done; final
CANCELED     given up; final

A study's own reading task is `reading`; the analyses of it are `ai`, one for each time the study was opened; what
another system created is `external`. Rows are kept: a final one may still be asked for.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import String, and_, case, cast, exists, func, literal, not_, or_, select, update
from sqlalchemy.engine import Connection

from storage import jobs as queue
from storage.errors import StorageError
from storage.studies import BACKFILL
from storage.tables import insert, jobs, studies, work_items

SCHEDULED = "SCHEDULED"
IN_PROGRESS = "IN PROGRESS"
COMPLETED = "COMPLETED"
CANCELED = "CANCELED"
STATES = (SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED)
FINAL = frozenset({COMPLETED, CANCELED})

READING = "reading"
AI = "ai"
EXTERNAL = "external"
KINDS = (READING, AI, EXTERNAL)


@dataclass(frozen=True)
class WorkItem:
    """One row.

    `attributes` are those that somebody set, as DICOM JSON; `performer` is who holds or held it; `announced` is what
    subscribers were told last, in the words of whoever tells them. `updated_at` is later than `created_at` from the
    first act on.
    """

    id: int
    sop_instance_uid: str
    study_instance_uid: str
    kind: str
    state: str
    transaction_uid: str
    performer: str
    attributes: dict[str, Any]
    announced: str
    created_at: datetime
    updated_at: datetime

    @property
    def acted_at(self) -> datetime | None:
        """When somebody acted on it last; None while nobody did."""
        return self.updated_at if self.updated_at > self.created_at else None


class Mark(NamedTuple):
    """Of a work item what a long list can hold of each: not what was set on it."""

    id: int
    sop_instance_uid: str
    study_instance_uid: str
    state: str
    created_at: datetime
    updated_at: datetime

    @property
    def acted_at(self) -> datetime | None:
        """When somebody acted on it last; None while nobody did."""
        return self.updated_at if self.updated_at > self.created_at else None


@dataclass(frozen=True)
class StudySign:
    """A study whose tasks may have changed, and the sign of how it stands now."""

    study_instance_uid: str
    sign: str


_COLUMNS = [work_items.c[field.name] for field in fields(WorkItem)]


def add(
    connection: Connection,
    sop_instance_uid: str,
    *,
    kind: str,
    study_instance_uid: str = "",
    attributes: dict[str, Any] | None = None,
    announced: str = "",
    now: datetime,
) -> WorkItem | None:
    """Make a SCHEDULED work item; None when the UID is taken."""
    row = connection.execute(
        insert(connection.dialect.name, work_items)
        .values(
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
            kind=kind,
            state=SCHEDULED,
            attributes=attributes or {},
            announced=announced,
            created_at=now,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=[work_items.c.sop_instance_uid])
        .returning(*_COLUMNS)
    ).one_or_none()
    return None if row is None else WorkItem(**row._mapping)


def get(connection: Connection, sop_instance_uid: str, *, lock: bool = False) -> WorkItem | None:
    """Return the work item, or None; with `lock` nobody else changes it until the transaction ends."""
    statement = select(*_COLUMNS).where(work_items.c.sop_instance_uid == sop_instance_uid)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else WorkItem(**row._mapping)


def of_study(connection: Connection, study_instance_uid: str) -> list[WorkItem]:
    """Return the work items of a study, oldest first; those of no study for an empty UID are none."""
    if not study_instance_uid:
        return []
    return _items(
        connection,
        select(*_COLUMNS).where(work_items.c.study_instance_uid == study_instance_uid).order_by(work_items.c.id),
    )


def reading(connection: Connection, study_instance_uid: str) -> WorkItem | None:
    """Return the reading task of a study where it has a row; the newest of a study that was reopened."""
    found = [row for row in of_study(connection, study_instance_uid) if row.kind == READING]
    return found[-1] if found else None


def readings(connection: Connection, study_instance_uids: Collection[str]) -> dict[str, WorkItem]:
    """Return the reading tasks that have a row, by Study Instance UID; the newest of a study that was reopened."""
    rows = select(*_COLUMNS).where(
        work_items.c.study_instance_uid.in_(study_instance_uids), work_items.c.kind == READING
    )
    return {row.study_instance_uid: row for row in _items(connection, rows.order_by(work_items.c.id))}


def acted_on(
    connection: Connection, *, since: datetime, kinds: Collection[str] = KINDS, states: Collection[str] = STATES
) -> list[Mark]:
    """Return, oldest first, marks of the items of `kinds` in one of `states` that a list from `since` on shows beside
    the plain reading tasks: reading tasks that somebody acted on, and all others; one that is held or created by
    another system and open stays, however old.
    """
    touched = or_(work_items.c.kind != READING, work_items.c.updated_at > work_items.c.created_at)
    recent = work_items.c.updated_at >= since
    still_open = and_(work_items.c.kind == EXTERNAL, work_items.c.state.not_in(FINAL))
    held = work_items.c.state == IN_PROGRESS
    rows = connection.execute(
        select(*(work_items.c[name] for name in Mark._fields))
        .where(
            touched,
            or_(recent, still_open, held),
            work_items.c.kind.in_(list(kinds)),
            work_items.c.state.in_(list(states)),
        )
        .order_by(work_items.c.id)
    )
    return [Mark._make(row) for row in rows]


def of_ids(connection: Connection, ids: Collection[int]) -> dict[int, WorkItem]:
    """Return the work items of these rows, by id."""
    return {row.id: row for row in _items(connection, select(*_COLUMNS).where(work_items.c.id.in_(ids)))}


def change(
    connection: Connection,
    item: WorkItem,
    *,
    now: datetime,
    state: str | None = None,
    transaction_uid: str | None = None,
    performer: str | None = None,
    attributes: dict[str, Any] | None = None,
    announced: str | None = None,
) -> WorkItem:
    """Write down an act.

    Raises
    ------
    StorageError
        The item is no longer as `item` says: somebody else changed it since it was read without a lock.
    """
    given = {
        "state": state,
        "transaction_uid": transaction_uid,
        "performer": performer,
        "attributes": attributes,
        "announced": announced,
    }
    values = {name: value for name, value in given.items() if value is not None}
    row = connection.execute(
        update(work_items)
        .where(
            work_items.c.id == item.id,
            work_items.c.state == item.state,
            work_items.c.transaction_uid == item.transaction_uid,
        )
        .values(updated_at=now, **values)
        .returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise StorageError(f"work item {item.sop_instance_uid} was changed by somebody else meanwhile")
    return WorkItem(**row._mapping)


def set_announced(connection: Connection, item: WorkItem, announced: str) -> None:
    """Keep what subscribers were told; it is no act, so `updated_at` stays."""
    connection.execute(update(work_items).where(work_items.c.id == item.id).values(announced=announced))


def changed_studies(
    connection: Connection, *, since: datetime, limit: int, without_row: bool = False
) -> list[StudySign]:
    """Return studies that received something since then and stand otherwise than was announced, oldest first.

    The sign names priority, status, revision and the state of the open analysis; the comparison is the database's, so
    a list without changes costs an index look-up a study and no row. With `without_row`, only those that have no
    reading task as a row yet. What a back-catalogue run fetched has no tasks.
    """
    sign = _sign()
    newer = work_items.alias("newer")
    of_same = (newer.c.study_instance_uid == studies.c.study_instance_uid) & (newer.c.kind == READING)
    reading = and_(
        work_items.c.study_instance_uid == studies.c.study_instance_uid,
        work_items.c.kind == READING,
        not_(exists().where(of_same, newer.c.id > work_items.c.id)),
    )
    missing = work_items.c.id.is_(None)
    rows = connection.execute(
        select(studies.c.study_instance_uid, sign.label("sign"))
        .select_from(
            studies.outerjoin(work_items, reading).outerjoin(
                jobs, and_(jobs.c.kind == "analyze", jobs.c.key == studies.c.study_instance_uid)
            )
        )
        .where(
            studies.c.last_received_at >= since,
            studies.c.origin != BACKFILL,
            missing if without_row else or_(missing, work_items.c.announced != sign),
        )
        .order_by(studies.c.last_received_at, studies.c.id)
        .limit(limit)
    )
    return [StudySign(row.study_instance_uid, row.sign) for row in rows]


def sign_of(connection: Connection, study_instance_uid: str) -> str | None:
    """Return the sign of one study, None when there is no such study."""
    return connection.execute(
        select(_sign())
        .select_from(
            studies.outerjoin(jobs, and_(jobs.c.kind == "analyze", jobs.c.key == studies.c.study_instance_uid))
        )
        .where(studies.c.study_instance_uid == study_instance_uid)
    ).scalar_one_or_none()


def _sign() -> Any:
    is_open = jobs.c.state.in_([queue.SCHEDULED, queue.IN_PROGRESS])
    colon = literal(":")
    return (
        cast(studies.c.priority_rank, String)
        + colon
        + studies.c.status
        + colon
        + cast(studies.c.revision, String)
        + colon
        + func.coalesce(case((is_open, jobs.c.state), else_=""), "")
    )


def _items(connection: Connection, statement: Any) -> list[WorkItem]:
    return [WorkItem(**row._mapping) for row in connection.execute(statement)]
