"""Who sends, who fell silent, who was turned away and who is let in, for programs and for the page beside it."""

import re
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.access import certificate_name
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.destinations_api import ProblemBody
from storage import associations, callers, senders
from storage.senders import Sender, Silence

PAGE = 50
MOST_PAGES = 1000
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{0,15}[\x21-\x5b\x5d-\x7e]")  # PS3.5 6.2, VR AE


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SenderBody(_Body):
    """A calling AE title with a modality, and how it sends."""

    calling_ae_title: str
    modality: str
    last_at: datetime
    last_24_hours: int = Field(description="studies, up to 10,000")
    per_day: float | None = Field(description="studies a day, by its newest 200; null: too few to tell")
    silent_after_h: float = Field(description="hours without an image until silence is an alarm; 0: never")
    state: Literal["heard", "silent", "muted"]
    silence: int | None = Field(description="number of the silence, to mute it")
    muted_by: str


class SenderListBody(_Body):
    """Up to 100 senders, by AE title and modality."""

    senders: list[SenderBody]


class ListedCallerBody(_Body):
    """A [[caller]] section of node.toml."""

    ae_title: str
    hosts: list[str]
    certificate: str = Field(description="TLS certificate that it must show; empty: any")


class AllowedCallerBody(_Body):
    """Who was let in by an admin."""

    id: int
    ae_title: str
    host: str
    certificate: str = Field(description="TLS certificate that it must show; empty: any")
    created_by: str
    created_at: datetime


class RejectedCallerBody(_Body):
    """Attempts that were turned away for the same reason."""

    id: int
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    reason: str = Field(
        description="`calling_ae_title`: it is no caller; `certificate`: it shows none, or another than it must; "
        "`tls`: its certificate is not accepted, so that it could not say who it is; `called_ae_title`: it calls "
        "another name; `maximum_associations`, `per_caller_associations`: that limit of node.toml. With `worklist:` "
        "before it: at the DICOM port of the worklist"
    )
    certificate: str = Field(
        description="the certificate that it showed last: SHA-256 fingerprint and common name; with `tls` what was "
        "wrong with it"
    )
    attempts: int
    first_at: datetime
    last_at: datetime


class CallerListBody(_Body):
    """Who may send, and who was turned away, the last first."""

    node_toml: list[ListedCallerBody]
    allowed: list[AllowedCallerBody]
    rejected: list[RejectedCallerBody]


class AllowBody(_Body):
    """Whom to let in."""

    ae_title: str = Field(max_length=64)
    host: str = Field(max_length=64, description="an address, or a network (CIDR)")
    certificate: str = Field(
        "",
        max_length=256,
        description="TLS certificate that it must show: SHA-256 fingerprint, or a DNS name or common name in it; "
        "empty: any",
    )


class AssociationBody(_Body):
    """An association that ended, or a request by STOW-RS."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    opened_at: datetime
    closed_at: datetime
    instances: int
    refused: int
    bytes: int
    outcome: str
    reason: str


class AssociationListBody(_Body):
    """A page of associations, the last that ended first."""

    associations: list[AssociationBody]
    has_more: bool


class NotAllowed(Exception):
    """Whom an admin asked to let in cannot be: `key` is ae_title, host or certificate, or empty where it is let in
    already."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key, self.reason = key, reason


Number = Annotated[int, Path(ge=1, le=2**31)]
PageNumber = Annotated[int, Query(ge=1, le=MOST_PAGES)]
Title = Annotated[str, Query(max_length=64)]
Outcome = Annotated[str, Query(pattern="^(released|aborted|lost|ended|)$")]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": ProblemBody, "description": "there is none of that number"}
}

router = APIRouter(prefix="/api", tags=["senders"])


@router.get("/senders", summary="Who sends, how often, and who fell silent")
def list_senders(request: Request, admin: Admin) -> SenderListBody:
    """Senders that have sent before; a new one appears with its first image."""
    services: Services = request.app.state.services
    return SenderListBody(senders=sending(services))


@router.post("/silences/{number}/mute", summary="Stop the alarm until it sends again", responses=_NOT_FOUND)
def mute_silence(request: Request, admin: Admin, number: Number) -> SenderListBody:
    """For a room that is closed, or a modality that is repaired."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        if not senders.mute(connection, number, by=admin.name, now=services.now()):
            raise HTTPException(404, "there is no alarm of this number: the sender is heard again, or it is muted")
    return list_senders(request, admin)


@router.get("/callers", summary="Who may send, and who was turned away")
def list_callers(request: Request, admin: Admin) -> CallerListBody:
    """Sections of node.toml are changed there; what admins add holds besides them."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        return CallerListBody(
            node_toml=[
                ListedCallerBody(ae_title=caller.ae_title, hosts=list(caller.hosts), certificate=caller.certificate)
                for caller in services.settings.caller
            ],
            allowed=[AllowedCallerBody(**vars(item)) for item in callers.allowed(connection)],
            rejected=[RejectedCallerBody(**vars(item)) for item in callers.rejected(connection)],
        )


