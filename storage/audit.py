"""The audit trail: who did what to which study, and when. Rows are added, never changed."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from storage.tables import audit_events, insert


@dataclass(frozen=True)
class AuditEvent:
    """One entry. `actor` is a login, an AE title or a stage; `study_instance_uid` is empty where there is none."""

    id: int
    created_at: datetime
    event: str
    actor: str
    study_instance_uid: str
    detail: dict[str, Any]


_COLUMNS = [audit_events.c[field.name] for field in fields(AuditEvent)]


def record(
    connection: Connection,
    event: str,
    *,
    actor: str,
    now: datetime,
    study_instance_uid: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """Add an entry, in the transaction of what it tells of."""
    connection.execute(
        insert(connection.dialect.name, audit_events).values(
            created_at=now, event=event, actor=actor, study_instance_uid=study_instance_uid, detail=detail or {}
        )
    )


def events(connection: Connection, *, study_instance_uid: str | None = None, limit: int = 200) -> list[AuditEvent]:
    """Return the newest entries, newest first; of one study if asked."""
    statement = select(*_COLUMNS).order_by(audit_events.c.id.desc()).limit(limit)
    if study_instance_uid is not None:
        statement = statement.where(audit_events.c.study_instance_uid == study_instance_uid)
    return [AuditEvent(**row._mapping) for row in connection.execute(statement)]
