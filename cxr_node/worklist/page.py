"""The pages: server-rendered, readable without JavaScript, live with it."""

from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

import pydicom
from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node import __version__
from cxr_node.findings import StudyStatus
from cxr_node.settings import Settings
from cxr_node.worklist import present
from cxr_node.worklist.access import COOKIE, COOKIE_AGE_S, CurrentReader, local_target
from cxr_node.worklist.listing import Entry
from cxr_node.worklist.services import Services
from storage import results, tokens
from storage.errors import StorageError

PAGE_SIZE = 100
MOST_FORM_BYTES = 4096
TEMPLATES = Path(__file__).parent / "templates"

FILTERS: tuple[tuple[str, str], ...] = (
    ("", "All"),
    ("flagged", "Flagged"),
    (StudyStatus.PENDING, "Pending"),
    (StudyStatus.ANALYSED, "Analysed"),
    (StudyStatus.NOT_ANALYSED, "Not analysed"),
    (StudyStatus.FAILED, "Failed"),
)

router = APIRouter(include_in_schema=False)
_environment = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(name: str, settings: Settings, **values: Any) -> str:
    """Return a page; every value is escaped."""
    return _environment.get_template(name).render(
        banner=present.BANNER,
        station=settings.node.station_name,
        profile=settings.node.profile,
        version=__version__,
        **values,
    )


