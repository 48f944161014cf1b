"""Associations, callers, senders and signs of life, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage import associations, audit, callers, heartbeats, senders, studies
from storage.associations import LOST, Association
from storage.callers import ROWS, ROWS_OF_AN_ADDRESS, Rejected
from storage.studies import PatientContext

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_association(number: int, **changes: object) -> Association:
    """Return an association that ended `number` minutes after noon."""
    at = NOON + timedelta(minutes=number)
    plain = Association(f"a{number}", "CR_ROOM_1", "CXR_NODE", "10.1.0.5", at - timedelta(seconds=2), at, 2, 1, 30_000)
    return replace(plain, **changes)  # type: ignore[arg-type]


def make_rejected(title: str, address: str = "10.9.9.9", minute: int = 0, attempts: int = 1) -> Rejected:
    """Return attempts of a caller, the last some minutes after noon."""
    at = NOON + timedelta(minutes=minute)
    return Rejected(title, "CXR_NODE", address, "calling_ae_title", attempts, at, at)


def send(connection, title: str, modality: str, at: datetime, uid: str = "") -> None:
    """Have a study arrive."""
    context = PatientContext(modality=modality)
    uid = uid or f"1.2.{abs(hash((title, modality, at))) % 10**12}"
    studies.touch(connection, uid, context, ordered_rank=0, calling_ae_title=title, now=at)


@pytest.mark.requirement("SRS-ADM-101")
def test_associations_are_found_by_their_instances_and_the_last_come_first(database):
    """A study's timeline begins with the association that brought it; an admin asks who was here."""
    lost = make_association(2, calling_ae_title="DX_ER", outcome=LOST, reason="the connection ended")
    with database.begin() as connection:
        associations.add(connection, [])
        associations.add(connection, [make_association(1), lost, make_association(3)])
        assert associations.of(connection, ["a3", "a2", "a2", "", "of nobody"]) == [lost, make_association(3)]
        assert associations.of(connection, []) == []
        found = associations.recent(connection, limit=2)
        assert [item.association_id for item in found] == ["a3", "a2"]
        assert associations.recent(connection, limit=9, offset=2) == [make_association(1)]
        assert associations.recent(connection, limit=9, calling_ae_title="DX_ER") == [lost]
        assert associations.recent(connection, limit=9, calling_ae_title="CR_ROOM_1", outcome=LOST) == []
        assert associations.forget(connection, before=NOON + timedelta(minutes=2.5), limit=1) == 1
        assert associations.forget(connection, before=NOON + timedelta(minutes=2.5), limit=9) == 1
        assert associations.recent(connection, limit=9) == [make_association(3)]


@pytest.mark.requirement("SRS-ADM-102")
def test_attempts_of_one_caller_are_one_row(database):
    """A PACS tries again every minute, all night."""
    with database.begin() as connection:
        assert len(callers.note_rejected(connection, [make_rejected("CT", minute=1, attempts=3)])) == 1
        assert callers.note_rejected(connection, [make_rejected("CT", minute=9, attempts=2)]) == []
        assert callers.note_rejected(connection, [make_rejected("CT", minute=4)]) == []
        (row,) = callers.rejected(connection)
        assert (row.attempts, row.first_at, row.last_at) == (
            6,
            NOON + timedelta(minutes=1),
            NOON + timedelta(minutes=9),
        )
        assert callers.get_rejected(connection, row.id) == row
        assert callers.dismiss(connection, row.id)
        assert not callers.dismiss(connection, row.id)
        assert callers.get_rejected(connection, row.id) is None


@pytest.mark.requirement("SRS-ADM-102")
def test_who_invents_names_crowds_out_only_himself(database):
    """The honest caller that an admin looks for must still be there after a flood."""
    with database.begin() as connection:
        callers.note_rejected(connection, [make_rejected("HONEST", "10.1.0.5", minute=0)])
        for batch in range(3):
            flood = [make_rejected(f"X{batch}-{number}", minute=batch + 1) for number in range(ROWS_OF_AN_ADDRESS)]
            callers.note_rejected(connection, flood)
        found = callers.rejected(connection)
        assert len(found) == ROWS_OF_AN_ADDRESS + 1
        assert {row.calling_ae_title for row in found if row.peer_address == "10.1.0.5"} == {"HONEST"}
        assert all(row.calling_ae_title.startswith(("X2", "HONEST")) for row in found)
        many = [make_rejected("SCAN", f"10.2.{number // 250}.{number % 250}", minute=5) for number in range(ROWS + 5)]
        callers.note_rejected(connection, many)
        assert len(callers.rejected(connection)) == ROWS
        assert callers.forget_rejected(connection, before=NOON + timedelta(minutes=6), limit=ROWS) == ROWS


