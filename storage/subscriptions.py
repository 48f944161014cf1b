"""Subscriptions to UPS events, and the events on their way to each receiver.

A row names a receiver and one work item, or one of the two well-known instances that stand for the whole list. The row
of a single work item takes precedence over those: with ``unsubscribed`` it says that this one is not wanted.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection

from storage.tables import insert, ups_events, ups_subscriptions


@dataclass(frozen=True)
class Subscription:
    """One row. `keys` holds what the subscription is narrowed by, in the words of whoever wrote it."""

    id: int
    ae_title: str
    sop_instance_uid: str
    keys: dict[str, Any]
    deletion_lock: bool
    created_at: datetime


@dataclass(frozen=True)
class Event:
    """An event that a receiver does not have yet; `information` is DICOM JSON."""

    id: int
    ae_title: str
    event_type: int
    sop_instance_uid: str
    information: dict[str, Any]
    created_at: datetime


_SUBSCRIPTION = [ups_subscriptions.c[field.name] for field in fields(Subscription)]
_EVENT = [ups_events.c[field.name] for field in fields(Event)]


def put(
    connection: Connection,
    ae_title: str,
    sop_instance_uid: str,
    *,
    keys: dict[str, Any],
    deletion_lock: bool,
    now: datetime,
) -> None:
    """Make the subscription, or change the one there is."""
    statement = insert(connection.dialect.name, ups_subscriptions).values(
        ae_title=ae_title, sop_instance_uid=sop_instance_uid, keys=keys, deletion_lock=deletion_lock, created_at=now
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[ups_subscriptions.c.ae_title, ups_subscriptions.c.sop_instance_uid],
            set_={"keys": statement.excluded["keys"], "deletion_lock": statement.excluded.deletion_lock},
        )
    )


def get(connection: Connection, ae_title: str, sop_instance_uid: str) -> Subscription | None:
    """Return the subscription, or None."""
    row = connection.execute(
        select(*_SUBSCRIPTION).where(
            ups_subscriptions.c.ae_title == ae_title, ups_subscriptions.c.sop_instance_uid == sop_instance_uid
        )
    ).one_or_none()
    return None if row is None else Subscription(**row._mapping)


def to_instances(connection: Connection, sop_instance_uids: Collection[str]) -> list[Subscription]:
    """Return the subscriptions to any of these, oldest first."""
    rows = connection.execute(
        select(*_SUBSCRIPTION)
        .where(ups_subscriptions.c.sop_instance_uid.in_(list(sop_instance_uids)))
        .order_by(ups_subscriptions.c.id)
    )
    return [Subscription(**row._mapping) for row in rows]


def of_receiver(connection: Connection, ae_title: str) -> list[Subscription]:
    """Return all subscriptions of a receiver, oldest first."""
    rows = connection.execute(
        select(*_SUBSCRIPTION).where(ups_subscriptions.c.ae_title == ae_title).order_by(ups_subscriptions.c.id)
    )
    return [Subscription(**row._mapping) for row in rows]


def remove(connection: Connection, ae_title: str, sop_instance_uid: str | None = None) -> int:
    """End one subscription of a receiver, all of them without a UID; return how many there were."""
    statement = delete(ups_subscriptions).where(ups_subscriptions.c.ae_title == ae_title)
    if sop_instance_uid is not None:
        statement = statement.where(ups_subscriptions.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(statement).rowcount


def receivers(connection: Connection) -> list[str]:
    """Return every AE title with a subscription, in alphabetical order."""
    titles = select(ups_subscriptions.c.ae_title).distinct().order_by(ups_subscriptions.c.ae_title)
    return list(connection.execute(titles).scalars())


def enqueue(
    connection: Connection,
    ae_title: str,
    event_type: int,
    sop_instance_uid: str,
    information: dict[str, Any],
    *,
    now: datetime,
) -> None:
    """Add an event behind those the receiver does not have yet."""
    connection.execute(
        insert(connection.dialect.name, ups_events).values(
            ae_title=ae_title,
            event_type=event_type,
            sop_instance_uid=sop_instance_uid,
            information=information,
            created_at=now,
        )
    )


def pending(connection: Connection, ae_title: str, *, limit: int) -> list[Event]:
    """Return what the receiver does not have yet, in order."""
    rows = connection.execute(
        select(*_EVENT).where(ups_events.c.ae_title == ae_title).order_by(ups_events.c.id).limit(limit)
    )
    return [Event(**row._mapping) for row in rows]


def waiting_receivers(connection: Connection) -> list[str]:
    """Return the receivers that do not have everything yet."""
    return list(connection.execute(select(ups_events.c.ae_title).distinct()).scalars())


def count_pending(connection: Connection, ae_title: str) -> int:
    """Return how many events wait for the receiver."""
    counted = select(func.count()).select_from(ups_events).where(ups_events.c.ae_title == ae_title)
    return int(connection.execute(counted).scalar_one())


def forget(connection: Connection, ids: Collection[int]) -> None:
    """Remove events that their receiver has."""
    if ids:
        connection.execute(delete(ups_events).where(ups_events.c.id.in_(list(ids))))


def give_up(connection: Connection, ae_title: str) -> int:
    """Remove everything that waits for the receiver; return how many events that was."""
    return connection.execute(delete(ups_events).where(ups_events.c.ae_title == ae_title)).rowcount
