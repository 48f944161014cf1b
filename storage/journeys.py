"""What happened to one study, as far as rows tell: read for its timeline, written nowhere here."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.engine import Connection

from storage.site_tables import associations
from storage.tables import instances, jobs


@dataclass(frozen=True)
class Association:
    """An association that brought images of the study."""

    association_id: str
    calling_ae_title: str
    peer_address: str
    opened_at: datetime
    closed_at: datetime
    outcome: str


@dataclass(frozen=True)
class AnalysisJob:
    """The study's job. `created_at` is of its first image; `settled_at` is None before the first time it was done."""

    state: str
    attempts: int
    run_at: datetime
    reason: str
    created_at: datetime
    settled_at: datetime | None


def associations_of(connection: Connection, study_instance_uid: str) -> list[Association]:
    """Return the associations that are on record, in the order they were opened; web transfers have none."""
    ids = (
        select(instances.c.association_id)
        .where(instances.c.study_instance_uid == study_instance_uid, instances.c.association_id != "")
        .distinct()
    )
    rows = connection.execute(
        select(*(associations.c[field.name] for field in fields(Association)))
        .where(associations.c.association_id.in_(ids))
        .order_by(associations.c.opened_at, associations.c.id)
    )
    return [Association(**row._mapping) for row in rows]


def analysis_of(connection: Connection, study_instance_uid: str) -> AnalysisJob | None:
    """Return the study's analysis job; None where it has none, or it was done so long ago that it is forgotten."""
    row = connection.execute(
        select(*(jobs.c[field.name] for field in fields(AnalysisJob))).where(
            jobs.c.kind == "analyze", jobs.c.key == study_instance_uid
        )
    ).one_or_none()
    return None if row is None else AnalysisJob(**row._mapping)