@pytest.mark.requirement("SRS-ADM-103")
def test_who_is_let_in_and_out_is_in_the_audit_trail(database):
    """Who opened the door, and when, is asked later."""
    with database.begin() as connection:
        made = callers.allow(connection, "CT", "10.1.0.77", by="kim", now=NOON)
        assert callers.allow(connection, "CT", "10.1.0.77", by="lee", now=NOON) is None
        assert callers.allowed(connection) == [made]
        assert callers.revoke(connection, made.id, by="lee", now=NOON)
        assert not callers.revoke(connection, made.id, by="lee", now=NOON)
        told = [(item.event, item.actor, item.detail) for item in reversed(audit.events(connection))]
    whom = {"ae_title": "CT", "host": "10.1.0.77"}
    assert told == [("caller_allowed", "kim", whom), ("caller_revoked", "lee", whom)]


@pytest.mark.requirement("SRS-ADM-104")
def test_each_sender_and_modality_has_its_last_image_and_its_pace(database):
    """A portable and a table of one AE title fall silent apart."""
    with database.begin() as connection:
        for hour in range(30):
            send(connection, "CR_ROOM_1", "CR", NOON - timedelta(hours=hour))
        send(connection, "CR_ROOM_1", "DX", NOON - timedelta(days=3))
        send(connection, "DX_ER", "", NOON - timedelta(hours=1))
        assert senders.last_images(connection) == {
            ("CR_ROOM_1", "CR"): NOON,
            ("CR_ROOM_1", "DX"): NOON - timedelta(days=3),
            ("DX_ER", ""): NOON - timedelta(hours=1),
        }
        assert list(senders.last_images(connection, limit=2)) == [("CR_ROOM_1", "CR"), ("CR_ROOM_1", "DX")]
        first, second, _ = senders.listed(connection, now=NOON)
    assert (first.lately, first.pace_per_day) == (24, pytest.approx(24.0))
    assert (second.lately, second.pace_per_day) == (0, None)


@pytest.mark.requirement("SRS-ADM-104")
def test_a_silence_is_noted_once_and_muted_by_a_name(database):
    """The alarm of last night is not a new one each minute."""
    with database.begin() as connection:
        assert senders.note_silence(connection, "CT", "DX", last_at=NOON, now=NOON + timedelta(days=2))
        assert not senders.note_silence(connection, "CT", "DX", last_at=NOON, now=NOON + timedelta(days=3))
        (silence,) = senders.silent(connection)
        assert (silence.sender, silence.noticed_at, silence.muted_at) == (("CT", "DX"), NOON + timedelta(days=2), None)
        assert senders.mute(connection, silence.id, by="kim", now=NOON)
        assert not senders.mute(connection, silence.id, by="lee", now=NOON)
        assert [(item.muted_by, item.muted_at) for item in senders.silent(connection)] == [("kim", NOON)]
        assert [(item.event, item.actor) for item in audit.events(connection)] == [("silence_muted", "kim")]
        assert senders.end_silence(connection, silence.id)
        assert not senders.end_silence(connection, silence.id)


@pytest.mark.requirement("SRS-ADM-105")
def test_a_process_has_one_row_until_it_ends_or_is_forgotten(database):
    """Beats every few seconds for years must not fill a table."""
    with database.begin() as connection:
        for second in (0, 5, 10):
            at = NOON + timedelta(seconds=second)
            heartbeats.beat(connection, "analyze", "host:1", started_at=NOON, now=at, detail={"second": second})
        heartbeats.beat(connection, "deliver", "host:2", started_at=NOON, now=NOON, detail={})
        first, second = heartbeats.listed(connection)
        assert (first.stage, first.seen_at, first.detail) == ("analyze", NOON + timedelta(seconds=10), {"second": 10})
        assert heartbeats.forget(connection, before=NOON + timedelta(seconds=5)) == 1
        heartbeats.end(connection, "analyze", "host:1")
        assert heartbeats.listed(connection) == []
    assert second.process == "host:2"
