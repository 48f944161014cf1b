"""Signing in with a password, and signing out."""

import secrets
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import AccountHolder, address_of, local_target
from cxr_node.worklist.web.accounts import passwords
from cxr_node.worklist.web.accounts.limit import Limit
from cxr_node.worklist.web.permissions import Permission, may
from cxr_node.worklist.web.rendering import render
from storage import audit, sessions, users
from storage.users import User

WRONG = "Login or password is wrong."
UNKNOWN_ACTOR = "unknown"  # never what was typed: some type their password into the field of the login
MOST_TYPED = 300

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_page(
    request: Request, target: Annotated[str, Query(alias="next")] = "/", out: Annotated[str, Query()] = ""
) -> HTMLResponse:
    """The form that asks for login and password; `out` after signing out."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    return login_form(request, target=local_target(target), signed_out=bool(out), of_provider=out == "provider")


@router.post("/login")
def login(
    request: Request,
    name: Annotated[str, Form(alias="login")] = "",
    password: Annotated[str, Form()] = "",
    target: Annotated[str, Form(alias="next")] = "/",
) -> Response:
    """Begin a session, kept in a cookie that no script can read.

    A login that is not known, is disabled or is of the provider takes as long and is answered with the same words as a
    wrong password.
    """
    services: Services = request.app.state.services
    services.access.check_host(request)
    services.access.check_origin(request)
    target, name, address = local_target(target), name[:MOST_TYPED], address_of(request)
    limit = Limit(services.database, services.now)
    attempt = limit.begin(name, address)
    if attempt.wait_s:
        services.audit.record("sign_in_refused", actor=UNKNOWN_ACTOR, address=address, reason="too many tries")
        problem = f"Too many tries. Try again in {attempt.wait_s} s."
        answer = login_form(request, 429, target=target, problem=problem)
        answer.headers["Retry-After"] = str(attempt.wait_s)
        return answer
    with services.database.read() as connection:
        user = users.find(connection, name)
    is_right = passwords.verify(user.password_hash if user is not None else "", password)
    if not is_right or user is None or user.disabled:
        _audit_failure(services, user, is_right, address)
        return login_form(request, 401, target=target, problem=WRONG)
    limit.succeeded(attempt)
    if passwords.is_outdated(user.password_hash):
        with services.database.begin() as connection:
            users.change(connection, user.id, password_hash=passwords.hashed(password))
    return begin_session(request, user, target, by="password")


@router.post("/logout")
def logout(request: Request, person: AccountHolder) -> Response:
    """End the session. The provider's own goes on; the page that follows has the link that ends it."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        user = users.get(connection, person.user_id)
        sessions.close(connection, request.cookies.get(services.access.cookie, ""))
        audit.record(
            connection,
            "signed_out",
            actor=person.name,
            now=services.now(),
            detail={"role": person.role, "address": address_of(request)},
        )
    # A redirect to the provider would be of a form, which the policy of our pages (form-action) forbids.
    out = "provider" if user is not None and user.issuer else "1"
    answer = RedirectResponse(f"/login?out={out}", status_code=303)
    answer.delete_cookie(services.access.cookie, path="/", httponly=True, samesite="lax", secure=services.access.secure)
    return answer


def login_form(
    request: Request,
    status_code: int = 200,
    *,
    target: str = "/",
    problem: str = "",
    signed_out: bool = False,
    of_provider: bool = False,
) -> HTMLResponse:
    """Return the page that asks for login and password, with the provider's button where there is a provider."""
    services: Services = request.app.state.services
    oidc = services.settings.worklist.oidc
    return render(
        request,
        "accounts/login.html",
        status_code,
        target=target,
        problem=problem,
        signed_out=signed_out,
        provider_out=of_provider and bool(oidc.issuer),
        provider_button=oidc.button if oidc.issuer else "",
    )


def begin_session(request: Request, user: User, target: str, *, by: str) -> Response:
    """Return the answer that begins the session of a user who has shown who they are; one they had in it ends.

    The cookie is SameSite=Lax: Strict would ask everybody to sign in again who comes from a link in the RIS, or back
    from the provider. Lax still keeps it from what a page of another site posts, which the CSRF token refuses besides.
    """
    services: Services = request.app.state.services
    if target == "/" and not may(user.role, Permission.READ_STUDIES):
        target = "/admin/audit"  # the one place of an auditor
    settings, now, secret = services.settings.worklist, services.now(), secrets.token_urlsafe(32)
    with services.database.begin() as connection:
        sessions.close(connection, request.cookies.get(services.access.cookie, ""))
        sessions.open_session(
            connection,
            user.id,
            secret=secret,
            csrf_token=secrets.token_urlsafe(32),
            address=address_of(request),
            now=now,
            ends=now + timedelta(hours=settings.session_max_h),
        )
        users.change(connection, user.id, last_login_at=now)
        detail = {"role": user.role, "address": address_of(request), "by": by}
        audit.record(connection, "signed_in", actor=user.login, now=now, detail=detail)
    answer = RedirectResponse(target, status_code=303)
    answer.set_cookie(
        services.access.cookie,
        secret,
        max_age=int(settings.session_max_h * 3600),
        path="/",
        httponly=True,
        samesite="lax",
        secure=services.access.secure,
    )
    return answer


def _audit_failure(services: Services, user: User | None, is_right: bool, address: str) -> None:
    reason = "unknown login" if user is None else "disabled" if is_right else "wrong password"
    actor = user.login if user is not None else UNKNOWN_ACTOR
    with services.database.begin() as connection:
        detail = {"reason": reason, "address": address}
        audit.record(connection, "sign_in_failed", actor=actor, now=services.now(), detail=detail)
