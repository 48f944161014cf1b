"""What senders announce, and when reports may leave for it."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import deliveries, instances, jobs, manifests, results, studies
from storage.manifests import COMPLETED, DISCONTINUED, GRACE_S, IN_PROGRESS, Awaited, Listed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAIT_S = 300.0
DX = "1.2.840.10008.5.1.4.1.1.1.1"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def listed(*uids: str, awaited: bool = True) -> tuple[Listed, ...]:
    return tuple(Listed(uid, DX, "1.9", awaited) for uid in uids)


def add(connection, uid="7.1", studies=("1.2.3",), *, state=IN_PROGRESS, of=(), now=NOON, source="mpps") -> bool:
    return manifests.add(
        connection, source, uid, studies, state=state, instances=of, calling_ae_title="CR_ROOM_1", now=now
    )


def add_instance(connection, uid: str, study="1.2.3") -> None:
    instances.add(
        connection,
        sop_instance_uid=uid,
        series_instance_uid="1.9",
        study_instance_uid=study,
        sop_class_uid=DX,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        variant=0,
        size=1,
        location=f"instances/aa/{uid}",
        calling_ae_title="",
        called_ae_title="",
        peer_address="",
        association_id="",
        received_at=NOON,
    )


@pytest.mark.requirement("SRS-STO-401")
def test_a_manifest_is_kept_once_and_ends_once(database):
    """A second N-CREATE of the UID is a mistake of the sender; what has ended changes no more."""
    with database.begin() as connection:
        assert add(connection, of=listed("5.1"))
        assert not add(connection, of=listed("5.2"))
        assert manifests.set_state(
            connection, "mpps", "7.1", state=COMPLETED, instances=listed("5.1", "5.3"), now=at(5)
        )
        assert not manifests.set_state(connection, "mpps", "7.1", state=DISCONTINUED, now=at(6))
        assert not manifests.set_state(connection, "mpps", "7.9", state=COMPLETED, now=at(6))
        (found,) = manifests.get(connection, "mpps", "7.1")
        assert manifests.of_study(connection, "1.2.3") == [found]
        assert manifests.get(connection, "ian", "7.1") == []
    assert (found.state, found.instances, found.calling_ae_title) == (COMPLETED, listed("5.1", "5.3"), "CR_ROOM_1")
    assert (found.created_at, found.updated_at) == (NOON, at(5))


@pytest.mark.requirement("SRS-STO-401")
def test_a_step_of_two_studies_is_a_manifest_of_each(database):
    """The group case: one acquisition for two requests. Its images count as here, in whichever study they came."""
    with database.begin() as connection:
        add(connection, studies=("1.2.3", "1.2.4", "1.2.3"), state=COMPLETED, of=listed("5.1"))
        assert len(manifests.get(connection, "mpps", "7.1")) == 2
        assert manifests.awaited(connection, "1.2.4").missing == 1
        add_instance(connection, "5.1", study="1.2.3")
        assert manifests.awaited(connection, "1.2.4").is_complete


@pytest.mark.requirement("SRS-STO-401")
def test_what_is_awaited_is_what_ended_manifests_list_and_is_not_here(database):
    """An open step waits for the unknown, a discontinued one for nothing, and reports do not wait for reports."""
    with database.begin() as connection:
        assert manifests.awaited(connection, "1.2.3") == Awaited()
        add(connection, "7.1", of=listed("5.8"))
        assert manifests.awaited(connection, "1.2.3") == Awaited(is_open=True, since=NOON)
        manifests.set_state(connection, "mpps", "7.1", state=DISCONTINUED, now=at(1))
        found = manifests.awaited(connection, "1.2.3")
        assert (found.announced, found.missing, found.is_open, found.is_complete) == (0, 0, False, False)
        add(connection, "7.2", state=COMPLETED, of=(*listed("5.1", "5.2"), *listed("5.3", awaited=False)), source="ian")
        add_instance(connection, "5.1")
        found = manifests.awaited(connection, "1.2.3")
        assert (found.announced, found.missing, found.is_complete) == (2, 1, False)
        add_instance(connection, "5.2")
        assert manifests.awaited(connection, "1.2.3").is_complete


@pytest.mark.requirement("SRS-STO-402")
@pytest.mark.parametrize(
    ("awaited", "now_s", "expected_s"),
    [
        (Awaited(), 0, 5),
        (Awaited(announced=2, since=NOON), 1, 1),
        (Awaited(announced=2, missing=1, since=at(2)), 3, 2 + WAIT_S + GRACE_S),
        (Awaited(is_open=True, since=at(-60)), 3, WAIT_S + GRACE_S),
        (Awaited(announced=2, missing=1, since=NOON), WAIT_S, 5),
        (Awaited(announced=1, is_open=True, since=NOON), 3, WAIT_S + GRACE_S),
    ],
    ids=["no manifest", "complete", "missing", "open", "waited long enough", "one ended, one open"],
)
def test_a_report_leaves_when_the_manifests_say(awaited, now_s, expected_s):
    """At once where all is here; after the settling time where nobody says more; else when the wait is over."""
    found = awaited.report_at(NOON, settle_s=5.0, wait_s=WAIT_S, now=at(now_s))
    assert found == at(expected_s)


def _planned(connection) -> tuple[str, str]:
    """A study with a report and a priority on their way; their job keys."""
    studies.touch(connection, "1.2.3", studies.PatientContext(), ordered_rank=1, calling_ae_title="CR_ROOM_1", now=NOON)
    result = results.add(connection, "1.2.3", status="analysed", flagged=True, ai_priority="HIGH", outcome={}, now=NOON)
    keys = []
    for kind, due_s in (("sr", 5.0), ("priority", 0.5)):
        delivery = deliveries.add(connection, result.id, kind=kind, destination="pacs", now=NOON)
        jobs.schedule(connection, "deliver", str(delivery.id), run_at=at(due_s), now=NOON)
        keys.append(str(delivery.id))
    return keys[0], keys[1]


def _run_at(connection, key: str) -> datetime:
    job = jobs.get(connection, "deliver", key)
    assert job is not None
    return job.run_at


@pytest.mark.requirement("SRS-STO-402")
def test_a_manifest_moves_reports_and_never_a_priority(database):
    """Sooner and later; the notice of a priority stays where it is."""
    with database.begin() as connection:
        report, priority = _planned(connection)

        def replan(now):
            manifests.replan(connection, "1.2.3", settle_s={"pacs": 5.0}, wait_s=WAIT_S, immediate="priority", now=now)

        add(connection)
        replan(at(1))
        assert (_run_at(connection, report), _run_at(connection, priority)) == (at(WAIT_S + GRACE_S), at(0.5))
        manifests.set_state(connection, "mpps", "7.1", state=COMPLETED, instances=listed("5.1"), now=at(2))
        replan(at(2))
        assert _run_at(connection, report) == at(2 + WAIT_S + GRACE_S)
        add_instance(connection, "5.1")
        replan(at(3))
        assert (_run_at(connection, report), _run_at(connection, priority)) == (at(3), at(0.5))


@pytest.mark.requirement("SRS-STO-402")
def test_a_discontinued_step_lets_the_report_go_when_it_settled(database):
    """What an abandoned examination listed will not come."""
    with database.begin() as connection:
        report, _ = _planned(connection)
        add(connection, of=listed("5.1"))
        for state, now, expected in ((IN_PROGRESS, at(1), at(WAIT_S + GRACE_S)), (DISCONTINUED, at(2), at(5))):
            manifests.set_state(connection, "mpps", "7.1", state=state, now=NOON)
            manifests.replan(connection, "1.2.3", settle_s={"pacs": 5.0}, wait_s=WAIT_S, immediate="priority", now=now)
            assert _run_at(connection, report) == expected


@pytest.mark.requirement("SRS-STO-402")
def test_what_was_tried_or_goes_elsewhere_is_left_alone(database):
    """A delivery that is retried has its own clock; a destination that is gone from node.toml has no settling time."""
    with database.begin() as connection:
        report, _ = _planned(connection)
        add(connection)
        manifests.replan(connection, "1.2.3", settle_s={}, wait_s=WAIT_S, immediate="priority", now=at(1))
        assert _run_at(connection, report) == at(5)
        deliveries.set_state(connection, int(report), deliveries.SCHEDULED, now=at(1), reason="refused")
        manifests.replan(connection, "1.2.3", settle_s={"pacs": 5.0}, wait_s=WAIT_S, immediate="priority", now=at(1))
        assert _run_at(connection, report) == at(5)


@pytest.mark.requirement("SRS-STO-403")
def test_old_manifests_are_forgotten(database):
    """They name instances of patients long gone."""
    with database.begin() as connection:
        for number in range(4):
            add(connection, f"7.{number}", now=at(number))
        assert manifests.forget(connection, before=at(3), limit=2) == 2
        assert manifests.forget(connection, before=at(3), limit=2) == 1
        assert manifests.forget(connection, before=at(3), limit=2) == 0
        assert [item.sop_instance_uid for item in manifests.of_study(connection, "1.2.3")] == ["7.3"]
