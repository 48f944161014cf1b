"""What tables are made of: the types of their columns, the one list of them all, and the dialect's INSERT."""

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Dialect, Integer, MetaData, Table, Text, TypeDecorator
from sqlalchemy.dialects import sqlite

# NaN is no JSON: PostgreSQL refuses it and SQLite would not, so both are kept from seeing it.
to_json = partial(json.dumps, allow_nan=False)


class Instant(TypeDecorator[datetime]):
    """An aware time, UTC, to the microsecond; equal on SQLite (text of fixed width, so it sorts) and PostgreSQL."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone; storage takes aware times only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that a sender may have written: what no database can hold (NUL, lone surrogates) is taken out."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return str(value).replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


# SQLite makes row numbers by itself for INTEGER primary keys only.
Id = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()


def words(name: str, **options: Any) -> Column[str]:
    return Column(name, Words, nullable=False, server_default="", **options)


def count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def when(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, Instant, nullable=nullable)


def insert(dialect: str, table: Table) -> Any:
    """Return the INSERT of the dialect: both know ON CONFLICT, the generic one does not."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # loaded where it is used: it takes 4 MB

    return postgresql.insert(table)
