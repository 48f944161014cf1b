"""Orders, HL7 messages and manifests do not outlive their retention."""

from datetime import timedelta

import pytest

from cxr_node.clock import utc_now
from cxr_node.upkeep import stage
from storage import manifests, messages, orders
from storage.orders import Order


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
