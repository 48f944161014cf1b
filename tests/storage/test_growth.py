"""What stands on the line costs the same with a hundred studies and with a hundred thousand.

Counted in instructions of SQLite's machine and read from its plans, for a clock on a shared machine says little.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from storage import Database, deliveries, instances, jobs, results, studies, worklist_query
from storage.studies import PatientContext
from storage.tables import instances as instances_table
from storage.tables import jobs as jobs_table
from storage.tables import studies as studies_table
from storage.worklist_query import Bounds, Filter

pytestmark = pytest.mark.requirement("SRS-STO-026")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAR = NOON + timedelta(days=1)


def fill(database: Database, first: int, last: int) -> None:
    """A history, a backlog that is due, and deliveries of a higher priority that wait for an archive to come back."""
    numbers = range(first, last)
    with database.begin() as connection:
        connection.execute(
            studies_table.insert(),
            [
                {
                    "study_instance_uid": f"1.{number}",
                    "status": "analysed",
                    "first_received_at": NOON,
                    "last_received_at": NOON + timedelta(seconds=number),
                }
                for number in numbers
            ],
        )
        connection.execute(
            instances_table.insert(),
            [
                {
                    "sop_instance_uid": f"2.{number}",
                    "series_instance_uid": "3",
                    "study_instance_uid": f"1.{number}",
                    "sop_class_uid": "4",
                    "transfer_syntax_uid": "5",
                    "size": 1,
                    "location": f"instances/{number}",
                    "received_at": NOON,
                }
                for number in numbers
            ],
        )
        job = {"payload": {}, "created_at": NOON, "attempts": 0}
        connection.execute(
            jobs_table.insert(),
            [
                {
                    **job,
                    "kind": "analyze",
                    "key": f"{kind} {number}",
                    "state": state,
                    "priority": rank,
                    "run_at": run_at,
                }
                for number in numbers
                for kind, state, rank, run_at in (
                    ("done", jobs.COMPLETED, 1, NOON),
                    ("due", jobs.SCHEDULED, 1, NOON - timedelta(seconds=number)),
                    ("waiting", jobs.SCHEDULED, 4, FAR),
                )
            ],
        )


OPERATIONS: dict[str, Callable[[Connection], Any]] = {
    "claim": lambda c: jobs.claim(c, ["analyze"], owner="a", now=NOON, limit=4),
    "claim of nothing": lambda c: jobs.claim(c, ["analyze"], owner="a", now=NOON - timedelta(days=99)),
    "recovery": lambda c: jobs.recover_expired(c, now=FAR),
    "next job": lambda c: jobs.next_run_at(c, ["analyze", "deliver"]),
    "schedule": lambda c: jobs.schedule(c, "analyze", "1.7", run_at=NOON, now=NOON),
    "hasten": lambda c: jobs.hasten(c, "analyze", ["due 3", "waiting 4"], run_at=NOON),
    "touch": lambda c: studies.touch(c, "1.7", PatientContext(), ordered_rank=1, calling_ae_title="", now=NOON),
    "study": lambda c: studies.get(c, "1.7"),
    "list": lambda c: studies.listed(c, since=NOON, limit=20),
    "retiring": lambda c: studies.retire(c, before=NOON - timedelta(days=1), now=NOON, limit=20),
    "instance": lambda c: instances.by_sop_instance_uid(c, "2.7"),
    "instances of a study": lambda c: instances.of_study(c, "1.7"),
    "result": lambda c: results.current(c, "1.7"),
    "deliveries": lambda c: deliveries.of_study(c, "1.7"),
}


def instructions(database: Database, operation: Callable[[Connection], Any]) -> int:
    """Run it and roll it back; return what it cost."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    with database.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        savepoint = connection.begin_nested()
        driver.set_progress_handler(step, 1)
        try:
            operation(connection)
        finally:
            driver.set_progress_handler(None, 1)
        savepoint.rollback()
    return count


def test_no_step_of_the_line_costs_more_with_more_studies(sqlite_database):
    """A node that gets slower every month is switched off in its second year."""
    fill(sqlite_database, 0, 50)
    few = {name: instructions(sqlite_database, operation) for name, operation in OPERATIONS.items()}
    fill(sqlite_database, 50, 5000)
    many = {name: instructions(sqlite_database, operation) for name, operation in OPERATIONS.items()}
    grown = {name: (few[name], many[name]) for name in OPERATIONS if many[name] > 1.5 * few[name] + 50}
    assert grown == {}


WORKLIST = {
    "first page": Filter(),
    "flagged": Filter(state="flagged"),
    "overdue of a modality": Filter(modality="DX", overdue=True),
    "search": Filter(words=("doe",)),
    "delivery problems": Filter(delivery_problem=True),
}


def test_the_worklist_costs_the_same_whatever_was_read_before(sqlite_database):
    """Its indexes hold what waits to be read; the history of years is in none of them."""
    bounds = Bounds(NOON - timedelta(days=1), NOON - timedelta(hours=1), 3, timedelta(hours=1))

    def costs() -> dict[str, int]:
        return {
            name: instructions(
                sqlite_database, lambda c, wanted=wanted: worklist_query.page(c, wanted, bounds, limit=20)
            )
            for name, wanted in WORKLIST.items()
        }

    fill(sqlite_database, 0, 50)
    few = costs()
    fill(sqlite_database, 50, 5000)
    with sqlite_database.begin() as connection:
        connection.execute(studies_table.update().where(studies_table.c.id > 50).values(read_at=NOON))
    many = costs()
    assert {name: (few[name], many[name]) for name in WORKLIST if many[name] > 1.5 * few[name] + 50} == {}


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_step_of_the_line_is_answered_by_an_index(sqlite_database, name):
    """Where it is not, the cost grows with the table."""
    fill(sqlite_database, 0, 50)
    with sqlite_database.begin() as connection:
        with statements() as sent:
            OPERATIONS[name](connection)
        plans = [
            line[3]
            for statement, parameters in sent
            if statement.startswith(("SELECT", "UPDATE"))
            for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert [line for line in plans if line.startswith("SCAN")] == []
    if name.startswith("claim"):
        assert [line for line in plans if "TEMP B-TREE" in line] == []
        assert any("ix_jobs_claim (kind=? AND priority=? AND run_at<?)" in line for line in plans)
