"""Why a study is read with its priority, and what else a reader must know, as API and page show it."""

import pytest

from storage import deliveries, results, studies

pytestmark = pytest.mark.requirement("SRS-WLT-401")


def test_an_order_is_named_with_where_it_came_from(client, ward, database, clock):
    """A radiologist asks who called it STAT."""
    ward.add("1.2.3")
    assert client.get("/api/studies/1.2.3").json()["priority_reason"] == "as ordered"
    with database.begin() as connection:
        studies.raise_ordered(connection, "1.2.3", "STAT", 4, "HL7 order from the RIS", clock.now)
    study = client.get("/api/studies/1.2.3").json()
    assert (study["ordered_priority"], study["effective_priority"]) == ("STAT", "STAT")
    assert study["ordered_reason"] == "HL7 order from the RIS"
    assert study["priority_reason"] == "as ordered (HL7 order from the RIS)"
    assert "as ordered (HL7 order from the RIS)" in client.get("/").text


def test_a_flag_above_the_order_is_named_as_the_ais(client, ward):
    """What the machine did is told from what a person asked for."""
    ward.add("1.2.3", flagged=True)
    assert client.get("/api/studies/1.2.3").json()["priority_reason"] == "raised by AI from ROUTINE"


def test_a_study_that_was_read_leaves_the_list_and_stays_readable(client, ward, database, clock):
    """Somebody asks about it in the afternoon."""
    ward.add("1.2.3")
    with database.begin() as connection:
        studies.mark_read(connection, "1.2.3", clock.now)
    assert client.get("/api/studies").json()["total"] == 0
    assert client.get("/api/studies/1.2.3").json()["read_at"] == clock.now.isoformat().replace("+00:00", "Z")


def test_a_failed_analysis_shows_what_was_found_before_and_the_report_that_is_still_due(client, ward, database, clock):
    """A late image that could not be read takes nothing back."""
    ward.add("1.2.3", flagged=True)
    with database.begin() as connection:
        before = results.current(connection, "1.2.3")
        waiting = deliveries.add(connection, before.id, kind="pdf", destination="pacs", now=clock.now)
        note = "the analysis was given up: PoisonJob"
        outcome = {**before.outcome, "notes": [note]}
        results.add(
            connection, "1.2.3", status="failed", flagged=True, ai_priority="HIGH", outcome=outcome, now=clock.now
        )
        studies.set_outcome(
            connection,
            "1.2.3",
            status="failed",
            flagged=True,
            ai_priority="HIGH",
            effective_priority="HIGH",
            priority_rank=3,
            notified_at=clock.now,
            revision=2,
        )
    study = client.get("/api/studies/1.2.3").json()
    assert (study["status"], study["flagged"], study["notes"]) == ("failed", True, [note])
    assert study["findings"][0]["finding"] == "pneumonia"
    assert {item["object"] for item in study["deliveries"]} == {"sr", "pdf"}
    with database.begin() as connection:
        deliveries.set_state(connection, waiting.id, "SUPERSEDED", now=clock.now)
    assert {item["object"] for item in client.get("/api/studies/1.2.3").json()["deliveries"]} == {"sr"}
