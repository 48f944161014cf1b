"""A person's own account: who they are here, their password, and where they are signed in."""

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import AccessDenied, Person, SignedIn, address_of
from cxr_node.worklist.web.accounts import passwords
from cxr_node.worklist.web.accounts.limit import Limit
from cxr_node.worklist.web.accounts.login import begin_session
from cxr_node.worklist.web.rendering import render
from storage import audit, sessions, users
from storage.users import User

router = APIRouter(include_in_schema=False)


@router.get("/account")
def account_page(request: Request, person: SignedIn) -> HTMLResponse:
    """Who I am here, my password, my sessions."""
    return _page(request, person)


@router.get("/account/password")
@router.get("/account/sessions/{session_id}/end")
def account_forms(request: Request, person: SignedIn) -> Response:
    """A form's address that is loaded again leads back to the page."""
    return RedirectResponse("/account", status_code=303)


@router.post("/account/password")
def change_password(
    request: Request,
    person: SignedIn,
    current: Annotated[str, Form()] = "",
    new: Annotated[str, Form()] = "",
    again: Annotated[str, Form()] = "",
) -> Response:
    """Set another password; every session ends, and this one begins anew."""
    services: Services = request.app.state.services
    user = _user(services, person)
    if user.issuer:
        return _page(request, person, 409, "The password is kept at the hospital account.")
    limit = Limit(services.database, services.now)
    attempt = limit.begin(user.login, address_of(request))
    if attempt.wait_s:
        answer = _page(request, person, 429, f"Too many tries. Try again in {attempt.wait_s} s.")
        answer.headers["Retry-After"] = str(attempt.wait_s)
        return answer
    if not passwords.verify(user.password_hash, current):
        return _page(request, person, 422, "The current password is wrong.")
    limit.succeeded(attempt)
    problem = passwords.problem(new, user.login)
    if not problem and new != again:
        problem = "The two new passwords differ."
    if not problem and new == current:
        problem = "That is the password you have."
    if problem:
        return _page(request, person, 422, problem)
    now = services.now()
    with services.database.begin() as connection:
        users.change(
            connection,
            user.id,
            password_hash=passwords.hashed(new),
            must_change=False,
            password_changed_at=now,
        )
        sessions.close_all(connection, user.id)
        audit.record(connection, "password_changed", actor=user.login, now=now, detail={"role": user.role})
    return begin_session(request, user, "/" if user.must_change else "/account?changed=1", by="password change")


@router.post("/account/sessions/{session_id}/end")
def end_session(request: Request, person: SignedIn, session_id: Annotated[int, Path(ge=1, le=2**31)]) -> Response:
    """Sign out elsewhere: a workstation that was left signed in."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        if sessions.close_one(connection, person.user_id, session_id):
            audit.record(
                connection,
                "sessions_ended",
                actor=person.name,
                now=services.now(),
                detail={"login": person.name, "sessions": 1},
            )
    return RedirectResponse("/account", status_code=303)


def _user(services: Services, person: Person) -> User:
    with services.database.read() as connection:
        user = users.get(connection, person.user_id)
    if user is None:
        raise AccessDenied
    return user


def _page(request: Request, person: Person, status_code: int = 200, problem: str = "") -> HTMLResponse:
    services: Services = request.app.state.services
    now, user = services.now(), _user(services, person)
    with services.database.read() as connection:
        mine = sessions.of_user(connection, user.id, now=now, idle=services.access.idle)
    return render(
        request,
        "accounts/account.html",
        status_code,
        user=user,
        problem=problem,
        changed=request.query_params.get("changed") == "1",
        least=passwords.LEAST_CHARACTERS,
        most=passwords.MOST_CHARACTERS,
        sessions=[
            {
                "id": item.id,
                "is_this": item.id == person.session_id,
                "address": item.address,
                "began": present.instant(item.created_at, services.zone, now),
                "seen": present.instant(item.last_seen_at, services.zone, now),
            }
            for item in mine
        ],
        time_zone=services.settings.worklist.time_zone,
    )
