"""Users and tokens over HTTP, for scripts of an admin. One-time passwords and secrets stand in the answer, once."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.engine import Connection

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.accounts import people
from cxr_node.worklist.web.accounts.people import AccountError, NoSuchAccount
from cxr_node.worklist.web.description import ProblemBody
from storage import tokens, users
from storage.tokens import Token
from storage.users import User

PeopleRole = Literal["reader", "admin", "auditor"]
TokenRole = Literal["reader", "admin", "auditor", "service"]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UserBody(_Body):
    """Somebody who may sign in."""

    login: str
    name: str
    role: str
    disabled: bool
    must_change: bool = Field(description="the password is for once and was not changed yet")
    issuer: str = Field(description="of the OpenID Connect provider; empty: signs in with a password of this node")
    created_at: datetime
    created_by: str
    last_login_at: datetime | None


class UserListBody(_Body):
    """Every user, by login."""

    users: list[UserBody]


class NewUserBody(_Body):
    """Whom to add."""

    login: str = Field(min_length=1, max_length=64, examples=["j.roe"])
    role: PeopleRole
    name: str = Field("", max_length=100)


class ChangeUserBody(_Body):
    """What to change; null leaves as it is."""

    role: PeopleRole | None = None
    disabled: bool | None = None


class PasswordBody(_Body):
    """A password for once, shown once."""

    login: str
    one_time_password: str


class TokenBody(_Body):
    """A token, without its secret."""

    name: str
    role: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None = Field(description="up to ten minutes behind; null: never")
    expires_at: datetime | None = Field(description="null: holds until it is revoked")


class TokenListBody(_Body):
    """Every token, by name."""

    tokens: list[TokenBody]


class NewTokenBody(_Body):
    """Which token to make."""

    name: str = Field(min_length=1, max_length=64, examples=["ris-gateway"])
    role: TokenRole
    days: int | None = Field(None, ge=1, le=people.MOST_DAYS, description="null: until it is revoked")


class SecretBody(_Body):
    """A new token with its secret, shown once."""

    token: TokenBody
    secret: str = Field(description="what programs send: `Authorization: Bearer SECRET`")


router = APIRouter(
    prefix="/api",
    tags=["accounts"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "only the role admin may"},
        503: {"model": ProblemBody},
    },
)

_404: dict[int | str, dict[str, Any]] = {404: {"model": ProblemBody, "description": "there is none of that name"}}
_409: dict[int | str, dict[str, Any]] = {
    409: {"model": ProblemBody, "description": "why it cannot be done: taken, not allowed, or the last admin"}
}
Name = Annotated[str, Path(max_length=300)]


@router.get("/users", summary="Who may sign in")
def list_users(request: Request, admin: Admin) -> UserListBody:
    """By login."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        return UserListBody(users=[_user(user) for user in users.listed(connection)])


@router.post("/users", summary="Add a local user", status_code=201, responses=_409)
def add_user(request: Request, admin: Admin, body: NewUserBody) -> PasswordBody:
    """The password must be changed at the first sign-in."""
    services: Services = request.app.state.services
    with _told(services) as connection:
        user, password = people.add_user(
            connection, body.login, body.role, by=admin.name, now=services.now(), name=body.name
        )
    return PasswordBody(login=user.login, one_time_password=password)


@router.patch("/users/{login}", summary="Change role, disable, enable", responses={**_404, **_409})
def change_user(request: Request, admin: Admin, login: Name, body: ChangeUserBody) -> UserBody:
    """Sessions of the user end when the role changes or they are disabled."""
    services: Services = request.app.state.services
    now = services.now()
    with _told(services) as connection:
        if body.disabled is False:
            people.enable(connection, login, by=admin.name, now=now)
        if body.role is not None:
            people.set_role(connection, login, body.role, by=admin.name, now=now)
        if body.disabled:
            people.disable(connection, login, by=admin.name, now=now)
        user = users.find(connection, login)
        if user is None:
            raise NoSuchAccount(f"there is no user {login}")
    return _user(user)


@router.post("/users/{login}/reset", summary="A new one-time password", responses={**_404, **_409})
def reset_password(request: Request, admin: Admin, login: Name) -> PasswordBody:
    """The former one and the sessions of the user end."""
    services: Services = request.app.state.services
    with _told(services) as connection:
        password = people.reset(connection, login, by=admin.name, now=services.now())
    return PasswordBody(login=users.folded(login), one_time_password=password)


@router.get("/tokens", summary="Tokens of programs")
def list_tokens(request: Request, admin: Admin) -> TokenListBody:
    """By name; those that expired too."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        return TokenListBody(tokens=[_token(token) for token in tokens.listed(connection)])


@router.post("/tokens", summary="Make a token", status_code=201, responses=_409)
def create_token(request: Request, admin: Admin, body: NewTokenBody) -> SecretBody:
    """Its secret is in this answer and nowhere else."""
    services: Services = request.app.state.services
    with _told(services) as connection:
        token, secret = people.create_token(
            connection, body.name, body.role, by=admin.name, now=services.now(), days=body.days
        )
    return SecretBody(token=_token(token), secret=secret)


@router.delete("/tokens/{name}", summary="Revoke a token", status_code=204, responses=_404)
def revoke_token(request: Request, admin: Admin, name: Name) -> None:
    """At once."""
    services: Services = request.app.state.services
    with _told(services) as connection:
        people.revoke_token(connection, name, by=admin.name, now=services.now())


@contextmanager
def _told(services: Services) -> Iterator[Connection]:
    """Open the transaction of a change; what cannot be done becomes an answer that says why."""
    try:
        with services.database.begin() as connection:
            yield connection
    except NoSuchAccount as error:
        raise HTTPException(404, str(error)) from error
    except AccountError as error:
        raise HTTPException(409, str(error)) from error


def _user(user: User) -> UserBody:
    return UserBody(
        login=user.login,
        name=user.display_name,
        role=user.role,
        disabled=user.disabled,
        must_change=user.must_change,
        issuer=user.issuer,
        created_at=user.created_at,
        created_by=user.created_by,
        last_login_at=user.last_login_at,
    )


def _token(token: Token) -> TokenBody:
    return TokenBody(
        name=token.name,
        role=token.role,
        created_at=token.created_at,
        created_by=token.created_by,
        last_used_at=token.last_used_at,
        expires_at=token.expires_at,
    )
