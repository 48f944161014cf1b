"""A study's page: everything the node did for it, and what readers say of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.log import get_logger
from cxr_node.worklist.feedback import NotAssessable, UnknownStudy, Verdict, record
from cxr_node.worklist.listing import Entry
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Assessor, Person, StudyReader
from cxr_node.worklist.web.feedback_api import VerdictBody
from cxr_node.worklist.web.permissions import Permission
from cxr_node.worklist.web.present import Instant, shown
from cxr_node.worklist.web.rendering import render
from cxr_node.worklist.web.study.changes import changes
from cxr_node.worklist.web.study.heat_maps_api import NOT_VALIDATED
from cxr_node.worklist.web.study.images import ReceivedObject, exclusion_of, received
from cxr_node.worklist.web.study.report import read_report
from cxr_node.worklist.web.study.timeline import object_word, timeline
from storage import Doorbell, feedback, results, studies
from storage.deliveries import FAILED, Delivery
from storage.errors import StorageError
from storage.feedback import Feedback
from storage.results import Result, ResultObject

UNKNOWN = "no image of a study with this Study Instance UID was received"
VERDICTS = {"agree": ("✓", "Agreed"), "disagree": ("✗", "Disagreed"), "unsure": ("?", "Unsure")}

log = get_logger("worklist")

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Said:
    """A reader's verdict in words. `is_current` tells that it is on the current revision, and the reader's newest."""

    mark: str
    label: str
    reader: str
    finding: str
    comment: str
    revision: int
    at: Instant
    is_current: bool


@dataclass(frozen=True)
class Revision:
    """A revision with what changed and the objects that tell of it."""

    result: Result
    word: str
    made: Instant
    changes: tuple[str, ...]
    objects: tuple[tuple[ResultObject, str, str, str], ...]  # with kind and SOP class in words, and where they went


@router.get("/studies/{study_instance_uid:path}/next")
def next_study(request: Request, _: StudyReader, study_instance_uid: str) -> RedirectResponse:
    """Go to the study that comes after this one in reading order; to the list after the last one."""
    services: Services = request.app.state.services
    first = ""
    is_after = False
    for study in services.listing.walk():
        if is_after:
            return RedirectResponse(path_of(study.study_instance_uid), status_code=303)
        first = first or study.study_instance_uid
        is_after = study.study_instance_uid == study_instance_uid
    # One that has left the list (a reader finished it) is followed by the first that has not.
    return RedirectResponse(path_of(first) if first and not is_after else "/", status_code=303)


@router.get("/studies/{study_instance_uid:path}/state")
def state(request: Request, _: StudyReader, study_instance_uid: str) -> dict[str, str | int]:
    """Tell an open page whether what it shows is still the newest: a number and a word, nothing of the patient."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        found = studies.get(connection, study_instance_uid)
    if found is None:
        raise HTTPException(404, UNKNOWN)
    return {"revision": found.revision, "status": found.status}


@router.post("/studies/{study_instance_uid:path}/verdict")
def give_verdict(
    request: Request,
    reader: Assessor,
    study_instance_uid: str,
    verdict: Annotated[Literal["agree", "disagree", "unsure"], Form()],
    comment: Annotated[str, Form(max_length=2000)] = "",
    finding: Annotated[str, Form(max_length=64)] = "",
    revision: Annotated[int | None, Form(ge=1, le=2**31 - 1)] = None,
) -> Response:
    """Keep what the reader says. A later verdict is a new one: nothing that was said is changed."""
    services: Services = request.app.state.services
    try:
        body = VerdictBody(verdict=verdict, comment=comment, finding=finding, revision=revision)
    except ValueError:
        raise HTTPException(422, "the form's finding is none that the node knows") from None
    said = Verdict(body.verdict, reader.name, reader.role, body.finding, body.comment, body.revision)
    problem = ""
    try:
        record(services, study_instance_uid, said)
    except UnknownStudy:
        raise HTTPException(404, UNKNOWN) from None
    except NotAssessable as error:
        problem = str(error)
    if request.headers.get("hx-request") != "true":
        if problem:
            raise HTTPException(409, problem)
        return RedirectResponse(f"{path_of(study_instance_uid)}#assessment", status_code=303)
    entry = services.listing.entry(study_instance_uid)
    assert entry is not None
    values = _assessment(services, entry, reader)
    return render(request, "study/assessment.html", announced=not problem, problem=problem, **values)


