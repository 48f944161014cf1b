"""Signing in at the site's identity provider: out with a question, back with a code.

What has to be known when the browser comes back (state, nonce, code verifier, page) lies in a cookie of its own, not
on this host: behind a balancer the answer may come to another one. None of it is secret from the browser that holds it.
"""

import json
import secrets
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.log import get_logger
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import address_of, local_target
from cxr_node.worklist.web.accounts.login import UNKNOWN_ACTOR, begin_session
from cxr_node.worklist.web.accounts.oidc import ClaimMissing, Identity, NotBelieved, Provider, ProviderUnavailable
from cxr_node.worklist.web.rendering import render
from storage import audit, sessions, users
from storage.users import User

log = get_logger("worklist")

COOKIE = "cxr_node_oidc"
WITHIN_S = 600
_REMEMBERED = 10_000
_used: "OrderedDict[str, None]" = OrderedDict()  # states that came back; a second time is a replay
_lock = threading.Lock()

router = APIRouter(prefix="/login/oidc", include_in_schema=False)


@dataclass(frozen=True)
class _Question:
    state: str
    nonce: str
    verifier: str
    target: str
    asked_at: int


@router.get("")
def begin(request: Request, target: Annotated[str, Query(alias="next")] = "/") -> Response:
    """Send the browser to the provider."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return _failed(request, 404, "This node has no identity provider.")
    question = _Question(
        state=secrets.token_urlsafe(32),
        nonce=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(32),
        target=local_target(target)[:1000],
        asked_at=int(services.now().timestamp()),
    )
    try:
        address = provider.authorize_url(
            redirect_uri=_back(request, "/login/oidc/callback"),
            state=question.state,
            nonce=question.nonce,
            verifier=question.verifier,
        )
    except ProviderUnavailable as error:
        return _unavailable(request, error)
    answer = RedirectResponse(address, status_code=303)
    answer.set_cookie(
        _cookie(services),
        urlsafe_b64encode(json.dumps(asdict(question)).encode()).decode(),
        max_age=WITHIN_S,
        path="/",
        httponly=True,
        samesite="lax",
        secure=services.access.secure,
    )
    return answer


@router.get("/callback")
def come_back(
    request: Request,
    code: Annotated[str, Query()] = "",
    state: Annotated[str, Query()] = "",
    iss: Annotated[str, Query()] = "",
    error: Annotated[str, Query()] = "",
) -> Response:
    """Begin a session for whom the provider vouches."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return _failed(request, 404, "This node has no identity provider.")
    question = _asked(request, state)
    if question is None or (iss and iss != services.settings.worklist.oidc.issuer):
        _audit(services, "no such question", request)
        return _failed(request, 400, "This answer belongs to no sign-in that began here, or it was used before.")
    if error or not code:
        _audit(services, "refused by the provider", request)
        return _failed(request, 403, f"The hospital account did not sign you in{f' ({error[:60]})' if error else ''}.")
    try:
        found = provider.identify(
            code,
            redirect_uri=_back(request, "/login/oidc/callback"),
            nonce=question.nonce,
            verifier=question.verifier,
        )
    except ProviderUnavailable as unavailable:
        return _unavailable(request, unavailable)
    except NotBelieved as refused:
        log.warning("oidc_refused", reason=str(refused))
        _audit(services, "ID token refused", request)
        return _failed(request, 403, f"The answer of the hospital account is not accepted: {refused}.")
    except ClaimMissing as missing:
        _audit(services, "claim missing", request)
        return _failed(request, 403, f"You are signed in at the hospital account, but {missing}. Ask the admin.")
    user = _user(services, found)
    if user.disabled:
        _audit(services, "disabled", request, user.login)
        return _failed(request, 403, "This account is disabled here. Ask the admin.")
    answer = begin_session(request, user, question.target, by="oidc")
    answer.delete_cookie(_cookie(services), path="/", httponly=True, samesite="lax", secure=services.access.secure)
    return answer


@router.get("/logout")
def sign_out(request: Request) -> Response:
    """End the session at the provider too; the one here has ended before."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return RedirectResponse("/login?out=1", status_code=303)
    try:
        address = provider.sign_out_url(_back(request, "/login"))
    except ProviderUnavailable as error:
        return _unavailable(request, error)
    return RedirectResponse(address or "/login?out=1", status_code=303)


def _asked(request: Request, state: str) -> _Question | None:
    """Return the question that an answer belongs to, once; None for one of another browser, too late, or again."""
    services: Services = request.app.state.services
    try:
        question = _Question(**json.loads(urlsafe_b64decode(request.cookies.get(_cookie(services), ""))))
        age = services.now().timestamp() - question.asked_at
    except (ValueError, TypeError, RecursionError):
        return None
    if not state or not secrets.compare_digest(state.encode(), str(question.state).encode()):
        return None
    if not 0 <= age <= WITHIN_S:
        return None
    with _lock:
        if state in _used:
            return None
        _used[state] = None
        while len(_used) > _REMEMBERED:
            _used.popitem(last=False)
    return _Question(state, str(question.nonce), str(question.verifier), local_target(str(question.target)), 0)


def _user(services: Services, found: Identity) -> User:
    """Return the user of a subject, made or brought up to date.

    Issuer and subject decide. A login that somebody else has here is not taken over: the new user gets one with the
    provider's name behind it.
    """
    now = services.now()
    with services.database.begin() as connection:
        users.lock(connection)
        user = users.find_subject(connection, found.issuer, found.subject)
        if user is None:
            login = users.folded(found.login)
            number = 0
            while users.find(connection, login) is not None:
                number += 1
                login = f"{users.folded(found.login)}@provider{number if number > 1 else ''}"
            user = users.add(
                connection,
                login,
                found.role,
                now=now,
                display_name=found.display_name,
                issuer=found.issuer,
                subject=found.subject,
                created_by="oidc",
            )
            detail = {"login": user.login, "role": user.role}
            audit.record(connection, "user_added", actor="oidc", now=now, detail=detail)
        elif (user.role, user.display_name) != (found.role, found.display_name):
            users.change(connection, user.id, role=found.role, display_name=found.display_name)
            if user.role != found.role:
                sessions.close_all(connection, user.id)
                detail = {"login": user.login, "role": found.role, "former_role": user.role}
                audit.record(connection, "user_role_changed", actor="oidc", now=now, detail=detail)
        current = users.get(connection, user.id)
    assert current is not None  # read in the transaction that wrote it
    return current


def _back(request: Request, path: str) -> str:
    services: Services = request.app.state.services
    return (services.settings.worklist.public_url or str(request.base_url).rstrip("/")) + path


def _cookie(services: Services) -> str:
    return f"__Host-{COOKIE}" if services.access.secure else COOKIE


def _audit(services: Services, reason: str, request: Request, actor: str = UNKNOWN_ACTOR) -> None:
    with services.database.begin() as connection:
        detail = {"reason": reason, "address": address_of(request), "by": "oidc"}
        audit.record(connection, "sign_in_failed", actor=actor, now=services.now(), detail=detail)


def _unavailable(request: Request, error: ProviderUnavailable) -> HTMLResponse:
    log.warning("oidc_unavailable", reason=str(error))
    return _failed(request, 503, "The hospital account cannot be asked now. Signing in with a password still works.")


def _failed(request: Request, status_code: int, detail: str) -> HTMLResponse:
    return render(request, "accounts/sign_in_failed.html", status_code, detail=detail)
