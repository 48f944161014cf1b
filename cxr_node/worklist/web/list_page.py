"""The worklist's page: server-rendered, readable without JavaScript, live with it."""

from collections import Counter
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from cxr_node.findings import StudyStatus
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import StudyReader
from cxr_node.worklist.web.rendering import render

PAGE_SIZE = 100

FILTERS: tuple[tuple[str, str], ...] = (
    ("", "All"),
    ("flagged", "Flagged"),
    (StudyStatus.PENDING, "Pending"),
    (StudyStatus.ANALYSED, "Analysed"),
    (StudyStatus.NOT_ANALYSED, "Not analysed"),
    (StudyStatus.FAILED, "Failed"),
)

router = APIRouter(include_in_schema=False)


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
def worklist_page(request: Request, reader: StudyReader, status: Status = "", page: PageNumber = 1) -> HTMLResponse:
    """The list as a page."""
    return _list_answer("worklist.html", request, reader.name, reader.role, status, page)


@router.get("/list")
def worklist_part(request: Request, reader: StudyReader, status: Status = "", page: PageNumber = 1) -> HTMLResponse:
    """The list without the page around it, for an open page that renews itself."""
    return _list_answer("list.html", request, reader.name, reader.role, status, page)


def _list_answer(template: str, request: Request, actor: str, role: str, status: str, page: int) -> HTMLResponse:
    services: Services = request.app.state.services
    values = _list_values(services, status, page)
    services.audit.record("worklist_read", actor=actor, role=role, studies=len(values["rows"]))
    return render(request, template, **values)


@router.get("/events")
async def events(request: Request, _: StudyReader) -> StreamingResponse:
    """Server-sent events: `changed` when the list did. They carry no data of any study."""
    services: Services = request.app.state.services
    if services.events.is_full:
        raise HTTPException(503, "too many open pages; the list is there without live rows")
    return StreamingResponse(
        services.events.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )
