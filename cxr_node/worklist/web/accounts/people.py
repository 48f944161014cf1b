"""What can be done with users and tokens, for the admin's page, the API and the command line alike.

Each function works in the caller's transaction, writes its own audit entry, and refuses what would leave the node
without an active admin.
"""

import re
import secrets
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from cxr_node.errors import CxrNodeError
from cxr_node.worklist.web.accounts import passwords
from cxr_node.worklist.web.permissions import ROLES
from storage import Database, audit, sessions, tokens, users
from storage.errors import StorageError
from storage.tokens import Token
from storage.users import User

FIRST_ADMIN = "admin"
PEOPLE_ROLES = tuple(role for role in ROLES if role != "service")  # a service is a program: it has a token
MOST_DAYS = 3650
_LOGIN = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+:-]{0,63}")


class AccountError(CxrNodeError):
    """What was asked for cannot be done; the message says why."""


class NoSuchAccount(AccountError):
    """There is no user or token of that name."""


def add_user(
    connection: Connection, login: str, role: str, *, by: str, now: datetime, name: str = ""
) -> tuple[User, str]:
    """Add a local user; returns the one-time password too."""
    login = users.folded(login)
    if not _LOGIN.fullmatch(login):
        raise AccountError("a login has 1 to 64 letters a to z, digits and . _ @ + -; a letter or digit comes first")
    if role not in PEOPLE_ROLES:
        raise AccountError(f"a person's role is one of {', '.join(PEOPLE_ROLES)}; programs use a token")
    name = " ".join(name.split())
    if len(name) > 100 or not name.isprintable():
        raise AccountError("a name has up to 100 printable characters")
    password = passwords.one_time_password()
    try:
        user = users.add(
            connection,
            login,
            role,
            now=now,
            password_hash=passwords.hashed(password),
            must_change=True,
            display_name=name,
            created_by=by,
        )
    except StorageError as error:
        raise AccountError(str(error)) from error
    _record(connection, "user_added", user, by, now, role=role)
    return user, password


def set_role(connection: Connection, login: str, role: str, *, by: str, now: datetime) -> None:
    """Give a user another role; their sessions end."""
    user = _existing(connection, login)
    if role not in PEOPLE_ROLES:
        raise AccountError(f"a person's role is one of {', '.join(PEOPLE_ROLES)}; programs use a token")
    if user.role == role:
        return
    if role != "admin":
        _keep_an_admin(connection, user)
    users.change(connection, user.id, role=role)
    sessions.close_all(connection, user.id)
    _record(connection, "user_role_changed", user, by, now, role=role, former_role=user.role)


def disable(connection: Connection, login: str, *, by: str, now: datetime) -> None:
    """Keep a user out, at once."""
    user = _existing(connection, login)
    if user.disabled:
        return
    _keep_an_admin(connection, user)
    users.change(connection, user.id, disabled=True)
    sessions.close_all(connection, user.id)
    _record(connection, "user_disabled", user, by, now)


def enable(connection: Connection, login: str, *, by: str, now: datetime) -> None:
    """Let a user in again, with the password they had."""
    user = _existing(connection, login)
    if user.disabled:
        users.change(connection, user.id, disabled=False)
        _record(connection, "user_enabled", user, by, now)


def reset(connection: Connection, login: str, *, by: str, now: datetime) -> str:
    """Return a new one-time password; the former one and the sessions end."""
    user = _existing(connection, login)
    if user.issuer:
        raise AccountError(f"{user.login} signs in at {user.issuer}; the password is kept there")
    password = passwords.one_time_password()
    users.change(
        connection,
        user.id,
        password_hash=passwords.hashed(password),
        must_change=True,
        password_changed_at=now,
    )
    sessions.close_all(connection, user.id)
    _record(connection, "password_reset", user, by, now)
    return password


def end_sessions(connection: Connection, login: str, *, by: str, now: datetime) -> int:
    """Sign a user out everywhere; returns of how many sessions."""
    user = _existing(connection, login)
    ended = sessions.close_all(connection, user.id)
    _record(connection, "sessions_ended", user, by, now, sessions=ended)
    return ended


def create_token(
    connection: Connection, name: str, role: str, *, by: str, now: datetime, days: int | None = None
) -> tuple[Token, str]:
    """Make a token that holds for so many days, without `days` until it is revoked; returns its secret too."""
    if not _TOKEN_NAME.fullmatch(name):
        raise AccountError("a token's name has 1 to 64 letters, digits, spaces and . _ @ + : -")
    if role not in ROLES:
        raise AccountError(f"the role of a token is one of {', '.join(ROLES)}")
    if days is not None and not 1 <= days <= MOST_DAYS:
        raise AccountError(f"a token holds for 1 to {MOST_DAYS} days")
    secret = secrets.token_urlsafe(32)
    expires_at = now + timedelta(days=days) if days is not None else None
    try:
        token = tokens.create(connection, name, role, now=now, secret=secret, created_by=by, expires_at=expires_at)
    except StorageError as error:
        raise AccountError(str(error)) from error
    detail = {"name": name, "role": role, "days": days}
    audit.record(connection, "token_created", actor=by, now=now, detail=detail)
    return token, secret


def revoke_token(connection: Connection, name: str, *, by: str, now: datetime) -> None:
    """Take a token back, at once."""
    if not tokens.revoke(connection, name):
        raise NoSuchAccount(f"there is no token {name}")
    audit.record(connection, "token_revoked", actor=by, now=now, detail={"name": name})


def first_admin(database: Database, *, now: datetime) -> str:
    """Where nobody may administer the node, make the user ``admin`` and return the one-time password, else nothing.

    Of several hosts that start together one makes it: the others find it made. Where ``admin`` exists but is disabled
    or has another role, somebody decided that, and it stays; the command line is the way back.
    """
    with database.read() as connection:  # most starts: no write
        if users.count_active(connection, "admin") or users.find(connection, FIRST_ADMIN) is not None:
            return ""
    with database.begin() as connection:
        users.lock(connection)
        if users.count_active(connection, "admin") or users.find(connection, FIRST_ADMIN) is not None:
            return ""
        _, password = add_user(connection, FIRST_ADMIN, "admin", by="first start", now=now)
    return password


def first_admin_told(password: str, url: str) -> str:
    """Return what the console says of the first admin. The only place where the password is ever shown."""
    return (
        f"\nFirst start: nobody may administer this node yet.\n"
        f"  Sign in at {url}\n"
        f"  login                {FIRST_ADMIN}\n"
        f"  one-time password    {password}\n"
        f"It is shown this once and asks to be changed. If it is lost: cxr-node user reset {FIRST_ADMIN}\n"
    )


def _existing(connection: Connection, login: str) -> User:
    users.lock(connection)
    user = users.find(connection, login)
    if user is None:
        raise NoSuchAccount(f"there is no user {users.folded(login)}")
    return user


def _keep_an_admin(connection: Connection, user: User) -> None:
    if user.role == "admin" and not user.disabled and users.count_active(connection, "admin") == 1:
        raise AccountError(f"{user.login} is the last active admin; make another one first")


def _record(connection: Connection, event: str, user: User, by: str, now: datetime, **detail: object) -> None:
    audit.record(connection, event, actor=by, now=now, detail={"login": user.login, **detail})
