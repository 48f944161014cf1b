"""Sessions of people who signed in: the hash of a cookie's secret, and until when it holds."""

import hashlib
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.engine import Connection

from storage.site_tables import sessions, users

_SEEN_EVERY = timedelta(seconds=30)  # a write for each request would keep the database busy
_APART = timedelta(minutes=5)  # that the clocks of two hosts may be


@dataclass(frozen=True)
class Session:
    """A session that holds, and whose it is. `csrf_token` must come with every request that changes something."""

    id: int
    user_id: int
    login: str
    display_name: str
    role: str
    must_change: bool
    csrf_token: str
    last_seen_at: datetime


@dataclass(frozen=True)
class SessionRow:
    """A session as its user sees it in the list of their own."""

    id: int
    address: str
    created_at: datetime
    last_seen_at: datetime


_ROW = [sessions.c[field.name] for field in fields(SessionRow)]


def open_session(
    connection: Connection, user_id: int, *, secret: str, csrf_token: str, address: str, now: datetime, ends: datetime
) -> None:
    """Begin a session. `secret` is random and long (128 bits or more), so one round of SHA-256 suffices."""
    connection.execute(
        sessions.insert().values(
            secret_sha256=_hashed(secret),
            user_id=user_id,
            csrf_token=csrf_token,
            address=address,
            created_at=now,
            last_seen_at=now,
            expires_at=ends,
        )
    )


def find(connection: Connection, secret: str, *, now: datetime, idle: timedelta) -> Session | None:
    """Return the session of a cookie; None where there is none, it is over, or its user may not sign in any more."""
    row = connection.execute(
        select(
            sessions.c.id,
            sessions.c.user_id,
            sessions.c.csrf_token,
            sessions.c.last_seen_at,
            users.c.login,
            users.c.display_name,
            users.c.role,
            users.c.must_change,
        )
        .join(users, users.c.id == sessions.c.user_id)
        .where(
            sessions.c.secret_sha256 == _hashed(secret),
            *_alive(now, idle),
            users.c.disabled.is_(False),
        )
    ).one_or_none()
    return None if row is None else Session(**row._mapping)


def holds(connection: Connection, session_id: int, *, now: datetime, idle: timedelta) -> bool:
    """Whether a session that was found before still is one."""
    alive = select(sessions.c.id).join(users, users.c.id == sessions.c.user_id)
    alive = alive.where(sessions.c.id == session_id, *_alive(now, idle), users.c.disabled.is_(False))
    return connection.execute(alive).one_or_none() is not None


def of_user(connection: Connection, user_id: int, *, now: datetime, idle: timedelta) -> list[SessionRow]:
    """Return the sessions of a user that hold, the last used one first."""
    mine = select(*_ROW).where(sessions.c.user_id == user_id, *_alive(now, idle))
    return [
        SessionRow(**row._mapping)
        for row in connection.execute(mine.order_by(sessions.c.last_seen_at.desc(), sessions.c.id.desc()))
    ]


def counts(connection: Connection, *, now: datetime, idle: timedelta) -> dict[int, int]:
    """Return how many sessions that hold each user has; a user without one is missing."""
    rows = connection.execute(
        select(sessions.c.user_id, func.count()).where(*_alive(now, idle)).group_by(sessions.c.user_id)
    )
    return {row[0]: int(row[1]) for row in rows}


def is_due(session: Session, now: datetime) -> bool:
    """Whether `seen` would write."""
    return now - session.last_seen_at >= _SEEN_EVERY


def seen(connection: Connection, session: Session, *, now: datetime) -> None:
    """Keep the session from falling idle."""
    connection.execute(update(sessions).where(sessions.c.id == session.id).values(last_seen_at=now))


def close(connection: Connection, secret: str) -> bool:
    """End the session of a cookie; False when there is none."""
    return connection.execute(delete(sessions).where(sessions.c.secret_sha256 == _hashed(secret))).rowcount == 1


def close_one(connection: Connection, user_id: int, session_id: int) -> bool:
    """End one session of a user; False when it is not theirs, or over."""
    mine = delete(sessions).where(sessions.c.id == session_id, sessions.c.user_id == user_id)
    return connection.execute(mine).rowcount == 1


def close_all(connection: Connection, user_id: int, *, but: int | None = None) -> int:
    """End every session of a user, except that of id `but`."""
    mine = delete(sessions).where(sessions.c.user_id == user_id)
    return connection.execute(mine if but is None else mine.where(sessions.c.id != but)).rowcount


def sweep(connection: Connection, *, now: datetime, idle: timedelta) -> int:
    """Forget sessions that are over."""
    over = (sessions.c.expires_at <= now) | (sessions.c.last_seen_at <= now - idle)
    return connection.execute(delete(sessions).where(over)).rowcount


def _alive(now: datetime, idle: timedelta) -> tuple[ColumnElement[bool], ...]:
    # Last seen in time to come: the clock was set back since, and nobody knows how long it has been idle.
    seen_at = sessions.c.last_seen_at
    return sessions.c.expires_at > now, seen_at > now - idle, seen_at <= now + _APART


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
