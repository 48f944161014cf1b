"""How far a delivery is proved, as a person reads it."""

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from cxr_node.worklist.web import present
from storage.deliveries import Delivery

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DELIVERED = Delivery(
    id=1,
    result_id=1,
    study_instance_uid="1.2",
    revision=1,
    kind="sr",
    destination="pacs",
    state="DELIVERED",
    attempts=1,
    reason="",
    sop_instance_uid="2.25.7",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
    delivered_at=NOON,
    updated_at=NOON,
    proof="",
    proof_method="",
    proof_reason="",
    proof_at=None,
    resends=0,
)


@pytest.mark.requirement("SRS-DLV-117")
@pytest.mark.parametrize(
    ("changes", "label", "reason"),
    [
        ({}, "delivered", ""),
        ({"proof": "asked", "proof_reason": "asked for"}, "delivered, proof asked for", ""),
        ({"proof": "proved", "state": "COMMITTED"}, "delivered, committed", ""),
        ({"proof": "proved", "state": "COMMITTED", "proof_method": "query"}, "delivered, read back", ""),
        ({"proof": "unavailable", "proof_reason": "offers no way"}, "delivered, not proved", "offers no way"),
        ({"proof": "failed", "state": "FAILED", "reason": "dropped", "proof_reason": "dropped"}, "failed", "dropped"),
    ],
    ids=["not asked for", "asked", "committed", "read back", "unavailable", "failed"],
)
def test_delivered_and_proved_are_told_apart(changes, label, reason):
    """Success from a PACS is not yet a report in the archive."""
    row = present.delivery(replace(DELIVERED, **changes), ZoneInfo("UTC"), NOON)
    assert (row.label, row.reason) == (label, reason)
