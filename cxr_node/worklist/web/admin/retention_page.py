"""What is kept and for how long, how much there is, and what goes next. Deletes nothing: upkeep does, by the rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import render
from storage import audit, holdings
from storage.holdings import Images, Rows

router = APIRouter(prefix="/admin/retention", include_in_schema=False)


@dataclass(frozen=True)
class _Counted:
    at: datetime
    held: Images
    due: Images
    soon: Images
    rows: dict[str, Rows]


@dataclass(frozen=True)
class _Line:
    what: str
    how_long: str
    number: int
    oldest: Instant | None


@router.get("")
def retention_page(request: Request, admin: Admin) -> HTMLResponse:
    """Counted at most once a minute."""
    services: Services = request.app.state.services
    counted = request.app.state.kept.get("retention", lambda: _count(services))
    zone, now = services.zone, services.now()
    with services.database.read() as connection:
        state, ran_at = holdings.last_run(connection, "upkeep", "retention")
        deleted = audit.newest(connection, "instances_deleted")

    def instant(at: datetime | None) -> Instant | None:
        return None if at is None else present.instant(at, zone, now)

    days = services.settings.upkeep.retention_days
    oldest = counted.held.oldest_at
    return render(
        request,
        "admin/retention.html",
        days=days,
        held=counted.held,
        held_size=size(counted.held.bytes),
        oldest=instant(oldest),
        due=counted.due,
        due_size=size(counted.due.bytes),
        soon=counted.soon.number - counted.due.number,
        soon_size=size(counted.soon.bytes - counted.due.bytes),
        next_at=instant(oldest + timedelta(days=days)) if days and oldest is not None else None,
        is_overdue=bool(days and oldest is not None and oldest + timedelta(days=days) <= now),
        state=state,
        ran=instant(ran_at),
        last_deletion=(instant(deleted[0].created_at), deleted[0].detail.get("instances", "?")) if deleted else None,
        lines=[
            _Line(what, how_long, sum(counted.rows[name].number for name in names), instant(_oldest(counted, names)))
            for what, how_long, names in _rules(services)
        ],
        counted_at=present.instant(counted.at, zone, now),
    )


def size(number: int) -> str:
    """Return bytes in words."""
    value, unit = float(max(0, number)), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _count(services: Services) -> _Counted:
    now = services.now()
    days = services.settings.upkeep.retention_days
    nothing = Images(0, 0, None)
    with services.database.read() as connection:
        held = holdings.images(connection)
        due = holdings.images(connection, before=now - timedelta(days=days)) if days else nothing
        soon = holdings.images(connection, before=now - timedelta(days=days - 1)) if days else nothing
        return _Counted(now, held, due, soon, holdings.rows(connection))


def _rules(services: Services) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    settings = services.settings
    orders = f"{settings.orders.retain_days:g} days (orders.retain_days)"
    associations = f"{settings.upkeep.association_days:g} days (upkeep.association_days)"
    return (
        ("Studies, with name and ID of the patient", "for good", ("studies",)),
        ("Results and reports", "for good: they are the record of what was said", ("results", "objects")),
        ("Scores of each image and model", "for good: drift and comparisons rest on them", ("predictions",)),
        ("Age, sex, view and gray values of each image", "for good: monitoring rests on them", ("measures",)),
        ("What readers said", "for good", ("feedback",)),
        ("Deliveries", "for good", ("deliveries",)),
        ("Audit trail", "for good: nothing here deletes it", ("audit",)),
        ("Orders, HL7 messages and announcements", orders, ("orders", "messages", "manifests")),
        ("Associations and callers turned away", associations, ("associations", "rejected")),
        ("Log-in attempts", associations, ("logins",)),
        ("Images that were tried", f"{settings.worklist.drop.keep_min:g} minutes (worklist.drop.keep_min)", ("drops",)),
    )


def _oldest(counted: _Counted, names: tuple[str, ...]) -> datetime | None:
    return min((at for name in names if (at := counted.rows[name].oldest_at) is not None), default=None)
