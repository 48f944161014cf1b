"""Rows of monitoring, on both databases: every case once and in order, charts that are written over."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select

from storage import feedback, monitoring, results, studies, tables
from storage.monitoring import ImageMeasures, Monitor
from storage.monitoring_tables import image_measures

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = "d" * 64
ALWAYS = {"since": NOON - timedelta(days=1), "until": NOON + timedelta(days=1), "limit": 100}


def measures(instance: int, at: datetime, exclusion: str = "") -> ImageMeasures:
    return ImageMeasures(instance, at, exclusion, 50.0, "F", "PA", "DX", 0.5, 0.2, 0.99)


@pytest.fixture
def filled(database):
    """Three studies a minute apart, the first of two images; the third was fetched by a back-catalogue run."""
    rows = [("1", 1, 0.2), ("1", 2, 0.8), ("2", 3, 0.4), ("3", 4, 0.9)]
    with database.begin() as connection:
        for uid in ("1", "2", "3"):
            at = NOON + timedelta(minutes=int(uid))
            origin = studies.BACKFILL if uid == "3" else ""
            times = {"first_received_at": at, "last_received_at": at, "origin": origin}
            connection.execute(insert(tables.studies).values(study_instance_uid=uid, **times))
            status = "not_analysed" if uid == "2" else "analysed"
            results.add(connection, uid, status=status, flagged=False, ai_priority="", outcome={}, now=at)
        for uid, number, value in rows:
            at = NOON + timedelta(minutes=int(uid))
            named = {"sop_instance_uid": f"{uid}.{number}", "series_instance_uid": uid, "study_instance_uid": uid}
            stored = {"sop_class_uid": "1", "transfer_syntax_uid": "1", "size": 6, "location": f"{uid}.{number}"}
            connection.execute(insert(tables.instances).values(id=number, **named, **stored, received_at=at))
            monitoring.add_measures(connection, [measures(number, at, "blank" if number == 3 else "")])
            model = {"model_digest": DIGEST, "finding": "pneumonia", "model": "m", "model_version": "1"}
            scores = {"score": value, "probability": value, "created_at": at}
            connection.execute(insert(tables.predictions).values(instance_id=number, **model, **scores))
    return database


@pytest.mark.requirement("SRS-MON-007")
def test_cases_come_once_in_order_and_without_those_of_the_past(filled):
    """The end of the range is not in it, its beginning is: two turns that touch count nothing twice."""
    with filled.read() as connection:
        found = monitoring.scored(connection, DIGEST, "pneumonia", **ALWAYS)
        assert [(item.study_instance_uid, item.value) for item in found] == [("1", 0.2), ("1", 0.8), ("2", 0.4)]
        edge = NOON + timedelta(minutes=2)
        first = monitoring.scored(connection, DIGEST, "pneumonia", **{**ALWAYS, "until": edge})
        second = monitoring.scored(connection, DIGEST, "pneumonia", **{**ALWAYS, "since": edge})
        assert first + second == found
        assert len(monitoring.scored(connection, DIGEST, "pneumonia", **{**ALWAYS, "limit": 2})) == 2
        assert monitoring.scored(connection, "other", "pneumonia", **ALWAYS) == []
        assert [item.value for item in monitoring.refused(connection, **ALWAYS)] == [0.0, 0.0, 1.0]
        assert [item.value for item in monitoring.not_analysed(connection, **ALWAYS)] == [0.0, 1.0]


@pytest.mark.requirement("SRS-MON-007")
def test_a_later_revision_is_no_second_case(filled):
    """A late image or a failure of its analysis makes revisions; the study is one."""
    with filled.begin() as connection:
        results.add(
            connection,
            "2",
            status="analysed",
            flagged=False,
            ai_priority="",
            outcome={},
            now=NOON + timedelta(minutes=9),
        )
        assert [item.value for item in monitoring.not_analysed(connection, **ALWAYS)] == [0.0, 1.0]


@pytest.mark.requirement("SRS-MON-007")
def test_verdicts_are_agreement_or_none(filled):
    """Unsure is no verdict."""
    with filled.begin() as connection:
        result = results.current(connection, "1")
        for verdict in ("agree", "unsure", "disagree"):
            feedback.add(connection, result.id, verdict=verdict, reader="dr-a", now=NOON)
        assert [item.value for item in monitoring.verdicts(connection, **ALWAYS)] == [0.0, 1.0]


@pytest.mark.requirement("SRS-MON-006")
def test_what_was_measured_first_stays_and_comes_with_the_score(filled):
    """An image that comes again, analysed again, is the same image."""
    with filled.begin() as connection:
        monitoring.add_measures(connection, [measures(1, NOON + timedelta(days=9), "blank")])
        count = connection.execute(select(func.count()).select_from(image_measures)).scalar_one()
        newest = monitoring.measured(connection, DIGEST, "pneumonia", **{**ALWAYS, "limit": 2}, newest=True)
        oldest = monitoring.measured(connection, DIGEST, "pneumonia", **{**ALWAYS, "limit": 1}, newest=False)
    assert count == 4
    assert [item.probability for item in newest] == [0.4, 0.2]
    assert oldest[0].measures == measures(1, NOON + timedelta(minutes=1))


@pytest.mark.requirement("SRS-MON-011")
def test_probabilities_are_found_by_study_and_by_image(filled):
    """Of a study the highest of its images; what was not scored is left out."""
    with filled.read() as connection:
        found = monitoring.probabilities(connection, DIGEST, "pneumonia", ["1", "1.1", "2", "9"])
    assert found == {"1": 0.8, "1.1": 0.2, "2": 0.4}


@pytest.mark.requirement("SRS-MON-012")
def test_a_chart_is_written_over_and_forgotten_with_its_model(database):
    """One row a chart, whatever the number of turns."""

    def monitor(name: str, digest: str, cases: int) -> Monitor:
        return Monitor(name, digest, "pneumonia", "m", "1", "", None, {"cases": cases}, NOON, NOON)

    with database.begin() as connection:
        for cases in (1, 2):
            monitoring.save(connection, monitor("flag", DIGEST, cases))
        monitoring.save(connection, monitor("flag", "e" * 64, 7))
        monitoring.save(connection, monitor("refused", "", 9))
        assert [item.state["cases"] for item in monitoring.listed(connection)] == [9, 2, 7]
        assert monitoring.forget(connection, kept=[DIGEST]) == 1
        assert [item.state["cases"] for item in monitoring.listed(connection)] == [9, 2]
        assert monitoring.forget(connection, kept=[]) == 1
