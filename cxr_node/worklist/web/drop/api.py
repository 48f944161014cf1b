"""Trying images over HTTP: open a drop, add files, ask what came of them, clear it.

What is dropped is kept for minutes, belongs to who dropped it, and is never part of a study unless it is sent there.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from cxr_node.worklist.web.access import Assessor, Person, Trier
from cxr_node.worklist.web.destinations_api import ProblemBody
from cxr_node.worklist.web.drop.desk import DropDesk, Sending
from cxr_node.worklist.web.drop.words import Outcome, Told, csv_lines, told
from cxr_node.worklist.web.permissions import Permission, who_may
from storage.drops import Drop
from storage.errors import StorageError

Population = Literal["", "adult", "child"]
Key = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{22}$", description="`key` of the drop")]
FileId = Annotated[int, Path(ge=1, le=2**31 - 1)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StatedBody(_Body):
    """Whom pictures (PNG, JPEG) show: they carry no age and no view, and without this no model looks at them."""

    population: Population = Field(
        "", description="`adult`: frontal chests of people of 18 or more years; `child`: of 1 to 5; empty: not said"
    )


class OpenBody(StatedBody):
    """What is to be tried."""

    purpose: Literal["try", "rules"] = Field(
        "try", description="`rules` (admins): with every acceptance rule's verdict, see /admin/rules"
    )


class TriedFindingBody(_Body):
    """What a model said of an image."""

    finding: str
    model: str
    model_version: str
    flagged: bool = Field(description="false never means that disease is absent")
    probability: float | None = Field(description="profile `research` only")
    threshold: float | None = Field(description="profile `research` only")


class TriedFileBody(_Body):
    """A file and what came of it."""

    id: int
    name: str
    size: int = Field(description="bytes; 0 where nothing is kept")
    outcome: Outcome = Field(
        description="refused: it was not looked at; not_analysed: it was, and no model may score it; failed: given up"
    )
    reason: str = Field(description="why it was refused, not analysed or given up")
    attribute: str = Field(description="the DICOM attribute at fault, if one is")
    value: str = Field(description="what was found there")
    kind: str = Field(description="DICOM, PNG or JPEG; empty where it is none or was not looked at yet")
    facts: dict[str, str] = Field(description="what it says of itself, nothing of who the patient is")
    findings: list[TriedFindingBody]
    notes: list[str]
    has_preview: bool
    sop_instance_uid: str
    sent: Literal["", "on its way", "taken", "refused"] = Field(description="to the worklist; empty: it was not sent")
    sent_reason: str = Field(description="why the intake refused it")


class DropBody(_Body):
    """A drop and its files."""

    key: str = Field(description="names it in every path; random")
    purpose: Literal["try", "rules"]
    population: Population
    expires_at: datetime = Field(description="everything is deleted then; later with every file that is added")
    waiting: int = Field(description="files that were not looked at yet")
    files: list[TriedFileBody] = Field(description="in the order they came, those of a zip one by one")


class AddedBody(_Body):
    """What a file became: itself, or the files of a zip."""

    files: list[TriedFileBody]


def enabled(request: Request) -> None:
    """Let the routes be there only where node.toml wants them."""
    if not request.app.state.services.settings.worklist.drop.enabled:
        raise HTTPException(404, "images cannot be tried here: `worklist.drop.enabled` is false")


router = APIRouter(
    prefix="/api/drops",
    tags=["trying images"],
    dependencies=[Depends(enabled)],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "the role may not try images, or the page is another origin's"},
        404: {"model": ProblemBody, "description": "no such drop of yours: cleared, or its time is up; or not enabled"},
        503: {"model": ProblemBody},
    },
)


def desk_of(request: Request) -> DropDesk:
    """Return the desk over the application's services."""
    return DropDesk(request.app.state.services)


def told_files(desk: DropDesk, drop: Drop) -> list[Told]:
    """Return what came of every file of a drop."""
    return [told(file, desk.sending(file)) for file in desk.files(drop)]


@router.post("", summary="Open a drop", status_code=201)
def open_drop(request: Request, person: Trier, body: OpenBody) -> DropBody:
    """Of a person's drops four are kept open; a further one ends the oldest."""
    if body.purpose == "rules" and not person.may(Permission.ADMINISTER):
        raise HTTPException(403, f"only {who_may(Permission.ADMINISTER)} may try the acceptance rules")
    desk = desk_of(request)
    return _body(desk, desk.open(person, purpose=body.purpose, population=body.population))


@router.get("/{key}", summary="What came of the files of a drop")
def read_drop(request: Request, person: Trier, key: Key) -> DropBody:
    """Ask again while `waiting` is not 0."""
    desk = desk_of(request)
    return _body(desk, _read(desk, person, key, request))


