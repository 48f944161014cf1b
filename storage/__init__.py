"""What survives a restart: instances, jobs, results, audit trail. Knows no radiology and no AI.

Functions take an open `Connection`; the caller owns the transaction, so what must appear together does::

    with database.begin() as connection:
        instances.add(connection, ...)
        jobs.schedule(connection, "analyze", study_instance_uid, run_at=due, now=now)

A module is loaded when it is first asked for: who needs a class of errors need not load a database library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage import (
        associations,
        audit,
        audit_arrivals,
        audit_chain,
        audit_standings,
        audit_verification,
        backfills,
        callers,
        clock_changes,
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
        monitoring,
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

_CLASSES = {"Bell": "doorbell", "Database": "database", "Doorbell": "doorbell", "InstanceFiles": "files"}

__all__ = [
    "Bell",
    "Database",
    "Doorbell",
    "InstanceFiles",
    "associations",
    "audit",
    "audit_arrivals",
    "audit_chain",
    "audit_standings",
    "audit_verification",
    "backfills",
    "callers",
    "clock_changes",
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
    "monitoring",
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


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        found = getattr(importlib.import_module(f"storage.{_CLASSES[name]}"), name)
    elif name in __all__:
        found = importlib.import_module(f"storage.{name}")
    else:
        raise AttributeError(f"module 'storage' has no attribute {name!r}")
    globals()[name] = found
    return found
