"""The admin's first page: how the node stands, in a sentence, and the figures behind it; renewed every few seconds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin.certificates import Certificate
from cxr_node.worklist.web.admin.condition import MISSING, READY, STARTING, Condition, Stage, gather
from cxr_node.worklist.web.admin.health_api import status_of
from cxr_node.worklist.web.admin.troubles import CERTIFICATE_DAYS, SLO_S, days_left, summary, troubles_of
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import opened_alone, render
from storage.vitals import Latency, Queue

_MARKS = {READY: "✓", STARTING: "…", MISSING: "✕"}
_KINDS = {
    "analyze": "analysis",
    "deliver": "deliveries, not yet in a lane",
    "order": "questions to the RIS",
    "upkeep": "upkeep tasks",
    "backup": "backups",
    "destination-test": "tests of destinations",
}

router = APIRouter(prefix="/admin", include_in_schema=False)


@dataclass(frozen=True)
class _Stage:
    body: Stage
    mark: str
    up: str
    seen: str


@dataclass(frozen=True)
class _Queue:
    body: Queue
    name: str
    oldest: str


@dataclass(frozen=True)
class _Speed:
    span: str
    body: Latency
    p50: str
    p95: str
    above: str
    met: bool


@dataclass(frozen=True)
class _Certificate:
    key: str
    word: str
    is_well: bool
    expires: Instant | None


@router.get("")
def health_page(request: Request, admin: Admin) -> HTMLResponse:
    """The page."""
    return render(request, "admin/health.html", **_values(request))


@router.get("/health")
def health_part(request: Request, admin: Admin) -> Response:
    """The page without what is around it, for an open page that renews itself."""
    return opened_alone(request, "/admin") or render(request, "admin/health_part.html", **_values(request))


def _values(request: Request) -> dict[str, Any]:
    services: Services = request.app.state.services
    condition = gather(services)
    troubles = troubles_of(condition)
    zone = services.zone
    return {
        "status": status_of(troubles),
        "sentence": summary(troubles),
        "troubles": troubles,
        "as_of": present.instant(condition.at, zone, condition.at),
        "stages": [_stage(stage, condition.at) for stage in condition.stages],
        "queues": [_queue(queue, condition.at) for queue in condition.queues],
        "pending": present.duration(condition.at - condition.oldest_pending_at) if condition.oldest_pending_at else "",
        "speeds": [_speed("Last hour", condition.hour), _speed("Last 24 hours", condition.day)],
        "slo_s": SLO_S,
        "room": _room(condition),
        "backup": _backup(condition, zone),
        "certificates": [_certificate(item, condition.at, zone) for item in condition.certificates],
        "tested": _instant(condition.self_test_at, zone, condition.at),
        "condition": condition,
    }


def _backup(condition: Condition, zone: ZoneInfo) -> str:
    backup = condition.backup
    last = "" if backup.made_at is None else f"last {present.instant(backup.made_at, zone, condition.at).text}"
    if backup.every is None:
        here = "not set up here (upkeep.backup_dir is empty): save database and images by the means of the site"
        return f"{here} ({last} by hand)" if last else here
    told = last or "none yet"
    return f"failed; {told}" if backup.failed_at is not None else told


def _instant(at: datetime | None, zone: ZoneInfo, now: datetime) -> Instant | None:
    return None if at is None else present.instant(at, zone, now)


def _stage(stage: Stage, now: datetime) -> _Stage:
    return _Stage(
        stage,
        _MARKS[stage.state],
        up="" if stage.up_since is None else present.duration(now - stage.up_since),
        seen="" if stage.seen_at is None else f"{max(0, int((now - stage.seen_at).total_seconds()))} s ago",
    )


def _queue(queue: Queue, now: datetime) -> _Queue:
    lane = queue.kind.removeprefix("deliver:")
    name = f"deliveries to {lane}" if lane != queue.kind else _KINDS.get(queue.kind, queue.kind)
    oldest = "" if queue.oldest_due_at is None else present.duration(now - queue.oldest_due_at)
    return _Queue(queue, present.shown(name), oldest)


def _speed(span: str, body: Latency) -> _Speed:
    if body.p50_s is None or body.p95_s is None or body.above_1_s is None:
        return _Speed(span, body, "–", "–", "–", True)
    above = f"{body.above_1_s * 100:.1f} %"
    return _Speed(span, body, f"{body.p50_s:.2f} s", f"{body.p95_s:.2f} s", above, body.p95_s <= SLO_S)


def _room(condition: Condition) -> list[tuple[str, str]]:
    disk = condition.disk
    rows = [("Database", f"{condition.database}, {condition.database_bytes / 1e6:,.1f} MB")]
    if disk is not None:
        days = disk.days_left
        lasts = "too little came in the last 24 hours to tell" if days is None else _lasts(days)
        rows = [
            ("Free for images", f"{disk.free / 1e9:,.1f} of {disk.total / 1e9:,.1f} GB"),
            ("Images are refused below", f"{disk.minimum / 1e9:g} GB"),
            ("Lasts at the rate of today", lasts),
            *rows,
        ]
    return rows


def _lasts(days: float) -> str:
    told = "more than a year" if days > 365 else f"{days:.1f} days" if days < 10 else f"{days:.0f} days"
    return f"{told}, if nothing is deleted"


def _certificate(item: Certificate, now: datetime, zone: ZoneInfo) -> _Certificate:
    if item.expires_at is None:
        return _Certificate(item.key, item.problem, False, None)
    expires = present.instant(item.expires_at, zone, now)
    if item.expires_at <= now:
        return _Certificate(item.key, "expired", False, expires)
    left = days_left(item.expires_at, now)
    return _Certificate(item.key, f"{left:,} days left", left >= CERTIFICATE_DAYS, expires)
