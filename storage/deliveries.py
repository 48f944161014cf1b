"""Deliveries: which result object goes to which destination, and how far it got.

SCHEDULED   not there yet; `reason` tells what the last try met
DELIVERED   the destination answered Success
COMMITTED   it also took on safekeeping (storage commitment)
FAILED      given up; a person has to look
SUPERSEDED  a newer revision came first: never sent
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.tables import deliveries, insert, results

SCHEDULED = "SCHEDULED"
DELIVERED = "DELIVERED"
COMMITTED = "COMMITTED"
FAILED = "FAILED"
SUPERSEDED = "SUPERSEDED"
STATES = (SCHEDULED, DELIVERED, COMMITTED, FAILED, SUPERSEDED)
_TRIES = (SCHEDULED, DELIVERED, FAILED)


@dataclass(frozen=True)
class Delivery:
    """One object kind of one result on its way to one destination.

    `sop_instance_uid` and `sop_class_uid` are of what was sent, which depends on what the peer accepts; empty before.
    """

    id: int
    result_id: int
    study_instance_uid: str
    revision: int
    kind: str
    destination: str
    state: str
    attempts: int
    reason: str
    sop_instance_uid: str
    sop_class_uid: str
    delivered_at: datetime | None
    updated_at: datetime


_COLUMNS = [deliveries.c[field.name] for field in fields(Delivery)]


def add(connection: Connection, result_id: int, *, kind: str, destination: str, now: datetime) -> Delivery:
    """Plan a delivery; the one there is for this result, kind and destination, if there is one."""
    result = connection.execute(
        select(results.c.study_instance_uid, results.c.revision).where(results.c.id == result_id)
    ).one_or_none()
    if result is None:
        raise StorageError(f"result {result_id} does not exist")
    connection.execute(
        insert(connection.dialect.name, deliveries)
        .values(
            result_id=result_id,
            study_instance_uid=result.study_instance_uid,
            revision=result.revision,
            kind=kind,
            destination=destination,
            state=SCHEDULED,
            updated_at=now,
        )
        .on_conflict_do_nothing(index_elements=[deliveries.c.result_id, deliveries.c.kind, deliveries.c.destination])
    )
    return _deliveries(
        connection,
        select(*_COLUMNS).where(
            deliveries.c.result_id == result_id,
            deliveries.c.kind == kind,
            deliveries.c.destination == destination,
        ),
    )[0]


def get(connection: Connection, delivery_id: int) -> Delivery | None:
    """Return the delivery, or None."""
    found = _deliveries(connection, select(*_COLUMNS).where(deliveries.c.id == delivery_id))
    return found[0] if found else None


def of_study(connection: Connection, study_instance_uid: str) -> list[Delivery]:
    """Return the deliveries of all revisions, oldest revision first."""
    return _deliveries(
        connection,
        select(*_COLUMNS)
        .where(deliveries.c.study_instance_uid == study_instance_uid)
        .order_by(deliveries.c.revision, deliveries.c.id),
    )


def in_state(connection: Connection, state: str, *, before: datetime, limit: int) -> list[Delivery]:
    """Return deliveries that are in a state since before that time, longest first."""
    return _deliveries(
        connection,
        select(*_COLUMNS)
        .where(deliveries.c.state == state, deliveries.c.updated_at < before)
        .order_by(deliveries.c.updated_at, deliveries.c.id)
        .limit(limit),
    )


def set_state(
    connection: Connection,
    delivery_id: int,
    state: str,
    *,
    now: datetime,
    reason: str = "",
    sop_instance_uid: str = "",
    sop_class_uid: str = "",
) -> None:
    """Write down how far it got. SCHEDULED, DELIVERED and FAILED tell of a try and count as one; an empty UID keeps
    the one there is; `delivered_at` is the first time.
    """
    if state not in STATES:
        raise StorageError(f"state of a delivery is {state}, expected one of {', '.join(STATES)}")
    values: dict[str, Any] = {"state": state, "reason": reason, "updated_at": now}
    if state in _TRIES:
        values["attempts"] = deliveries.c.attempts + 1
    if sop_instance_uid:
        values["sop_instance_uid"] = sop_instance_uid
    if sop_class_uid:
        values["sop_class_uid"] = sop_class_uid
    if state in (DELIVERED, COMMITTED):
        values["delivered_at"] = func.coalesce(deliveries.c.delivered_at, literal(now, deliveries.c.updated_at.type))
    changed = connection.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(**values)).rowcount
    if changed != 1:
        raise StorageError(f"delivery {delivery_id} does not exist")


def supersede_older(connection: Connection, study_instance_uid: str, revision: int, *, now: datetime) -> list[int]:
    """Stop what is not delivered of revisions before this one; return the ids."""
    ids = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.study_instance_uid == study_instance_uid,
            deliveries.c.revision < revision,
            deliveries.c.state.in_([SCHEDULED, FAILED]),
        )
        .values(state=SUPERSEDED, reason=f"superseded by revision {revision}", updated_at=now)
        .returning(deliveries.c.id)
    )
    return sorted(ids.scalars())


def _deliveries(connection: Connection, statement: Any) -> list[Delivery]:
    return [Delivery(**row._mapping) for row in connection.execute(statement)]
