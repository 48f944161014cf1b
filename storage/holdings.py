"""What is kept, how much of it there is, and since when: for the page that says what goes next."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Table, func, select
from sqlalchemy.engine import Connection

from storage import monitoring_tables, site_tables, tables
from storage.tables import instances, jobs


@dataclass(frozen=True)
class Images:
    """Received files whose bytes are held."""

    number: int
    bytes: int
    oldest_at: datetime | None


@dataclass(frozen=True)
class Rows:
    """Rows of a kind."""

    number: int
    oldest_at: datetime | None


# Name → table and the time that says how old a row is.
KINDS: dict[str, tuple[Table, str]] = {
    "studies": (tables.studies, "last_received_at"),
    "results": (tables.results, "created_at"),
    "objects": (tables.result_objects, "created_at"),
    "predictions": (tables.predictions, "created_at"),
    "measures": (monitoring_tables.image_measures, "created_at"),
    "feedback": (tables.feedback, "created_at"),
    "deliveries": (tables.deliveries, "updated_at"),
    "audit": (tables.audit_events, "created_at"),
    "orders": (tables.orders, "updated_at"),
    "messages": (tables.messages, "created_at"),
    "manifests": (tables.manifests, "updated_at"),
    "associations": (site_tables.associations, "closed_at"),
    "rejected": (site_tables.rejected_callers, "last_at"),
    "logins": (site_tables.login_attempts, "created_at"),
    "drops": (site_tables.drops, "created_at"),
}


def images(connection: Connection, *, before: datetime | None = None) -> Images:
    """Return what is held, or what of it was received before that time. Walks what it counts: not for a loop."""
    conditions: list[ColumnElement[bool]] = [instances.c.deleted_at.is_(None)]
    if before is not None:
        conditions.append(instances.c.received_at < before)
    number, size = connection.execute(
        select(func.count(), func.coalesce(func.sum(instances.c.size), 0)).where(*conditions)
    ).one()
    oldest = select(instances.c.received_at).where(*conditions).order_by(instances.c.received_at).limit(1)
    return Images(int(number), int(size), connection.execute(oldest).scalar_one_or_none())


def rows(connection: Connection) -> dict[str, Rows]:
    """Return how many rows there are of each kind. The first row is taken for the oldest."""
    found = {}
    for name, (table, time) in KINDS.items():
        number = connection.execute(select(func.count()).select_from(table)).scalar_one()
        order = list(table.primary_key.columns)
        oldest = connection.execute(select(table.c[time]).order_by(*order).limit(1)).scalar_one_or_none()
        found[name] = Rows(number, oldest)
    return found


def last_run(connection: Connection, kind: str, key: str) -> tuple[str, datetime | None]:
    """Return state and time of the last end of a job, empty where it never ran."""
    row = connection.execute(
        select(jobs.c.state, jobs.c.settled_at).where(jobs.c.kind == kind, jobs.c.key == key)
    ).one_or_none()
    return ("", None) if row is None else (row.state, row.settled_at)
