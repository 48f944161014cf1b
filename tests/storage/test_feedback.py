"""What readers said, kept; and what a newer revision does to it."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import deliveries, feedback, results
from storage.errors import StorageError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _result(connection, uid="1.2", flagged=True):
    return results.add(
        connection, uid, status="analysed", flagged=flagged, ai_priority="", outcome={"findings": []}, now=NOON
    )


@pytest.mark.requirement("SRS-STO-301")
def test_a_verdict_is_kept_with_what_it_is_on(database):
    """Study and revision follow from the result."""
    with database.begin() as connection:
        result = _result(connection)
        kept = feedback.add(
            connection,
            result.id,
            verdict="disagree",
            reader="dr",
            finding="pneumonia",
            observation_uid="2.25.1",
            comment="no\x00",
            sop_instance_uid="2.25.2",
            now=NOON,
        )
    with database.read() as connection:
        assert feedback.of_study(connection, "1.2") == [kept]
        assert feedback.of_study(connection, "1.3") == []
    assert (kept.study_instance_uid, kept.revision, kept.comment, kept.created_at) == ("1.2", 1, "no", NOON)


@pytest.mark.requirement("SRS-STO-301")
def test_the_newest_verdict_of_a_reader_is_found_over_revisions(database):
    """It is the one that the next names as its predecessor."""
    with database.begin() as connection:
        first = _result(connection)
        feedback.add(connection, first.id, verdict="agree", reader="a", finding="pneumonia", now=NOON)
        second = _result(connection)
        newest = feedback.add(connection, second.id, verdict="unsure", reader="a", finding="pneumonia", now=NOON)
        feedback.add(connection, second.id, verdict="agree", reader="b", finding="pneumonia", now=NOON)
        feedback.add(connection, second.id, verdict="agree", reader="a", finding="", now=NOON)
    with database.read() as connection:
        assert feedback.last_of(connection, "1.2", reader="a", finding="pneumonia") == newest
        assert feedback.last_of(connection, "1.2", reader="c", finding="pneumonia") is None


@pytest.mark.requirement("SRS-STO-301")
def test_export_comes_in_pages_with_the_results(database):
    """A year of feedback need not fit into memory."""
    with database.begin() as connection:
        for number in range(5):
            result = _result(connection, f"1.{number}", flagged=number % 2 == 0)
            at = NOON + timedelta(hours=number)
            feedback.add(connection, result.id, verdict="agree", reader="a", now=at)
    with database.read() as connection:
        first = feedback.export(connection, limit=2)
        rest = feedback.export(connection, after=first[-1].feedback.id)
        late = feedback.export(connection, since=NOON + timedelta(hours=3))
    found = [item.feedback.study_instance_uid for item in (*first, *rest)]
    assert found == [f"1.{number}" for number in range(5)]
    assert [item.flagged for item in first] == [True, False]
    assert first[0].outcome == {"findings": []}
    assert [item.feedback.study_instance_uid for item in late] == ["1.3", "1.4"]


@pytest.mark.requirement("SRS-STO-301")
def test_a_verdict_on_nothing_is_an_error(database):
    """It would refer to no result."""
    with pytest.raises(StorageError, match="does not exist"), database.begin() as connection:
        feedback.add(connection, 4711, verdict="agree", reader="a", now=NOON)


@pytest.mark.requirement("SRS-STO-302")
def test_a_newer_revision_supersedes_everything_but_feedback(database):
    """What a reader said of the first revision stays true of it."""
    with database.begin() as connection:
        result = _result(connection)
        planned = {
            kind: deliveries.add(connection, result.id, kind=kind, destination="pacs", now=NOON)
            for kind in ("sr", "feedback:1", "feedback:2", "sc")
        }
        stopped = deliveries.supersede_older(connection, "1.2", 2, now=NOON)
        states = {kind: deliveries.get(connection, item.id).state for kind, item in planned.items()}
    assert len(planned) == len({item.id for item in planned.values()}) == 4
    assert stopped == sorted((planned["sr"].id, planned["sc"].id))
    assert states["feedback:1"] == states["feedback:2"] == "SCHEDULED"
    assert [deliveries.is_superseded_by_newer(kind) for kind in ("sr", "priority", "feedback:7")] == [True, True, False]
