"""The page where images are tried."""

import pytest

from tests.cxr_node.worklist.conftest import with_worklist
from tests.cxr_node.worklist.web.drop.conftest import DICOM, PNG

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.requirement("SRS-DRP-004")
def test_the_page_says_what_it_is_for_and_that_nothing_is_stored(client):
    """Before anybody drops anything."""
    page = client.get("/drop").text
    assert "Not for diagnosis" in page
    assert "15 minutes after the last file was added" in page
    assert 'data-largest="512000000"' in page
    assert "<noscript>" in page


@pytest.mark.requirement("SRS-DRP-002")
def test_no_text_of_a_file_is_markup(tried):
    """Name, facts, reason and value are a stranger's."""
    (file,) = tried.add(DICOM, HOSTILE)
    exclusion = {"reason": "view", "message": HOSTILE, "attribute": HOSTILE, "value": HOSTILE}
    tried.settle(file["id"], "not_analysed", facts={"modality": HOSTILE}, exclusion=exclusion)
    page = tried.client.get(f"/drop/results?key={tried.key}").text
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") >= 5


@pytest.mark.requirement("SRS-DRP-001")
def test_results_are_counted_and_sorted_by_what_wants_an_eye(tried):
    """Flagged first; the words are those of the worklist."""
    for outcome, name in [("not_flagged", "c.dcm"), ("flagged", "b.dcm"), ("not_analysed", "a.dcm")]:
        tried.settle(tried.add(DICOM, name)[0]["id"], outcome)
    tried.add(PNG, "d.png")

    def order(sort: str) -> list[str]:
        page = tried.client.get(f"/drop/results?key={tried.key}&sort={sort}").text
        assert 'data-unsettled="1"' in page
        assert 'data-text="1 flagged, 1 not analysed, 1 not flagged, 1 waiting"' in page
        return [part.partition("<")[0] for part in page.split('<th scope="row"><bdi>')[1:]]

    assert order("outcome") == ["b.dcm", "a.dcm", "c.dcm", "d.png"]
    assert order("name") == ["a.dcm", "b.dcm", "c.dcm", "d.png"]
    assert order("dropped") == ["c.dcm", "b.dcm", "a.dcm", "d.png"]


@pytest.mark.requirement("SRS-DRP-006")
@pytest.mark.parametrize(("profile", "is_shown"), [("triage", False), ("research", True)])
def test_a_probability_is_on_the_page_in_profile_research_only(make_client, settings, open_drop, profile, is_shown):
    """Even were there one."""
    tried = open_drop(make_client(with_worklist(settings, profile=profile)))
    finding = {"finding": "pneumonia", "model": "m", "model_version": "1", "flagged": True}
    numbers = {"probability": 0.8765, "threshold": 0.5}
    tried.settle(tried.add(DICOM)[0]["id"], findings=[finding | numbers])
    page = tried.client.get(f"/drop/results?key={tried.key}").text
    assert ("0.876" in page or "0.877" in page) == is_shown
    assert "suspected pneumonia" in page
