"""Destinations over HTTP: what an admin sees and does, and that nobody else can."""

import threading
import time
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from cxr_node.settings import Destination
from cxr_node.worklist.services import make_services
from cxr_node.worklist.web.app import create_app
from storage import audit, deliveries, destination_states, jobs, lanes, tokens

pytestmark = pytest.mark.requirement("SRS-WLT-201")

DESTINATIONS = (
    Destination(name="pacs", ae_title="PACS", host="192.0.2.1"),
    Destination(name="ris", kind="hl7-oru", host="192.0.2.2", dry_run=True),
)


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"destination": DESTINATIONS})


@pytest.fixture
def client(client, sign_in):
    """A client of an admin who signed in."""
    sign_in(client, "admin", login="ada")
    return client


@pytest.fixture
def guarded(settings, database, clock):
    """A client of an application that asks for tokens, and the secrets by role."""
    strict = settings.model_copy(update={"worklist": settings.worklist.model_copy(update={"require_token": "always"})})
    with database.begin() as connection:
        for role in ("reader", "admin", "auditor", "service"):
            tokens.create(connection, role, role, now=clock.now, secret=f"secret-{role}")
    with TestClient(create_app(make_services(strict, database, clock)), base_url="http://127.0.0.1:8042") as opened:
        yield opened


def test_the_list_tells_how_each_destination_stands(client, ward, database, clock):
    """One look: who waits, who failed, and why."""
    ward.add("1.2.3", flagged=True)
    with database.begin() as connection:
        until = clock.now + timedelta(seconds=30)
        destination_states.note_failure(
            connection, "pacs", error="pacs: no route", failures=4, resting_until=until, now=clock.now
        )
    pacs, ris = client.get("/api/destinations").json()["destinations"]
    assert (pacs["name"], pacs["kind"], pacs["sends"], pacs["state"]) == ("pacs", "c-store", ["sr"], "resting")
    assert (pacs["failures"], pacs["last_error"], pacs["delivered"]) == (4, "pacs: no route", 1)
    assert (ris["sends"], ris["state"], ris["dry_run"], ris["last_test_at"]) == (["priority"], "sending", True, None)
    clock.now += timedelta(seconds=31)
    assert client.get("/api/destinations/pacs").json()["state"] == "sending"


def test_pause_and_resume_are_obeyed_and_audited(client, database):
    """Who stopped the reports, and when, is asked later."""
    assert client.post("/api/destinations/pacs/pause").json()["state"] == "paused"
    with database.read() as connection:
        assert destination_states.get(connection, "pacs").paused
        assert audit.events(connection)[0].event == "destination_paused"
    found = client.post("/api/destinations/pacs/resume").json()
    assert (found["state"], found["paused_by"]) == ("sending", "")


def test_a_failed_delivery_is_sent_again(client, ward, database, clock):
    """By its id on the study, or all of the destination at once."""
    ward.add("1.2.3", flagged=True)
    (delivery,) = client.get("/api/studies/1.2.3").json()["deliveries"]
    with database.begin() as connection:
        deliveries.set_state(connection, delivery["id"], "FAILED", now=clock.now)
    assert client.post("/api/destinations/pacs/resend", json={"failed": True}).json() == {"resent": 1}
    assert client.post("/api/destinations/pacs/resend", json={"delivery": delivery["id"]}).json() == {"resent": 1}
    with database.begin() as connection:
        assert jobs.get(connection, "deliver", str(delivery["id"])).state == jobs.SCHEDULED
        deliveries.set_state(connection, delivery["id"], "COMMITTED", now=clock.now)
    answer = client.post("/api/destinations/pacs/resend", json={"delivery": delivery["id"]})
    assert (answer.status_code, "proved to be held" in answer.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nowhere/pause", None, 404),
        ("nowhere/test", None, 404),
        ("ris/resend", {"delivery": 1}, 404),
        ("pacs/resend", {}, 422),
        ("pacs/resend", {"failed": True, "delivery": 1}, 422),
        ("pacs/resend", {"all": True}, 422),
    ],
)
def test_what_cannot_be_meant_is_refused(client, path, body, status):
    """A slip must not resend a week."""
    assert client.post(f"/api/destinations/{path}", json=body).status_code == status


def test_a_test_is_made_by_the_stage_that_sends_and_waited_for(client, database, clock):
    """This process opens no connection to a PACS; without that stage the answer is 202."""
    answer = client.post("/api/destinations/pacs/test", params={"wait_s": 0})
    assert (answer.status_code, answer.json()["last_test_at"]) == (202, None)
    with database.read() as connection:
        assert jobs.get(connection, lanes.TEST, "pacs").state == jobs.SCHEDULED

    def stage() -> None:
        time.sleep(0.2)
        with database.begin() as connection:
            destination_states.note_test(connection, "pacs", "pacs: port closed", now=clock.now)

    thread = threading.Thread(target=stage)
    thread.start()
    answer = client.post("/api/destinations/pacs/test", params={"wait_s": 10})
    thread.join()
    assert (answer.status_code, answer.json()["last_test"]) == (200, "pacs: port closed")


@pytest.mark.parametrize(("role", "status"), [("reader", 403), ("auditor", 403), ("service", 403), ("admin", 200)])
def test_with_tokens_only_an_admin_may(guarded, role, status):
    """A reader who pauses the PACS stops every report."""
    headers = {"Authorization": f"Bearer secret-{role}"}
    assert guarded.get("/api/destinations", headers=headers).status_code == status
    assert guarded.get("/api/destinations/pacs", headers=headers).status_code == status
    for action in ("pause", "resume", "test?wait_s=0"):
        expected = 202 if status == 200 and "test" in action else status
        assert guarded.post(f"/api/destinations/pacs/{action}", headers=headers).status_code == expected
    body = {"failed": True}
    assert guarded.post("/api/destinations/pacs/resend", headers=headers, json=body).status_code == status


def test_without_a_token_nobody_may_where_one_is_asked_for(guarded):
    """401, so that a client knows what is missing."""
    assert guarded.get("/api/destinations").status_code == 401
    assert guarded.post("/api/destinations/pacs/pause").status_code == 401


def test_a_page_of_another_site_may_not(client, database):
    """A browser speaks in its user's name, for any page it shows."""
    for origin, status in (("https://evil.example", 403), ("http://127.0.0.1:8042", 200)):
        answer = client.post("/api/destinations/pacs/pause", headers={"Origin": origin})
        assert answer.status_code == status
        with database.read() as connection:
            assert destination_states.get(connection, "pacs").paused is (status == 200)
