"""What stands in the database as a time of day, after the clock was set back."""

from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from storage import audit, jobs
from storage.commitments import ASKED, ASKING, EXPIRED
from storage.deliveries import PROOF_ASKED
from storage.tables import audit_events, commitments, deliveries

_LOOKED_AT = 500  # newest entries of the trail: more than a start writes by the new time


def newest_time(connection: Connection) -> datetime | None:
    """Return the latest time that the audit trail was written at since the clock was last found to have been set."""
    found = audit.newest(connection, "clock_set")
    after = [audit_events.c.id > found[0].id] if found else []
    newest = select(audit_events.c.created_at).where(*after).order_by(audit_events.c.id.desc()).limit(_LOOKED_AT)
    at: datetime | None = connection.execute(select(func.max(newest.subquery().c.created_at))).scalar_one()
    return at


def set_back(connection: Connection, *, by_s: float, now: datetime) -> int:
    """Let what waits wait as long as it would have, after the clock was set back by so much; return how many jobs.

    What seems to have been asked of a destination in the time to come was asked before, and is moved along. Left as it
    is, a report that never comes would be waited for until the clock has caught up.
    """
    asked = commitments.c.state.in_((ASKING, ASKED, EXPIRED))
    for key, column, is_open in (
        (commitments.c.transaction_uid, commitments.c.asked_at, asked),
        (deliveries.c.id, deliveries.c.proof_at, deliveries.c.proof == PROOF_ASKED),
    ):
        for row in connection.execute(select(key, column).where(is_open, column > now)).all():
            at = min(row[1] - timedelta(seconds=by_s), now)
            connection.execute(update(column.table).where(key == row[0]).values({column.name: at}))
    return jobs.clock_set_back(connection, by_s=by_s, now=now)
