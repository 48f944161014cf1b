"""Deliveries: which result object goes to which destination, and how far it got.

SCHEDULED   not there yet; `reason` tells what the last try met
DELIVERED   the destination answered Success
COMMITTED   it also took on safekeeping (storage commitment)
FAILED      given up; a person has to look
SUPERSEDED  a newer revision came first: never sent
SKIPPED     not for this destination: its template or kind leaves it out, `reason` says why

Whether the destination really holds what it took is asked afterwards; `proof` tells how far that got:

""           not asked for
asked        being found out
proved       it holds the object: the delivery is COMMITTED
unavailable  the destination offers no way to tell; `proof_reason` says so
failed       it does not hold the object: the delivery is FAILED
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, literal, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.tables import deliveries, insert, results

SCHEDULED = "SCHEDULED"
DELIVERED = "DELIVERED"
COMMITTED = "COMMITTED"
FAILED = "FAILED"
SUPERSEDED = "SUPERSEDED"
SKIPPED = "SKIPPED"
STATES = (SCHEDULED, DELIVERED, COMMITTED, FAILED, SUPERSEDED, SKIPPED)
_TRIES = (SCHEDULED, DELIVERED, FAILED)

# What people said of a revision stays true of it: a newer one does not supersede it. Of one result there may be many
# such objects, so each has a kind of its own, "feedback:1" and so on.
FEEDBACK = "feedback"

PROOF_ASKED = "asked"
PROVED = "proved"
PROOF_UNAVAILABLE = "unavailable"
PROOF_FAILED = "failed"


@dataclass(frozen=True)
class Delivery:
    """One object kind of one result on its way to one destination.

    `sop_instance_uid` and `sop_class_uid` are of what was sent, which depends on what the peer accepts; empty before.
    `proof_at` is since when proof is asked for, then when it was found; `resends` counts how often the object went
    again because the destination had lost it.
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
    proof: str
    proof_method: str
    proof_reason: str
    proof_at: datetime | None
    resends: int


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


def of_studies(connection: Connection, study_instance_uids: Collection[str]) -> list[Delivery]:
    """Return the deliveries of all revisions of the studies, oldest revision first."""
    return _deliveries(
        connection,
        select(*_COLUMNS)
        .where(deliveries.c.study_instance_uid.in_(study_instance_uids))
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
    _change(connection, delivery_id, **values)


def choose(
    connection: Connection, delivery_id: int, *, sop_instance_uid: str, sop_class_uid: str, reason: str, now: datetime
) -> None:
    """Write down which object is about to be sent; no try was made yet, so none is counted."""
    _change(
        connection,
        delivery_id,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        reason=reason,
        updated_at=now,
    )


def ask_proof(connection: Connection, delivery_id: int, *, now: datetime) -> None:
    """Begin to find out whether the destination holds what it took. After a proof that failed, and a person who had it
    sent again, the automatic resends start anew."""
    _change(
        connection,
        delivery_id,
        proof=PROOF_ASKED,
        proof_method="",
        proof_reason="",
        proof_at=now,
        resends=case((deliveries.c.proof == PROOF_FAILED, 0), else_=deliveries.c.resends),
    )


def note_proof(connection: Connection, delivery_id: int, *, method: str, reason: str) -> None:
    """Say how it is being found out, and what the last look met."""
    _change(connection, delivery_id, proof_method=method, proof_reason=reason)


def settle_proof(
    connection: Connection, delivery_id: int, proof: str, *, method: str, reason: str, now: datetime
) -> bool:
    """Write down what was found: a proved delivery is COMMITTED, one whose object is not there is FAILED.

    Returns
    -------
    bool
        False where the delivery is not DELIVERED with a proof still open: it was sent again, or settled, meanwhile.
    """
    if proof not in (PROVED, PROOF_UNAVAILABLE, PROOF_FAILED):
        raise StorageError(f"proof of a delivery is {proof}, expected proved, unavailable or failed")
    values: dict[str, Any] = {"proof": proof, "proof_method": method, "proof_reason": reason, "proof_at": now}
    if proof == PROVED:
        values |= {"state": COMMITTED, "updated_at": now}
    elif proof == PROOF_FAILED:
        values |= {"state": FAILED, "reason": reason, "updated_at": now}
    return _change_unproved(connection, delivery_id, **values)


def send_again(connection: Connection, delivery_id: int, *, reason: str, now: datetime) -> bool:
    """Let the same object go once more, for the destination has lost it; False as with `settle_proof`."""
    return _change_unproved(
        connection,
        delivery_id,
        state=SCHEDULED,
        reason=reason,
        proof="",
        proof_reason=reason,
        proof_at=now,
        resends=deliveries.c.resends + 1,
        updated_at=now,
    )


def _change(connection: Connection, delivery_id: int, **values: Any) -> None:
    changed = connection.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(**values)).rowcount
    if changed != 1:
        raise StorageError(f"delivery {delivery_id} does not exist")


def _change_unproved(connection: Connection, delivery_id: int, **values: Any) -> bool:
    is_open = (deliveries.c.state == DELIVERED) & deliveries.c.proof.in_([PROOF_ASKED, PROOF_UNAVAILABLE])
    return (
        connection.execute(update(deliveries).where(deliveries.c.id == delivery_id, is_open).values(**values)).rowcount
        == 1
    )


def is_superseded_by_newer(kind: str) -> bool:
    """Whether an object of the kind is not sent any more once its study has a newer revision."""
    return kind.partition(":")[0] != FEEDBACK


def supersede_older(
    connection: Connection, study_instance_uid: str, revision: int, *, now: datetime, kind: str = ""
) -> list[int]:
    """Stop what is not delivered of revisions before this one, feedback apart, or only `kind`; return the ids."""
    of_kind = [deliveries.c.kind == kind] if kind else []
    ids = connection.execute(
        update(deliveries)
        .where(
            deliveries.c.study_instance_uid == study_instance_uid,
            deliveries.c.revision < revision,
            deliveries.c.kind.notlike(f"{FEEDBACK}:%"),
            deliveries.c.state.in_([SCHEDULED, FAILED]),
            *of_kind,
        )
        .values(state=SUPERSEDED, reason=f"superseded by revision {revision}", updated_at=now)
        .returning(deliveries.c.id)
    )
    return sorted(ids.scalars())


def _deliveries(connection: Connection, statement: Any) -> list[Delivery]:
    return [Delivery(**row._mapping) for row in connection.execute(statement)]
