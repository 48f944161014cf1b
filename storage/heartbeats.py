"""The last sign of life of every process of the node, and what it says of itself.

A process that ends takes its row with it; one that was killed leaves it, with the time it was last seen.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from storage.site_tables import heartbeats
from storage.tables import insert


@dataclass(frozen=True)
class Heartbeat:
    """One process. `process` names it, host and process id; `detail` is what its stage says of itself."""

    stage: str
    process: str
    started_at: datetime
    seen_at: datetime
    detail: dict[str, Any]


_COLUMNS = [heartbeats.c[field.name] for field in fields(Heartbeat)]


def beat(
    connection: Connection, stage: str, process: str, *, started_at: datetime, now: datetime, detail: dict[str, Any]
) -> None:
    """Say that a process lives."""
    values = {"started_at": started_at, "seen_at": now, "detail": detail}
    connection.execute(
        insert(connection.dialect.name, heartbeats)
        .values(stage=stage, process=process, **values)
        .on_conflict_do_update(index_elements=[heartbeats.c.stage, heartbeats.c.process], set_=values)
    )


def announce(connection: Connection, stage: str, process: str, *, now: datetime, detail: dict[str, Any]) -> None:
    """Say for a process that it was started; what it has said itself by then stays."""
    values = {"stage": stage, "process": process, "started_at": now, "seen_at": now, "detail": detail}
    connection.execute(insert(connection.dialect.name, heartbeats).values(values).on_conflict_do_nothing())


def end(connection: Connection, stage: str, process: str) -> None:
    """Take a process off the list: it ends as it should."""
    connection.execute(delete(heartbeats).where(heartbeats.c.stage == stage, heartbeats.c.process == process))


def listed(connection: Connection) -> list[Heartbeat]:
    """Return every process, by stage, the one that was seen last first."""
    order = (heartbeats.c.stage, heartbeats.c.seen_at.desc(), heartbeats.c.process)
    return [Heartbeat(**row._mapping) for row in connection.execute(select(*_COLUMNS).order_by(*order).limit(1000))]


def forget(connection: Connection, *, before: datetime) -> int:
    """Remove processes without a sign of life since that time; return how many."""
    return connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < before)).rowcount
