"""The list's address: filters, search and sort on page and API, and the link to the viewer."""

import re

import pytest

from cxr_node.worklist.web.list_query import ListQuery, PageQuery
from cxr_node.worklist.web.present import viewer_link
from storage import audit, deliveries, studies
from tests.cxr_node.worklist.conftest import make_score, with_worklist

pytestmark = pytest.mark.requirement("SRS-WLT-503")


@pytest.fixture
def shift(ward, database, clock):
    """A study for each filter."""
    ward.add("1.2.1", waited_min=4, flagged=True, patient_name="Müller^Jürgen", modality="CR")
    ward.add("1.2.2", waited_min=133, patient_name="Yamada^Tarou=山田^太郎")
    ward.add("1.2.3", status="not_analysed", patient_id="P_7")
    ward.add("1.2.4", status="failed", ordered="HIGH")
    ward.add("1.2.5", status="pending", ordered="STAT", accession_number="ACC-1")
    with database.begin() as connection:
        studies.mark_opened(connection, "1.2.2", "dr.weber", clock.now)
        studies.set_verdict(connection, "1.2.1", "disagree")
        (delivery,) = deliveries.of_study(connection, "1.2.3")
        deliveries.set_state(connection, delivery.id, "FAILED", reason="0xA700", now=clock.now)
    return ward


def listed(client, query: str) -> list[str]:
    """Return the UIDs of page and API, which must be the same."""
    of_api = [study["study_instance_uid"] for study in client.get(f"/api/studies?{query}").json()["studies"]]
    of_page = re.findall(r'<tr id="row-([\d.]+)"', client.get(f"/?{query}").text)
    assert of_page == of_api
    return of_api


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["1.2.5", "1.2.2", "1.2.4", "1.2.1", "1.2.3"]),
        ("state=flagged", ["1.2.1"]),
        ("state=not_flagged", ["1.2.2"]),
        ("state=pending", ["1.2.5"]),
        ("state=not_analysed", ["1.2.3"]),
        ("state=failed", ["1.2.4"]),
        ("status=analysed", ["1.2.1", "1.2.2"]),
        ("modality=CR", ["1.2.1"]),
        ("reader=opened", ["1.2.2"]),
        ("reader=disagreed", ["1.2.1"]),
        ("reader=agreed", []),
        ("reader=new&ordered=ROUTINE", ["1.2.3"]),
        ("ordered=STAT", ["1.2.5"]),
        ("overdue=true", ["1.2.2"]),
        ("overdue=", ["1.2.5", "1.2.2", "1.2.4", "1.2.1", "1.2.3"]),
        ("delivery=problem", ["1.2.3"]),
        ("q=muller+jurgen", ["1.2.1"]),
        ("q=%E5%A4%AA%E9%83%8E", ["1.2.2"]),
        ("q=p_7", ["1.2.3"]),
        ("q=acc-1", ["1.2.5"]),
        ("q=1.2.4", ["1.2.4"]),
        ("q=%00", ["1.2.5", "1.2.2", "1.2.4", "1.2.1", "1.2.3"]),
        ("q=doe&state=failed&modality=DX&reader=new", ["1.2.4"]),
        ("sort=newest", ["1.2.1", "1.2.5", "1.2.4", "1.2.3", "1.2.2"]),
        ("sort=state", ["1.2.1", "1.2.5", "1.2.3", "1.2.4", "1.2.2"]),
        ("sort=patient", ["1.2.3", "1.2.4", "1.2.5", "1.2.1", "1.2.2"]),
    ],
)
def test_the_address_says_what_is_shown(client, shift, query, found):
    """A list that somebody sends to a colleague is the same list there."""
    assert listed(client, query) == found


@pytest.mark.parametrize(
    "query", ["state=normal", "reader=seen", "sort=name", "overdue=maybe", "delivery=x", "stat=failed", "page=0"]
)
def test_what_the_list_does_not_know_is_refused(client, query):
    """A typo must not show everything as if it had been asked for."""
    assert client.get(f"/?{query}").status_code == 422


def test_counts_are_of_each_state_under_the_other_filters(client, shift):
    """What another state would show is known before it is chosen."""
    body = client.get("/api/studies?state=flagged&ordered=ROUTINE").json()
    assert body["total"] == 1
    assert body["counts"] == {"flagged": 1, "pending": 0, "not_flagged": 1, "not_analysed": 1, "failed": 0}
    tabs = re.findall(r'data-key="filter-(\w*)"[^>]*>[^<]*<span class="count">(\d+)', client.get("/").text)
    assert tabs == [
        ("", "5"),
        ("flagged", "1"),
        ("pending", "1"),
        ("not_flagged", "1"),
        ("not_analysed", "1"),
        ("failed", "1"),
    ]


def test_the_page_keeps_the_filters_of_its_address(client, shift):
    """Form, tabs, columns and pages lead on from where one is."""
    text = client.get("/?q=doe&modality=DX&sort=newest&overdue=&delivery=").text
    assert 'href="/?q=doe&amp;state=failed&amp;modality=DX&amp;sort=newest"' in text
    assert 'href="/?q=doe&amp;modality=DX&amp;sort=oldest"' in text
    assert 'name="q" value="doe"' in text
    assert '<option value="DX" selected>' in text
    assert "Remove filters" in text
    assert "Remove filters" not in client.get("/?state=failed&sort=newest").text
    assert PageQuery(q="ü&=", page=2).address(3) == "?q=%C3%BC%26%3D&page=3"
    assert ListQuery(sort="order").address() == "?"