def _list_values(services: Services, status: str, page: int) -> dict[str, Any]:
    found = services.listing.studies()
    counts = Counter(study.status for study in found)
    counts[""], counts["flagged"] = len(found), sum(study.flagged for study in found)
    if status == "flagged":
        found = [study for study in found if study.flagged]
    elif status:
        found = [study for study in found if study.status == status]
    pages = max(1, -(-len(found) // PAGE_SIZE))
    page = min(page, pages)
    first = (page - 1) * PAGE_SIZE
    entries = services.listing.entries(found[first : first + PAGE_SIZE])
    now, worklist = services.now(), services.settings.worklist
    return {
        "rows": [present.row(entry, services.zone, worklist.viewer_url, now) for entry in entries],
        "filters": [(name, label, counts[name], _query(name, 1)) for name, label in FILTERS],
        "status": status,
        "total": len(found),
        "first": first,
        "page": page,
        "pages": pages,
        "query": _query,
        "max_wait_min": worklist.max_wait_min,
        "has_viewer": bool(present.viewer_link(worklist.viewer_url, "1")),
        "as_of": present.instant(now, services.zone, now),
        "time_zone": worklist.time_zone,
    }


def _query(status: str, page: int) -> str:
    values = {name: value for name, value in (("status", status), ("page", page if page > 1 else "")) if value}
    return f"?{urlencode(values)}" if values else "?"


Status = Annotated[str, Query(pattern="^(flagged|pending|analysed|not_analysed|failed|)$")]
PageNumber = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/")
def worklist_page(request: Request, reader: CurrentReader, status: Status = "", page: PageNumber = 1) -> HTMLResponse:
    """The list as a page."""
    return _list_answer("worklist.html", request, reader.name, reader.role, status, page)


@router.get("/list")
def worklist_part(request: Request, reader: CurrentReader, status: Status = "", page: PageNumber = 1) -> HTMLResponse:
    """The list without the page around it, for an open page that renews itself."""
    return _list_answer("list.html", request, reader.name, reader.role, status, page)


def _list_answer(template: str, request: Request, actor: str, role: str, status: str, page: int) -> HTMLResponse:
    services: Services = request.app.state.services
    values = _list_values(services, status, page)
    services.audit.record("worklist_read", actor=actor, role=role, studies=len(values["rows"]))
    return HTMLResponse(render(template, services.settings, signed_in=COOKIE in request.cookies, **values))


@router.get("/studies/{study_instance_uid:path}")
def study_page(request: Request, reader: CurrentReader, study_instance_uid: str) -> HTMLResponse:
    """One study with everything the node did for it."""
    services: Services = request.app.state.services
    entry = services.listing.entry(study_instance_uid)
    if entry is None:
        raise HTTPException(404, "no image of a study with this Study Instance UID was received")
    services.audit.record(
        "study_read", actor=reader.name, study_instance_uid=study_instance_uid, role=reader.role, by="page"
    )
    revisions, deliveries = services.listing.revisions(study_instance_uid)
    now, zone = services.now(), services.zone
    return HTMLResponse(
        render(
            "study.html",
            services.settings,
            signed_in=COOKIE in request.cookies,
            row=present.row(entry, zone, services.settings.worklist.viewer_url, now),
            entry=entry,
            context={name: present.shown(value) for name, value in vars(entry.study.context).items()},
            findings=_shown_items(entry, "findings"),
            exclusions=_shown_items(entry, "exclusions"),
            notes=[present.shown(note) for note in (entry.result.outcome.get("notes") or [])] if entry.result else [],
            deliveries=[present.delivery(item, zone, now) for item in reversed(deliveries)],
            revisions=[
                (item, present.status_word(item.status), present.instant(item.created_at, zone, now))
                for item in reversed(revisions)
            ],
            last_received=present.instant(entry.study.last_received_at, zone, now),
            notified=present.instant(entry.study.notified_at, zone, now) if entry.study.notified_at else None,
            report=report_text(services, entry),
            shows_probability=services.settings.node.profile == "research",
        )
    )


def _shown_items(entry: Entry, part: str) -> list[dict[str, Any]]:
    return [
        {name: present.shown(value) if isinstance(value, str) else value for name, value in item.items()}
        for item in entry.of_outcome(part)
    ]


def report_text(services: Services, entry: Entry) -> str:
    """Return the current report as text, empty where there is none.

    In profile `triage` its numbers are left out: what a triage device shows is the case and its priority.
    """
    if entry.result is None:
        return ""
    from cxr_node.reporting import render_text  # takes a second that the list need not wait for

    with services.database.read() as connection:
        stored = [item for item in results.objects(connection, entry.result.id) if item.kind == "sr"]
    if not stored:
        return ""
    try:
        report = pydicom.dcmread(BytesIO(services.files.read(stored[0].location)))
    except (StorageError, OSError, InvalidDicomError):
        return ""
    if services.settings.node.profile != "research":
        _without(report, lambda item: item.get("ValueType") == "NUM")
    return str(render_text(report))


def _without(item: Dataset, is_left_out: Callable[[Dataset], bool]) -> None:
    if "ContentSequence" in item:
        item.ContentSequence = [child for child in item.ContentSequence if not is_left_out(child)]
        for child in item.ContentSequence:
            _without(child, is_left_out)


@router.get("/events")
async def events(request: Request, _: CurrentReader) -> StreamingResponse:
    """Server-sent events: `changed` when the list did. They carry no data of any study."""
    services: Services = request.app.state.services
    if services.events.is_full:
        raise HTTPException(503, "too many open pages; the list is there without live rows")
    return StreamingResponse(
        services.events.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


@router.get("/login")
def login_page(request: Request, target: Annotated[str, Query(alias="next")] = "/") -> HTMLResponse:
    """The form that asks for a token."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    return HTMLResponse(
        render("login.html", services.settings, signed_in=False, target=local_target(target), failed=False)
    )


@router.post("/login")
async def login(request: Request) -> Response:
    """Keep the token in a cookie that no script can read and no other site can send."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    form = parse_qs((await _body(request)).decode("utf-8", "replace"))
    secret, target = form.get("token", [""])[0].strip(), local_target(form.get("next", ["/"])[0])
    with services.database.read() as connection:
        token = tokens.find(connection, secret) if secret else None
    if token is None:
        page = render("login.html", services.settings, signed_in=False, target=target, failed=True)
        return HTMLResponse(page, status_code=401)
    services.audit.record("signed_in", actor=token.name, role=token.role)
    answer = RedirectResponse(target, status_code=303)
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=COOKIE_AGE_S,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def logout() -> Response:
    """Forget the cookie."""
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """The API in a page, from its OpenAPI document; nothing is loaded from elsewhere."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    schema = request.app.openapi()
    return HTMLResponse(
        render(
            "docs.html",
            services.settings,
            signed_in=COOKIE in request.cookies,
            paths=schema["paths"],
            schemas=schema["components"]["schemas"],
        )
    )


async def _body(request: Request) -> bytes:
    found = b""
    async for chunk in request.stream():
        found += chunk
        if len(found) > MOST_FORM_BYTES:
            raise HTTPException(413, f"the form holds more than {MOST_FORM_BYTES} bytes")
    return found
