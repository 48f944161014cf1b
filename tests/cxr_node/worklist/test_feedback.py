"""A reader's verdict: what becomes of it, who may give it, and how it leaves the node."""

import csv
from io import BytesIO, StringIO

import pytest
from pydicom import dcmread
from sqlalchemy.exc import OperationalError

from cxr_node.reporting import encode, findings_of, render_text
from cxr_node.settings import Destination
from storage import audit, deliveries, feedback, jobs, results, tokens
from tests.builders import make_material, make_objects, make_radiograph_dataset
from tests.cxr_node.worklist.conftest import NOON, with_worklist

pytestmark = pytest.mark.requirement("SRS-WLT-301")

ARCHIVE = {"name": "archive", "kind": "folder", "path": "out", "objects": ["sr", "feedback"]}
PACS = {"name": "pacs", "kind": "c-store", "ae_title": "PACS", "host": "127.0.0.1"}


@pytest.fixture
def settings(settings):
    """Two destinations, one of which takes feedback."""
    return settings.model_copy(
        update={"destination": tuple(Destination.model_validate(item) for item in (ARCHIVE, PACS))}
    )


@pytest.fixture
def reported(services, ward, database):
    """Put a study with its report on the list."""

    def add(uid: str, *, probability: float = 0.9) -> str:
        ward.add(uid, flagged=probability >= 0.5)
        made = make_objects(make_material(make_radiograph_dataset(StudyInstanceUID=uid), probability=probability))["sr"]
        _store(services, database, uid, made)
        return str(made.SOPInstanceUID)

    return add


def _store(services, database, uid, made):
    location = services.files.write_object(made.SOPInstanceUID, encode(made))
    with database.begin() as connection:
        result = results.current(connection, uid)
        results.add_object(
            connection,
            result.id,
            kind="sr",
            sop_class_uid=made.SOPClassUID,
            sop_instance_uid=made.SOPInstanceUID,
            location=location,
            now=NOON,
        )


def _document(services, database, uid, number=-1):
    with database.read() as connection:
        kept = feedback.of_study(connection, uid)[number]
        stored = [
            item
            for item in results.objects(connection, kept.result_id)
            if item.sop_instance_uid == kept.sop_instance_uid
        ]
    return kept, dcmread(BytesIO(services.files.read(stored[0].location)))


def test_a_verdict_becomes_row_object_delivery_job_and_audit_event(client, services, database, reported):
    """One transaction, so that what was said also arrives."""
    report_uid = reported("1.2.3")
    answer = client.post(
        "/api/studies/1.2.3/feedback", json={"verdict": "disagree", "comment": " a nipple\x00 shadow "}
    )
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["verdict"], body["finding"], body["comment"]) == ("disagree", "pneumonia", "a nipple shadow")
    kept, document = _document(services, database, "1.2.3")
    assert body["sop_instance_uid"] == kept.sop_instance_uid == document.SOPInstanceUID
    assert kept.observation_uid in str(document.ContentSequence)
    assert report_uid in str(document.CurrentRequestedProcedureEvidenceSequence)
    with database.read() as connection:
        planned = [item for item in deliveries.of_study(connection, "1.2.3") if item.kind != "sr"]
        assert [(item.destination, item.kind, item.state) for item in planned] == [
            ("archive", f"feedback:{kept.id}", "SCHEDULED")
        ]
        job = jobs.get(connection, "deliver", str(planned[0].id))
        event = audit.events(connection, study_instance_uid="1.2.3")[0]
    assert job.run_at == NOON
    assert job.payload == {"destination": "archive"}
    assert (event.event, event.actor) == ("feedback_given", "anonymous@testclient")
    assert event.detail["verdict"] == "disagree"
    assert "nipple" not in str(event.detail)


def test_a_later_verdict_of_the_same_reader_names_the_former(client, services, database, reported):
    """Both are kept, and each has a delivery of its own."""
    reported("1.2.3")
    for verdict in ("agree", "unsure"):
        assert client.post("/api/studies/1.2.3/feedback", json={"verdict": verdict}).status_code == 201
    first, _ = _document(services, database, "1.2.3", 0)
    _, second = _document(services, database, "1.2.3", 1)
    assert first.sop_instance_uid in str(second.PredecessorDocumentsSequence)
    with database.read() as connection:
        kinds = {item.kind for item in deliveries.of_study(connection, "1.2.3") if item.kind.startswith("feedback")}
    assert len(kinds) == 2
    listed = client.get("/api/studies/1.2.3/feedback").json()["feedback"]
    assert [item["verdict"] for item in listed] == ["agree", "unsure"]
    assert client.get("/api/studies/1.2.3").json()["verdict"] == "unsure"


def test_a_missed_finding_can_be_said(client, services, database, reported):
    """The study was not flagged, so there is no observation to refer to: the report as a whole is rejected."""
    report_uid = reported("1.2.3", probability=0.1)
    body = {"verdict": "disagree", "finding": "pneumonia", "comment": "right lower lobe"}
    answer = client.post("/api/studies/1.2.3/feedback", json=body).json()
    assert (answer["finding"], answer["observation_uid"]) == ("pneumonia", "")
    _, document = _document(services, database, "1.2.3")
    assert report_uid in str(document.ReferencedInstanceSequence)
    assert "The reader sees pneumonia, which the result did not flag." in render_text(document)


def test_the_verdict_is_on_the_revision_that_the_reader_saw(client, services, database, ward, reported):
    """A late image must not turn an agreement into one with something else."""
    first = reported("1.2.3")
    with database.begin() as connection:
        results.add(connection, "1.2.3", status="analysed", flagged=False, ai_priority="", outcome={}, now=NOON)
    assert client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree", "revision": 1}).json()["revision"] == 1
    _, document = _document(services, database, "1.2.3")
    assert first in str(document.CurrentRequestedProcedureEvidenceSequence)
    assert client.get("/api/studies/1.2.3").json()["verdict"] == "", "what was said of an earlier result"
    current = client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree"})
    assert current.status_code == 409
    assert "no report" in current.json()["detail"]
    assert client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree", "revision": 9}).status_code == 409


def test_it_refers_to_the_report_that_a_destination_has(client, services, database, reported):
    """A PACS without Comprehensive 3D SR has its twin, and knows no other."""
    from cxr_node.reporting import as_class

    uid = reported("1.2.3")
    with database.read() as connection:
        stored = results.objects(connection, results.current(connection, "1.2.3").id)[0]
    twin = as_class(dcmread(BytesIO(services.files.read(stored.location))), "1.2.840.10008.5.1.4.1.1.88.33")
    _store(services, database, "1.2.3", twin)
    with database.begin() as connection:
        (delivery,) = [item for item in deliveries.of_study(connection, "1.2.3") if item.kind == "sr"]
        deliveries.set_state(connection, delivery.id, "DELIVERED", now=NOON, sop_instance_uid=twin.SOPInstanceUID)
    client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree"})
    kept, document = _document(services, database, "1.2.3")
    evidence = str(document.CurrentRequestedProcedureEvidenceSequence)
    assert twin.SOPInstanceUID in evidence
    assert uid not in evidence
    assert kept.observation_uid == findings_of(twin)["pneumonia"]


def test_nothing_is_kept_where_something_fails(client, database, reported, monkeypatch):
    """A verdict without its document, or a document nobody sends, would be half of what was said."""
    reported("1.2.3")

    def broken(*_, **__):
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(audit, "record", broken)
    assert client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree"}).status_code == 503
    with database.read() as connection:
        assert feedback.of_study(connection, "1.2.3") == []
        assert len(results.objects(connection, results.current(connection, "1.2.3").id)) == 1
        assert [item.kind for item in deliveries.of_study(connection, "1.2.3")] == ["sr"]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, "verdict"),
        ({"verdict": "maybe"}, "agree"),
        ({"verdict": "agree", "finding": "hernia"}, "expected one of pneumonia, abnormal"),
        ({"verdict": "agree", "comment": "x" * 2001}, "2000"),
        ({"verdict": "agree", "reader": "dr-house"}, "reader"),
    ],
)
def test_a_slip_is_told(client, reported, body, found):
    """And nobody speaks in another's name."""
    reported("1.2.3")
    answer = client.post("/api/studies/1.2.3/feedback", json=body)
    assert answer.status_code == 422
    assert found in answer.text


