"""What the parser of a test misses, a browser would not: the attack of every sender, shown in Chromium."""

from collections.abc import Iterator

import pytest

from tests.department import Department
from tests.pages import PAGES, address

pytestmark = pytest.mark.peer("chromium")

ATTACK = (
    "\"'></td></title></script><xss-probe onpointerover=alert(1)></xss-probe>"
    "<img src=x onerror=\"document.title='hacked'\"><svg onload=\"document.title='hacked'\">"
)
SHOWN = [
    *("/", "/studies/{flagged}", "/studies/{excluded}", "/account", "/admin", "/admin/senders", "/admin/users"),
    *("/admin/destinations", "/admin/jobs", "/admin/models/pneumonia-adult", "/admin/audit", "/admin/charts"),
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Department]:
    """A node whose every text is the attack."""
    opened = Department(tmp_path_factory.mktemp("hostile"), profile="research", hostile=ATTACK)
    opened.furnish()
    opened.start()
    yield opened
    opened.stop()


@pytest.mark.requirement("SRS-WEB-004")
def test_a_browser_runs_nothing_that_a_sender_wrote(hostile, open_window):
    """No element of theirs, no program of theirs, no picture asked for, and no breach of the policy tried."""
    window = open_window()
    hostile.sign_in(window, "admin")
    for path in SHOWN:
        assert path in PAGES
        assert window.page.goto(address(hostile, path)).status == 200
        window.page.wait_for_function("document.readyState === 'complete'")
        assert "hacked" not in window.page.title()
        assert window.page.locator("xss-probe, main img[src=x], main svg[onload]").count() == 0
        if path != "/admin/charts":
            assert "onerror=" in window.page.locator("body").inner_text(), path
    assert window.dialogs == []
