"""Sessions that end while a page is open, and the site's own identity provider, in Chromium."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from storage import users
from tests.department import Clock, Department
from tests.identity_provider import CLIENT_ID, CLIENT_SECRET, serve_provider

pytestmark = pytest.mark.peer("chromium")


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """A department whose people sign in with the hospital account."""
    folder = tmp_path_factory.mktemp("federated")
    (folder / "secret").write_text(CLIENT_SECRET)
    with serve_provider() as provider:
        oidc = {
            "issuer": provider.issuer,
            "client_id": CLIENT_ID,
            "client_secret_file": str(folder / "secret"),
            "reader": ["radiology"],
        }
        opened = Department(folder / "node", clock=Clock(datetime.now(UTC)), worklist={"oidc": oidc})
        opened.furnish()
        opened.start()
        yield opened
        opened.stop()


@pytest.mark.requirement("SRS-WEB-110")
def test_a_list_that_is_open_when_the_session_ends_leads_to_the_log_in_and_back(department, open_window):
    """What is touched next asks who is there; nothing of the list is renewed for nobody."""
    window = open_window()
    department.sign_in(window, "reader")
    page, before = window.page, department.clock.now
    page.goto(department.url)
    expect(page.locator("#live-text")).to_have_text("live")
    try:
        department.clock.now = before + timedelta(hours=2)
        with window.expecting("401|/events"):
            page.locator("#state-flagged").click()
            expect(page).to_have_url(re.compile(r"/login\?next=.*state.*flagged"))
    finally:
        department.clock.now = before


@pytest.mark.requirement("SRS-WEB-110")
def test_a_verdict_after_the_session_ended_is_not_kept_and_leads_to_the_log_in(department, open_window):
    """A key pressed too late must not look as if it had been heard."""
    window = open_window()
    department.sign_in(window, "reader")
    page, before = window.page, department.clock.now
    page.goto(f"{department.url}/studies/{department.uids[0]}")
    expect(page.locator("figure.stage .message")).to_be_hidden()
    try:
        department.clock.now = before + timedelta(hours=2)
        with window.expecting("401"):
            page.keyboard.press("a")
            expect(page).to_have_url(re.compile(r"/login\?next=.*studies"))
    finally:
        department.clock.now = before


@pytest.mark.requirement("SRS-WEB-111")
def test_the_hospital_account_opens_the_page_that_was_asked_for(federated, open_window):
    """Through the provider and back, past the policy of forms and the cookie's rule about other sites."""
    window = open_window()
    page = window.page
    page.goto(f"{federated.url}/?state=flagged")
    page.get_by_role("link", name="Sign in with the hospital account").click()
    expect(page).to_have_url(re.compile(r"/\?state=flagged$"))
    expect(page.get_by_role("heading", name="Worklist")).to_be_visible()
    expect(page.locator("#rows tr[data-key]")).to_have_count(2)
    with federated.database.read() as connection:
        user = users.find(connection, "r.roe")
    assert user is not None
    assert user.role == "reader"
