"""Access tokens of people and programs: a name, a role, and the hash of a secret that is shown once and never kept."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.tables import insert, tokens


@dataclass(frozen=True)
class Token:
    """Who holds a token, and what they may do."""

    name: str
    role: str


def create(connection: Connection, name: str, role: str, *, now: datetime, secret: str) -> Token:
    """Add a token. `secret` is random and long (128 bits or more), so one round of SHA-256 suffices.

    Raises
    ------
    StorageError
        The name or the secret is taken.
    """
    added = connection.execute(
        insert(connection.dialect.name, tokens)
        .values(name=name, role=role, secret_sha256=_hashed(secret), created_at=now)
        .on_conflict_do_nothing()
        .returning(tokens.c.id)
    ).one_or_none()
    if added is None:
        raise StorageError(f"a token for {name} exists; revoke it first")
    return Token(name, role)


def find(connection: Connection, secret: str) -> Token | None:
    """Return whose secret this is, or None."""
    row = connection.execute(
        select(tokens.c.name, tokens.c.role).where(tokens.c.secret_sha256 == _hashed(secret))
    ).one_or_none()
    return None if row is None else Token(row.name, row.role)


def listed(connection: Connection) -> list[Token]:
    """Return every token, by name."""
    rows = connection.execute(select(tokens.c.name, tokens.c.role).order_by(tokens.c.name))
    return [Token(row.name, row.role) for row in rows]


def revoke(connection: Connection, name: str) -> bool:
    """Remove a token at once; False when there is none of that name."""
    return connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount == 1


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
