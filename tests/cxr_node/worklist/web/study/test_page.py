"""The study page: what it tells of a study, and what a reader can say of it."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from sqlalchemy import insert

from cxr_node.worklist.web.study.timeline import span
from storage import audit, deliveries, feedback, jobs, results, studies, tokens
from storage.site_tables import associations
from tests.cxr_node.worklist.conftest import NOON, with_worklist
from tests.cxr_node.worklist.web.study.conftest import HAND, IMAGE, UID, image_outcome


class Text(HTMLParser):
    """The text of a page, blanks as one, and its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.parts.append(data)

    def __str__(self) -> str:
        return re.sub(r"\s+([:,.])", r"\1", " ".join(" ".join(self.parts).split()))


def text_of(answer) -> str:
    """Return the text of a page that was found."""
    assert answer.status_code == 200, answer.text
    return str(Text(answer.text))


def form_of(client, sign_in, role: str = "reader") -> dict[str, str]:
    """Sign in and return what the page's form carries."""
    return {"csrf_token": sign_in(client, role)}


@pytest.mark.requirement("SRS-STU-001")
def test_the_timeline_goes_from_the_association_to_the_proof_with_durations(client, study, database, clock):
    """Where a study lost its time is the first question of every complaint."""
    at = clock.now
    with database.begin() as connection:
        connection.execute(
            insert(associations).values(
                association_id="1",
                calling_ae_title="CR_ROOM_1",
                peer_address="10.0.0.7",
                opened_at=at - timedelta(minutes=10, seconds=1),
                closed_at=at - timedelta(minutes=9, seconds=59),
            )
        )
        jobs.schedule(connection, "analyze", UID, run_at=at, now=at - timedelta(minutes=9))
        (claimed,) = jobs.claim(connection, ["analyze"], owner="test", now=at)
        assert jobs.complete(connection, claimed, now=at + timedelta(seconds=1))
        result = results.current(connection, UID)
        assert result is not None
        sent = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=at)
        deliveries.set_state(connection, sent.id, "DELIVERED", now=at + timedelta(seconds=5))
        deliveries.ask_proof(connection, sent.id, now=at)
        deliveries.settle_proof(
            connection, sent.id, "proved", method="storage-commitment", reason="", now=at + timedelta(seconds=75)
        )
    text = text_of(client.get(f"/studies/{UID}"))
    steps = (
        "Association opened CR_ROOM_1 at 10.0.0.7",
        "First image stored sent by CR_ROOM_1 after +1.0 s",
        "Association closed",
        "Analysis queued after +59 s",
        "Result, revision 1 Analysed, flagged after +9 min 00 s",
        "First result visible on the worklist",
        "Analysis done after +1.0 s",
        "Delivered to pacs structured report of revision 1 after +4.0 s",
        "Held by pacs structured report of revision 1, storage commitment after +1 min 10 s",
        "11 min 16 s from the first to the last step",
    )
    places = [text.find(step) for step in steps]
    assert -1 not in places, dict(zip(steps, places, strict=True))
    assert places == sorted(places)


@pytest.mark.requirement("SRS-STU-001")
def test_what_went_wrong_is_in_the_timeline_with_its_reason(make_client, settings, study, database, clock, sign_in):
    """An administrator is led on to the destinations, a reader is not."""
    with database.begin() as connection:
        result = results.current(connection, UID)
        assert result is not None
        sent = deliveries.add(connection, result.id, kind="sr", destination="pacs", now=clock.now)
        deliveries.set_state(connection, sent.id, "FAILED", now=clock.now, reason="the peer answered A700")
    client = make_client(settings)
    text = text_of(client.get(f"/studies/{UID}"))
    assert "Problem: Delivery to pacs failed structured report of revision 1: the peer answered A700" in text
    assert "/admin/destinations" not in client.get(f"/studies/{UID}").text
    sign_in(client, "admin")
    assert 'href="/admin/destinations"' in client.get(f"/studies/{UID}").text


@pytest.mark.requirement("SRS-STU-001")
@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0 s"), (0.34, "0.3 s"), (9.96, "10.0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (7500, "2 h 05 min")],
)
def test_durations_are_as_fine_as_can_be_grasped(seconds, text):
    """Tenths matter below ten seconds, and nowhere else."""
    assert span(timedelta(seconds=seconds)) == text


@pytest.mark.requirement("SRS-STU-003")
def test_an_excluded_image_names_the_attribute_at_fault(client, ward, revise):
    """A technician can mend a protocol only who is told tag, value found and values accepted."""
    ward.add(UID, status="pending")
    revise(image_outcome(exclusion=HAND), flagged=False)
    text = text_of(client.get(f"/studies/{UID}"))
    for words in (
        "Not analysed: Body Part Examined is HAND, expected CHEST",
        "Attribute at fault (0018,0015) Body Part Examined",
        "Found HAND",
        "Accepted a value with the word CHEST or THORAX",
    ):
        assert words in text
    (image,) = client.get(f"/api/studies/{UID}/images").json()["images"]
    assert image["exclusion"]["attribute"] == "(0018,0015) Body Part Examined"
    assert image["exclusion"]["accepts"].startswith("a value with the word CHEST")
    assert (image["kind"], image["findings"]) == ("image", [])


