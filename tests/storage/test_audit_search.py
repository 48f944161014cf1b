"""The trail is searched by what an auditor knows: when, who, what, which study, a word."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import audit
from storage.audit import Wanted

pytestmark = pytest.mark.requirement("SRS-ADM-207")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def trail(database):
    """Ten entries, an hour apart."""
    with database.begin() as connection:
        for number in range(10):
            audit.record(
                connection,
                "study_read" if number % 2 else "signed_in",
                actor="dr.lee" if number < 5 else "dr.kim",
                now=NOON + timedelta(hours=number),
                study_instance_uid=f"1.2.{number}" if number % 2 else "",
                detail={"role": "reader", "note": "100%_Übergabe" if number == 3 else ""},
            )
    return database


def hours(database, limit=99, **wanted):
    with database.read() as connection:
        found = audit.search(connection, Wanted(**wanted), limit=limit)
    return [int((item.created_at - NOON).total_seconds() // 3600) for item in found]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"actor": "dr.lee"}, [4, 3, 2, 1, 0]),
        ({"event": "study_read", "actor": "dr.kim"}, [9, 7, 5]),
        ({"study_instance_uid": "1.2.7"}, [7]),
        ({"since": NOON + timedelta(hours=2), "until": NOON + timedelta(hours=4)}, [3, 2]),
        ({"since": NOON + timedelta(days=9)}, []),
        ({"until": NOON - timedelta(days=9)}, []),
        ({"text": "100%_"}, [3]),
        ({"text": "SIGNED_in"}, [8, 6, 4, 2, 0]),
        ({"text": "_ead"}, []),
        ({"actor": "nobody"}, []),
    ],
)
def test_what_is_asked_for_is_found_newest_first(trail, wanted, expected):
    """Signs that mean something to a database mean themselves here."""
    assert hours(trail, **wanted) == expected


def test_pages_follow_one_another_whatever_is_added_meanwhile(trail):
    """A page number would slide when somebody reads a study."""
    with trail.read() as connection:
        first = audit.search(connection, Wanted(), limit=4)
    with trail.begin() as connection:
        audit.record(connection, "signed_in", actor="x", now=NOON + timedelta(hours=10))
    assert hours(trail, before=first[-1].id, limit=4) == [5, 4, 3, 2]


def test_a_word_is_looked_for_in_the_newest_entries_only(trail, monkeypatch):
    """There is no index over details: a search must end."""
    monkeypatch.setattr(audit, "TEXT_WITHIN", 3)
    assert hours(trail, text="reader") == [9, 8, 7]


def test_events_are_listed_once(trail):
    with trail.read() as connection:
        assert audit.event_names(connection) == ["signed_in", "study_read"]


def test_half_a_character_in_a_detail_is_kept_and_found(database):
    """A JSON body may carry one, and NUL: neither may end a search."""
    with database.begin() as connection:
        audit.record(connection, "job_dismissed", actor="x", now=NOON, detail={"reason": "a phantom \ud800\x00"})
    with database.read() as connection:
        (found,) = audit.search(connection, Wanted(text="phantom"), limit=9)
    assert found.detail == {"reason": "a phantom \ud800\x00"}
