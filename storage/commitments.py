"""Storage commitment: the transactions that the node asked for, and those that it was asked for.

A transaction of the node's own is about one delivery:

ASKING     about to be asked: whether the peer heard of it is not known
ASKED      the peer took the request and owes a report
EXPIRED    no report came in time; one that comes late still counts
COMMITTED  the peer reported that it keeps the object
FAILED     the peer reported that it does not; `failure_reason` tells why
CLOSED     nobody waits for it any more: what it was about is settled, or is asked anew
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from storage import jobs
from storage.tables import commitment_requests, commitments, deliveries, insert

ASKING = "ASKING"
ASKED = "ASKED"
EXPIRED = "EXPIRED"
COMMITTED = "COMMITTED"
FAILED = "FAILED"
CLOSED = "CLOSED"
_UNANSWERED = (ASKING, ASKED, EXPIRED)

CLASS_INSTANCE_CONFLICT = 0x0119  # (0008,1197) Failure Reason, PS3.3 C.14.1.1


@dataclass(frozen=True)
class Commitment:
    """One transaction that the node asked for."""

    transaction_uid: str
    delivery_id: int
    destination: str
    state: str
    failure_reason: int | None
    asked_at: datetime
    answered_at: datetime | None


@dataclass(frozen=True)
class CommitmentRequest:
    """One transaction that the node was asked for. `items` are pairs of SOP class and SOP Instance UID, as asked;
    `reason` tells what keeps its report from getting out."""

    id: int
    transaction_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    items: list[list[str]]
    created_at: datetime
    reported_at: datetime | None
    reason: str


_COMMITMENT = [commitments.c[field.name] for field in fields(Commitment)]
_REQUEST = [commitment_requests.c[field.name] for field in fields(CommitmentRequest)]


def begin(connection: Connection, transaction_uid: str, *, delivery_id: int, destination: str, now: datetime) -> None:
    """Write a transaction down before the peer hears of it: its report may come before its answer."""
    connection.execute(
        insert(connection.dialect.name, commitments).values(
            transaction_uid=transaction_uid,
            delivery_id=delivery_id,
            destination=destination,
            state=ASKING,
            asked_at=now,
        )
    )


def get(connection: Connection, transaction_uid: str, *, lock: bool = False) -> Commitment | None:
    """Return the transaction, or None. With `lock` nobody else changes it until the end of this transaction."""
    statement = select(*_COMMITMENT).where(commitments.c.transaction_uid == transaction_uid)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else Commitment(**row._mapping)


def of_delivery(connection: Connection, delivery_id: int) -> list[Commitment]:
    """Return the delivery's transactions, oldest first."""
    rows = connection.execute(
        select(*_COMMITMENT)
        .where(commitments.c.delivery_id == delivery_id)
        .order_by(commitments.c.asked_at, commitments.c.transaction_uid)
    )
    return [Commitment(**row._mapping) for row in rows]


def set_unanswered(connection: Connection, transaction_uid: str, state: str) -> bool:
    """Move a transaction without a report to ASKED, EXPIRED or CLOSED; False where a report has come."""
    return (
        connection.execute(
            update(commitments)
            .where(commitments.c.transaction_uid == transaction_uid, commitments.c.state.in_(_UNANSWERED))
            .values(state=state)
        ).rowcount
        == 1
    )


def report(
    connection: Connection,
    transaction_uid: str,
    *,
    succeeded: Collection[tuple[str, str]],
    failed: Mapping[tuple[str, str], int],
    now: datetime,
) -> Commitment | None:
    """Keep what the peer reported, and wake whoever waits for it: job ``prove:DESTINATION`` of the delivery.

    Parameters
    ----------
    succeeded, failed : pairs of SOP class and SOP Instance UID; of those that failed, the reason

    Returns
    -------
    Commitment or None
        The transaction as it is now; None where nobody waits for this: the transaction is unknown, answered before or
        closed, or the report does not name the object that it was about.
    """
    about = connection.execute(
        select(deliveries.c.sop_class_uid, deliveries.c.sop_instance_uid)
        .join(commitments, commitments.c.delivery_id == deliveries.c.id)
        .where(commitments.c.transaction_uid == transaction_uid)
    ).one_or_none()
    if about is None:
        return None
    reasons = {uid: reason for (_, uid), reason in failed.items()}
    classes = {uid: sop_class_uid for sop_class_uid, uid in succeeded}
    if about.sop_instance_uid in reasons:
        failure_reason: int | None = reasons[about.sop_instance_uid]
    elif about.sop_instance_uid in classes:
        is_same = classes[about.sop_instance_uid] == about.sop_class_uid
        failure_reason = None if is_same else CLASS_INSTANCE_CONFLICT
    else:
        return None
    row = connection.execute(
        update(commitments)
        .where(commitments.c.transaction_uid == transaction_uid, commitments.c.state.in_(_UNANSWERED))
        .values(
            state=COMMITTED if failure_reason is None else FAILED,
            failure_reason=failure_reason,
            answered_at=now,
        )
        .returning(*_COMMITMENT)
    ).one_or_none()
    if row is None:
        return None
    found = Commitment(**row._mapping)
    jobs.schedule(connection, f"prove:{found.destination}", str(found.delivery_id), run_at=now, now=now)
    return found


