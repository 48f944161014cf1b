"""The JSON API."""

from datetime import datetime

import pytest

from storage import audit, results, studies

FIELDS = {
    "study_instance_uid",
    "patient_context",
    "received_at",
    "notified_at",
    "status",
    "flagged",
    "ordered_priority",
    "ordered_reason",
    "ai_priority",
    "effective_priority",
    "priority_reason",
    "findings",
    "exclusions",
    "notes",
    "origin",
    "read_at",
    "opened_at",
    "verdict",
    "reading",
    "revision",
    "deliveries",
    "conflicts",
    "images",
}

pytestmark = pytest.mark.requirement("SRS-WLT-002")


def test_a_flagged_study_is_shown_whole(client, ward):
    """Every field that was promised, and no other."""
    ward.add("1.2.3", flagged=True, patient_name="山田^太郎")
    study = client.get("/api/studies/1.2.3").json()
    assert set(study) == FIELDS
    assert study["patient_context"]["patient_name"] == "山田^太郎"
    assert (study["received_at"], study["notified_at"]) == ("2026-03-02T11:50:00Z", "2026-03-02T11:50:01Z")
    assert datetime.fromisoformat(study["received_at"]).tzinfo is not None
    assert (study["status"], study["flagged"], study["revision"], study["images"]) == ("analysed", True, 1, 1)
    assert (study["ordered_priority"], study["ai_priority"], study["effective_priority"]) == ("ROUTINE", "HIGH", "HIGH")
    assert study["findings"] == [
        {
            "model": "pneumonia-adult",
            "version": "1.0.0",
            "finding": "pneumonia",
            "probability": 0.9123,
            "threshold": 0.5,
            "flagged": True,
        }
    ]
    (delivery,) = study["deliveries"]
    assert delivery.pop("id") > 0
    assert delivery == {
        "destination": "pacs",
        "object": "sr",
        "state": "DELIVERED",
        "reason": "",
        "proof": "",
        "proof_method": "",
        "proof_reason": "",
    }


def test_an_excluded_study_says_why(client, ward):
    """An exclusion is a result, with the attribute that caused it."""
    ward.add("1.2.3", status="not_analysed")
    study = client.get("/api/studies/1.2.3").json()
    assert (study["status"], study["flagged"], study["ai_priority"], study["findings"]) == (
        "not_analysed",
        False,
        None,
        [],
    )
    assert study["exclusions"] == [
        {
            "sop_instance_uid": "1.2.3.1",
            "reason": "body-part",
            "message": "the body part is not the chest",
            "attribute": "(0018,0015) Body Part Examined",
            "value": "HAND",
        }
    ]


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_a_study_without_a_result_keeps_its_ordered_priority(client, ward, status):
    """No result lowers nothing."""
    ward.add("1.2.3", status=status, ordered="STAT")
    study = client.get("/api/studies/1.2.3").json()
    assert (study["status"], study["revision"], study["effective_priority"]) == (status, 0, "STAT")
    assert (study["notified_at"] is None) == (status == "pending")


def test_an_order_without_priority_is_routine_and_the_words_of_the_sender_are_kept(client, ward):
    """What a sender wrote and what the node made of it stand apart."""
    ward.add("1.2.3", ordered="soon")
    study = client.get("/api/studies/1.2.3").json()
    assert (study["ordered_priority"], study["patient_context"]["ordered_priority"]) == ("ROUTINE", "soon")


def test_the_list_is_in_reading_order_and_paged(client, ward):
    """A page is a window on the one order."""
    ward.add("1.2.1", waited_min=5)
    ward.add("1.2.2", waited_min=50)
    ward.add("1.2.3", waited_min=1, flagged=True)
    whole = client.get("/api/studies").json()
    assert (whole["total"], whole["limit"], whole["offset"]) == (3, 100, 0)
    assert [study["study_instance_uid"] for study in whole["studies"]] == ["1.2.3", "1.2.2", "1.2.1"]
    assert set(whole["studies"][0]) == FIELDS
    page = client.get("/api/studies?limit=1&offset=1").json()
    assert ([study["study_instance_uid"] for study in page["studies"]], page["total"]) == (["1.2.2"], 3)
    assert client.get("/api/studies?offset=9").json()["studies"] == []


