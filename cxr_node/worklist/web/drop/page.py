"""The page where images are tried."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Assessor, Trier
from cxr_node.worklist.web.drop.api import FileId, desk_of, enabled, told_files
from cxr_node.worklist.web.drop.words import SORTS, ordered, totals
from cxr_node.worklist.web.permissions import Permission
from cxr_node.worklist.web.rendering import render
from storage.drops import Drop

router = APIRouter(include_in_schema=False, dependencies=[Depends(enabled)])

KeyInQuery = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{22}$")]
Sort = Annotated[str, Query(pattern=f"^({'|'.join(SORTS)})$")]


@router.get("/drop")
def drop_page(request: Request, _: Trier) -> HTMLResponse:
    """One place to drop images on."""
    services: Services = request.app.state.services
    limits = services.settings.worklist.drop
    return render(
        request,
        "drop/drop.html",
        limits=limits,
        largest=desk_of(request).largest,
        models=services.settings.analyze.models,
    )


@router.get("/drop/results")
def drop_results(request: Request, person: Trier, key: KeyInQuery, sort: Sort = "outcome") -> HTMLResponse:
    """What came of the files, for the open page that asks again and again."""
    services: Services = request.app.state.services
    drop = desk_of(request).find(person, key)
    services.audit.record("tried_images_read", actor=person.name, role=person.role)
    return _results(request, drop, sort)


@router.post("/drop/files/{file_id}/send")
def send_file(
    request: Request, person: Assessor, file_id: FileId, key: KeyInQuery, sort: Sort = "outcome"
) -> HTMLResponse:
    """Send one file to the worklist, and show the results as they are then."""
    desk = desk_of(request)
    drop = desk.find(person, key)
    desk.send(person, desk.file(drop, file_id))
    return _results(request, drop, sort)


def _results(request: Request, drop: Drop, sort: str) -> HTMLResponse:
    services: Services = request.app.state.services
    files = told_files(desk_of(request), drop)
    person = request.state.person
    waiting = sum(file.outcome == "waiting" for file in files)
    return render(
        request,
        "drop/results.html",
        drop=drop,
        files=ordered(files, sort),
        totals=totals(files),
        unsettled=waiting + sum(file.sent == "on its way" for file in files),
        waiting=waiting,
        sort=sort,
        sorts=SORTS,
        may_send=person.via != "open" and person.may(Permission.ASSESS),
        shows_numbers=services.settings.node.profile == "research",
        left_s=max(0, round((drop.expires_at - services.now()).total_seconds())),
        until=present.instant(drop.expires_at, services.zone, services.now()),
    )