@router.delete("/{key}", summary="Delete everything of a drop", status_code=204, response_class=Response)
def clear_drop(request: Request, person: Trier, key: Key) -> Response:
    """At once: files, previews and results."""
    desk = desk_of(request)
    desk.clear(desk.find(person, key))
    return Response(status_code=204)


@router.put("/{key}/population", summary="Say whom pictures show")
def state_population(request: Request, person: Trier, key: Key, body: StatedBody) -> DropBody:
    """Pictures that were looked at are looked at again."""
    desk = desk_of(request)
    desk.state_population(desk.find(person, key), body.population)
    return _body(desk, desk.find(person, key))


@router.post(
    "/{key}/files",
    summary="Add a file: DICOM, PNG, JPEG, or a zip of those",
    status_code=201,
    responses={
        400: {"model": ProblemBody, "description": "the upload was cut off"},
        413: {"model": ProblemBody, "description": "too large, or too many; see `worklist.drop`"},
        429: {"model": ProblemBody, "description": "too many uploads at a time"},
        507: {"model": ProblemBody, "description": "the node's disk is nearly full"},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "the file's bytes",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def add_file(
    request: Request,
    person: Trier,
    key: Key,
    x_file_name: Annotated[
        str, Header(max_length=4096, description="its name, UTF-8, percent-encoded; shown, and nothing else")
    ] = "",
) -> AddedBody:
    """What it is, its first bytes decide. Never in an address: a file's name may be a patient's."""
    desk = desk_of(request)
    drop = await run_in_threadpool(desk.find, person, key)
    stated = request.headers.get("content-length", "")
    size = int(stated) if stated.isascii() and stated.isdigit() else None
    body: AsyncIterator[bytes] = request.stream()
    rows = await desk.take(drop, unquote(x_file_name, errors="replace"), size, body)
    return AddedBody(files=[_file_body(told(row, Sending())) for row in rows])


@router.get(
    "/{key}/files/{file_id}/preview",
    summary="A file's picture, small",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}},
)
def read_preview(request: Request, person: Trier, key: Key, file_id: FileId) -> Response:
    """PNG, 8 bits, as a reader would see it; for information only."""
    desk = desk_of(request)
    file = desk.file(desk.find(person, key), file_id)
    try:
        data = desk.folder.preview(file.location).read_bytes()
    except (OSError, StorageError):
        raise HTTPException(404, "the file has no preview") from None
    return Response(data, media_type="image/png")


@router.post(
    "/{key}/files/{file_id}/send",
    summary="Send a DICOM file to the worklist",
    responses={409: {"model": ProblemBody, "description": "no DICOM file, or sent already"}},
)
def send_file(request: Request, person: Assessor, key: Key, file_id: FileId) -> TriedFileBody:
    """From then on it is an image like any other that the node received; `sent` tells whether it was taken."""
    desk = desk_of(request)
    file = desk.send(person, desk.file(desk.find(person, key), file_id))
    return _file_body(told(file, desk.sending(file)))


@router.get("/{key}/results.json", summary="The results as a file")
def download_json(request: Request, person: Trier, key: Key) -> DropBody:
    """As `GET /api/drops/{key}`, to be saved."""
    desk = desk_of(request)
    body = _body(desk, _read(desk, person, key, request))
    return JSONResponse(  # type: ignore[return-value]  # the annotation is what OpenAPI tells
        body.model_dump(mode="json"), headers={"Content-Disposition": 'attachment; filename="results.json"'}
    )


@router.get(
    "/{key}/results.csv",
    summary="The results as CSV",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def download_csv(request: Request, person: Trier, key: Key) -> StreamingResponse:
    """One line for each finding of each file."""
    desk = desk_of(request)
    files = told_files(desk, _read(desk, person, key, request))
    return StreamingResponse(
        csv_lines(files),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="results.csv"'},
    )


def _read(desk: DropDesk, person: Person, key: str, request: Request) -> Drop:
    drop = desk.find(person, key)
    request.app.state.services.audit.record("tried_images_read", actor=person.name, role=person.role)
    return drop


def _body(desk: DropDesk, drop: Drop) -> DropBody:
    files = told_files(desk, drop)
    return DropBody(
        key=drop.key,
        purpose="rules" if drop.purpose == "rules" else "try",
        population=drop.options.get("population") or "",
        expires_at=drop.expires_at,
        waiting=sum(file.outcome == "waiting" for file in files),
        files=[_file_body(file) for file in files],
    )


def _file_body(file: Told) -> TriedFileBody:
    return TriedFileBody.model_validate(asdict(file))