def test_the_list_can_be_asked_for_a_status(client, ward):
    """What failed is what an administrator asks for."""
    ward.add("1.2.1")
    ward.add("1.2.2", status="pending")
    found = client.get("/api/studies?status=pending").json()
    assert ([study["study_instance_uid"] for study in found["studies"]], found["total"]) == (["1.2.2"], 1)


@pytest.mark.parametrize(
    "query",
    ["status=normal", "limit=0", "limit=1001", "offset=-1", "limit=x", "state=normal", "sort=name", "stat=pending"],
)
def test_a_bad_parameter_is_told(client, query):
    """A typo must not look like an empty list."""
    assert client.get(f"/api/studies?{query}").status_code == 422


def test_an_unknown_study_is_a_clear_404(client):
    """Never received is another thing than not analysed."""
    answer = client.get("/api/studies/1.2.3")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "no image of a study with this Study Instance UID was received"}


def test_a_study_leaves_the_list_but_stays_readable(client, ward, settings):
    """After `retain_h` the list is for those who still wait."""
    ward.add("1.2.3", waited_min=settings.worklist.retain_h * 60 + 1)
    assert client.get("/api/studies").json()["total"] == 0
    assert client.get("/api/studies/1.2.3").status_code == 200


def test_a_uid_with_characters_of_a_path_is_found(client, ward):
    """A sender may write anything there; it is data, not a path."""
    ward.add("1.2/../3")
    assert client.get("/api/studies/1.2%2F..%2F3").json()["study_instance_uid"] == "1.2/../3"


def test_only_deliveries_of_the_current_revision_are_listed(client, ward, database, clock):
    """A superseded report is history, and stands on the page of the study."""
    ward.add("1.2.3")
    with database.begin() as connection:
        results.add(connection, "1.2.3", status="analysed", flagged=False, ai_priority="", outcome={}, now=clock.now)
        studies.set_outcome(
            connection,
            "1.2.3",
            status="analysed",
            flagged=False,
            ai_priority="",
            effective_priority="ROUTINE",
            priority_rank=1,
            notified_at=clock.now,
            revision=2,
        )
    study = client.get("/api/studies/1.2.3").json()
    assert (study["revision"], study["deliveries"], study["findings"]) == (2, [], [])


def test_openapi_tells_the_truth(client):
    """Programs are generated from it."""
    schema = client.get("/openapi.json").json()
    body = schema["components"]["schemas"]["StudyBody"]
    assert set(body["properties"]) == set(body["required"]) == FIELDS
    assert {"/api/studies", "/healthz", "/readyz", "/metrics"} < set(schema["paths"])
    assert "HTTPBearer" in schema["components"]["securitySchemes"]


@pytest.mark.requirement("SRS-WLT-007")
def test_a_read_is_audited_with_who_read(client, ward, database, clock):
    """Once in five minutes for each reader and study: pages and programs ask again and again."""
    ward.add("1.2.3")
    for _ in range(3):
        client.get("/api/studies/1.2.3")
    client.get("/api/studies")
    with database.read() as connection:
        found = [(entry.event, entry.actor, entry.study_instance_uid) for entry in audit.events(connection)]
    assert sorted(found) == [
        ("study_read", "anonymous@testclient", "1.2.3"),
        ("worklist_read", "anonymous@testclient", ""),
    ]


def test_a_database_that_does_not_answer_is_a_503(client, database):
    """The caller tries again; no stack trace, no empty list."""
    database.downgrade("base")
    answer = client.get("/api/studies")
    assert (answer.status_code, answer.json()) == (503, {"detail": "the database does not answer; try again"})