def close(connection: Connection, delivery_id: int) -> None:
    """Wait for none of the delivery's transactions any more: a report of one changes nothing."""
    connection.execute(
        update(commitments)
        .where(commitments.c.delivery_id == delivery_id, commitments.c.state != CLOSED)
        .values(state=CLOSED)
    )


def add_request(
    connection: Connection,
    transaction_uid: str,
    *,
    calling_ae_title: str,
    called_ae_title: str,
    peer_address: str,
    items: Sequence[tuple[str, str]],
    now: datetime,
) -> CommitmentRequest:
    """Keep what the node was asked for; the request there is, where this AE used the transaction UID before."""
    connection.execute(
        insert(connection.dialect.name, commitment_requests)
        .values(
            transaction_uid=transaction_uid,
            calling_ae_title=calling_ae_title,
            called_ae_title=called_ae_title,
            peer_address=peer_address,
            items=[list(item) for item in items],
            created_at=now,
        )
        .on_conflict_do_nothing(
            index_elements=[commitment_requests.c.transaction_uid, commitment_requests.c.calling_ae_title]
        )
    )
    return _requests(
        connection,
        select(*_REQUEST).where(
            commitment_requests.c.transaction_uid == transaction_uid,
            commitment_requests.c.calling_ae_title == calling_ae_title,
        ),
    )[0]


def get_request(connection: Connection, request_id: int) -> CommitmentRequest | None:
    """Return the request, or None."""
    found = _requests(connection, select(*_REQUEST).where(commitment_requests.c.id == request_id))
    return found[0] if found else None


def unreported(
    connection: Connection, calling_ae_titles: Collection[str], limit: int = 1000
) -> list[CommitmentRequest]:
    """Return requests of these AEs whose report did not get out yet, oldest first."""
    return _requests(
        connection,
        select(*_REQUEST)
        .where(
            commitment_requests.c.reported_at.is_(None),
            commitment_requests.c.calling_ae_title.in_(list(calling_ae_titles)),
        )
        .order_by(commitment_requests.c.id)
        .limit(limit),
    )


def unreported_callers(connection: Connection) -> list[str]:
    """Return the AE titles that wait for a report."""
    return sorted(
        connection.execute(
            select(commitment_requests.c.calling_ae_title).where(commitment_requests.c.reported_at.is_(None)).distinct()
        ).scalars()
    )


def set_report(connection: Connection, request_id: int, *, reported_at: datetime | None, reason: str) -> None:
    """Write down that the report got out, or what keeps it."""
    connection.execute(
        update(commitment_requests)
        .where(commitment_requests.c.id == request_id)
        .values(reported_at=reported_at, reason=reason)
    )


def forget_requests(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove old requests, those that could not be reported too; return how many. Looks at the `limit` oldest only."""
    oldest = connection.execute(
        select(commitment_requests.c.id, commitment_requests.c.created_at)
        .order_by(commitment_requests.c.id)
        .limit(limit)
    )
    ids = [row.id for row in oldest if row.created_at < before]
    if not ids:
        return 0
    return connection.execute(delete(commitment_requests).where(commitment_requests.c.id.in_(ids))).rowcount


def _requests(connection: Connection, statement: Any) -> list[CommitmentRequest]:
    return [CommitmentRequest(**row._mapping) for row in connection.execute(statement)]
