"""Orders, HL7 messages and manifests do not outlive their retention."""

from datetime import timedelta

import pytest

from cxr_node.clock import utc_now
from cxr_node.upkeep import stage
from storage import login_attempts, manifests, messages, orders, sessions, studies, users
from storage.orders import Order
from storage.studies import PatientContext


@pytest.mark.requirement("SRS-UPK-201")
def test_what_the_ris_and_senders_said_is_forgotten_after_its_retention(site, monkeypatch):
    """They name patients; nobody looks at them again."""
    monkeypatch.setattr(stage, "FORGET_BATCH", 2)
    now = utc_now()
    site.database.migrate()
    with site.database.begin() as connection:
        for number, age_days in enumerate((200, 150, 100, 91, 89)):
            at = now - timedelta(days=age_days)
            orders.put(connection, Order("hl7", f"PL{number}"), now=at)
            messages.add(
                connection,
                direction=messages.IN,
                peer="ris",
                control_id=str(number),
                message_type="ORM^O01",
                body="MSH",
                now=at,
            )
            manifests.add(
                connection, "mpps", f"7.{number}", ["1.2.3"], state="COMPLETED", calling_ae_title="CR", now=at
            )
    upkeep = site.upkeep()
    assert "forget-orders" in {task.name for task in upkeep.tasks() if task.shared}
    upkeep.forget_orders()
    with site.database.read() as connection:
        assert [orders.get(connection, "hl7", f"PL{number}") is not None for number in range(5)] == [False] * 4 + [True]
        assert [item.control_id for item in messages.of_peer(connection, "ris")] == ["4"]
        assert [item.sop_instance_uid for item in manifests.of_study(connection, "1.2.3")] == ["7.4"]


@pytest.mark.requirement("SRS-ACC-009")
def test_sessions_and_tries_to_sign_in_are_forgotten(site, monkeypatch):
    """Who sat where a month ago is nobody's business; what still holds is left."""
    monkeypatch.setattr(stage, "FORGET_BATCH", 2)
    now = utc_now()
    site.database.migrate()
    with site.database.begin() as connection:
        user = users.add(connection, "dr.roe", "reader", now=now)
        for minutes in (0, 20, 40, 800):
            at = now - timedelta(minutes=minutes)
            ends = at + timedelta(hours=12)
            sessions.open_session(
                connection, user.id, secret=str(minutes), csrf_token="c", address="a", now=at, ends=ends
            )
        for days in (1, 31, 32, 33, 40):
            login_attempts.begin(connection, "dr.roe", "a", now=now - timedelta(days=days))
    upkeep = site.upkeep()
    assert "forget-sign-ins" in {task.name for task in upkeep.tasks() if task.shared}
    upkeep.forget_sign_ins()
    with site.database.read() as connection:
        assert sessions.counts(connection, now=now, idle=timedelta(days=9)) == {user.id: 2}
        assert login_attempts.failures(connection, since=now - timedelta(days=99), login="dr.roe").count == 1


@pytest.mark.requirement("SRS-WLT-502")
def test_studies_that_nobody_read_in_time_leave_the_worklist(site, monkeypatch):
    """All of them, in small transactions; what is within its time stays."""
    monkeypatch.setattr(stage, "FORGET_BATCH", 2)
    now = utc_now()
    site.database.migrate()
    with site.database.begin() as connection:
        for hours in (80, 79, 78, 77, 73, 71, 0):
            at = now - timedelta(hours=hours)
            studies.touch(connection, f"1.{hours}", PatientContext(), ordered_rank=1, calling_ae_title="", now=at)
    upkeep = site.upkeep()
    assert "retire-studies" in {task.name for task in upkeep.tasks()}
    upkeep.retire_studies()
    with site.database.read() as connection:
        left = studies.listed(connection, since=now - timedelta(days=99))
        assert [study.study_instance_uid for study in left] == ["1.0", "1.71"]