@pytest.mark.requirement("SRS-STU-003")
def test_scores_of_an_image_are_shown_in_research_only(make_client, settings, study):
    """A triage device speaks of the case: which image carried a flag would be a place."""
    triage = text_of(make_client(settings).get(f"/studies/{UID}"))
    research = text_of(make_client(with_worklist(settings, profile="research")).get(f"/studies/{UID}"))
    assert "Analysed by pneumonia-adult 1.0.0" in triage
    assert "0.912" not in triage
    assert "pneumonia ▲ flagged 0.912 0.500 pneumonia-adult 1.0.0" in research


@pytest.mark.requirement("SRS-STU-004")
def test_the_report_is_a_document_with_codes_and_without_numbers_in_triage(make_client, settings, study):
    """What the PACS holds can be read here; the number stays in the object."""
    triage = text_of(make_client(settings).get(f"/studies/{UID}"))
    research = text_of(make_client(with_worklist(settings, profile="research")).get(f"/studies/{UID}"))
    for text in (triage, research):
        assert "Imaging Measurement Report" in text
        assert "Pneumonia: Suspected 233604007 SCT = 415684004 SCT" in text
        assert "COMPLETE, UNVERIFIED, PRELIMINARY" in text
        assert f"Image Storage - For Presentation {IMAGE}" in text
    assert "Probability of pneumonia: 91.2 % PNEUMONIA-PROB 99CXRNODE" in research
    assert "decision threshold = 0.5" in research
    assert "91.2" not in triage
    assert "decision threshold" not in triage


@pytest.mark.requirement("SRS-STU-004")
def test_the_report_of_each_revision_can_be_chosen_and_fetched(client, study, revise, database):
    """What was sent first is what a reader may have acted on."""
    revise(image_outcome(flagged=False), flagged=False)
    assert "The Structured Report of revision 2" in text_of(client.get(f"/studies/{UID}"))
    first = client.get(f"/studies/{UID}?revision=1")
    assert "The Structured Report of revision 1" in text_of(first)
    assert client.get(f"/studies/{UID}?revision=3").status_code == 404
    shown = first.text.partition('class="report"')[2].partition("</article>")[0]
    (link,) = re.findall(r'href="(/api/[^"]*)" download', shown)
    answer = client.get(link)
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.content[128:132] == b"DICM"
    assert re.fullmatch(r'attachment; filename="sr-[0-9.]+\.dcm"', answer.headers["content-disposition"])
    with database.read() as connection:
        events = audit.events(connection, study_instance_uid=UID)
    assert "result_object_downloaded" in [event.event for event in events]
    assert client.get(f"/api/studies/1.9/objects/{link.rpartition('/')[2]}").status_code == 404


@pytest.mark.requirement("SRS-STU-005")
def test_a_revision_says_what_changed(make_client, settings, study, revise, ward):
    """Two reports that differ ask for the difference."""
    revise(
        image_outcome(flagged=False),
        image_outcome(f"{UID}.2", exclusion=HAND),
        flagged=False,
        notes=("1 of 3 images that the sender announced did not arrive",),
    )
    triage = text_of(make_client(settings).get(f"/studies/{UID}"))
    research = text_of(make_client(with_worklist(settings, profile="research")).get(f"/studies/{UID}"))
    for words in (
        "first result, of 1 image",
        "not flagged any more; its priority stays",
        f"new image {UID}.2",
        "noted: 1 of 3 images that the sender announced did not arrive",
    ):
        assert words in triage
    assert "0.912 before, 0.188 now" in research
    assert "before, 0.188" not in triage


@pytest.mark.requirement("SRS-STU-006")
def test_a_verdict_is_one_form_and_a_later_one_takes_its_place(client, study, database, sign_in):
    """Nothing that was said is changed: the newest counts, the others stay on record."""
    form = form_of(client, sign_in)
    said = {**form, "verdict": "agree", "comment": "seen <b>twice</b>", "revision": "1"}
    answer = client.post(f"/studies/{UID}/verdict", data=said)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{UID}#assessment")
    assert "✓ Agreed by you at" in text_of(client.get(f"/studies/{UID}"))
    part = client.post(f"/studies/{UID}/verdict", data={**form, "verdict": "disagree"}, headers={"HX-Request": "true"})
    text = text_of(part)
    assert "<html" not in part.text
    assert 'data-announce="Disagreed, pneumonia.' in part.text
    assert "✗ Disagreed by you" in text
    assert "✓ Agreed on pneumonia: reader.person, revision 1, 12:00:00 (earlier) seen <b>twice</b>" in text
    with database.read() as connection:
        assert [item.verdict for item in feedback.of_study(connection, UID)] == ["agree", "disagree"]
    page = client.get(f"/studies/{UID}").text
    pressed = [value for tag, name, value in Text(page).attributes if (tag, name) == ("button", "value")]
    assert pressed == ["agree", "disagree", "unsure"]
    assert re.search(r'value="disagree"[^>]*aria-pressed="true"', page)