@router.post(
    "/callers/allowed",
    status_code=201,
    summary="Let a caller send",
    responses={
        400: {"model": ProblemBody, "description": "no AE title, neither an address nor a network, or no certificate"},
        409: {"model": ProblemBody, "description": "it may send already"},
    },
)
def allow_caller(request: Request, admin: Admin, body: AllowBody) -> AllowedCallerBody:
    """Obeyed within about a second, by C-STORE and STOW-RS, on every host; nothing is restarted."""
    services: Services = request.app.state.services
    try:
        return allow(services, body.ae_title, body.host, body.certificate, by=admin.name)
    except NotAllowed as error:
        raise HTTPException(409 if error.key == "" else 400, error.reason) from error


@router.delete(
    "/callers/allowed/{number}",
    status_code=204,
    summary="Let a caller send no more",
    response_class=Response,
    responses=_NOT_FOUND,
)
def revoke_caller(request: Request, admin: Admin, number: Number) -> None:
    """Obeyed within about a second; an association that is open stays until it ends."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        if not callers.revoke(connection, number, by=admin.name, now=services.now()):
            raise HTTPException(404, "no caller of this number was let in")


@router.delete(
    "/callers/rejected/{number}",
    status_code=204,
    summary="Take a caller off the list of those turned away",
    response_class=Response,
    responses=_NOT_FOUND,
)
def dismiss_caller(request: Request, admin: Admin, number: Number) -> None:
    """It is turned away as before, and listed again with its next attempt."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        if not callers.dismiss(connection, number):
            raise HTTPException(404, "no caller of this number was turned away")


@router.get("/associations", summary="Associations that ended")
def list_associations(
    request: Request, admin: Admin, ae_title: Title = "", outcome: Outcome = "", page: PageNumber = 1
) -> AssociationListBody:
    """Fifty a page; of one calling AE title or outcome where asked."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        found = associations.recent(
            connection, limit=PAGE + 1, offset=(page - 1) * PAGE, calling_ae_title=ae_title.strip(), outcome=outcome
        )
    bodies = [AssociationBody(**vars(item)) for item in found[:PAGE]]
    return AssociationListBody(associations=bodies, has_more=len(found) > PAGE)


def sending(services: Services) -> list[SenderBody]:
    """Return every sender, by AE title and modality."""
    with services.database.read() as connection:
        found = senders.listed(connection, now=services.now())
        silent = {item.sender: item for item in senders.silent(connection)}
    rows = []
    for sender in found:
        silence = silent.get((sender.calling_ae_title, sender.modality))
        if silence is not None and sender.last_at > silence.last_at:
            silence = None  # heard since; upkeep notes it within a minute
        rows.append(_sender(services, sender, silence))
    return rows


def _sender(services: Services, sender: Sender, silence: Silence | None) -> SenderBody:
    return SenderBody(
        calling_ae_title=sender.calling_ae_title,
        modality=sender.modality,
        last_at=sender.last_at,
        last_24_hours=sender.lately,
        per_day=sender.pace_per_day,
        silent_after_h=services.settings.silent_after_h(sender.calling_ae_title),
        state="heard" if silence is None else "silent" if silence.muted_at is None else "muted",
        silence=None if silence is None else silence.id,
        muted_by="" if silence is None else silence.muted_by,
    )


def allow(services: Services, ae_title: str, host: str, certificate: str = "", *, by: str) -> AllowedCallerBody:
    """Let a caller in, and take it off the list of those turned away.

    Raises
    ------
    NotAllowed
        Title, host or certificate is not what it must be, or the caller is let in already.
    """
    title, network = ae_title.strip(), _network(host.strip())
    if not _AE_TITLE.fullmatch(title) or title == "*":
        raise NotAllowed("ae_title", "expected an AE title: 1 to 16 plain characters, no backslash, no * for any")
    try:
        name = certificate_name(certificate)
    except ValueError as error:
        raise NotAllowed("certificate", str(error)) from error
    if name and not services.settings.receive.tls.enabled:
        raise NotAllowed("certificate", "without [receive.tls] nobody can show a certificate: nothing would get in")
    with services.database.begin() as connection:
        made = callers.allow(connection, title, network, certificate=name, by=by, now=services.now())
        for item in callers.rejected(connection) if made is not None else ():
            is_same = item.reason in ("calling_ae_title", "certificate") and item.calling_ae_title.strip() == title
            if is_same and _is_in(item.peer_address, network):
                callers.dismiss(connection, item.id)
    if made is None:
        raise NotAllowed("", f"{present.shown(title)} from {network} may send already")
    return AllowedCallerBody(**vars(made))


def _network(host: str) -> str:
    """Return the address or network as it is compared: an IPv4 address that came over an IPv6 socket is itself."""
    try:
        plain = host.partition("%")[0]
        if "/" not in plain:
            address = ip_address(plain)
            return str(getattr(address, "ipv4_mapped", None) or address)
        network = ip_network(plain, strict=False)
    except ValueError:
        raise NotAllowed("host", "expected an address such as 10.1.0.5, or a network such as 10.1.0.0/24") from None
    if network.prefixlen == 0:
        raise NotAllowed("host", "expected an address or a network, found all of them; node.toml can say *")
    return str(network)


def _is_in(address: str, network: str) -> bool:
    try:
        return ip_address(_network(address)) in ip_network(network)
    except (NotAllowed, ValueError):
        return False  # whatever a sender has for an address
