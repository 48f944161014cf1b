"""Studies as a person sees them: who, from where, in what state, with which priority."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, distinct, func, literal, select, text, update
from sqlalchemy.engine import Connection, Row

from storage import audit
from storage.arrival import arrival, words_of
from storage.errors import StorageError
from storage.tables import CONTEXT, ON_LIST, instances, studies

PENDING = "pending"
ANALYSED = "analysed"
NOT_ANALYSED = "not_analysed"
FAILED = "failed"

BACKFILL = "backfill"

LONGEST_MODALITY = 128  # it stands in indexes; by the standard it has sixteen characters


@dataclass(frozen=True)
class PatientContext:
    """Whom and what the images show, as the sender wrote it, decoded; empty where it wrote nothing."""

    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    age: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    modality: str = ""
    body_part: str = ""
    view: str = ""
    ordered_priority: str = ""


@dataclass(frozen=True)
class Study:
    """One study.

    `status` is pending (no result yet), analysed, not_analysed (every image excluded) or failed; `ai_priority` is
    empty without one; `revision` is that of the current result, 0 without one; `images` counts SOP Instance UIDs,
    `conflicts` the objects that came under a UID already taken by another. `ordered_reason` says in words where the
    ordered priority comes from, empty where nobody ordered one; `origin` is empty, or BACKFILL; `read_at` is when a
    person had read it, `retired_at` when it left the worklist unread, `opened_at` when a person first looked at it;
    `verdict` is what a reader said last of the current result, empty while nobody did.
    """

    study_instance_uid: str
    context: PatientContext
    first_received_at: datetime
    last_received_at: datetime
    status: str
    flagged: bool
    ordered_priority: str
    ai_priority: str
    effective_priority: str
    priority_rank: int
    notified_at: datetime | None
    revision: int
    images: int
    conflicts: int
    calling_ae_title: str
    ordered_reason: str = ""
    origin: str = ""
    read_at: datetime | None = None
    reopened: int = 0
    retired_at: datetime | None = None
    opened_at: datetime | None = None
    opened_by: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Touched:
    """What the row of a study was when an instance arrived."""

    is_new: bool
    origin: str


def touch(
    connection: Connection,
    study_instance_uid: str,
    context: PatientContext,
    *,
    ordered_rank: int,
    calling_ae_title: str,
    now: datetime,
    ordered_reason: str = "",
) -> Touched:
    """An instance of the study arrived: make its row, or add to it what it did not know.

    Nothing known is overwritten, no priority is lowered, and an analysed study stays visible as it was until its next
    result.
    """
    row = connection.execute(
        arrival(connection.dialect.name, pending=PENDING, analysed=ANALYSED),
        {
            **{name: getattr(context, name) for name in CONTEXT},
            "modality": context.modality[:LONGEST_MODALITY],
            **words_of(context.patient_name, context.patient_id, context.accession_number),
            "study_instance_uid": study_instance_uid,
            "ordered_rank": ordered_rank,
            "ordered_reason": ordered_reason,
            "effective_priority": context.ordered_priority,
            "priority_rank": ordered_rank,
            "status": PENDING,
            "calling_ae_title": calling_ae_title,
            "first_received_at": now,
            "last_received_at": now,
        },
    ).one()
    return Touched(is_new=row.first_received_at == now, origin=row.origin)


def set_outcome(
    connection: Connection,
    study_instance_uid: str,
    *,
    status: str,
    flagged: bool,
    ai_priority: str,
    effective_priority: str,
    priority_rank: int,
    notified_at: datetime | None,
    revision: int,
) -> None:
    """Show a result on the study. Its effective priority may rise, never sink, and stays where the study was read;
    the first notification counts."""
    above = (studies.c.priority_rank < priority_rank) & studies.c.read_at.is_(None)
    unnamed = (studies.c.effective_priority == "") & (studies.c.priority_rank == priority_rank)
    changed = connection.execute(
        update(studies)
        .where(studies.c.study_instance_uid == study_instance_uid)
        .values(
            status=status,
            flagged=flagged,
            ai_priority=ai_priority,
            effective_priority=case((above | unnamed, effective_priority), else_=studies.c.effective_priority),
            priority_rank=case((above, priority_rank), else_=studies.c.priority_rank),
            notified_at=func.coalesce(studies.c.notified_at, _instant(notified_at)),
            # What a reader said was of the result before, which a failed analysis leaves standing.
            verdict=studies.c.verdict
            if status == FAILED
            else case((studies.c.revision == revision, studies.c.verdict), else_=""),
            revision=revision,
        )
    ).rowcount
    if changed != 1:
        raise StorageError("the study of this outcome has no row")


def raise_ordered(
    connection: Connection, study_instance_uid: str, priority: str, rank: int, reason: str, now: datetime
) -> bool:
    """Take a priority that was ordered: raise the ordered one to it, and the effective one where that is below.

    Neither ever sinks, and those of a study that was read stay as they are. A change is written to the audit trail.

    Parameters
    ----------
    rank : of `priority`, higher for more urgent
    reason : where it comes from, in words a reader of the worklist understands

    Returns
    -------
    bool
        Whether anything changed; False also where there is no such study.
    """
    above = studies.c.priority_rank < rank
    changed = connection.execute(
        update(studies)
        .where(
            studies.c.study_instance_uid == study_instance_uid,
            studies.c.ordered_rank < rank,
            studies.c.read_at.is_(None),
        )
        .values(
            ordered_priority=priority,
            ordered_rank=rank,
            ordered_reason=reason,
            effective_priority=case((above, priority), else_=studies.c.effective_priority),
            priority_rank=case((above, rank), else_=studies.c.priority_rank),
        )
    ).rowcount
    if changed:
        audit.record(
            connection,
            "priority_ordered",
            actor="orders",
            now=now,
            study_instance_uid=study_instance_uid,
            detail={"priority": priority, "reason": reason},
        )
    return bool(changed)


def mark_read(connection: Connection, study_instance_uid: str, now: datetime) -> bool:
    """A person has read the study: it leaves the worklist, and nothing raises it until another image comes.

    Returns
    -------
    bool
        False where there is no such study, or it was read before.
    """
    of_study = (studies.c.study_instance_uid == study_instance_uid, studies.c.read_at.is_(None))
    changed = connection.execute(update(studies).where(*of_study).values(read_at=now)).rowcount
    if changed:
        audit.record(connection, "study_marked_read", actor="worklist", now=now, study_instance_uid=study_instance_uid)
    return bool(changed)


def reopen(connection: Connection, study_instance_uid: str, now: datetime) -> bool:
    """An image came after the study had been read: it is on the worklist again, to be read once more.

    Returns
    -------
    bool
        False where there is no such study, or nobody had read it.
    """
    of_study = (studies.c.study_instance_uid == study_instance_uid, studies.c.read_at.is_not(None))
    values = {"read_at": None, "reopened": studies.c.reopened + 1}
    changed = connection.execute(update(studies).where(*of_study).values(**values)).rowcount
    if changed:
        audit.record(connection, "study_reopened", actor="analyze", now=now, study_instance_uid=study_instance_uid)
    return bool(changed)


def retire(connection: Connection, *, before: datetime, now: datetime, limit: int) -> int:
    """Take studies off the worklist that received nothing since `before` and that nobody read; an image that comes
    later brings one back.

    Returns
    -------
    int
        How many; `limit` where there may be more.
    """
    found = (
        select(studies.c.id)
        .where(text(ON_LIST), studies.c.last_received_at < before)
        .order_by(studies.c.last_received_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    chosen = connection.execute(found).scalars().all()
    if chosen:
        connection.execute(update(studies).where(studies.c.id.in_(chosen)).values(retired_at=now))
    return len(chosen)


def mark_opened(connection: Connection, study_instance_uid: str, by: str, now: datetime) -> bool:
    """A person looks at the study; the first one counts.

    Returns
    -------
    bool
        False where there is no such study, or somebody had opened it before.
    """
    of_study = (studies.c.study_instance_uid == study_instance_uid, studies.c.opened_at.is_(None))
    return bool(connection.execute(update(studies).where(*of_study).values(opened_at=now, opened_by=by)).rowcount)


def set_verdict(connection: Connection, study_instance_uid: str, verdict: str) -> None:
    """Show on the study what a reader said of the result that stands; the newest word counts."""
    connection.execute(
        update(studies).where(studies.c.study_instance_uid == study_instance_uid).values(verdict=verdict)
    )


def set_origin(connection: Connection, study_instance_uid: str, origin: str) -> None:
    """Say how the study came here; BACKFILL keeps it off the worklist."""
    connection.execute(update(studies).where(studies.c.study_instance_uid == study_instance_uid).values(origin=origin))


def by_accession_number(connection: Connection, accession_number: str, *, limit: int = 100) -> list[Study]:
    """Return the studies of an accession number, newest first; none for an empty one."""
    if not accession_number:
        return []
    rows = connection.execute(
        _select()
        .where(studies.c.accession_number == accession_number)
        .order_by(studies.c.last_received_at.desc(), studies.c.id.desc())
        .limit(limit)
    )
    return [_study(row) for row in rows]


def add_conflict(connection: Connection, study_instance_uid: str) -> None:
    """Count an object that came under a SOP Instance UID already taken by other bytes."""
    connection.execute(
        update(studies)
        .where(studies.c.study_instance_uid == study_instance_uid)
        .values(conflicts=studies.c.conflicts + 1)
    )


def get(connection: Connection, study_instance_uid: str) -> Study | None:
    """Return the study, or None."""
    row = connection.execute(_select().where(studies.c.study_instance_uid == study_instance_uid)).one_or_none()
    return None if row is None else _study(row)


def of_uids(connection: Connection, study_instance_uids: Collection[str]) -> dict[str, Study]:
    """Return the studies that there are, by UID."""
    rows = connection.execute(_select().where(studies.c.study_instance_uid.in_(study_instance_uids)))
    return {row.study_instance_uid: _study(row) for row in rows}


def get_locked(connection: Connection, study_instance_uid: str) -> Study | None:
    """Return the study as it stays until the end of the transaction, or None."""
    row = select(studies.c.id).where(studies.c.study_instance_uid == study_instance_uid).with_for_update()
    connection.execute(row)
    return get(connection, study_instance_uid)


def listed(connection: Connection, *, since: datetime, limit: int = 1000, offset: int = 0) -> list[Study]:
    """Return every study that received something at `since` or later, newest first; none that was read, and none that
    a back-catalogue run fetched."""
    rows = connection.execute(
        _select()
        .where(
            studies.c.last_received_at >= since,
            studies.c.read_at.is_(None),
            studies.c.retired_at.is_(None),
            studies.c.origin != BACKFILL,
        )
        .order_by(studies.c.last_received_at.desc(), studies.c.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return [_study(row) for row in rows]


def is_listed(study: Study, since: datetime) -> bool:
    """Whether `listed` would return the study."""
    return (
        study.last_received_at >= since
        and study.read_at is None
        and study.retired_at is None
        and study.origin != BACKFILL
    )


def _instant(value: datetime | None) -> ColumnElement[datetime | None]:
    return literal(value, studies.c.notified_at.type)


def _select() -> Any:
    # Counted, not kept: a counter would have to know of every way in which a row can come and go.
    images = (
        select(func.count(distinct(instances.c.sop_instance_uid)))
        .where(instances.c.study_instance_uid == studies.c.study_instance_uid, instances.c.variant == 0)
        .scalar_subquery()
        .label("images")
    )
    return select(studies, images)


def _study(row: Row[Any]) -> Study:
    values = row._mapping
    return Study(
        context=PatientContext(**{name: values[name] for name in CONTEXT}),
        **{field.name: values[field.name] for field in fields(Study) if field.name != "context"},
    )
