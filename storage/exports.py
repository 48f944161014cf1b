"""What an export for research asks of the tables."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.engine import Connection

from storage.tables import studies


@dataclass(frozen=True)
class Exported:
    """A study as an export needs it; `verdict` is what a reader said of the current result, or empty."""

    study_instance_uid: str
    status: str
    flagged: bool
    verdict: str


def studies_since(connection: Connection, since: datetime) -> list[str]:
    """Return every study that received something at that time or later, the oldest first, read or not."""
    rows = connection.execute(
        select(studies.c.study_instance_uid)
        .where(studies.c.last_received_at >= since)
        .order_by(studies.c.last_received_at, studies.c.id)
    )
    return list(rows.scalars())


def study(connection: Connection, study_instance_uid: str) -> Exported | None:
    """Return the study, or None."""
    columns = (studies.c.study_instance_uid, studies.c.status, studies.c.flagged, studies.c.verdict)
    row = connection.execute(select(*columns).where(studies.c.study_instance_uid == study_instance_uid)).one_or_none()
    return None if row is None else Exported(**row._mapping)
