"""Counts over time, by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import instances, results, statistics, studies
from storage.results import Prediction
from storage.statistics import ModelKey, StudyCount
from storage.studies import PatientContext

pytestmark = pytest.mark.requirement("SRS-ADM-208")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)
A, B = "a" * 64, "b" * 64


def study(database, uid, *, at=NOON, status="analysed", flagged=False, seconds=1.0, reason="", verdict="", images=1):
    """A study with one result; return the ids of its images."""
    with database.begin() as connection:
        studies.touch(connection, uid, PatientContext(), ordered_rank=0, calling_ae_title="CR", now=at)
        ids = [
            instances.add(
                connection,
                sop_instance_uid=f"{uid}.{number}",
                series_instance_uid=f"{uid}.0",
                study_instance_uid=uid,
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=0,
                size=1,
                location=f"{uid}.{number}",
                calling_ae_title="CR",
                called_ae_title="CXR_NODE",
                peer_address="127.0.0.1",
                association_id="a",
                received_at=at,
            ).id
            for number in range(images)
        ]
        outcome = {"exclusions": [{"reason": reason}] if reason else []}
        result = results.add(connection, uid, status=status, flagged=flagged, ai_priority="", outcome=outcome, now=at)
        studies.set_outcome(
            connection,
            uid,
            status=status,
            flagged=flagged,
            ai_priority="",
            effective_priority="",
            priority_rank=0,
            notified_at=at + timedelta(seconds=seconds),
            revision=result.revision,
        )
        if verdict:
            studies.set_verdict(connection, uid, verdict)
    return ids


def score(database, instance_id, digest, probability, at=NOON):
    with database.begin() as connection:
        results.add_prediction(
            connection, Prediction(instance_id, "m", "1", digest, "pneumonia", probability, probability, at)
        )


def test_studies_are_counted_by_state_flag_and_verdict_within_the_time(database):
    """The end of a day is the start of the next, and belongs to that."""
    study(database, "1.1", flagged=True, verdict="agree")
    study(database, "1.2", flagged=True, verdict="agree")
    study(database, "1.3", status="not_analysed")
    study(database, "1.4", at=NOON + DAY)
    study(database, "1.5", at=NOON - timedelta(microseconds=1))
    with database.begin() as connection:
        studies.touch(connection, "1.6", PatientContext(), ordered_rank=0, calling_ae_title="CR", now=NOON)
        studies.set_origin(connection, "1.6", studies.BACKFILL)
    with database.read() as connection:
        found = statistics.study_counts(connection, NOON, NOON + DAY)
        assert statistics.volume(connection, NOON, NOON + DAY) == 4
    assert sorted(found, key=lambda item: item.status) == [
        StudyCount("analysed", True, "agree", 2),
        StudyCount("not_analysed", False, "", 1),
    ]


def test_times_to_the_first_result_are_kept_to_a_hundredth_of_a_second(database):
    """Half a second is what is promised: minutes would hide it."""
    for number, seconds in enumerate((0.25, 0.25, 1.5)):
        study(database, f"1.{number}", seconds=seconds)
    with database.read() as connection:
        assert statistics.latencies(connection, NOON, NOON + DAY) == {25: 2, 150: 1}


def test_reasons_are_those_of_current_results(database):
    """A study that a late image made analysable is no exclusion any more."""
    study(database, "1.1", status="not_analysed", reason="lateral")
    study(database, "1.2", status="not_analysed", reason="lateral")
    study(database, "1.3", status="not_analysed", reason="age-unknown")
    study(database, "1.4", status="not_analysed")
    study(database, "1.3", images=0)
    with database.read() as connection:
        assert statistics.exclusion_reasons(connection, NOON, NOON + DAY) == {"lateral": 2, "no-image": 1}


def test_each_model_is_found_with_its_flags_and_its_histogram(database):
    """At the threshold is flagged: it is how the node decides."""
    for number, probability in enumerate((0.1, 0.5, 0.5, 0.9)):
        (image,) = study(database, f"1.{number}")
        score(database, image, A, probability)
    score(database, image, B, 0.2, at=NOON - 9 * DAY)
    key = ModelKey(A, "pneumonia", "m", "1")
    with database.read() as connection:
        assert statistics.models(connection, NOON, NOON + DAY) == [key]
        assert [item.digest for item in statistics.models(connection, NOON - 10 * DAY, NOON + DAY)] == [A, B]
        assert statistics.flagged_images(connection, key, 0.5, NOON, NOON + DAY) == (4, 3)
        assert statistics.flagged_images(connection, key, 0.5, NOON + DAY, NOON + 2 * DAY) == (0, 0)
        assert statistics.histogram(connection, key, NOON, NOON + DAY) == {1000: 1, 5000: 2, 9000: 1}


@pytest.mark.requirement("SRS-ADM-205")
def test_two_models_are_compared_by_study_on_its_highest_score(database):
    """Two views of one patient are one decision; an image that one model never saw says nothing of both."""
    wanted = {"both": (0.9, 0.9), "first": (0.9, 0.1), "second": (0.1, 0.9), "neither": (0.1, 0.1)}
    for number, (x, y) in enumerate(wanted.values()):
        low, high = study(database, f"1.{number}", images=2)
        for image, by_x, by_y in ((low, 0.05, 0.05), (high, x, y)):
            score(database, image, A, by_x)
            score(database, image, B, by_y)
    (alone,) = study(database, "2.1")
    score(database, alone, A, 0.9)
    (late,) = study(database, "2.2")
    score(database, late, A, 0.9)
    score(database, late, B, 0.9, at=NOON + DAY)
    with database.read() as connection:
        asked = (connection, "pneumonia", (A, 0.5), (B, 0.5), NOON, NOON + DAY)
        found = statistics.compare(*asked)
        listed = statistics.disagreements(*asked, limit=9)
        assert statistics.compare(connection, "abnormal", (A, 0.5), (B, 0.5), NOON, NOON + DAY).studies == 0
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 1, 1, 1)
    assert (found.sum_x, found.sum_xx) == (pytest.approx(2.0), pytest.approx(2 * 0.81 + 2 * 0.01))
    assert found.sum_xy == pytest.approx(0.81 + 0.09 + 0.09 + 0.01)
    assert listed == [("1.1", True), ("1.2", False)]
