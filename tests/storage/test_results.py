"""Results have revisions, objects one content each, predictions one value each."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import instances, results
from storage.errors import StorageError
from storage.results import Prediction, Result

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SR = "1.2.840.10008.5.1.4.1.1.88.34"


def add(connection, study_instance_uid="1.2", *, now=NOON, **changes) -> Result:
    values = {"status": "analysed", "flagged": True, "ai_priority": "HIGH", "outcome": {"findings": [{"p": 0.25}]}}
    return results.add(connection, study_instance_uid, now=now, **{**values, **changes})


def add_object(connection, result: Result, **changes):
    values = {
        "kind": "sr",
        "sop_class_uid": SR,
        "sop_instance_uid": "2.25.7",
        "location": "objects/aa/one",
        "now": NOON,
    }
    return results.add_object(connection, result.id, **{**values, **changes})


@pytest.mark.requirement("SRS-STO-021")
def test_a_new_result_is_the_next_revision_and_supersedes_the_one_before(database):
    """A late image gives a new result; the old one stays as evidence of what was said when."""
    later = NOON + timedelta(minutes=1)
    with database.begin() as connection:
        assert results.current(connection, "1.2") is None
        first = add(connection)
        other = add(connection, "9.9")
        second = add(connection, flagged=False, ai_priority="", outcome={}, now=later)
    with database.read() as connection:
        assert (first.revision, second.revision, other.revision) == (1, 2, 1)
        assert results.current(connection, "1.2") == second
        assert [result.superseded_at for result in results.revisions(connection, "1.2")] == [later, None]
        assert results.current(connection, "9.9") == other
        assert results.get(connection, first.id).outcome == {"findings": [{"p": 0.25}]}
        assert results.get(connection, 99) is None


@pytest.mark.requirement("SRS-STO-021")
def test_an_outcome_that_is_no_json_is_refused(database):
    """NaN is none: PostgreSQL would refuse it and SQLite keep what nobody else can read."""
    with pytest.raises(Exception, match="JSON compliant"), database.begin() as connection:
        add(connection, outcome={"probability": float("nan")})


@pytest.mark.requirement("SRS-STO-008")
def test_a_result_object_added_again_is_the_one_there_is(database):
    """A settlement that is done twice must end in the same rows."""
    with database.begin() as connection:
        result = add(connection)
        first = add_object(connection, result)
        assert add_object(connection, result, now=NOON + timedelta(hours=1)) == first
        second = add_object(connection, result, sop_instance_uid="2.25.8", location="objects/aa/two")
        assert results.objects(connection, result.id) == [first, second]
        assert results.get_object(connection, second.id) == second
        assert results.get_object(connection, 99) is None


@pytest.mark.requirement("SRS-STO-008")
def test_one_sop_instance_uid_never_gets_a_second_content(database):
    """An archive that has the first drops the second, and answers Success."""
    with database.begin() as connection:
        result, other = add(connection), add(connection)
        add_object(connection, result)
        with pytest.raises(StorageError, match=r"2\.25\.7 belongs to result"):
            add_object(connection, result, location="objects/aa/other")
        with pytest.raises(StorageError, match=r"2\.25\.7 belongs to result"):
            add_object(connection, other)


@pytest.mark.requirement("SRS-STO-021")
def test_a_prediction_is_kept_once_for_an_image_a_model_and_a_finding(database):
    """A late image costs one inference: the others are read back, to the last bit."""
    with database.begin() as connection:
        instance = instances.add(
            connection,
            sop_instance_uid="1.2.3.4",
            series_instance_uid="1.2.3",
            study_instance_uid="1.2",
            sop_class_uid="1",
            transfer_syntax_uid="1",
            variant=0,
            size=1,
            location="instances/a",
            calling_ae_title="",
            called_ae_title="",
            peer_address="",
            association_id="",
            received_at=NOON,
        )
        first = Prediction(instance.id, "pneumonia-adult", "1.0", "d1", "pneumonia", 0.1 + 0.2, 1 / 3, NOON)
        for prediction in (
            first,
            Prediction(instance.id, "pneumonia-adult", "1.0", "d1", "pneumonia", 0.9, 0.9, NOON),
            Prediction(instance.id, "pneumonia-adult", "1.1", "d2", "pneumonia", 0.5, 0.5, NOON),
        ):
            results.add_prediction(connection, prediction)
    with database.read() as connection:
        found = results.predictions(connection, instance.id)
        assert found[0] == first
        assert [prediction.model_version for prediction in found] == ["1.0", "1.1"]
        assert results.predictions(connection, 99) == []
