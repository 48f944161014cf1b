"""How the audit trail stands: whole when it was verified last, sealed, and taken by the repository. Cheap to ask."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.settings import Settings
from storage import audit_chain, audit_standings
from storage.audit_standings import SYSLOG, VERIFIED

UNSEALED_TOO_LONG = timedelta(minutes=10)
WAITS_TOO_LONG = timedelta(minutes=10)
VERIFIED_TOO_LONG_AGO = timedelta(hours=48)  # twice as long as it should be


@dataclass(frozen=True)
class Trail:
    """`breaks` are sentences, empty while the trail was whole; `waiting` entries have not left for the repository.

    `repository` is empty where there is none; `trouble` says why it took nothing at the last try.
    """

    verified_at: datetime | None = None
    entries: int = 0
    head_number: int = 0
    good_to: datetime | None = None
    breaks: tuple[str, ...] = ()
    broken: int = 0
    inherited: int = 0
    late: int = 0
    unsealed_since: datetime | None = None
    repository: str = ""
    waiting: int = 0
    waiting_since: datetime | None = None
    trouble: str = ""


def look(connection: Connection, settings: Settings) -> Trail:
    """Look at what upkeep left of its last verification and export."""
    verified = audit_standings.get(connection, VERIFIED)
    detail: dict[str, Any] = verified.detail if verified is not None else {}
    sent = audit_standings.get(connection, SYSLOG)
    audit = settings.audit
    backlog = audit_standings.backlog(connection, sent) if audit.syslog_host and sent is not None else None
    return Trail(
        verified_at=verified.updated_at if verified is not None else None,
        entries=int(detail.get("entries", 0)),
        head_number=int(detail.get("head_number", 0)),
        good_to=datetime.fromisoformat(detail["good_to"]) if detail.get("good_to") else None,
        breaks=tuple(detail.get("breaks", ())),
        broken=int(detail.get("broken", 0)),
        inherited=int(detail.get("inherited", 0)),
        late=int(detail.get("late", 0)),
        unsealed_since=audit_chain.unsealed_since(connection),
        repository=f"{audit.syslog_host}:{audit.syslog_port}" if audit.syslog_host else "",
        waiting=backlog.entries if backlog is not None else 0,
        waiting_since=backlog.since if backlog is not None else None,
        trouble=str(sent.detail.get("trouble", "")) if sent is not None and audit.syslog_host else "",
    )


def is_unsealed(trail: Trail, now: datetime) -> bool:
    """Whether upkeep does not seal as it should."""
    return trail.unsealed_since is not None and now - trail.unsealed_since > UNSEALED_TOO_LONG


def is_held_up(trail: Trail, now: datetime) -> bool:
    """Whether entries do not get to the repository."""
    return bool(trail.waiting) and trail.waiting_since is not None and now - trail.waiting_since > WAITS_TOO_LONG
