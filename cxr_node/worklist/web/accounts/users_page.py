"""The admin's page of users and tokens. What is shown once stands in the answer itself and is kept nowhere."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.engine import Connection

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin, Person
from cxr_node.worklist.web.accounts import people
from cxr_node.worklist.web.accounts.people import AccountError
from cxr_node.worklist.web.permissions import ROLES
from cxr_node.worklist.web.rendering import render
from storage import sessions, tokens, users

ROLE_WORDS = {
    "reader": "reads the worklist and assesses results",
    "admin": "the same, and administers the node",
    "auditor": "reads the audit trail, no studies",
    "service": "a program: sends and fetches",
}
DAYS = (30, 90, 365)

router = APIRouter(prefix="/admin", include_in_schema=False)

UserId = Annotated[int, Path(ge=1, le=2**31)]
TokenId = Annotated[int, Path(ge=1, le=2**31)]


@router.get("/users")
def users_page(request: Request, _: Admin) -> HTMLResponse:
    """Users and tokens."""
    return _page(request)


@router.get("/tokens")
@router.get("/users/{user_id}/{action}")
@router.get("/tokens/{token_id}/revoke")
def users_forms(_: Admin) -> Response:
    """A form's address that is loaded again leads back to the page."""
    return RedirectResponse("/admin/users", status_code=303)


@router.post("/users")
def add_user(
    request: Request,
    admin: Admin,
    login: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
    name: Annotated[str, Form()] = "",
) -> HTMLResponse:
    """Add a local user and show the one-time password."""

    def add(connection: Connection, services: Services) -> tuple[str, str]:
        user, password = people.add_user(connection, login, role, by=admin.name, now=services.now(), name=name)
        return f"One-time password of {user.login}", password

    return _shown_once(request, add)


@router.post("/users/{user_id}/reset")
def reset_password(request: Request, admin: Admin, user_id: UserId) -> HTMLResponse:
    """Show a new one-time password."""

    def reset(connection: Connection, services: Services) -> tuple[str, str]:
        login = _login(connection, user_id)
        return (
            f"One-time password of {login}",
            people.reset(connection, login, by=admin.name, now=services.now()),
        )

    return _shown_once(request, reset)


@router.post("/users/{user_id}/role")
def set_role(request: Request, admin: Admin, user_id: UserId, role: Annotated[str, Form()] = "") -> Response:
    """Give another role."""
    return _done(
        request,
        admin,
        lambda connection, by, now: people.set_role(connection, _login(connection, user_id), role, by=by, now=now),
    )


@router.post("/users/{user_id}/disable")
def disable_user(request: Request, admin: Admin, user_id: UserId) -> Response:
    """Keep out."""
    return _done(
        request,
        admin,
        lambda connection, by, now: people.disable(connection, _login(connection, user_id), by=by, now=now),
    )


@router.post("/users/{user_id}/enable")
def enable_user(request: Request, admin: Admin, user_id: UserId) -> Response:
    """Let in again."""
    return _done(
        request,
        admin,
        lambda connection, by, now: people.enable(connection, _login(connection, user_id), by=by, now=now),
    )


@router.post("/users/{user_id}/end-sessions")
def end_sessions(request: Request, admin: Admin, user_id: UserId) -> Response:
    """Sign out everywhere."""
    return _done(
        request,
        admin,
        lambda connection, by, now: people.end_sessions(connection, _login(connection, user_id), by=by, now=now),
    )


@router.post("/tokens")
def create_token(
    request: Request,
    admin: Admin,
    name: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "",
    days: Annotated[str, Form()] = "",
) -> HTMLResponse:
    """Make a token and show its secret."""

    def create(connection: Connection, services: Services) -> tuple[str, str]:
        if days and not (days.isascii() and days.isdigit() and len(days) <= 5):
            raise AccountError("days: expected a number, or nothing for a token that does not expire")
        token, secret = people.create_token(
            connection, name.strip(), role, by=admin.name, now=services.now(), days=int(days) if days else None
        )
        return f"Token {token.name}", secret

    return _shown_once(request, create)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(request: Request, admin: Admin, token_id: TokenId) -> Response:
    """Take a token back."""

    def revoke(connection: Connection, by: str, now: object) -> None:
        token = tokens.get(connection, token_id)
        if token is None:
            raise people.NoSuchAccount("there is no such token any more")
        services: Services = request.app.state.services
        people.revoke_token(connection, token.name, by=by, now=services.now())

    return _done(request, admin, revoke)


def _shown_once(request: Request, work: Callable[[Connection, Services], tuple[str, str]]) -> HTMLResponse:
    services: Services = request.app.state.services
    try:
        with services.database.begin() as connection:
            what, secret = work(connection, services)
    except AccountError as error:
        return _page(request, _status(error), problem=str(error))
    return _page(request, what=what, secret=secret)


def _done(request: Request, admin: Person, work: Callable[..., object]) -> Response:
    services: Services = request.app.state.services
    try:
        with services.database.begin() as connection:
            work(connection, admin.name, services.now())
    except AccountError as error:
        return _page(request, _status(error), problem=str(error))
    return RedirectResponse("/admin/users", status_code=303)


def _status(error: AccountError) -> int:
    return 404 if isinstance(error, people.NoSuchAccount) else 422


def _login(connection: Connection, user_id: int) -> str:
    user = users.get(connection, user_id)
    if user is None:
        raise people.NoSuchAccount("there is no such user any more")
    return user.login


def _page(
    request: Request, status_code: int = 200, problem: str = "", what: str = "", secret: str = ""
) -> HTMLResponse:
    services: Services = request.app.state.services
    now, zone = services.now(), services.zone
    with services.database.read() as connection:
        found = users.listed(connection)
        signed_in = sessions.counts(connection, now=now, idle=services.access.idle)
        kept = tokens.listed(connection)
    return render(
        request,
        "accounts/users.html",
        status_code,
        problem=problem,
        what=what,
        secret=secret,
        users=[
            {
                "user": user,
                "last": present.instant(user.last_login_at, zone, now) if user.last_login_at else None,
                "sessions": signed_in.get(user.id, 0),
            }
            for user in found
        ],
        tokens=[
            {
                "token": token,
                "created": present.instant(token.created_at, zone, now),
                "used": present.instant(token.last_used_at, zone, now) if token.last_used_at else None,
                "expires": present.instant(token.expires_at, zone, now) if token.expires_at else None,
                "is_over": token.expires_at is not None and token.expires_at <= now,
            }
            for token in kept
        ],
        people_roles=people.PEOPLE_ROLES,
        token_roles=ROLES,
        role_words=ROLE_WORDS,
        days=DAYS,
        time_zone=services.settings.worklist.time_zone,
    )
