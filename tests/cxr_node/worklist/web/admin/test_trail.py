"""What an admin and an auditor are told of the audit trail."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from cxr_node.upkeep.audit_trail import Keeper
from cxr_node.worklist.web.admin.trail import Trail
from cxr_node.worklist.web.admin.troubles import troubles_of
from storage import audit
from storage.tables import audit_events
from tests.cxr_node.worklist.web.admin.test_health_page import NOON, WELL

DAY = timedelta(days=1)


@pytest.fixture
def auditor(client, sign_in):
    sign_in(client, "auditor", login="otto")
    return client


@pytest.mark.requirement("SRS-AUD-019")
@pytest.mark.parametrize(
    ("trail", "sentence", "is_urgent"),
    [
        (Trail(broken=2, breaks=("entry 5 (seal 2): was altered", "x")), "not what was sealed: entry 5 (seal 2)", True),
        (Trail(unsealed_since=NOON - timedelta(minutes=20)), "has not been sealed for 20 min", False),
        (Trail(verified_at=NOON - 3 * DAY), "was verified last 3 d", False),
        (
            Trail(repository="a:1", waiting=12, waiting_since=NOON - timedelta(hours=3), trouble="no answer in time"),
            "The audit repository has not taken 12 entries, the first for 3 h",
            False,
        ),
    ],
)
def test_what_is_wrong_with_the_trail_needs_an_eye(trail, sentence, is_urgent):
    """Nobody reads the trail every day: it must call."""
    (trouble,) = troubles_of(replace(WELL, trail=trail))
    assert sentence in trouble.sentence
    assert (trouble.is_urgent, trouble.href) == (is_urgent, "/admin/audit")


@pytest.mark.requirement("SRS-AUD-019")
def test_a_trail_that_is_well_is_not_spoken_of():
    """Entries of this minute wait for the next seal and the next batch: that is how it works."""
    just_now = NOON - timedelta(seconds=30)
    trail = Trail(
        verified_at=NOON - DAY, unsealed_since=just_now, repository="a:1", waiting=3, waiting_since=just_now, late=1
    )
    assert troubles_of(replace(WELL, trail=trail)) == ()


@pytest.mark.requirement("SRS-AUD-019")
def test_an_auditor_reads_how_far_the_trail_was_verified(auditor, database, clock):
    """Cheap: what upkeep left of its last verification."""
    assert "has not been verified yet" in auditor.get("/admin/audit").text
    with database.begin() as connection:
        audit.record(connection, "study_read", actor="ann", now=clock.now)
    keeper = Keeper(database, records_head=False, now=lambda: clock.now)
    keeper.seal()
    keeper.verify()
    assert "The chain was verified" in auditor.get("/admin/audit").text
    with database.begin() as connection:
        connection.execute(update(audit_events).where(audit_events.c.event == "study_read").values(actor="<b>bob"))
    keeper.verify(even_if_fresh=True)
    page = auditor.get("/admin/audit").text
    assert 'id="chain" role="alert"' in page
    assert ": was altered." in page
    assert "The chain was verified" not in page


@pytest.mark.requirement("SRS-AUD-020")
def test_what_a_person_read_is_written_down_with_the_address(auditor, database):
    """An audit message names the network access point."""
    auditor.get("/admin/audit")
    with database.read() as connection:
        assert audit.newest(connection, "audit_read")[0].detail["address"] == "testclient"
