"""What came into a study up to an entry of its analysis: the trail itself tells of results, rows tell of images."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from storage.audit import AuditEvent
from storage.tables import audit_events, instances


@dataclass(frozen=True)
class Arrival:
    """Instances that one association or request brought."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    association_id: str
    instances: int
    last_at: datetime


def before(connection: Connection, event: AuditEvent, names: tuple[str, ...]) -> list[Arrival]:
    """Return what came into the study of that entry since the last entry of these names before it."""
    column, got = audit_events.c, instances.c
    previous = connection.execute(
        select(func.max(column.created_at)).where(
            column.study_instance_uid == event.study_instance_uid, column.event.in_(names), column.id < event.id
        )
    ).scalar_one()
    since = [] if previous is None else [got.received_at > previous]
    rows = connection.execute(
        select(
            func.max(got.calling_ae_title),
            func.max(got.called_ae_title),
            func.max(got.peer_address),
            got.association_id,
            func.count(),
            func.max(got.received_at),
        )
        .where(got.study_instance_uid == event.study_instance_uid, got.received_at <= event.created_at, *since)
        .group_by(got.association_id)
        .order_by(func.max(got.received_at), got.association_id)
    )
    return [Arrival(*row) for row in rows]
