"""Heat maps that are asked for, and the journey of a study, as rows."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from storage import heat_maps, instances, jobs, journeys
from storage.site_tables import associations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCORE = {"model_digest": "ab" * 32, "finding": "pneumonia"}


def image(connection, uid="1.2.1", association_id="a1") -> int:
    """Keep an instance of study 1.2 and return its id."""
    return instances.add(
        connection,
        sop_instance_uid=uid,
        series_instance_uid="1.2.0",
        study_instance_uid="1.2",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        variant=0,
        size=1,
        location=f"instances/00/{uid}.dcm",
        calling_ae_title="CR",
        called_ae_title="NODE",
        peer_address="10.0.0.7",
        association_id=association_id,
        received_at=NOON,
    ).id


@pytest.mark.requirement("SRS-STU-007")
def test_a_map_is_asked_for_once_and_made_once(database):
    """Readers press a button again; a map costs a hundred scores."""
    with database.begin() as connection:
        instance = image(connection)
        first = heat_maps.ask(connection, instance, **SCORE, now=NOON)
        again = heat_maps.ask(connection, instance, **SCORE, now=NOON + timedelta(seconds=1))
        assert again == first
        (job,) = jobs.claim(connection, [heat_maps.HEAT_MAP], owner="a", now=NOON, limit=5)
        assert (job.key, job.wanted, job.priority < 0) == (str(first.id), 1, True)
        heat_maps.settle(connection, first.id, location="objects/00/x.dcm")
        assert jobs.complete(connection, job, now=NOON)
        made = heat_maps.ask(connection, instance, **SCORE, now=NOON)
        assert (made.state, made.location) == (heat_maps.MADE, "objects/00/x.dcm")
        assert jobs.claim(connection, [heat_maps.HEAT_MAP], owner="a", now=NOON, limit=5) == []
        assert heat_maps.of_study(connection, "1.2") == [made]


@pytest.mark.requirement("SRS-STU-007")
def test_a_map_that_failed_is_tried_anew_when_somebody_asks(database):
    """The reason stands until then."""
    with database.begin() as connection:
        asked = heat_maps.ask(connection, image(connection), **SCORE, now=NOON)
        (job,) = jobs.claim(connection, [heat_maps.HEAT_MAP], owner="a", now=NOON)
        heat_maps.fail(connection, asked.id, "the model runs no longer")
        assert jobs.complete(connection, job, now=NOON)
        failed = heat_maps.get(connection, asked.id)
        assert failed is not None
        assert (failed.state, failed.reason) == (heat_maps.FAILED, "the model runs no longer")
        again = heat_maps.ask(connection, asked.instance_id, **SCORE, now=NOON)
        assert (again.id, again.state, again.reason) == (asked.id, heat_maps.ASKED, "")
        assert len(jobs.claim(connection, [heat_maps.HEAT_MAP], owner="a", now=NOON)) == 1


@pytest.mark.requirement("SRS-STU-007")
def test_a_map_of_an_image_that_retention_took_is_gone_with_it(database):
    """It shows where in the picture something was."""
    with database.begin() as connection:
        asked = heat_maps.ask(connection, image(connection), **SCORE, now=NOON)
        assert heat_maps.image_of(connection, asked) == "instances/00/1.2.1.dcm"
        instances.mark_deleted(connection, [asked.instance_id], now=NOON)
        assert heat_maps.image_of(connection, asked) is None
        assert heat_maps.of_study(connection, "1.2") == []


@pytest.mark.requirement("SRS-STU-001")
def test_the_associations_of_a_study_are_those_that_brought_its_images(database):
    """In the order they were opened; an image from the web, or one whose association is forgotten, has none."""
    with database.begin() as connection:
        for number, opened in (("a1", 2), ("a2", 1), ("other", 0)):
            connection.execute(
                insert(associations).values(
                    association_id=number,
                    calling_ae_title="CR",
                    opened_at=NOON + timedelta(seconds=opened),
                    closed_at=NOON + timedelta(seconds=opened + 1),
                )
            )
        for number, association in enumerate(("a1", "a1", "a2", "forgotten", "")):
            image(connection, f"1.2.{number}", association)
        found = journeys.associations_of(connection, "1.2")
        assert [item.association_id for item in found] == ["a2", "a1"]
        assert found[0].closed_at == NOON + timedelta(seconds=2)
        assert journeys.analysis_of(connection, "1.2") is None
        jobs.schedule(connection, "analyze", "1.2", run_at=NOON, now=NOON)
        job = journeys.analysis_of(connection, "1.2")
        assert job is not None
        assert (job.state, job.settled_at) == (jobs.SCHEDULED, None)
