"""Access tokens of people and programs: a name, a role, and the hash of a secret that is shown once and never kept."""

import hashlib
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.tables import insert, tokens

_USED_EVERY = timedelta(minutes=10)  # a write for each request would keep the database busy


@dataclass(frozen=True)
class Token:
    """Who holds a token, and what they may do. `last_used_at` is up to ten minutes behind."""

    id: int
    name: str
    role: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    expires_at: datetime | None


_COLUMNS = [tokens.c[field.name] for field in fields(Token)]


def create(
    connection: Connection,
    name: str,
    role: str,
    *,
    now: datetime,
    secret: str,
    created_by: str = "",
    expires_at: datetime | None = None,
) -> Token:
    """Add a token. `secret` is random and long (128 bits or more), so one round of SHA-256 suffices.

    Raises
    ------
    StorageError
        The name or the secret is taken.
    """
    added = connection.execute(
        insert(connection.dialect.name, tokens)
        .values(
            name=name,
            role=role,
            secret_sha256=_hashed(secret),
            created_at=now,
            created_by=created_by,
            expires_at=expires_at,
        )
        .on_conflict_do_nothing()
        .returning(*_COLUMNS)
    ).one_or_none()
    if added is None:
        raise StorageError(f"a token for {name} exists; revoke it first")
    return Token(**added._mapping)


def find(connection: Connection, secret: str, *, now: datetime) -> Token | None:
    """Return whose secret this is; None where it is nobody's or has expired."""
    row = connection.execute(
        select(*_COLUMNS).where(
            tokens.c.secret_sha256 == _hashed(secret), tokens.c.expires_at.is_(None) | (tokens.c.expires_at > now)
        )
    ).one_or_none()
    return None if row is None else Token(**row._mapping)


def get(connection: Connection, token_id: int) -> Token | None:
    """Return the token, or None."""
    row = connection.execute(select(*_COLUMNS).where(tokens.c.id == token_id)).one_or_none()
    return None if row is None else Token(**row._mapping)


def is_due(token: Token, now: datetime) -> bool:
    """Whether `used` would write."""
    return token.last_used_at is None or now - token.last_used_at >= _USED_EVERY


def used(connection: Connection, token: Token, *, now: datetime) -> None:
    """Keep when the token was used."""
    connection.execute(update(tokens).where(tokens.c.id == token.id).values(last_used_at=now))


def listed(connection: Connection) -> list[Token]:
    """Return every token, by name; those that expired too, so that somebody sees and removes them."""
    return [Token(**row._mapping) for row in connection.execute(select(*_COLUMNS).order_by(tokens.c.name))]


def revoke(connection: Connection, name: str) -> bool:
    """Remove a token at once; False when there is none of that name."""
    return connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount == 1


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
