"""The worklist's page: server-rendered, readable without JavaScript, live with it."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from cxr_node.findings import OrderedPriority
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import StudyReader
from cxr_node.worklist.web.list_query import PageQuery
from cxr_node.worklist.web.rendering import opened_alone, render

PAGE_SIZE = 100

STATES: tuple[tuple[str, str], ...] = (
    ("", "All"),
    ("flagged", "Flagged"),
    ("pending", "Pending"),
    ("not_flagged", "Not flagged"),
    ("not_analysed", "Not analysed"),
    ("failed", "Failed"),
)
READER_STATES = (
    ("", "any"),
    ("new", "new"),
    ("opened", "opened"),
    ("agreed", "agreed"),
    ("disagreed", "disagreed"),
    ("unsure", "not sure"),
)
MODALITIES = ("CR", "DX")  # of radiographs; another one is reached by its address

router = APIRouter(include_in_schema=False)


def _list_values(services: Services, query: PageQuery) -> dict[str, Any]:
    listing, wanted = services.listing, query.filter()
    page, first = query.page, (query.page - 1) * PAGE_SIZE
    found = listing.page(wanted, sort=query.by, limit=PAGE_SIZE, offset=first)
    pages = max(1, -(-found.total // PAGE_SIZE))
    if page > pages:  # of a list that has become shorter
        page, first = pages, (pages - 1) * PAGE_SIZE
        found = listing.page(wanted, sort=query.by, limit=PAGE_SIZE, offset=first)
    now, worklist = services.now(), services.settings.worklist
    counts = {"": sum(found.counts.values()), **found.counts}
    return {
        "rows": [present.row(entry, services.zone, worklist.viewer_url, now) for entry in found.entries],
        "states": [(name, label, counts[name], query.address(state=name)) for name, label in STATES],
        "query": query,
        "modalities": list(dict.fromkeys(("", *MODALITIES, query.modality.strip()))),
        "reader_states": READER_STATES,
        "priorities": ["", *OrderedPriority],
        "total": found.total,
        "first": first,
        "page": page,
        "pages": pages,
        "max_wait_min": worklist.max_wait_min,
        "has_viewer": bool(present.viewer_link(worklist.viewer_url, "1")),
        "as_of": present.instant(now, services.zone, now),
        "time_zone": worklist.time_zone,
    }


@router.get("/")
def worklist_page(request: Request, reader: StudyReader, query: Annotated[PageQuery, Query()]) -> HTMLResponse:
    """The list as a page."""
    return _list_answer("worklist.html", request, reader.name, reader.role, query)


@router.get("/list")
def worklist_part(request: Request, reader: StudyReader, query: Annotated[PageQuery, Query()]) -> Response:
    """The list without the page around it, for an open page that renews itself."""
    return opened_alone(request, "/") or _list_answer("list.html", request, reader.name, reader.role, query)


def _list_answer(template: str, request: Request, actor: str, role: str, query: PageQuery) -> HTMLResponse:
    services: Services = request.app.state.services
    values = _list_values(services, query)
    event = "worklist_searched" if query.q.strip() else "worklist_read"  # the words are a patient's name: left out
    services.audit.record(event, actor=actor, role=role, studies=len(values["rows"]))
    return render(request, template, **values)


@router.get("/events")
async def events(request: Request, reader: StudyReader) -> StreamingResponse:
    """Server-sent events: `changed` when the list did. They carry no data of any study."""
    services: Services = request.app.state.services
    if services.events.is_full:
        raise HTTPException(503, "too many open pages; the list is there without live rows")
    stream = services.events.stream(lambda: services.access.still(request, reader))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