def test_there_must_be_a_study_with_a_result(client, ward):
    """404 for one that never came, 409 for one that has no result yet."""
    ward.add("1.2.4", status="pending")
    for method in (lambda path: client.post(path, json={"verdict": "agree"}), client.get):
        assert method("/api/studies/9.9/feedback").status_code == 404
    answer = client.post("/api/studies/1.2.4/feedback", json={"verdict": "agree"})
    assert answer.status_code == 409
    assert "no result" in answer.json()["detail"]
    assert client.get("/api/studies/1.2.4/feedback").json() == {"feedback": []}
    assert client.get("/api/studies/1.2.4").json()["study_instance_uid"] == "1.2.4"


@pytest.fixture
def guarded(make_client, settings, database, reported):
    """An application that asks for a token; one token for each role."""
    reported("1.2.3")
    with database.begin() as connection:
        for role in ("reader", "admin", "auditor", "service"):
            tokens.create(connection, f"the-{role}", role, now=NOON, secret=f"secret-of-the-{role}-long-enough")
    return make_client(with_worklist(settings, require_token="always"))


@pytest.mark.parametrize(
    ("role", "status"), [("reader", 201), ("admin", 201), ("auditor", 403), ("service", 403), (None, 401)]
)
def test_only_those_who_read_may_assess(guarded, database, role, status):
    """And the name is the token's."""
    headers = {"Authorization": f"Bearer secret-of-the-{role}-long-enough"} if role else {}
    answer = guarded.post("/api/studies/1.2.3/feedback", json={"verdict": "agree"}, headers=headers)
    assert answer.status_code == status
    with database.read() as connection:
        kept = feedback.of_study(connection, "1.2.3")
    assert [item.reader for item in kept] == ([f"the-{role}"] if status == 201 else [])
    assert guarded.get("/api/studies/1.2.3/feedback").status_code == 401
    assert guarded.get("/api/feedback.csv").status_code == 401


def test_a_page_of_another_site_may_not_speak_for_the_reader(client, database, reported):
    """On loopback a browser needs no token, and sends any page's request there."""
    reported("1.2.3")
    path, body = "/api/studies/1.2.3/feedback", {"verdict": "disagree"}
    for origin in ("https://elsewhere.example", "null", "http://127.0.0.1:9999"):
        assert client.post(path, json=body, headers={"Origin": origin}).status_code == 403
    assert client.post(path, content='{"verdict": "disagree"}').status_code == 422, "what a form of a page can send"
    assert client.post(path, json=body, headers={"Origin": "http://127.0.0.1:8042"}).status_code == 201
    with database.read() as connection:
        assert len(feedback.of_study(connection, "1.2.3")) == 1


@pytest.mark.requirement("SRS-WLT-302")
def test_feedback_is_exported_with_what_the_result_said(client, database, reported, clock):
    """Enough to count by model and finding, and to find the document."""
    reported("1.2.3")
    reported("1.2.4", probability=0.1)
    client.post("/api/studies/1.2.3/feedback", json={"verdict": "agree"})
    clock.now = NOON.replace(hour=14)
    client.post(
        "/api/studies/1.2.4/feedback",
        json={"verdict": "disagree", "finding": "pneumonia", "comment": '=HYPERLINK("http://x","y")\nsecond, line'},
    )
    answer = client.get("/api/feedback.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(StringIO(answer.text, newline="")))
    assert [(row["study_instance_uid"], row["flagged"], row["verdict"]) for row in rows] == [
        ("1.2.3", "true", "agree"),
        ("1.2.4", "false", "disagree"),
    ]
    assert rows[0]["models"] == "pneumonia-adult 1.0.0"
    assert rows[0]["created_at"] == NOON.isoformat()
    assert rows[1]["comment"] == '\'=HYPERLINK("http://x","y")\nsecond, line'
    late = client.get("/api/feedback.csv", params={"since": "2026-03-02T13:00:00"})
    assert [row["study_instance_uid"] for row in csv.DictReader(StringIO(late.text))] == ["1.2.4"]
    assert client.get("/api/feedback.csv", params={"since": "yesterday"}).status_code == 422
    with database.read() as connection:
        assert "feedback_exported" in {event.event for event in audit.events(connection)}
