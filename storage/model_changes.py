"""What admins decided about model packages. Rows are added, never changed; the newest row of a name counts.

active  its results are reported
shadow  it runs and its scores are kept, never reported
off     it does not run
file    as node.toml says
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from storage.errors import StorageError
from storage.site_tables import model_changes
from storage.tables import insert

ACTIVE = "active"
SHADOW = "shadow"
OFF = "off"
FILE = "file"
STATES = (ACTIVE, SHADOW, OFF, FILE)


@dataclass(frozen=True)
class ModelChange:
    """One decision. `version` and `digest` are of the package that was on the disk when it was confirmed."""

    id: int
    name: str
    state: str
    version: str
    digest: str
    reason: str
    changed_by: str
    created_at: datetime


@dataclass(frozen=True)
class Chosen:
    """A package that is to run. With a digest only that very one is meant, else whatever has the name."""

    name: str
    digest: str = ""


@dataclass(frozen=True)
class Effective:
    """What is to run now. `basis` is the id of the newest decision, 0 where there is none."""

    active: tuple[Chosen, ...]
    shadow: tuple[Chosen, ...]
    basis: int = 0


_COLUMNS = [model_changes.c[field.name] for field in fields(ModelChange)]


def add(
    connection: Connection,
    name: str,
    state: str,
    *,
    version: str = "",
    digest: str = "",
    reason: str = "",
    changed_by: str,
    now: datetime,
) -> None:
    """Keep a decision."""
    if state not in STATES:
        raise StorageError(f"state of a model is {state}, expected one of {', '.join(STATES)}")
    connection.execute(
        insert(connection.dialect.name, model_changes).values(
            name=name,
            state=state,
            version=version,
            digest=digest,
            reason=reason,
            changed_by=changed_by,
            created_at=now,
        )
    )


def basis(connection: Connection, *, lock: bool = False) -> int:
    """Return the id of the newest decision, 0 where there is none; with `lock` nobody decides until the transaction
    ends."""
    if lock and connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.exec_driver_sql("LOCK TABLE model_changes IN SHARE ROW EXCLUSIVE MODE")
    return connection.execute(select(func.max(model_changes.c.id))).scalar_one() or 0


def newest(connection: Connection) -> dict[str, ModelChange]:
    """Return the decision that counts for each name, in the order in which the names came up."""
    last = select(func.max(model_changes.c.id)).group_by(model_changes.c.name)
    rows = connection.execute(select(*_COLUMNS).where(model_changes.c.id.in_(last)).order_by(model_changes.c.id))
    return {row.name: ModelChange(**row._mapping) for row in rows}


def history(connection: Connection, *, name: str | None = None, limit: int = 100) -> list[ModelChange]:
    """Return decisions, newest first; of one name if asked."""
    statement = select(*_COLUMNS).order_by(model_changes.c.id.desc()).limit(limit)
    if name is not None:
        statement = statement.where(model_changes.c.name == name)
    return [ModelChange(**row._mapping) for row in connection.execute(statement)]


def effective(connection: Connection, configured: Sequence[str], shadow: Sequence[str] = ()) -> Effective:
    """Return what is to run: node.toml's packages, overruled by the newest decision about each name.

    An active package that was confirmed is bound to its digest; a shadow one is not, for nothing of it is reported.
    """
    decided = {name: change for name, change in newest(connection).items() if change.state != FILE}
    states = dict.fromkeys(configured, (ACTIVE, "")) | dict.fromkeys(shadow, (SHADOW, ""))
    states |= {name: (change.state, change.digest) for name, change in decided.items()}
    return Effective(
        active=tuple(Chosen(name, digest) for name, (state, digest) in states.items() if state == ACTIVE),
        shadow=tuple(Chosen(name) for name, (state, _) in states.items() if state == SHADOW),
        basis=basis(connection),
    )