@router.get("/studies/{study_instance_uid:path}")
def study_page(
    request: Request,
    reader: StudyReader,
    study_instance_uid: str,
    revision: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> HTMLResponse:
    """One study with everything the node did for it; `revision` says whose report is shown."""
    services: Services = request.app.state.services
    entry = services.listing.entry(study_instance_uid)
    if entry is None:
        raise HTTPException(404, UNKNOWN)
    _opened(services, entry, reader)
    entry = services.listing.entry(study_instance_uid) or entry
    revisions, deliveries = services.listing.revisions(study_instance_uid)
    chosen = next((item for item in revisions if item.revision == revision), entry.result)
    if revision is not None and (chosen is None or chosen.revision != revision):
        raise HTTPException(404, f"there is no revision {revision} of this study's result")
    now, zone = services.now(), services.zone
    shows_probability = services.settings.node.profile == "research"
    with services.database.read() as connection:
        steps = timeline(connection, entry, zone, now)
        objects = received(connection, entry)
        made = {item.id: results.objects(connection, item.id) for item in revisions}
    return render(
        request,
        "study/page.html",
        row=present.row(entry, zone, services.settings.worklist.viewer_url, now),
        entry=entry,
        context={name: shown(value) for name, value in vars(entry.study.context).items()},
        findings=_shown_items(entry, "findings"),
        exclusions=[(shown(item["sop_instance_uid"]), exclusion_of(item)) for item in entry.of_outcome("exclusions")],
        notes=[shown(str(note)) for note in entry.of_outcome("notes")],
        received=objects,
        images=[_image(item, study_instance_uid, shows_probability) for item in objects if item.has_preview],
        steps=steps,
        deliveries=[(present.delivery(item, zone, now), _object_of(item, made)) for item in reversed(deliveries)],
        has_failed_delivery=any(item.state == FAILED for item in deliveries),
        revisions=_revisions(services, revisions, made, deliveries, shows_probability),
        last_received=present.instant(entry.study.last_received_at, zone, now),
        notified=present.instant(entry.study.notified_at, zone, now) if entry.study.notified_at else None,
        report=read_report(services, chosen),
        report_revision=chosen.revision if chosen is not None else 0,
        shows_probability=shows_probability,
        is_admin=reader.may(Permission.ADMINISTER),
        not_validated=NOT_VALIDATED,
        next_href=f"{path_of(study_instance_uid)}/next",
        state_href=f"{path_of(study_instance_uid)}/state",
        api_href=f"/api{path_of(study_instance_uid)}",
        announced=False,
        problem="",
        **_assessment(services, entry, reader),
    )


def path_of(study_instance_uid: str) -> str:
    """Return the path of a study's page."""
    return "/studies/" + quote(study_instance_uid, safe="")


def _opened(services: Services, entry: Entry, reader: Person) -> None:
    uid = entry.study.study_instance_uid
    services.audit.record("study_read", actor=reader.name, study_instance_uid=uid, role=reader.role, by="page")
    # A program that fetches the page has not looked at the study.
    if entry.study.opened_at is None and reader.via != "token":
        try:
            with services.database.begin() as connection:
                studies.mark_opened(connection, uid, reader.name, services.now())
        except (StorageError, SQLAlchemyError) as error:  # a full disk must not lock readers out
            log.error("opening_not_written", error_type=type(error).__name__)
            return
        Doorbell(services.settings.data_dir / "run", services.database).ring("worklist")


def _assessment(services: Services, entry: Entry, reader: Person) -> dict[str, Any]:
    """Return what the assessment's part of the page shows."""
    uid, now = entry.study.study_instance_uid, services.now()
    with services.database.read() as connection:
        given = feedback.of_study(connection, uid)
        assessed = results.conclusive(connection, uid)
        has_report = assessed is not None and any(
            item.kind == "sr" for item in results.objects(connection, assessed.id)
        )
    newest = {(item.reader, item.finding): item.id for item in given}
    revision = assessed.revision if assessed is not None else 0
    said = [_said(services, item, newest, revision) for item in reversed(given)]
    mine = next((item for item in said if item.reader == shown(reader.name) and item.is_current), None)
    names = sorted({str(score["finding"]) for score in entry.of_outcome("findings")})
    return {
        "said": said,
        "mine": mine,
        "said_at": present.instant(now, services.zone, now),
        "may_assess": reader.may(Permission.ASSESS),
        "can_assess": has_report,
        "assessed_revision": revision,
        "assessable": names if len(names) > 1 else [],
        "verdict_href": f"{path_of(uid)}/verdict",
    }


def _said(services: Services, item: Feedback, newest: dict[tuple[str, str], int], revision: int) -> Said:
    mark, label = VERDICTS.get(item.verdict, ("", item.verdict))
    return Said(
        mark=mark,
        label=label,
        reader=shown(item.reader),
        finding=shown(item.finding),
        comment="\n".join(shown(line) for line in item.comment.splitlines()),
        revision=item.revision,
        at=present.instant(item.created_at, services.zone, services.now()),
        is_current=item.revision == revision and newest[item.reader, item.finding] == item.id,
    )


def _revisions(
    services: Services,
    found: list[Result],
    made: dict[int, list[ResultObject]],
    sent: list[Delivery],
    shows_probability: bool,
) -> list[Revision]:
    """Return the revisions, newest first."""
    zone, now = services.zone, services.now()
    revisions = []
    for index, item in enumerate(found):
        objects = tuple(
            (stored, object_word(stored.kind), _class_name(stored.sop_class_uid), _whereabouts(stored, sent))
            for stored in made[item.id]
        )
        before = found[index - 1] if index else None
        revisions.append(
            Revision(
                result=item,
                word=present.status_word(item.status),
                made=present.instant(item.created_at, zone, now),
                changes=changes(before, item, shows_probability=shows_probability),
                objects=objects,
            )
        )
    return revisions[::-1]


def _whereabouts(stored: ResultObject, sent: list[Delivery]) -> str:
    """Return who has the object, in words."""
    has = [
        shown(item.destination)
        for item in sent
        if item.sop_instance_uid == stored.sop_instance_uid and item.delivered_at is not None
    ]
    return ", ".join(dict.fromkeys(has))


def _object_of(item: Delivery, made: dict[int, list[ResultObject]]) -> str:
    """Return the kind of object in words, with its SOP class where one was chosen."""
    sop_class = item.sop_class_uid or next(
        (stored.sop_class_uid for stored in made.get(item.result_id, []) if stored.kind == item.kind), ""
    )
    return object_word(item.kind) + (f" ({_class_name(sop_class)})" if sop_class else "")


def _class_name(sop_class_uid: str) -> str:
    return shown(UID(sop_class_uid).name).removesuffix(" Storage")


def _image(item: ReceivedObject, study_instance_uid: str, shows_probability: bool) -> dict[str, Any]:
    """Return what the viewer needs to know of an image; nothing of scores in profile `triage`."""
    kept = item.instance
    href = f"/api{path_of(study_instance_uid)}/images/{quote(kept.sop_instance_uid, safe='')}"
    return {
        "item": item,
        "uid": shown(kept.sop_instance_uid),
        "href": href,
        "query": f"variant={kept.variant}",
        "models": sorted({f"{shown(score['model'])} {shown(score['model_version'])}" for score in item.scores}),
        "scores": [_texts(score) for score in item.scores] if shows_probability else [],
        "maps": [(shown(score["model"]), shown(score["finding"])) for score in item.scores if shows_probability],
    }


def _shown_items(entry: Entry, part: str) -> list[dict[str, Any]]:
    return [_texts(item) for item in entry.of_outcome(part)]


def _texts(item: dict[str, Any]) -> dict[str, Any]:
    return {name: shown(value) if isinstance(value, str) else value for name, value in item.items()}
