"""The audit trail, searched by time, actor, event, study and text. Reading it is written to it."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Auditor
from cxr_node.worklist.web.admin import trail
from cxr_node.worklist.web.admin.trail import Trail
from cxr_node.worklist.web.permissions import Permission
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import render
from storage import Database, audit
from storage.audit import AuditEvent, Wanted

PAGE_SIZE = 100
EXPORT_BATCH = 1000
EXPORT_MOST = 200_000
FIRST_YEAR, LAST_YEAR = 1900, 9000
# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_HEADINGS = ("id", "time", "event", "actor", "study_instance_uid", "detail")

router = APIRouter(prefix="/admin/audit", include_in_schema=False)


@dataclass(frozen=True)
class Asked:
    """What the form asks for, as it was typed. Times are in the site's zone, as a browser's field gives them."""

    since: str
    until: str
    actor: str
    event: str
    study: str
    text: str

    def is_empty(self) -> bool:
        """Whether nothing narrows the search."""
        return not any((self.since, self.until, self.actor, self.event, self.study, self.text))


@dataclass(frozen=True)
class _Row:
    id: int
    at: Instant
    event: str
    actor: str
    study: str
    href: str
    detail: tuple[tuple[str, str], ...]


def _asked(
    since: Annotated[str, Query(max_length=40)] = "",
    until: Annotated[str, Query(max_length=40)] = "",
    actor: Annotated[str, Query(max_length=200)] = "",
    event: Annotated[str, Query(max_length=100)] = "",
    study: Annotated[str, Query(max_length=128)] = "",
    text: Annotated[str, Query(max_length=200)] = "",
) -> Asked:
    # NUL is no text for PostgreSQL.
    return Asked(*(value.replace("\0", "").strip() for value in (since, until, actor, event, study, text)))


Search = Annotated[Asked, Depends(_asked)]


@router.get("")
def audit_page(
    request: Request, person: Auditor, asked: Search, before: Annotated[int, Query(ge=0, le=2**62)] = 0
) -> HTMLResponse:
    """Newest first, a page at a time."""
    services: Services = request.app.state.services
    problem = ""
    entries: list[AuditEvent] = []
    try:
        wanted = _wanted(asked, services.zone, before)
    except ValueError as error:
        problem = str(error)
    else:
        _note(services, person.name, person.role, asked, "audit_read")
        with services.database.read() as connection:
            entries = audit.search(connection, wanted, limit=PAGE_SIZE + 1)
    with services.database.read() as connection:
        names = audit.event_names(connection)
        chain = trail.look(connection, services.settings)
    query = {name: value for name, value in vars(asked).items() if value}
    rows = entries[:PAGE_SIZE]
    reads = person.may(Permission.READ_STUDIES)
    return render(
        request,
        "admin/audit.html",
        asked=asked,
        problem=problem,
        rows=[_row(item, services, reads) for item in rows],
        names=names,
        chain=chain,
        told=_chain_told(chain, services),
        older="?" + urlencode({**query, "before": rows[-1].id}) if len(entries) > PAGE_SIZE else "",
        newest="?" + urlencode(query) if before else "",
        export="/admin/audit.csv?" + urlencode(query),
        time_zone=services.settings.worklist.time_zone,
        text_within=audit.TEXT_WITHIN,
        most=EXPORT_MOST,
    )


export_router = APIRouter(include_in_schema=False)


@export_router.get("/admin/audit.csv")
def audit_csv(request: Request, person: Auditor, asked: Search) -> StreamingResponse:
    """The same search as a table for a spreadsheet, newest first, at most `EXPORT_MOST` entries."""
    services: Services = request.app.state.services
    try:
        wanted = _wanted(asked, services.zone, 0)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    _note(services, person.name, person.role, asked, "audit_exported")
    return StreamingResponse(
        _lines(services.database, wanted),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="audit-trail.csv"'},
    )


def safe_cell(value: object) -> str:
    """Return a value that no spreadsheet takes for a formula (OWASP, CSV Injection)."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")  # half a character would end the export
    return f"'{text}" if text.startswith(_FORMULA) else text


