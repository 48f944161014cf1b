"""What is kept, and what goes next, said as it is."""

from datetime import timedelta

import pytest

from cxr_node.worklist.web.admin.kept import Kept
from cxr_node.worklist.web.admin.retention_page import size

pytestmark = pytest.mark.requirement("SRS-ADM-206")


@pytest.fixture
def admin(client, sign_in):
    sign_in(client, "admin")
    return client


def test_what_is_past_the_limit_and_what_goes_next_are_told_apart(admin, ward, clock):
    """An image of an unfinished study is kept: the page must not promise that it goes."""
    for days, uid in ((31, "1.1"), (29.5, "1.2"), (1, "1.3")):
        ward.add(uid, waited_min=days * 24 * 60)
    page = admin.get("/admin/retention").text
    assert "Held</dt><dd>3 images" in page
    assert "if finished</dt><dd>1 images" in page
    assert "still held</dt><dd>1 images" in page
    assert "Oldest image is due</dt><dd>since" in page
    assert "not yet; upkeep runs it every hour" in page


def test_without_a_limit_the_page_says_that_the_disk_fills(make_client, settings, sign_in):
    upkeep = settings.upkeep.model_copy(update={"retention_days": 0.0})
    client = make_client(settings.model_copy(update={"upkeep": upkeep}))
    sign_in(client, "admin")
    page = client.get("/admin/retention").text
    assert "Kept for good" in page
    assert "Goes in the next 24 h" not in page


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (4.004e11, "400.4 GB")])
def test_sizes_are_words(number, text):
    assert size(number) == text


def test_answers_are_kept_for_a_moment_and_no_longer():
    """A page that is loaded anew must not walk the tables again; one that is loaded later must."""
    at = [0.0]
    kept: Kept[int] = Kept(60.0, most=2, clock=lambda: at[0])
    counted = iter(range(9))
    assert [kept.get("a", lambda: next(counted)) for _ in range(2)] == [0, 0]
    at[0] = timedelta(minutes=2).total_seconds()
    assert kept.get("a", lambda: next(counted)) == 1
    assert [kept.get(key, lambda: next(counted)) for key in "bca"] == [2, 3, 4]
