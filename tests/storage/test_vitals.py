"""How the node stands: right on both databases, and no dearer with a long history."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.engine import Connection

from storage import Database, destination_states, jobs, senders, vitals
from storage.tables import instances as instances_table
from storage.tables import jobs as jobs_table
from storage.tables import studies as studies_table
from storage.vitals import Latency, Queue
from tests.storage.test_growth import instructions

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def study(uid: str, ago_min: float, told_s: float | None, **values: Any) -> dict[str, Any]:
    """Return the row of a study: its last image so many minutes ago, its priority so many seconds later."""
    last = NOON - timedelta(minutes=ago_min)
    plain = {
        "study_instance_uid": uid,
        "status": "pending" if told_s is None else "analysed",
        "calling_ae_title": "CR",
        "modality": "DX",
        "first_received_at": last,
        "last_received_at": last,
        "notified_at": None if told_s is None else last + timedelta(seconds=told_s),
        "origin": "",
    }
    return plain | values


@pytest.mark.requirement("SRS-ADM-106")
def test_the_queue_is_told_by_kind_with_its_oldest(database):
    """What is due is a matter of now; what waits for its settle time is not."""
    with database.begin() as connection:
        for key, minutes in (("1", -3), ("2", -9), ("3", 5)):
            jobs.schedule(connection, "deliver:pacs", key, run_at=NOON + timedelta(minutes=minutes), now=NOON)
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        (claimed,) = jobs.claim(connection, ["analyze"], owner="a:1:", now=NOON)
        jobs.schedule(connection, "order", "1.2", run_at=NOON, now=NOON)
        (failed,) = jobs.claim(connection, ["order"], owner="a:1:", now=NOON)
        jobs.fail(connection, failed, reason="gone", now=NOON)
        assert vitals.queues(connection, now=NOON) == [
            Queue("analyze", 0, 0, 1, None),
            Queue("deliver:pacs", 2, 1, 0, NOON - timedelta(minutes=9)),
        ]
        assert vitals.failed_jobs(connection) == 1
        jobs.complete(connection, claimed, now=NOON)
        assert [queue.kind for queue in vitals.queues(connection, now=NOON)] == ["deliver:pacs"]


@pytest.mark.requirement("SRS-ADM-106")
def test_latency_counts_those_who_still_wait_and_leaves_out_what_was_told_before(database):
    """A study that is stuck must not improve the figure by being absent from it."""
    rows = [study(f"1.{number}", 10, 0.2) for number in range(18)]
    rows += [study("1.98", 10, 4.0), study("1.99", 1, None)]
    rows += [study("2.1", 10, 9.0, origin="backfill"), study("2.2", 10, -5.0), study("2.3", 90, 7.0)]
    with database.begin() as connection:
        assert vitals.latency(connection, since=NOON - timedelta(hours=1), now=NOON) == Latency(
            0, False, None, None, None
        )
        connection.execute(insert(studies_table), rows)
        found = vitals.latency(connection, since=NOON - timedelta(hours=1), now=NOON)
        assert (found.studies, found.is_part, found.p50_s, found.p95_s) == (20, False, 0.2, 4.0)
        assert found.above_1_s == pytest.approx(0.1)
        assert vitals.latency(connection, since=NOON - timedelta(hours=2), now=NOON).studies == 21
        assert vitals.oldest_pending(connection) == NOON - timedelta(minutes=1)
        connection.execute(update(studies_table).values(read_at=NOON))
        assert vitals.oldest_pending(connection) is None


@pytest.mark.requirement("SRS-ADM-106")
def test_room_destinations_and_size(database):
    """How fast the disk fills is what came in a day; two images say nothing."""
    plain = {"series_instance_uid": "3", "study_instance_uid": "1", "sop_class_uid": "4", "transfer_syntax_uid": "5"}
    rows = [
        {**plain, "sop_instance_uid": f"2.{number}", "size": 1000, "location": str(number), "received_at": at}
        for number, at in enumerate([NOON - timedelta(hours=30), NOON - timedelta(hours=2), NOON - timedelta(hours=1)])
    ]
    with database.begin() as connection:
        connection.execute(insert(instances_table), rows[:2])
        assert vitals.growth(connection, now=NOON) is None
        connection.execute(insert(instances_table), rows[2:])
        found = vitals.growth(connection, now=NOON)
        assert found is not None
        assert (found.bytes, found.seconds) == (2000, 86400)
        assert vitals.database_bytes(connection) > 10_000
        destination_states.pause(connection, "pacs", by="kim", now=NOON)
        for name, until in (("ris", NOON + timedelta(seconds=9)), ("archive", NOON - timedelta(seconds=9))):
            destination_states.note_failure(connection, name, error="down", failures=3, resting_until=until, now=NOON)
        assert vitals.destinations(connection, now=NOON) == ({"pacs"}, {"ris"})
        assert vitals.failed_deliveries(connection) == 0


QUESTIONS: dict[str, Callable[[Connection], Any]] = {
    "queues": lambda c: vitals.queues(c, now=NOON),
    "failed jobs": vitals.failed_jobs,
    "failed deliveries": vitals.failed_deliveries,
    "oldest pending": vitals.oldest_pending,
    "last images": senders.last_images,
    "size": vitals.database_bytes,
    "latency": lambda c: vitals.latency(c, since=NOON - timedelta(hours=1), now=NOON),
    "growth": lambda c: vitals.growth(c, now=NOON),
    "senders": lambda c: senders.listed(c, now=NOON),
}


def fill(database: Database, first: int, last: int) -> None:
    """A history of days before: analysed studies, some of them unread on the list, and settled jobs."""
    numbers = range(first, last)
    with database.begin() as connection:
        connection.execute(
            insert(studies_table),
            [study(f"1.{number}", 9000 + number, 0.5, read_at=None if number % 3 else NOON) for number in numbers],
        )
        connection.execute(
            insert(jobs_table),
            [
                {
                    "kind": kind,
                    "key": str(number),
                    "state": "COMPLETED",
                    "run_at": NOON,
                    "payload": {},
                    "created_at": NOON,
                }
                for number in numbers
                for kind in ("analyze", "deliver:pacs")
            ],
        )


@pytest.mark.requirement("SRS-ADM-107")
def test_no_question_costs_more_with_a_longer_history(sqlite_database):
    """The page asks every five seconds, all night, for years. Past 200 studies, which the pace is taken from."""
    fill(sqlite_database, 0, 250)
    few = {name: instructions(sqlite_database, question) for name, question in QUESTIONS.items()}
    fill(sqlite_database, 250, 5000)
    many = {name: instructions(sqlite_database, question) for name, question in QUESTIONS.items()}
    assert {name: (few[name], many[name]) for name in QUESTIONS if many[name] > 1.5 * few[name] + 50} == {}