def _lines(database: Database, wanted: Wanted) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(_HEADINGS)
    written = 0
    while written < EXPORT_MOST:
        with database.read() as connection:
            found = audit.search(connection, wanted, limit=min(EXPORT_BATCH, EXPORT_MOST - written))
        for item in found:
            detail = json.dumps(item.detail, ensure_ascii=False, sort_keys=True)
            cells = (item.id, item.created_at.isoformat(), item.event, item.actor, item.study_instance_uid, detail)
            writer.writerow([safe_cell(cell) for cell in cells])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        written += len(found)
        if len(found) < EXPORT_BATCH:
            return
        wanted = replace(wanted, before=found[-1].id)


def _note(services: Services, actor: str, role: str, asked: Asked, event: str) -> None:
    """Write down who read, and by what it was narrowed; not the words, for somebody may have typed a name."""
    by = [name for name, value in vars(asked).items() if value]
    told = {"narrowed_by": by} if by else {}
    services.audit.record(event, actor=actor, study_instance_uid=asked.study, role=role, **told)


def _wanted(asked: Asked, zone: ZoneInfo, before: int) -> Wanted:
    """Raise ValueError with a sentence where a time cannot be read."""
    return Wanted(
        since=_time(asked.since, zone),
        until=_until(asked.until, zone),
        actor=asked.actor,
        event=asked.event,
        study_instance_uid=asked.study,
        text=asked.text,
        before=before or None,
    )


def _time(text: str, zone: ZoneInfo) -> datetime | None:
    if not text:
        return None
    problem = f"expected a time such as 2026-03-02 or 2026-03-02T12:30, found {present.shown(text)}"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(problem) from error
    if not FIRST_YEAR <= found.year <= LAST_YEAR:  # zones and margins would leave the calendar
        raise ValueError(problem)
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _until(text: str, zone: ZoneInfo) -> datetime | None:
    """A day without a time means its end."""
    found = _time(text, zone)
    return found + timedelta(days=1) if found is not None and len(text) == 10 else found


def _chain_told(chain: Trail, services: Services) -> tuple[str, ...]:
    """Return what the last verification and export left, a sentence each."""

    def at(moment: datetime | None) -> str:
        return "never" if moment is None else present.instant(moment, services.zone, services.now()).text

    if chain.verified_at is None:
        told = ["The chain has not been verified yet; upkeep does it daily, cxr-node audit verify at once."]
    elif chain.broken:
        told = [f"Broken, found {at(chain.verified_at)}: {item}." for item in chain.breaks]
        told.append(f"Whole up to the seal of {at(chain.good_to)}.")
    else:
        told = [
            f"The chain was verified {at(chain.verified_at)}: {chain.entries:,} entries are what was sealed, up to "
            f"seal {chain.head_number} of {at(chain.good_to)}."
        ]
    if chain.inherited:
        told.append(f"{chain.inherited:,} entries are older than the chain and sealed as they were found.")
    if chain.late:
        told.append(f"{chain.late:,} entries were sealed more than an hour after the time they bear.")
    if chain.repository:
        waiting = f"{chain.waiting:,} entries wait" if chain.waiting else "nothing waits"
        told.append(
            f"Audit messages go to {chain.repository}; {waiting}.{' ' + chain.trouble if chain.trouble else ''}"
        )
    return tuple(told)


def _row(item: AuditEvent, services: Services, reads_studies: bool) -> _Row:
    study = item.study_instance_uid
    return _Row(
        id=item.id,
        at=present.instant(item.created_at, services.zone, services.now()),
        event=item.event.replace("_", " "),
        actor=present.shown(item.actor),
        study=present.shown(study),
        href="/studies/" + quote(study, safe="") if study and reads_studies else "",
        detail=tuple((present.shown(str(key)), present.shown(_words(value))) for key, value in item.detail.items()),
    )


def _words(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
