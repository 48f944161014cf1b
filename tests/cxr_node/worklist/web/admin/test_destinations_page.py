"""Destinations as a page: one look, and every deed as a form that works without a script."""

import re

import pytest

from cxr_node.settings import Destination
from cxr_node.worklist.web.admin import destinations_page
from storage import audit, deliveries, destination_states, jobs

pytestmark = pytest.mark.requirement("SRS-ADM-201")

DESTINATIONS = (
    Destination(name="pacs", ae_title="PACS", host="192.0.2.1"),
    Destination(name="ris", kind="hl7-oru", host="192.0.2.2", dry_run=True),
)


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"destination": DESTINATIONS})


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin", login="ada")
    return client


@pytest.fixture
def failed(ward, database, clock):
    """Two deliveries that were given up; return their ids."""
    for uid in ("1.2.3", "1.2.4"):
        ward.add(uid, flagged=True)
    with database.begin() as connection:
        found = [deliveries.of_study(connection, uid)[0].id for uid in ("1.2.3", "1.2.4")]
        for delivery in found:
            deliveries.set_state(connection, delivery, "FAILED", now=clock.now, reason="pacs: it refused <b>")
    return found


def test_each_stands_there_with_its_trouble_in_words(admin, database, clock, failed):
    """The night's question is what is stuck, and why."""
    with database.begin() as connection:
        destination_states.note_failure(
            connection, "pacs", error="pacs: no route to host", failures=3, resting_until=None, now=clock.now
        )
        destination_states.pause(connection, "ris", by="eve", now=clock.now)
    page = admin.get("/admin/destinations").text
    assert "2 given up" in page
    assert "pacs: no route to host" in page
    assert "by eve" in page
    assert "dry run: nothing is sent" in page


def test_pause_and_resume_are_forms_that_lead_back(admin, database):
    """A night without scripts is a night with work."""
    answer = admin.post("/admin/destinations/ris/pause")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/admin/destinations?said=paused&of=ris",
    )
    with database.read() as connection:
        assert destination_states.get(connection, "ris").paused
        entry = audit.newest(connection, "destination_paused")[0]
    assert entry.actor == "ada"
    assert "Paused. What comes waits" in admin.get(answer.headers["location"]).text
    admin.post("/admin/destinations/ris/resume")
    with database.read() as connection:
        assert not destination_states.get(connection, "ris").paused


def test_a_test_says_what_it_found_or_that_nobody_has_answered_yet(admin, database, clock, monkeypatch):
    """The stage that sends makes it; a page that waits for ever would look like a dead node."""
    monkeypatch.setattr(destinations_page, "TEST_WAIT_S", 0.0)
    assert admin.post("/admin/destinations/pacs/test").headers["location"].startswith("/admin/destinations?said=asked")
    with database.begin() as connection:
        assert jobs.get(connection, "destination-test", "pacs").state == jobs.SCHEDULED
        destination_states.note_test(connection, "pacs", "pacs: C-ECHO was refused", now=clock.now)
    answer = admin.post("/admin/destinations/pacs/test")
    assert answer.headers["location"].startswith("/admin/destinations?said=tested")
    assert "pacs: C-ECHO was refused" in admin.get(answer.headers["location"]).text


def test_what_failed_is_looked_at_before_it_is_sent_again(admin, database, failed):
    """One wrong click must not send a night's worth of reports; the page that asks shows them."""
    page = admin.get("/admin/destinations/pacs/failed").text
    assert "Send all 2 again" in page
    assert "pacs: it refused &lt;b&gt;" in page
    assert re.findall(r'name="delivery" value="(\d+)"', page) == [str(failed[1]), str(failed[0])]
    admin.post("/admin/destinations/pacs/failed/resend", data={"delivery": str(failed[0])})
    with database.read() as connection:
        assert [deliveries.get(connection, item).state for item in failed] == ["SCHEDULED", "FAILED"]
    again = admin.post("/admin/destinations/pacs/failed/resend", data={"delivery": str(failed[0])})
    assert again.status_code == 409
    admin.post("/admin/destinations/pacs/failed/resend")
    with database.read() as connection:
        assert deliveries.get(connection, failed[1]).state == "SCHEDULED"


@pytest.mark.parametrize("path", ["nowhere/pause", "nowhere/test", "nowhere/failed/resend"])
def test_what_is_not_in_the_file_is_not_found(admin, path):
    assert admin.post(f"/admin/destinations/{path}").status_code == 404


def test_nobody_puts_words_on_the_page(admin):
    """A link may choose among the page's own sentences only."""
    page = admin.get("/admin/destinations?said=call+555&of=pacs").text
    assert "555" not in page
    assert 'role="status"' not in page


@pytest.mark.parametrize("role", ["reader", "auditor"])
def test_others_neither_see_nor_do(client, sign_in, role):
    """Who pauses the PACS stops every report."""
    sign_in(client, role)
    assert client.get("/admin/destinations").status_code == 403
    assert client.post("/admin/destinations/pacs/pause").status_code == 403
