"""What a person tells a destination's lane: to pause, to go on, to test, to send something again. All of it audited.

Sent again is the same object, the same bytes, under the same UID.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from storage import audit, destination_states, jobs, results, studies, tables
from storage.database import Database
from storage.deliveries import (
    COMMITTED,
    DELIVERED,
    FAILED,
    SCHEDULED,
    SKIPPED,
    SUPERSEDED,
    Delivery,
    get,
    is_superseded_by_newer,
)
from storage.tables import deliveries

DELIVER = "deliver"
TEST = "destination-test"
PRIORITY = "priority"  # told anew by every revision; reports only by one that has reports
_AGAIN = (FAILED, DELIVERED, SKIPPED)
_IN_A_TRANSACTION = 50
_AT_ONCE = 500


def kind_of(destination: str) -> str:
    """Return the job kind of a destination's lane."""
    return f"{DELIVER}:{destination}"


@dataclass(frozen=True)
class Resend:
    """What became of the request; `reason` says why nothing is sent again."""

    is_sent: bool
    reason: str = ""


def pause(connection: Connection, destination: str, *, by: str, now: datetime) -> bool:
    """Have the lane send nothing more until it is resumed; False where it is paused already."""
    if not destination_states.pause(connection, destination, by=by, now=now):
        return False
    audit.record(connection, "destination_paused", actor=by, now=now, detail={"destination": destination})
    return True


def resume(connection: Connection, destination: str, *, by: str, now: datetime) -> bool:
    """Have the lane go on, and what waits in it go at once; False where it was not paused, only resting at most."""
    was_paused = destination_states.resume(connection, destination, now=now)
    hurry(connection, destination, now=now)
    audit.record(
        connection,
        "destination_resumed",
        actor=by,
        now=now,
        detail={"destination": destination, "was_paused": was_paused},
    )
    return was_paused


def hurry(connection: Connection, destination: str, *, now: datetime) -> None:
    """Let what waits for its next try there go at once: the destination answers again, or a person says so."""
    of_lane = (tables.jobs.c.kind == kind_of(destination), tables.jobs.c.state == jobs.SCHEDULED)
    # By id: two transactions that move the same jobs would else each hold what the other waits for.
    late = select(tables.jobs.c.id).where(*of_lane, tables.jobs.c.run_at > now).order_by(tables.jobs.c.id)
    ids = list(connection.execute(late.with_for_update()).scalars())
    for at in range(0, len(ids), _AT_ONCE):  # a database takes only so many parameters in a statement
        some = ids[at : at + _AT_ONCE]
        connection.execute(update(tables.jobs).where(tables.jobs.c.id.in_(some)).values(run_at=now))


def ask_test(connection: Connection, destination: str, *, by: str, now: datetime) -> None:
    """Have the deliver stage test the destination; `destination_states` tells what it found, later than `now`."""
    jobs.schedule(connection, TEST, destination, run_at=now, now=now)
    audit.record(connection, "destination_tested", actor=by, now=now, detail={"destination": destination})


def is_newest(connection: Connection, delivery: Delivery) -> bool:
    """Whether no newer revision took the place of what the delivery carries.

    A failed analysis is a revision of its own without reports: those of the one before it stay good.
    """
    if not is_superseded_by_newer(delivery.kind):
        return True
    find = results.current if delivery.kind == PRIORITY else results.conclusive
    newest = find(connection, delivery.study_instance_uid)
    return newest is None or newest.revision <= delivery.revision


def resend(connection: Connection, delivery_id: int, *, by: str, now: datetime) -> Resend:
    """Let a delivery go once more. One that waits for its next try goes at once; one that the destination has proved to
    hold, or that a newer revision took the place of, does not go."""
    delivery = get(connection, delivery_id)
    if delivery is None:
        return Resend(False, f"there is no delivery {delivery_id}")
    if delivery.state == COMMITTED:
        return Resend(False, f"delivery {delivery_id} is proved to be held by {delivery.destination}")
    if delivery.state == SUPERSEDED or not is_newest(connection, delivery):
        return Resend(False, f"delivery {delivery_id} is of an older revision; a newer one exists")
    if delivery.state in _AGAIN:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id == delivery_id)
            .values(state=SCHEDULED, reason=f"to be sent again, asked for by {by}", updated_at=now)
        )
        study = studies.get(connection, delivery.study_instance_uid)
        priority = study.priority_rank if study is not None else 0
        jobs.schedule(connection, DELIVER, str(delivery_id), run_at=now, now=now, priority=priority)
    else:
        for kind in (DELIVER, kind_of(delivery.destination)):
            jobs.hasten(connection, kind, [str(delivery_id)], run_at=now)
    audit.record(
        connection,
        "delivery_resent",
        actor=by,
        now=now,
        study_instance_uid=delivery.study_instance_uid,
        detail={"destination": delivery.destination, "kind": delivery.kind, "delivery": delivery_id},
    )
    return Resend(True)


def failed(connection: Connection, destination: str, *, limit: int) -> list[Delivery]:
    """Return deliveries that were given up at a destination, newest first."""
    found = select(deliveries.c.id).where(deliveries.c.state == FAILED, deliveries.c.destination == destination)
    newest = found.order_by(deliveries.c.updated_at.desc(), deliveries.c.id.desc()).limit(limit)
    each = [get(connection, delivery_id) for delivery_id in connection.execute(newest).scalars().all()]
    return [item for item in each if item is not None]


def resend_failed(database: Database, destination: str, *, by: str, now: datetime) -> int:
    """Let everything that was given up at a destination go once more; return how many deliveries that are.

    In transactions of its own, some deliveries each: after a night of refusals there are thousands, and an image that
    arrives meanwhile must not wait for all of them to be written.
    """
    with database.read() as connection:
        failed = list(
            connection.execute(
                select(deliveries.c.id)
                .where(deliveries.c.state == FAILED, deliveries.c.destination == destination)
                .order_by(deliveries.c.updated_at, deliveries.c.id)
            ).scalars()
        )
    sent = 0
    for at in range(0, len(failed), _IN_A_TRANSACTION):
        with database.begin() as connection:
            for delivery_id in failed[at : at + _IN_A_TRANSACTION]:
                found = get(connection, delivery_id)
                if found is not None and found.state == FAILED:  # nobody sent it again meanwhile
                    sent += resend(connection, delivery_id, by=by, now=now).is_sent
    return sent
