"""What a destination's lane remembers beyond one process, and what a person told it.

A lane rests after failures (`failures` in a row, `resting_until`); with a success, or when a person resumes it, it goes
on at once. A paused lane sends nothing until it is resumed: its jobs wait, whatever restarts meanwhile.
"""

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from storage.deliveries import COMMITTED, DELIVERED, FAILED, SCHEDULED
from storage.tables import deliveries, destination_states, insert

LATELY = timedelta(hours=24)


@dataclass(frozen=True)
class DestinationState:
    """One destination as it stands. `last_test` is what was found wrong, empty where nothing was; it says something
    only where there is a `last_test_at`."""

    name: str
    paused: bool = False
    paused_by: str = ""
    failures: int = 0
    resting_until: datetime | None = None
    last_error: str = ""
    last_failure_at: datetime | None = None
    last_success_at: datetime | None = None
    last_test: str = ""
    last_test_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True)
class Counts:
    """Deliveries of one destination: `delivered` of the last 24 hours, the others of all time."""

    waiting: int = 0
    failed: int = 0
    delivered: int = 0


_COLUMNS = [destination_states.c[field.name] for field in fields(DestinationState)]


def get(connection: Connection, name: str) -> DestinationState:
    """Return its state; one that nothing was said of yet is at rest and well."""
    row = connection.execute(select(*_COLUMNS).where(destination_states.c.name == name)).one_or_none()
    return DestinationState(name) if row is None else DestinationState(**row._mapping)


def note_success(connection: Connection, name: str, *, now: datetime) -> None:
    """The destination took something: what failed before is over."""
    _write(connection, name, now, failures=0, resting_until=None, last_success_at=now)


def note_failure(
    connection: Connection, name: str, *, error: str, failures: int, resting_until: datetime | None, now: datetime
) -> None:
    """An attempt failed; `failures` is 0 and `resting_until` None where the object was to blame."""
    _write(
        connection,
        name,
        now,
        failures=failures,
        resting_until=resting_until,
        last_error=error,
        last_failure_at=now,
    )


def pause(connection: Connection, name: str, *, by: str, now: datetime) -> bool:
    """Have the lane send nothing any more; False where it is paused already."""
    if get(connection, name).paused:
        return False
    _write(connection, name, now, paused=True, paused_by=by)
    return True


def resume(connection: Connection, name: str, *, now: datetime) -> bool:
    """Have the lane go on, at once also where it only rested after failures; False where it was not paused."""
    was_paused = get(connection, name).paused
    _write(connection, name, now, paused=False, paused_by="", failures=0, resting_until=None)
    return was_paused


def note_test(connection: Connection, name: str, found: str, *, now: datetime) -> None:
    """Keep what a test of the destination found wrong, nothing where it is well."""
    _write(connection, name, now, last_test=found, last_test_at=now)


def counts(connection: Connection, *, now: datetime) -> dict[str, Counts]:
    """Return how many deliveries wait, failed and arrived, by destination; one without any is left out."""
    found: dict[str, dict[str, int]] = {}
    since = {SCHEDULED: None, FAILED: None, DELIVERED: now - LATELY, COMMITTED: now - LATELY}
    # One state at a time: each is a range of ix_deliveries_state, and all that ever arrived is not walked through.
    for state, after in since.items():
        statement = select(deliveries.c.destination, func.count()).where(deliveries.c.state == state)
        if after is not None:
            statement = statement.where(deliveries.c.updated_at >= after)
        for name, number in connection.execute(statement.group_by(deliveries.c.destination)):
            found.setdefault(name, {})[state] = number
    return {
        name: Counts(by.get(SCHEDULED, 0), by.get(FAILED, 0), by.get(DELIVERED, 0) + by.get(COMMITTED, 0))
        for name, by in found.items()
    }


def _write(connection: Connection, name: str, now: datetime, **values: Any) -> None:
    statement = insert(connection.dialect.name, destination_states).values(name=name, updated_at=now, **values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[destination_states.c.name], set_={"updated_at": now, **values})
    )
