"""Signing in and out."""

import secrets
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import COOKIE, AccountHolder, local_target
from cxr_node.worklist.web.accounts import passwords
from cxr_node.worklist.web.rendering import render
from storage import sessions, users
from storage.users import User

router = APIRouter(include_in_schema=False)


@router.get("/login")
def login_page(request: Request, target: Annotated[str, Query(alias="next")] = "/") -> HTMLResponse:
    """The form that asks for login and password."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    return render(request, "accounts/login.html", target=local_target(target), problem="")


@router.post("/login")
def login(
    request: Request,
    name: Annotated[str, Form(alias="login")] = "",
    password: Annotated[str, Form()] = "",
    target: Annotated[str, Form(alias="next")] = "/",
) -> Response:
    """Begin a session, kept in a cookie that no script can read and no other site can send."""
    services: Services = request.app.state.services
    services.access.check_host(request)
    services.access.check_origin(request)
    with services.database.read() as connection:
        user = users.find(connection, name)
    if not passwords.verify(user.password_hash if user is not None else "", password) or user is None or user.disabled:
        return render(
            request, "accounts/login.html", 401, target=local_target(target), problem="Login or password is wrong."
        )
    return signed_in(request, user, local_target(target))


@router.post("/logout")
def logout(request: Request, _: AccountHolder) -> Response:
    """End the session."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        sessions.close(connection, request.cookies.get(COOKIE, ""))
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def signed_in(request: Request, user: User, target: str) -> Response:
    """Return the answer that begins the session of a user who has shown who they are."""
    services: Services = request.app.state.services
    settings, now, secret = services.settings.worklist, services.now(), secrets.token_urlsafe(32)
    with services.database.begin() as connection:
        sessions.open_session(
            connection,
            user.id,
            secret=secret,
            csrf_token=secrets.token_urlsafe(32),
            address=request.client.host if request.client else "",
            now=now,
            ends=now + timedelta(hours=settings.session_max_h),
        )
        users.change(connection, user.id, last_login_at=now)
    services.audit.record("signed_in", actor=user.login, role=user.role)
    answer = RedirectResponse(target, status_code=303)
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=int(settings.session_max_h * 3600),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or settings.public_url.startswith("https://"),
    )
    return answer
