"""Results: revisions of what was found in a study, the objects made of them, and the predictions they rest on."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.studies import FAILED
from storage.tables import insert, instances, result_objects, results
from storage.tables import predictions as predictions_table


@dataclass(frozen=True)
class Result:
    """One revision, 1 for the first. The current one has no `superseded_at`."""

    id: int
    study_instance_uid: str
    revision: int
    created_at: datetime
    status: str
    flagged: bool
    ai_priority: str
    outcome: dict[str, Any]
    superseded_at: datetime | None


@dataclass(frozen=True)
class ResultObject:
    """A DICOM object made of a result. The bytes at `location` are what is sent, always."""

    id: int
    result_id: int
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    location: str
    created_at: datetime


@dataclass(frozen=True)
class Prediction:
    """What one model said of one finding in one image; `score` is before calibration, `probability` after."""

    instance_id: int
    model: str
    model_version: str
    model_digest: str
    finding: str
    score: float
    probability: float
    created_at: datetime


_RESULT = [results.c[field.name] for field in fields(Result)]
_OBJECT = [result_objects.c[field.name] for field in fields(ResultObject)]
_PREDICTION = [predictions_table.c[field.name] for field in fields(Prediction)]


def add(
    connection: Connection,
    study_instance_uid: str,
    *,
    status: str,
    flagged: bool,
    ai_priority: str,
    outcome: dict[str, Any],
    now: datetime,
) -> Result:
    """Add the next revision; it supersedes the current one."""
    last = connection.execute(
        select(func.max(results.c.revision)).where(results.c.study_instance_uid == study_instance_uid)
    ).scalar_one()
    connection.execute(
        update(results)
        .where(results.c.study_instance_uid == study_instance_uid, results.c.superseded_at.is_(None))
        .values(superseded_at=now)
    )
    row = connection.execute(
        insert(connection.dialect.name, results)
        .values(
            study_instance_uid=study_instance_uid,
            revision=(last or 0) + 1,
            created_at=now,
            status=status,
            flagged=flagged,
            ai_priority=ai_priority,
            outcome=outcome,
        )
        .returning(*_RESULT)
    ).one()
    return Result(**row._mapping)


def get(connection: Connection, result_id: int) -> Result | None:
    """Return the result, or None."""
    row = connection.execute(select(*_RESULT).where(results.c.id == result_id)).one_or_none()
    return None if row is None else Result(**row._mapping)


def current(connection: Connection, study_instance_uid: str) -> Result | None:
    """Return the newest revision, or None."""
    row = connection.execute(
        select(*_RESULT)
        .where(results.c.study_instance_uid == study_instance_uid)
        .order_by(results.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else Result(**row._mapping)


def current_of(connection: Connection, study_instance_uids: Collection[str]) -> dict[str, Result]:
    """Return the newest revision of each study that has one, by Study Instance UID."""
    rows = connection.execute(
        select(*_RESULT).where(results.c.study_instance_uid.in_(study_instance_uids), results.c.superseded_at.is_(None))
    )
    return {row.study_instance_uid: Result(**row._mapping) for row in rows}


def conclusive(connection: Connection, study_instance_uid: str) -> Result | None:
    """Return the newest revision that is no failed analysis, or None: its reports are good until the next such one."""
    row = connection.execute(
        select(*_RESULT)
        .where(results.c.study_instance_uid == study_instance_uid, results.c.status != FAILED)
        .order_by(results.c.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else Result(**row._mapping)


def revisions(connection: Connection, study_instance_uid: str) -> list[Result]:
    """Return all revisions, oldest first."""
    rows = connection.execute(
        select(*_RESULT).where(results.c.study_instance_uid == study_instance_uid).order_by(results.c.revision)
    )
    return [Result(**row._mapping) for row in rows]


def add_object(
    connection: Connection,
    result_id: int,
    *,
    kind: str,
    sop_class_uid: str,
    sop_instance_uid: str,
    location: str,
    now: datetime,
) -> ResultObject:
    """Make the row of a result object; the same again returns the row there is.

    Raises
    ------
    StorageError
        The UID belongs to another result or to other bytes. An archive that has the first drops the second and answers
        Success, so it must never be sent.
    """
    connection.execute(
        insert(connection.dialect.name, result_objects)
        .values(
            result_id=result_id,
            kind=kind,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            location=location,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=[result_objects.c.sop_instance_uid])
    )
    row = connection.execute(select(*_OBJECT).where(result_objects.c.sop_instance_uid == sop_instance_uid)).one()
    if (row.result_id, row.location) != (result_id, location):
        raise StorageError(
            f"result object {sop_instance_uid} belongs to result {row.result_id} as {row.location}, "
            f"not to result {result_id} as {location}"
        )
    return ResultObject(**row._mapping)


def objects(connection: Connection, result_id: int) -> list[ResultObject]:
    """Return the objects of a result, in the order they were added."""
    rows = connection.execute(
        select(*_OBJECT).where(result_objects.c.result_id == result_id).order_by(result_objects.c.id)
    )
    return [ResultObject(**row._mapping) for row in rows]


def object_uids(connection: Connection, study_instance_uid: str) -> frozenset[str]:
    """Return the SOP Instance UIDs of every object ever made of the study: what comes back under them is our own."""
    return frozenset(
        connection.execute(
            select(result_objects.c.sop_instance_uid)
            .join(results, results.c.id == result_objects.c.result_id)
            .where(results.c.study_instance_uid == study_instance_uid)
        ).scalars()
    )


def get_object(connection: Connection, object_id: int) -> ResultObject | None:
    """Return the object, or None."""
    row = connection.execute(select(*_OBJECT).where(result_objects.c.id == object_id)).one_or_none()
    return None if row is None else ResultObject(**row._mapping)


def add_prediction(connection: Connection, prediction: Prediction) -> None:
    """Keep a prediction; the first one of a model for a finding in an instance stays."""
    connection.execute(
        insert(connection.dialect.name, predictions_table)
        .values(**{field.name: getattr(prediction, field.name) for field in fields(prediction)})
        .on_conflict_do_nothing(
            index_elements=[
                predictions_table.c.instance_id,
                predictions_table.c.model_digest,
                predictions_table.c.finding,
            ]
        )
    )


def predictions(connection: Connection, instance_id: int) -> list[Prediction]:
    """Return what every model said of an instance."""
    rows = connection.execute(
        select(*_PREDICTION)
        .where(predictions_table.c.instance_id == instance_id)
        .order_by(predictions_table.c.model_digest, predictions_table.c.finding)
    )
    return [Prediction(**row._mapping) for row in rows]


def predictions_of_study(connection: Connection, study_instance_uid: str) -> list[Prediction]:
    """Return what every model said of every instance of the study: one question, however many images there are."""
    of_study = select(instances.c.id).where(instances.c.study_instance_uid == study_instance_uid)
    rows = connection.execute(select(*_PREDICTION).where(predictions_table.c.instance_id.in_(of_study)))
    return [Prediction(**row._mapping) for row in rows]