@pytest.mark.requirement("SRS-STU-006")
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"csrf_token": "of another session"}, 403),
        ({"verdict": "maybe"}, 422),
        ({"finding": "fracture"}, 422),
        ({"comment": "x" * 2001}, 422),
        ({"revision": "99999999999999999999"}, 422),
        ({"revision": "7"}, 409),
    ],
)
def test_a_form_that_is_none_of_this_page_changes_nothing(client, study, database, sign_in, changes, status):
    """Nor does one that a page of another site sends."""
    form = form_of(client, sign_in)
    del client.headers["x-csrf-token"]
    answer = client.post(f"/studies/{UID}/verdict", data={**form, "verdict": "agree"} | changes)
    assert answer.status_code == status
    with database.read() as connection:
        assert feedback.of_study(connection, UID) == []


@pytest.mark.requirement("SRS-STU-006")
def test_a_study_without_a_report_cannot_be_assessed(client, ward, sign_in):
    """There is nothing to agree with yet; the form is not there, and a stale one is answered with the reason."""
    ward.add(UID, status="pending")
    form = form_of(client, sign_in)
    assert "There is no report to agree or disagree with" in text_of(client.get(f"/studies/{UID}"))
    answer = client.post(f"/studies/{UID}/verdict", data={**form, "verdict": "agree"})
    assert answer.status_code == 409
    stale = client.post(f"/studies/{UID}/verdict", data={**form, "verdict": "agree"}, headers={"HX-Request": "true"})
    assert "the study has no result yet" in text_of(stale)
    assert client.post("/studies/9.9/verdict", data={**form, "verdict": "agree"}).status_code == 404


@pytest.mark.requirement("SRS-STU-006")
def test_opening_the_page_is_remembered_and_a_program_opens_nothing(client, study, database, sign_in):
    """The list shows what somebody has looked at; the first one counts."""
    with database.begin() as connection:
        tokens.create(connection, "archive", "reader", now=NOON, secret="a-secret")
    client.get(f"/studies/{UID}", headers={"Authorization": "Bearer a-secret"})
    with database.read() as connection:
        found = studies.get(connection, UID)
    assert found is not None
    assert found.opened_at is None
    sign_in(client, "reader", "anna")
    client.get(f"/studies/{UID}")
    sign_in(client, "admin", "berta")
    text = text_of(client.get(f"/studies/{UID}"))
    with database.read() as connection:
        found = studies.get(connection, UID)
    assert found is not None
    assert found.opened_by == "anna"
    assert "Opened by anna" in text


@pytest.mark.requirement("SRS-STU-005")
def test_an_open_page_can_ask_whether_it_is_old(client, study, revise):
    """It shows no newer result by itself under a reader's eyes, and hides none."""
    shown = Text(client.get(f"/studies/{UID}").text).attributes
    (where,) = [value for _, name, value in shown if name == "data-state"]
    assert client.get(where).json() == {"revision": 1, "status": "analysed"}
    assert ("p", "data-revision", "1") in shown
    revise(image_outcome(flagged=False), flagged=False)
    assert client.get(where).json() == {"revision": 2, "status": "analysed"}
    assert client.get("/studies/9.9/state").status_code == 404


@pytest.mark.requirement("SRS-STU-006")
def test_next_leads_through_the_list_in_reading_order(client, ward):
    """From the first to the last, then back to the list; from a study that left it, to what waits longest."""
    for uid, ordered in (("1.1", "ROUTINE"), ("1.2", "STAT"), ("1.3", "HIGH")):
        ward.add(uid, status="pending", ordered=ordered)
    steps = [client.get(f"/studies/{uid}/next") for uid in ("1.2", "1.3", "1.1", "9.9")]
    assert [step.status_code for step in steps] == [303] * 4
    assert [step.headers["location"] for step in steps] == ["/studies/1.3", "/studies/1.1", "/", "/studies/1.2"]


@pytest.mark.requirement("SRS-STU-007")
def test_triage_has_no_trace_of_heat_maps(client, study):
    """No word, no button, no script that is told of one; and the way there is closed."""
    page = client.get(f"/studies/{UID}").text
    assert not re.search(r"heat|salien|data-finding|localisation", page, re.I)
    base = f"/api/studies/{UID}/images/{IMAGE}/heat-maps"
    assert client.post(base, json={"model": "pneumonia-adult", "finding": "pneumonia"}).status_code == 404
    assert client.get(f"{base}/1").status_code == 404
    assert client.get(f"{base}/1/picture").status_code == 404
