"""Instances: what was received, from whom, and where its bytes lie."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.engine import Connection

from storage.errors import DuplicateInstance
from storage.tables import insert, instances


@dataclass(frozen=True)
class Instance:
    """One received object. `variant` 0 is the instance; above 0 are other objects under the same UID, kept apart."""

    id: int
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    variant: int
    size: int
    location: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    association_id: str
    received_at: datetime


_COLUMNS = [instances.c[field.name] for field in fields(Instance)]
_PRESENT = instances.c.deleted_at.is_(None)


def add(
    connection: Connection,
    *,
    sop_instance_uid: str,
    series_instance_uid: str,
    study_instance_uid: str,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    variant: int,
    size: int,
    location: str,
    calling_ae_title: str,
    called_ae_title: str,
    peer_address: str,
    association_id: str,
    received_at: datetime,
) -> Instance:
    """Make the row of an object whose bytes are durable.

    Raises
    ------
    DuplicateInstance
        (sop_instance_uid, variant) has a row. The transaction stays usable, on PostgreSQL too.
    """
    values = {
        "sop_instance_uid": sop_instance_uid,
        "series_instance_uid": series_instance_uid,
        "study_instance_uid": study_instance_uid,
        "sop_class_uid": sop_class_uid,
        "transfer_syntax_uid": transfer_syntax_uid,
        "variant": variant,
        "size": size,
        "location": location,
        "calling_ae_title": calling_ae_title,
        "called_ae_title": called_ae_title,
        "peer_address": peer_address,
        "association_id": association_id,
        "received_at": received_at,
    }
    row_id = connection.execute(_addition(connection.dialect.name, tuple(values)), values).scalar_one_or_none()
    if row_id is None:
        raise DuplicateInstance(f"an instance with this SOP Instance UID and variant {variant} is stored")
    return Instance(id=row_id, **values)  # type: ignore[arg-type]


@cache
def _addition(dialect: str, names: tuple[str, ...]) -> Any:
    """Return the statement, put together once for all images."""
    return (
        insert(dialect, instances)
        .values({name: bindparam(name) for name in names})
        .on_conflict_do_nothing(
            index_elements=[instances.c.sop_instance_uid, instances.c.variant],
            index_where=text("deleted_at IS NULL"),
        )
        .returning(instances.c.id)
    )


def by_sop_instance_uid(connection: Connection, sop_instance_uid: str) -> list[Instance]:
    """Return the instance and its variants, by variant."""
    return _instances(
        connection,
        select(*_COLUMNS)
        .where(instances.c.sop_instance_uid == sop_instance_uid, _PRESENT)
        .order_by(instances.c.variant),
    )


def of_study(connection: Connection, study_instance_uid: str) -> list[Instance]:
    """Return everything received of a study, variants included, in the order of arrival."""
    return _instances(
        connection,
        select(*_COLUMNS)
        .where(instances.c.study_instance_uid == study_instance_uid, _PRESENT)
        .order_by(instances.c.id),
    )


def older_than(connection: Connection, before: datetime, limit: int) -> list[Instance]:
    """Return instances received before that time and not deleted, oldest first."""
    return _instances(
        connection,
        select(*_COLUMNS)
        .where(instances.c.received_at < before, _PRESENT)
        .order_by(instances.c.received_at)
        .limit(limit),
    )


def mark_deleted(connection: Connection, ids: Collection[int], *, now: datetime) -> int:
    """Retention takes the bytes away: the rows stay as the record, and no function here returns them any more.

    Commit before the files are removed: a row must not name a file that is gone.
    """
    return connection.execute(
        update(instances).where(instances.c.id.in_(list(ids)), _PRESENT).values(deleted_at=now)
    ).rowcount


def known_locations(connection: Connection, locations: Sequence[str]) -> set[str]:
    """Return those of `locations` that a row names; the others are what a crash left."""
    found = connection.execute(select(instances.c.location).where(instances.c.location.in_(list(locations)), _PRESENT))
    return set(found.scalars())


def _instances(connection: Connection, statement: Any) -> list[Instance]:
    return [Instance(**row._mapping) for row in connection.execute(statement)]
