"""Destinations as pages: how each stands, and test, pause, resume, send again. Shares its deeds with the API."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.access import shown_url
from cxr_node.settings import Destination
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import destinations_api, present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.destinations_api import DestinationBody
from cxr_node.worklist.web.present import DeliveryRow, Instant
from cxr_node.worklist.web.rendering import render
from storage import deliveries, lanes
from storage.deliveries import FAILED

TEST_WAIT_S = 10.0
SHOWN = 100

router = APIRouter(prefix="/admin/destinations", include_in_schema=False)

Name = Annotated[str, Path(max_length=200)]
# What the page says after a deed; the address holds the key only, so nobody can put words into it.
_SAID = {
    "tested": "The test is done: see Last test.",
    "asked": "The test is asked for. The stage that sends has not answered yet; load the page again in a moment.",
    "paused": "Paused. What comes waits until it is resumed.",
    "resumed": "Resumed. What waited is sent now.",
    "resent": "Sent again. It may take a moment until it has arrived.",
}
_MARKS = {"sending": "✓", "resting": "!", "paused": "‖"}


@dataclass(frozen=True)
class _Row:
    body: DestinationBody
    mark: str
    address: str
    objects: str
    success: Instant | None
    failure: Instant | None
    resting_until: Instant | None
    tested: Instant | None
    href: str


@dataclass(frozen=True)
class _Failed:
    id: int
    study: str
    href: str
    row: DeliveryRow


@router.get("")
def destinations_page(
    request: Request, admin: Admin, said: str = Query("", max_length=20), of: str = Query("", max_length=200)
) -> HTMLResponse:
    """All destinations."""
    services: Services = request.app.state.services
    by_name = {item.name: item for item in services.settings.destination}
    rows = [_row(services, body, by_name[body.name]) for body in destinations_api.bodies(services).destinations]
    told = f"{of}: {_SAID[said]}" if said in _SAID and of in by_name else ""
    return render(request, "admin/destinations.html", rows=rows, told=present.shown(told))


@router.post("/{name}/test")
def test_destination(request: Request, admin: Admin, name: Name) -> RedirectResponse:
    """Nothing is delivered by it."""
    services: Services = request.app.state.services
    destinations_api.named(services, name)
    done = destinations_api.test(services, name, by=admin.name, wait_s=TEST_WAIT_S)
    return _back(name, "tested" if done else "asked")


@router.post("/{name}/{deed}")
def change_destination(
    request: Request, admin: Admin, name: Name, deed: Literal["pause", "resume"]
) -> RedirectResponse:
    """Obeyed by the stage that sends, over restarts too."""
    services: Services = request.app.state.services
    destinations_api.named(services, name)
    with services.database.begin() as connection:
        (lanes.pause if deed == "pause" else lanes.resume)(connection, name, by=admin.name, now=services.now())
    destinations_api.ring(services)
    return _back(name, f"{deed}d")


@router.get("/{name}/failed")
def failed_page(request: Request, admin: Admin, name: Name) -> HTMLResponse:
    """What was given up there: the page that asks before anything is sent again."""
    services: Services = request.app.state.services
    destination = destinations_api.named(services, name)
    now = services.now()
    with services.database.read() as connection:
        found = lanes.failed(connection, name, limit=SHOWN)
    rows = [
        _Failed(
            item.id,
            present.shown(item.study_instance_uid),
            "/studies/" + quote(item.study_instance_uid, safe=""),
            present.delivery(item, services.zone, now),
        )
        for item in found
    ]
    body = destinations_api.body_of(services, destination)
    return render(request, "admin/failed_deliveries.html", name=name, rows=rows, body=body, most=SHOWN)


@router.post("/{name}/failed/resend")
def resend(
    request: Request, admin: Admin, name: Name, delivery: Annotated[int, Form(ge=0, le=2**31)] = 0
) -> RedirectResponse:
    """Send everything that was given up there again, or one delivery: the same objects, the same bytes."""
    services: Services = request.app.state.services
    destinations_api.named(services, name)
    now = services.now()
    if delivery == 0:
        lanes.resend_failed(services.database, name, by=admin.name, now=now)
    else:
        with services.database.begin() as connection:
            found = deliveries.get(connection, delivery)
            if found is None or found.destination != name or found.state != FAILED:
                raise HTTPException(409, f"delivery {delivery} to {name} is not given up; load the page again")
            done = lanes.resend(connection, delivery, by=admin.name, now=now)
        if not done.is_sent:
            raise HTTPException(409, done.reason)
    destinations_api.ring(services)
    return _back(name, "resent")


def _back(name: str, said: str) -> RedirectResponse:
    return RedirectResponse(f"/admin/destinations?said={said}&of={quote(name, safe='')}", status_code=303)


def _row(services: Services, body: DestinationBody, destination: Destination) -> _Row:
    now, zone = services.now(), services.zone

    def told(at: object) -> Instant | None:
        return None if at is None else present.instant(at, zone, now)  # type: ignore[arg-type]

    return _Row(
        body=body,
        mark=_MARKS[body.state],
        address=_address(destination),
        objects=", ".join(kind.upper() if kind != "priority" else kind for kind in body.sends),
        success=told(body.last_success_at),
        failure=told(body.last_failure_at),
        resting_until=told(body.resting_until) if body.state == "resting" else None,
        tested=told(body.last_test_at),
        href="/admin/destinations/" + quote(body.name, safe=""),
    )


def _address(destination: Destination) -> str:
    if destination.path or destination.url:
        return destination.path or shown_url(destination.url)
    place = f"{destination.host}:{destination.port}"
    return f"{destination.ae_title}@{place}" if destination.ae_title.strip() else place
