"""Senders as a page: alarms of silence, who was turned away with what to do about it, who is let in, associations."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.settings import Settings
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin import senders_api
from cxr_node.worklist.web.admin.senders_api import Number, Outcome, PageNumber, SenderBody, Title
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import render
from storage import callers
from storage.associations import ABORTED, ENDED, LOST, OUTCOMES, RELEASED
from storage.callers import WORKLIST, Rejected
from storage.senders import MOST_SENDERS

PATH = "/admin/senders"
# What the page says after a deed; the address holds the key only, so nobody can put words into it.
_SAID = {
    "allowed": "It may send now: the node obeys within about a second, without a restart.",
    "revoked": "It may send no more. An association that is open stays until it ends.",
    "dismissed": "Taken off the list. It is listed again with its next attempt.",
    "muted": "The alarm is muted until the sender sends again.",
}
_SENDER_MARKS = {"heard": "✓", "silent": "✕", "muted": "‖"}
_OUTCOME_MARKS = {RELEASED: "✓", ABORTED: "✕", LOST: "✕", ENDED: "✕"}

router = APIRouter(prefix=PATH, include_in_schema=False)


@dataclass(frozen=True)
class _Sender:
    body: SenderBody
    title: str
    modality: str
    mark: str
    last: Instant
    ago: str
    pace: str


@dataclass(frozen=True)
class _Rejected:
    id: int
    calling: str
    called: str
    address: str
    certificate: str
    why: str
    advice: str
    can_allow: bool
    attempts: int
    first: Instant
    last: Instant


@dataclass(frozen=True)
class _Allowed:
    id: int
    title: str
    host: str
    certificate: str
    by: str
    since: Instant


@dataclass(frozen=True)
class _Association:
    title: str
    address: str
    closed: Instant
    lasted: str
    instances: int
    refused: int
    megabytes: str
    outcome: str
    mark: str
    reason: str


@router.get("")
def senders_page(
    request: Request,
    admin: Admin,
    ae_title: Title = "",
    outcome: Outcome = "",
    page: PageNumber = 1,
    said: str = Query("", max_length=20),
) -> HTMLResponse:
    """Everything about who sends."""
    services: Services = request.app.state.services
    settings = services.settings
    now, zone = services.now(), services.zone
    with services.database.read() as connection:
        rejected = callers.rejected(connection)
        allowed = callers.allowed(connection)
    listed = senders_api.list_associations(request, admin, ae_title, outcome, page)
    rows = [_sender(services, body) for body in senders_api.sending(services)]

    def link(to: int) -> str:
        wanted = {"ae_title": ae_title, "outcome": outcome, "page": str(to) if to > 1 else ""}
        return f"{PATH}?{urlencode({name: value for name, value in wanted.items() if value})}#associations"

    return render(
        request,
        "admin/senders.html",
        told=_SAID.get(said, ""),
        silent=[row for row in rows if row.body.state == "silent"],
        senders=rows,
        most_senders=MOST_SENDERS,
        rejected=[_rejected(item, services, [row.ae_title for row in allowed]) for item in rejected],
        listed=[(caller.ae_title, ", ".join(caller.hosts), caller.certificate) for caller in settings.caller],
        allowed=[
            _Allowed(
                item.id,
                present.shown(item.ae_title),
                present.shown(item.host),
                present.shown(item.certificate),
                present.shown(item.created_by),
                present.instant(item.created_at, zone, now),
            )
            for item in allowed
        ],
        associations=[
            _Association(
                present.shown(item.calling_ae_title),
                present.shown(item.peer_address),
                present.instant(item.closed_at, zone, now),
                f"{(item.closed_at - item.opened_at).total_seconds():.1f} s",
                item.instances,
                item.refused,
                f"{item.bytes / 1e6:,.1f}",
                item.outcome,
                _OUTCOME_MARKS.get(item.outcome, ""),
                present.shown(item.reason),
            )
            for item in listed.associations
        ],
        ae_title=present.shown(ae_title),
        outcome=outcome,
        outcomes=OUTCOMES,
        previous=link(page - 1) if page > 1 else "",
        following=link(page + 1) if listed.has_more and page < senders_api.MOST_PAGES else "",
        page=page,
        time_zone=settings.worklist.time_zone,
    )


@router.get("/allow")
def allow_page(request: Request, admin: Admin, rejected: Annotated[int, Query(ge=0, le=2**31)] = 0) -> HTMLResponse:
    """The page that asks before anybody is let in."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        found = callers.get_rejected(connection, rejected) if rejected else None
    if rejected and found is None:
        raise HTTPException(404, "this caller is no longer on the list of those turned away; load the page Senders")
    if found is None:
        return _ask(request, "", "", "", None)
    # The fingerprint that it showed: an admin who knows the device binds its name to it with the same click.
    return _ask(request, found.calling_ae_title, found.peer_address, found.certificate.partition(" ")[0], found)


@router.post("/allow", response_model=None)
def allow(
    request: Request,
    admin: Admin,
    ae_title: Annotated[str, Form(max_length=64)] = "",
    host: Annotated[str, Form(max_length=64)] = "",
    certificate: Annotated[str, Form(max_length=256)] = "",
    rejected: Annotated[int, Form(ge=0, le=2**31)] = 0,
) -> HTMLResponse | RedirectResponse:
    """Let a caller in."""
    services: Services = request.app.state.services
    try:
        senders_api.allow(services, ae_title, host, certificate, by=admin.name)
    except senders_api.NotAllowed as error:
        with services.database.read() as connection:
            found = callers.get_rejected(connection, rejected) if rejected else None
        return _ask(request, ae_title, host, certificate, found, problem=error)
    return _back("allowed")


