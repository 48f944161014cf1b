"""What survives a restart: instances, jobs, results, audit trail. Knows no radiology and no AI.

Functions take an open `Connection`; the caller owns the transaction, so what must appear together does::

    with database.begin() as connection:
        instances.add(connection, ...)
        jobs.schedule(connection, "analyze", study_instance_uid, run_at=due, now=now)
"""

from storage import (
    associations,
    audit,
    backfills,
    callers,
    commitments,
    dead_letters,
    deliveries,
    destination_states,
    drops,
    errors,
    feedback,
    heartbeats,
    heat_maps,
    holdings,
    instances,
    jobs,
    journeys,
    lanes,
    login_attempts,
    manifests,
    messages,
    model_changes,
    orders,
    results,
    senders,
    sessions,
    statistics,
    studies,
    tokens,
    users,
    vitals,
)
from storage.database import Database
from storage.doorbell import Bell, Doorbell
from storage.files import InstanceFiles

__all__ = [
    "Bell",
    "Database",
    "Doorbell",
    "InstanceFiles",
    "associations",
    "audit",
    "backfills",
    "callers",
    "commitments",
    "dead_letters",
    "deliveries",
    "destination_states",
    "drops",
    "errors",
    "feedback",
    "heartbeats",
    "heat_maps",
    "holdings",
    "instances",
    "jobs",
    "journeys",
    "lanes",
    "login_attempts",
    "manifests",
    "messages",
    "model_changes",
    "orders",
    "results",
    "senders",
    "sessions",
    "statistics",
    "studies",
    "tokens",
    "users",
    "vitals",
]