def test_a_search_is_audited_without_its_words(client, shift, database):
    """That somebody searched is the auditor's to know, whom they searched is the patient's."""
    client.get("/?q=muller")
    with database.read() as connection:
        (event,) = [item for item in audit.events(connection) if item.event == "worklist_searched"]
    assert "muller" not in str(event).lower()


@pytest.mark.requirement("SRS-WLT-504")
def test_the_row_says_what_readers_did(client, ward, database, clock):
    """A word and a mark, and who holds it."""
    for number in range(1, 6):
        ward.add(f"1.2.{number}", patient_name=f"N{number}")
    with database.begin() as connection:
        studies.mark_opened(connection, "1.2.2", "dr.weber", clock.now)
        for uid, verdict in (("1.2.3", "agree"), ("1.2.4", "disagree"), ("1.2.5", "unsure")):
            studies.mark_opened(connection, uid, "dr.weber", clock.now)
            studies.set_verdict(connection, uid, verdict)
    text = re.sub(r"<[^>]*>|\s+", " ", client.get("/").text)
    text = re.sub(r"\s+", " ", text)
    for words in ("○ New", "◐ Opened by dr.weber", "✓ Agreed", "≠ Disagreed", "? Not sure"):
        assert words in text, words
    study = client.get("/api/studies/1.2.4").json()
    assert (study["verdict"], study["opened_at"]) == ("disagree", "2026-03-02T12:00:00Z")


def test_objects_of_one_destination_read_apart(client, ward, database, clock):
    """A report that arrived does not hide a segmentation that did not."""
    ward.add("1.2.3")
    with database.begin() as connection:
        (sent,) = deliveries.of_study(connection, "1.2.3")
        for kind, state in (("sc", "DELIVERED"), ("seg", "FAILED")):
            item = deliveries.add(connection, sent.result_id, kind=kind, destination="pacs", now=clock.now)
            deliveries.set_state(
                connection, item.id, state, reason="refused" if state == "FAILED" else "", now=clock.now
            )
    text = client.get("/").text
    assert "pacs SR, SC: delivered" in text
    assert "pacs SEG: failed" in text
    assert "refused" in text


def test_a_page_asks_as_often_for_many_studies_as_for_one(client, ward, database):
    """Four queries a study made a page of a hundred slow on a database that is not on this machine."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    asked: list[str] = []

    def note(_connection, _cursor, statement, *_rest) -> None:
        if statement.startswith("SELECT"):
            asked.append(statement)

    def cost() -> int:
        asked.clear()
        assert client.get("/api/studies").status_code == 200
        return len(asked)

    ward.add("1.2.1", status="failed")
    ward.add("1.2.2", flagged=True, findings=[make_score(True, 0.9)])
    client.get("/api/studies")
    event.listen(Engine, "before_cursor_execute", note)
    try:
        few = cost()
        for number in range(3, 30):
            ward.add(f"1.2.{number}", flagged=number % 2 == 0)
        assert cost() == few
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.requirement("SRS-WLT-506")
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "https://ohif.example/viewer?StudyInstanceUIDs={study_instance_uid}",
            "https://ohif.example/viewer?StudyInstanceUIDs=1.2.3",
        ),
        (
            "weasis://?%24dicom%3Ars+--url+%22https://pacs.example/dicom-web%22+-r+%22studyUID%3D{study_instance_uid}%22",
            "weasis://?%24dicom%3Ars+--url+%22https://pacs.example/dicom-web%22+-r+%22studyUID%3D1.2.3%22",
        ),
        (
            "https://orthanc.example/ui/app/#/filtered-studies?StudyInstanceUID={study_instance_uid}",
            "https://orthanc.example/ui/app/#/filtered-studies?StudyInstanceUID=1.2.3",
        ),
        (
            "https://orthanc.example/stone-webviewer/index.html?study={study_instance_uid}",
            "https://orthanc.example/stone-webviewer/index.html?study=1.2.3",
        ),
        (
            "https://pacs.example/open?pid={patient_id}&acc={accession_number}",
            "https://pacs.example/open?pid=P%2F1%20%26%C3%BC&acc=%7Bpatient_id%7D",
        ),
        ("java\tscript:alert(1)", ""),
        ("\x01javascript:alert({patient_id})", ""),
        ("VBScript:x", ""),
        ("file:///etc/passwd", ""),
    ],
)
def test_the_viewer_s_address_is_filled_in_and_never_code(template, expected):
    """OHIF, Weasis, Orthanc Explorer 2, Stone, and a PACS that knows patients; a value stays one value."""
    assert viewer_link(template, "1.2.3", "P/1 &ü", "{patient_id}") == expected


@pytest.mark.requirement("SRS-WLT-506")
def test_the_viewer_is_a_link_of_every_row(make_client, settings, ward):
    """It opens beside the list, and learns nothing of it."""
    ward.add("1.2.3", patient_id="P 1")
    client = make_client(with_worklist(settings, viewer_url="https://v.example/?p={patient_id}"))
    assert (
        '<a id="view-1.2.3" href="https://v.example/?p=P%201" target="_blank" rel="noopener noreferrer"'
        in client.get("/").text
    )
