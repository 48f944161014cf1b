"""People who sign in: a login, a role, and the hash of a password, or the subject at an OpenID Connect provider."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.site_tables import users
from storage.tables import insert

_CHANGES = 0x63787233  # PostgreSQL advisory lock


@dataclass(frozen=True)
class User:
    """Who may sign in. `issuer` and `subject` are empty for a local user; `must_change`: the password is for once."""

    id: int
    login: str
    display_name: str
    role: str
    password_hash: str
    must_change: bool
    disabled: bool
    issuer: str
    subject: str
    created_at: datetime
    created_by: str
    password_changed_at: datetime | None
    last_login_at: datetime | None


_COLUMNS = [users.c[field.name] for field in fields(User)]


def folded(login: str) -> str:
    """Return a login as it is kept: without space around it, in lower case, without what no database can hold.

    The limit on wrong passwords counts by it: two ways to write one login must not be counted apart.
    """
    return login.replace("\x00", "").encode("utf-8", "replace").decode("utf-8").strip().casefold()


def add(
    connection: Connection,
    login: str,
    role: str,
    *,
    now: datetime,
    password_hash: str = "",
    must_change: bool = False,
    display_name: str = "",
    issuer: str = "",
    subject: str = "",
    created_by: str = "",
) -> User:
    """Add a user.

    Raises
    ------
    StorageError
        The login is taken.
    """
    row = connection.execute(
        insert(connection.dialect.name, users)
        .values(
            login=folded(login),
            role=role,
            password_hash=password_hash,
            must_change=must_change,
            display_name=display_name,
            issuer=issuer,
            subject=subject,
            created_at=now,
            created_by=created_by,
            password_changed_at=now if password_hash else None,
        )
        .on_conflict_do_nothing()
        .returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise StorageError(f"a user {folded(login)} exists")
    return User(**row._mapping)


def get(connection: Connection, user_id: int) -> User | None:
    """Return the user, or None."""
    row = connection.execute(select(*_COLUMNS).where(users.c.id == user_id)).one_or_none()
    return None if row is None else User(**row._mapping)


def find(connection: Connection, login: str) -> User | None:
    """Return the user of that login, or None."""
    row = connection.execute(select(*_COLUMNS).where(users.c.login == folded(login))).one_or_none()
    return None if row is None else User(**row._mapping)


def find_subject(connection: Connection, issuer: str, subject: str) -> User | None:
    """Return who has that subject at an OpenID Connect provider, or None."""
    of_subject = (users.c.issuer == issuer, users.c.subject == subject)
    row = connection.execute(select(*_COLUMNS).where(*of_subject)).first() if issuer else None
    return None if row is None else User(**row._mapping)


def listed(connection: Connection) -> list[User]:
    """Return every user, by login."""
    return [User(**row._mapping) for row in connection.execute(select(*_COLUMNS).order_by(users.c.login))]


def count_active(connection: Connection, role: str) -> int:
    """Return how many users of a role may sign in."""
    of_role = select(func.count()).select_from(users).where(users.c.role == role, users.c.disabled.is_(False))
    return int(connection.execute(of_role).scalar_one())


def lock(connection: Connection) -> None:
    """Have other changes of users wait until this transaction ends: two admins must not disable one another."""
    if connection.dialect.name == "postgresql":  # on SQLite a transaction that writes is alone anyway
        connection.execute(select(func.pg_advisory_xact_lock(_CHANGES)))


def change(connection: Connection, user_id: int, **values: Any) -> bool:
    """Set columns of a user; False when there is none."""
    return connection.execute(update(users).where(users.c.id == user_id).values(**values)).rowcount == 1
