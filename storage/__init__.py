"""What survives a restart: instances, jobs, results, audit trail. Knows no radiology and no AI.

Functions take an open `Connection`; the caller owns the transaction, so what must appear together does::

    with database.begin() as connection:
        instances.add(connection, ...)
        jobs.schedule(connection, "analyze", study_instance_uid, run_at=due, now=now)
"""

from storage import (
    audit,
    backfills,
    commitments,
    deliveries,
    destination_states,
    errors,
    feedback,
    instances,
    jobs,
    lanes,
    manifests,
    messages,
    orders,
    results,
    sessions,
    studies,
    tokens,
    users,
)
from storage.database import Database
from storage.doorbell import Bell, Doorbell
from storage.files import InstanceFiles

__all__ = [
    "Bell",
    "Database",
    "Doorbell",
    "InstanceFiles",
    "audit",
    "backfills",
    "commitments",
    "deliveries",
    "destination_states",
    "errors",
    "feedback",
    "instances",
    "jobs",
    "lanes",
    "manifests",
    "messages",
    "orders",
    "results",
    "sessions",
    "studies",
    "tokens",
    "users",
]
