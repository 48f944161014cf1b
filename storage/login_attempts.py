"""Tries to sign in with a password: what the limit on them counts."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from storage.site_tables import login_attempts
from storage.users import folded

_ONE_AT_A_TIME = 0x63787232  # PostgreSQL advisory lock: tries that come together are counted one after another
_LOGIN_DIGITS = 8  # of the hash; some typed their password into the field of the login, and it must not be found here


@dataclass(frozen=True)
class Failures:
    """How often a password was wrong since the last time it was right, and when last."""

    count: int
    last_at: datetime | None


def begin(connection: Connection, login: str, address: str, *, now: datetime) -> int:
    """Note a try as failed, before the password is looked at; return its id for `succeeded`."""
    values = {"login": _short(login), "address": address, "succeeded": False, "created_at": now}
    added = connection.execute(login_attempts.insert().values(**values).returning(login_attempts.c.id))
    return int(added.scalar_one())


def succeeded(connection: Connection, attempt_id: int) -> None:
    """The password of that try was right."""
    connection.execute(update(login_attempts).where(login_attempts.c.id == attempt_id).values(succeeded=True))


def only_one(connection: Connection) -> None:
    """Have other processes and threads wait until this transaction ends; on SQLite every writer does."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))


def failures(
    connection: Connection, *, since: datetime, login: str | None = None, address: str | None = None
) -> Failures:
    """Return the failures after the last success, of a login, of an address, or of one from the other."""
    matching = []
    if login is not None:
        matching.append(login_attempts.c.login == _short(login))
    if address is not None:
        matching.append(login_attempts.c.address == address)
    last_success = (
        select(func.coalesce(func.max(login_attempts.c.id), 0))
        .where(*matching, login_attempts.c.succeeded.is_(True))
        .scalar_subquery()
    )
    row = connection.execute(
        select(func.count(), func.max(login_attempts.c.created_at)).where(
            *matching,
            login_attempts.c.succeeded.is_(False),
            login_attempts.c.created_at > since,
            login_attempts.c.id > last_success,
        )
    ).one()
    return Failures(int(row[0]), row[1])


def is_known(connection: Connection, login: str, address: str) -> bool:
    """Whether that login was signed in from that address before."""
    found = select(login_attempts.c.id).where(
        login_attempts.c.login == _short(login),
        login_attempts.c.address == address,
        login_attempts.c.succeeded.is_(True),
    )
    return connection.execute(found.limit(1)).one_or_none() is not None


def forget(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove tries older than `before`; returns how many."""
    old: Sequence[int] = (
        connection.execute(select(login_attempts.c.id).where(login_attempts.c.created_at < before).limit(limit))
        .scalars()
        .all()
    )
    if old:
        connection.execute(delete(login_attempts).where(login_attempts.c.id.in_(old)))
    return len(old)


def _short(login: str) -> str:
    return hashlib.sha256(folded(login).encode()).hexdigest()[:_LOGIN_DIGITS]
