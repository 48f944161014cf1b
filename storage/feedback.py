"""Feedback: what readers said of results. Rows are added, never changed; the newest of a reader counts."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.tables import feedback, insert, results


@dataclass(frozen=True)
class Feedback:
    """One verdict on one revision. `observation_uid` is empty where the result does not state the finding, `finding`
    where the verdict is on the result as a whole; `sop_instance_uid` is of the document that tells of it."""

    id: int
    result_id: int
    study_instance_uid: str
    revision: int
    finding: str
    observation_uid: str
    verdict: str
    reader: str
    comment: str
    sop_instance_uid: str
    created_at: datetime


@dataclass(frozen=True)
class Exported:
    """A verdict, and what the result said that it is about."""

    feedback: Feedback
    flagged: bool
    status: str
    outcome: dict[str, Any]


_COLUMNS = [feedback.c[field.name] for field in fields(Feedback)]


def add(
    connection: Connection,
    result_id: int,
    *,
    verdict: str,
    reader: str,
    finding: str = "",
    observation_uid: str = "",
    comment: str = "",
    sop_instance_uid: str = "",
    now: datetime,
) -> Feedback:
    """Keep a verdict.

    Raises
    ------
    StorageError
        There is no such result.
    """
    result = connection.execute(
        select(results.c.study_instance_uid, results.c.revision).where(results.c.id == result_id)
    ).one_or_none()
    if result is None:
        raise StorageError(f"result {result_id} does not exist")
    row = connection.execute(
        insert(connection.dialect.name, feedback)
        .values(
            result_id=result_id,
            study_instance_uid=result.study_instance_uid,
            revision=result.revision,
            finding=finding,
            observation_uid=observation_uid,
            verdict=verdict,
            reader=reader,
            comment=comment,
            sop_instance_uid=sop_instance_uid,
            created_at=now,
        )
        .returning(*_COLUMNS)
    ).one()
    return Feedback(**row._mapping)


def of_study(connection: Connection, study_instance_uid: str) -> list[Feedback]:
    """Return what was said of all revisions of a study, oldest first."""
    rows = connection.execute(
        select(*_COLUMNS).where(feedback.c.study_instance_uid == study_instance_uid).order_by(feedback.c.id)
    )
    return [Feedback(**row._mapping) for row in rows]


def last_of(connection: Connection, study_instance_uid: str, *, reader: str, finding: str) -> Feedback | None:
    """Return the reader's newest verdict on the finding in the study, or None."""
    row = connection.execute(
        select(*_COLUMNS)
        .where(
            feedback.c.study_instance_uid == study_instance_uid,
            feedback.c.reader == reader,
            feedback.c.finding == finding,
        )
        .order_by(feedback.c.id.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else Feedback(**row._mapping)


def export(
    connection: Connection, *, since: datetime | None = None, after: int = 0, limit: int = 1000
) -> list[Exported]:
    """Return verdicts with their results, oldest first, a page at a time; `after` is the last id of the page before."""
    statement = (
        select(*_COLUMNS, results.c.flagged, results.c.status, results.c.outcome)
        .join(results, results.c.id == feedback.c.result_id)
        .where(feedback.c.id > after)
        .order_by(feedback.c.id)
        .limit(limit)
    )
    if since is not None:
        statement = statement.where(feedback.c.created_at >= since)
    return [
        Exported(
            Feedback(**{field.name: row._mapping[field.name] for field in fields(Feedback)}),
            row.flagged,
            row.status,
            row.outcome,
        )
        for row in connection.execute(statement)
    ]
