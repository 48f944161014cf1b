"""A study's page: everything the node did for it."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pydicom
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node.worklist.listing import Entry
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import StudyReader
from cxr_node.worklist.web.rendering import render
from storage import results
from storage.errors import StorageError

router = APIRouter(include_in_schema=False)


@router.get("/studies/{study_instance_uid:path}")
def study_page(request: Request, reader: StudyReader, study_instance_uid: str) -> HTMLResponse:
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
    return render(
        request,
        "study.html",
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
