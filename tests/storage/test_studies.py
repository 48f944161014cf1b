"""A study's row gathers what is known and never loses it."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import instances, studies
from storage.errors import StorageError
from storage.studies import ANALYSED, FAILED, NOT_ANALYSED, PENDING, PatientContext, Study

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UIDS = (f"1.2.3.{number}" for number in itertools.count(1))
NAMES = ("LOW", "ROUTINE", "MEDIUM", "HIGH", "STAT")


def touch(connection, uid="1.2.3", context=None, *, ordered_rank=1, now=NOON, calling_ae_title="CR_ROOM_1") -> None:
    studies.touch(
        connection,
        uid,
        context or PatientContext(),
        ordered_rank=ordered_rank,
        calling_ae_title=calling_ae_title,
        now=now,
    )


def set_outcome(connection, uid="1.2.3", **changes) -> None:
    outcome = {
        "status": ANALYSED,
        "flagged": True,
        "ai_priority": "HIGH",
        "effective_priority": "HIGH",
        "priority_rank": 3,
        "notified_at": NOON,
        "revision": 1,
    }
    studies.set_outcome(connection, uid, **{**outcome, **changes})


def get(connection, uid="1.2.3") -> Study:
    study = studies.get(connection, uid)
    assert study is not None
    return study


@pytest.mark.requirement("SRS-STO-017")
def test_the_first_image_makes_the_study(database):
    """It is on the list as soon as it is stored, before any result."""
    context = PatientContext(patient_name="Doe^Jané", patient_id="ÄÖ-7", ordered_priority="STAT", view="PA")
    with database.begin() as connection:
        assert studies.get(connection, "1.2.3") is None
        touch(connection, context=context, ordered_rank=4)
        study = get(connection)
    assert study == Study(
        study_instance_uid="1.2.3",
        context=context,
        first_received_at=NOON,
        last_received_at=NOON,
        status=PENDING,
        flagged=False,
        ordered_priority="STAT",
        ai_priority="",
        effective_priority="STAT",
        priority_rank=4,
        notified_at=None,
        revision=0,
        images=0,
        conflicts=0,
        calling_ae_title="CR_ROOM_1",
    )


@pytest.mark.requirement("SRS-STO-017")
def test_a_later_image_fills_what_was_empty_and_overwrites_nothing(database):
    """Two images of one study may disagree; what a person saw first must not change under their eyes."""
    with database.begin() as connection:
        touch(connection, context=PatientContext(patient_name="Doe^Jane", sex=""))
        touch(
            connection,
            context=PatientContext(patient_name="Roe^Rita", sex="F", age="045Y"),
            now=NOON + timedelta(seconds=9),
            calling_ae_title="CR_ROOM_2",
        )
        touch(connection, context=PatientContext(sex="M"), now=NOON + timedelta(seconds=3))
        study = get(connection)
    assert study.context == PatientContext(patient_name="Doe^Jane", sex="F", age="045Y")
    assert (study.first_received_at, study.last_received_at) == (NOON, NOON + timedelta(seconds=9))
    assert study.calling_ae_title == "CR_ROOM_1"


@pytest.mark.requirement("SRS-STO-018")
def test_an_ordered_priority_rises_and_never_sinks(database):
    """One image of a STAT study may lack the attribute."""
    with database.begin() as connection:
        touch(connection)  # nothing said: the rank of ROUTINE
        touch(connection, context=PatientContext(ordered_priority="ROUTINE"))
        assert get(connection).ordered_priority == get(connection).effective_priority == "ROUTINE"
        touch(connection, context=PatientContext(ordered_priority="STAT"), ordered_rank=4)
        touch(connection, context=PatientContext(ordered_priority="LOW"), ordered_rank=0)
        touch(connection)
        study = get(connection)
    assert (study.ordered_priority, study.context.ordered_priority) == ("STAT", "STAT")
    assert (study.effective_priority, study.priority_rank) == ("STAT", 4)


@pytest.mark.requirement("SRS-STO-017")
@pytest.mark.parametrize("status", [PENDING, ANALYSED, NOT_ANALYSED, FAILED])
def test_a_late_image_leaves_an_analysed_study_as_it_was_and_reopens_any_other(database, status):
    """A flagged study must not vanish from the top of the list while its late image is analysed."""
    with database.begin() as connection:
        touch(connection)
        set_outcome(connection, status=status)
        touch(connection)
        assert get(connection).status == (ANALYSED if status == ANALYSED else PENDING)
        assert get(connection).flagged


@pytest.mark.requirement("SRS-STO-018")
def test_an_outcome_is_shown_and_its_first_notification_counts(database):
    """The time to notification is measured from it."""
    with database.begin() as connection:
        touch(connection)
        set_outcome(connection, flagged=False, notified_at=None, ai_priority="", effective_priority="", priority_rank=0)
        assert get(connection).notified_at is None
        set_outcome(connection, revision=2)
        set_outcome(connection, revision=3, notified_at=NOON + timedelta(seconds=60))
        assert get(connection).notified_at == NOON
        set_outcome(connection, revision=4, notified_at=None, status=FAILED, flagged=False, ai_priority="")
        study = get(connection)
    assert (study.notified_at, study.revision, study.status, study.flagged) == (NOON, 4, FAILED, False)
    assert (study.ai_priority, study.effective_priority, study.priority_rank) == ("", "HIGH", 3)


@pytest.mark.requirement("SRS-STO-018")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=8))
def test_no_order_of_images_and_outcomes_lowers_a_priority(database, steps):
    """The node raises or leaves alone; it never lowers (21 CFR 892.2080 in kind)."""
    uid = next(UIDS)
    highest = 0
    with database.begin() as connection:
        touch(connection, uid, PatientContext(ordered_priority="LOW"), ordered_rank=0)
        for by_image, rank in steps:
            if by_image:
                touch(connection, uid, PatientContext(ordered_priority=NAMES[rank]), ordered_rank=rank)
            else:
                set_outcome(connection, uid, effective_priority=NAMES[rank], priority_rank=rank)
            highest = max(highest, rank)
            study = get(connection, uid)
            assert (study.priority_rank, study.effective_priority) == (highest, NAMES[highest])


@pytest.mark.requirement("SRS-STO-017")
def test_an_outcome_of_an_unknown_study_is_an_error(database):
    """A result nobody can see is worse than a job that fails."""
    with pytest.raises(StorageError), database.begin() as connection:
        set_outcome(connection, "9.9.9")


@pytest.mark.requirement("SRS-STO-017")
def test_studies_are_listed_newest_first_from_a_time_on(database):
    """The list of a shift, page by page."""
    with database.begin() as connection:
        for number in range(6):
            touch(connection, f"1.{number}", now=NOON + timedelta(minutes=number))
        touch(connection, "1.0", now=NOON + timedelta(minutes=9))
        since = NOON + timedelta(minutes=2)
        assert [study.study_instance_uid for study in studies.listed(connection, since=since)] == [
            "1.0",
            "1.5",
            "1.4",
            "1.3",
            "1.2",
        ]
        page = studies.listed(connection, since=since, limit=2, offset=2)
        assert [study.study_instance_uid for study in page] == ["1.4", "1.3"]


@pytest.mark.requirement("SRS-STO-017")
def test_images_are_counted_once_and_conflicts_apart(database):
    """A different object under a UID already taken is no second image."""
    with database.begin() as connection:
        touch(connection)
        for uid, variant in (("5.1", 0), ("5.2", 0), ("5.2", 1)):
            instances.add(
                connection,
                sop_instance_uid=uid,
                series_instance_uid="4",
                study_instance_uid="1.2.3",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                variant=variant,
                size=1,
                location=f"instances/{uid}-{variant}",
                calling_ae_title="",
                called_ae_title="",
                peer_address="",
                association_id="",
                received_at=NOON,
            )
        studies.add_conflict(connection, "1.2.3")
        assert (get(connection).images, get(connection).conflicts) == (2, 1)
        instances.mark_deleted(connection, [1], now=NOON)
        assert [study.images for study in studies.listed(connection, since=NOON)] == [2]