@router.post("/allowed/{number}/revoke")
def revoke(request: Request, admin: Admin, number: Number) -> RedirectResponse:
    """Let a caller in no more."""
    senders_api.revoke_caller(request, admin, number)
    return _back("revoked")


@router.post("/rejected/{number}/dismiss")
def dismiss(request: Request, admin: Admin, number: Number) -> RedirectResponse:
    """Take a caller off the list of those turned away."""
    senders_api.dismiss_caller(request, admin, number)
    return _back("dismissed")


@router.post("/silences/{number}/mute")
def mute(request: Request, admin: Admin, number: Number) -> RedirectResponse:
    """Stop the alarm until the sender sends again."""
    senders_api.mute_silence(request, admin, number)
    return _back("muted")


def _back(said: str) -> RedirectResponse:
    return RedirectResponse(f"{PATH}?said={said}", status_code=303)


def _ask(
    request: Request,
    title: str,
    host: str,
    certificate: str,
    found: Rejected | None,
    problem: senders_api.NotAllowed | None = None,
) -> HTMLResponse:
    services: Services = request.app.state.services
    told = None if found is None else _rejected(found, services, [])
    return render(
        request,
        "admin/allow_caller.html",
        200 if problem is None else 409 if problem.key == "" else 422,
        ae_title=present.shown(title),
        host=present.shown(host),
        certificate=present.shown(certificate),
        has_tls=services.settings.receive.tls.enabled,
        rejected=told,
        problem=problem,
    )


def _sender(services: Services, body: SenderBody) -> _Sender:
    now = services.now()
    pace = body.per_day
    return _Sender(
        body,
        present.shown(body.calling_ae_title),
        present.shown(body.modality),
        _SENDER_MARKS[body.state],
        present.instant(body.last_at, services.zone, now),
        present.duration(now - body.last_at),
        "too few to tell" if pace is None else f"{pace:,.0f} a day" if pace >= 2 else f"{pace * 7:.1f} a week",
    )


def _rejected(item: Rejected, services: Services, allowed: list[str]) -> _Rejected:
    now, zone = services.now(), services.zone
    why, advice = _advice(item, services.settings, allowed)
    return _Rejected(
        item.id,
        present.shown(item.calling_ae_title),
        present.shown(item.called_ae_title),
        present.shown(item.peer_address),
        present.shown(item.certificate),
        why,
        advice,
        item.reason in ("calling_ae_title", "certificate"),
        item.attempts,
        present.instant(item.first_at, zone, now),
        present.instant(item.last_at, zone, now),
    )


def _advice(item: Rejected, settings: Settings, allowed: list[str]) -> tuple[str, str]:
    """Return why a caller was turned away, and what to do about it where letting it in is no answer."""
    if item.reason.startswith(WORKLIST):
        return _advice_of_worklist(item, item.reason.removeprefix(WORKLIST), settings)
    receive = settings.receive
    if item.reason == "called_ae_title":
        return (
            f"It calls {present.shown(item.called_ae_title)}; this node is {receive.ae_title.strip()}.",
            "Change the called AE title at the sender, or receive.ae_title in node.toml.",
        )
    if item.reason == "maximum_associations":
        return (
            f"All {receive.maximum_associations} associations of a process were taken.",
            "Look for who holds them below, or raise receive.maximum_associations or receive.processes.",
        )
    if item.reason == "per_caller_associations":
        return (
            f"It held {receive.per_caller_associations} associations of a process already.",
            "Let the sender open fewer at once, or raise receive.per_caller_associations.",
        )
    if item.reason == "tls":
        return (
            f"TLS failed: {present.shown(item.certificate)}.",
            "Have the device show a certificate that receive.tls.ca has signed and that has not expired.",
        )
    if item.reason == "certificate":
        if not item.certificate:
            return "This AE title is bound to a certificate, and it showed none.", "Turn TLS on at the sender."
        return (
            "It showed another certificate than the one that this AE title is bound to.",
            "Where that was renewed, allow the new one, or change certificate of its [[caller]] in node.toml.",
        )
    known = {caller.ae_title.strip() for caller in settings.caller} | set(allowed)
    if item.calling_ae_title.strip() in known:
        return "This AE title may send, but not from this address.", ""
    return "Neither node.toml nor this page lets it send.", ""


def _advice_of_worklist(item: Rejected, reason: str, settings: Settings) -> tuple[str, str]:
    """As `_advice`, for who asked for the worklist: callers that are let in on this page may send, and no more."""
    worklist, port = settings.worklist, "At the DICOM port of the worklist"
    if reason == "called_ae_title":
        return (
            f"{port}: it calls {present.shown(item.called_ae_title)}; that is {worklist.dicom_ae_title.strip()}.",
            "Change the called AE title at the caller, or worklist.dicom_ae_title in node.toml.",
        )
    if reason == "maximum_associations":
        return f"{port}: all associations were taken.", "Have the caller close an association when it has its answer."
    if reason == "tls":
        return (
            f"{port}: TLS failed: {present.shown(item.certificate)}.",
            "Have the caller show a certificate that worklist.dicom_tls.ca has signed and that has not expired.",
        )
    if reason == "certificate":
        return (
            f"{port}: this AE title is bound to another certificate than it showed, if any: "
            f"{present.shown(item.certificate) or 'none'}.",
            "Where that was renewed, change certificate of its [[caller]] in node.toml.",
        )
    return (
        f"{port}: no [[caller]] of node.toml has this AE title and address.",
        "Add one, and start the worklist anew: who is let in on this page may send images, and no more.",
    )
