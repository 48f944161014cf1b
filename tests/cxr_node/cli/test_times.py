"""`cxr-node times`: from the last image that a result could know to where it was seen."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from cxr_node.cli import main
from storage import Database
from storage.deliveries import COMMITTED, DELIVERED, SCHEDULED
from storage.studies import BACKFILL
from storage.tables import deliveries, instances, predictions, results, studies
from storage.turnaround import reading_minutes, received, turnarounds
from tests.databases import migrated

pytestmark = pytest.mark.requirement("SRS-TRI-010")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text("[node]\nprofile = 'triage'\n")
    (tmp_path / "var").mkdir()
    return path


@pytest.fixture
def database(config):
    found = migrated(f"sqlite:///{config.parent / 'var' / 'cxr-node.db'}")
    yield found
    found.dispose()


def add(
    database: Database,
    uid: str,
    images: list[float],
    visible: float | None,
    *,
    model: str = "",
    origin: str = "",
    sent: list[tuple[str, str, float | None]] = (),  # type: ignore[assignment]
    opened: float | None = None,
    read: float | None = None,
) -> None:
    """Add a study: seconds after noon of its images, its first result, its deliveries (kind, state, arrived)."""
    with database.begin() as connection:
        connection.execute(
            insert(studies).values(
                study_instance_uid=uid,
                status="analysed",
                first_received_at=at(min(images)),
                last_received_at=at(max(images)),
                notified_at=None if visible is None else at(visible),
                origin=origin,
                opened_at=None if opened is None else at(opened),
                read_at=None if read is None else at(read),
            )
        )
        for number, second in enumerate(images):
            row = insert(instances).values(
                sop_instance_uid=f"{uid}.{number}",
                series_instance_uid=f"{uid}.9",
                study_instance_uid=uid,
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2",
                size=1,
                location="",
                received_at=at(second),
            )
            instance_id = connection.execute(row).inserted_primary_key[0]
            if model:
                name, _, version = model.partition(" ")
                connection.execute(
                    insert(predictions).values(
                        instance_id=instance_id,
                        model_digest="d",
                        finding="pneumonia",
                        model=name,
                        model_version=version,
                        score=0.5,
                        probability=0.5,
                        created_at=at(second),
                    )
                )
        result = insert(results).values(
            study_instance_uid=uid,
            revision=1,
            created_at=at(0),
            status="analysed",
            flagged=False,
            ai_priority="",
            outcome={},
        )
        result_id = connection.execute(result).inserted_primary_key[0]
        for number, (kind, state, arrived) in enumerate(sent):
            connection.execute(
                insert(deliveries).values(
                    result_id=result_id,
                    study_instance_uid=uid,
                    revision=1,
                    kind=kind,
                    destination=f"D{number}",
                    state=state,
                    delivered_at=None if arrived is None else at(arrived),
                    updated_at=at(0),
                )
            )


def asked(config, capsys, *more: str) -> dict:
    assert main(["--config", str(config), "times", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_step_has_its_percentiles_by_model(config, database, capsys):
    """One hundred studies that took 10 ms to 1 s: the nearest rank, and not the mean of a bucket."""
    for number in range(1, 101):
        model = "pneumonia-adult 0.2.0" if number % 2 else "pneumonia-paediatric 0.2.0"
        sent = [("priority", DELIVERED, number / 50), ("sr", COMMITTED, 5 + number / 100), ("feedback:1", DELIVERED, 1)]
        add(database, f"1.{number}", [0.0], number / 100, model=model, sent=sent)
    found = asked(config, capsys)
    assert found["studies"] == 100
    everything = found["models"]["all models"]
    assert everything["visible"] == {"n": 100, "p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}
    assert everything["told"]["p95_s"] == 1.9
    assert everything["delivered"] == {"n": 100, "p50_s": 5.5, "p95_s": 5.95, "p99_s": 5.99}
    assert found["models"]["pneumonia-adult 0.2.0"]["visible"]["n"] == 50
    assert found["models"]["pneumonia-adult 0.2.0"]["visible"]["p50_s"] == 0.49


def test_an_image_that_came_after_the_result_is_no_waiting(config, database, capsys):
    """Otherwise a late lateral would make the time negative, or hide how long the frontal took."""
    add(database, "1.1", [0.0, 2.0, 60.0], 3.5)
    assert asked(config, capsys)["models"]["all models"]["visible"]["p99_s"] == 1.5


def test_what_nobody_waited_for_or_has_no_result_is_left_out(config, database, capsys):
    """A run through the archive says nothing of a patient's wait; nor does a delivery that has not arrived."""
    add(database, "1.1", [0.0], 1.0, sent=[("sr", SCHEDULED, None)])
    add(database, "1.2", [0.0], 500.0, origin=BACKFILL)
    add(database, "1.3", [0.0], None)
    found = asked(config, capsys)["models"]["all models"]
    assert (found["visible"]["n"], found["delivered"]["n"], found["delivered"]["p50_s"]) == (1, 0, None)


def test_a_study_whose_images_are_forgotten_is_counted_and_not_guessed(config, database, capsys):
    """Retention takes rows away; the time of what is left would be of something else."""
    add(database, "1.1", [0.0], 1.0)
    add(database, "1.2", [0.0], -5.0)
    found = asked(config, capsys)
    assert (found["studies"], found["left_out"]) == (1, 1)


def test_a_period_can_be_asked_for_and_an_empty_one_fails(config, database, capsys):
    """A report of March must not tell of April; no study is no success."""
    add(database, "1.1", [0.0], 1.0)
    add(database, "1.2", [86400.0], 86404.0)
    found = asked(config, capsys, "--since", "2026-03-02T00:00:00")
    assert found["models"]["all models"]["visible"] == {"n": 1, "p50_s": 4.0, "p95_s": 4.0, "p99_s": 4.0}
    assert main(["--config", str(config), "times", "--until", "2026-01-01"]) == 1
    assert "no study of that time has a result" in capsys.readouterr().out
    assert main(["--config", str(config), "times"]) == 0
    assert "p99" in capsys.readouterr().out


def test_arrivals_and_readings_for_a_simulation_come_from_the_same_rows(database):
    """A study left open overnight is no reading of ten hours."""
    add(database, "1.1", [0.0, 9.0], 1.0, opened=60.0, read=240.0)
    add(database, "1.2", [30.0], 31.0, opened=60.0, read=36000.0)
    add(database, "1.3", [40.0], 41.0, origin=BACKFILL)
    with database.read() as connection:
        period = (at(-1), at(3600))
        assert received(connection, *period) == [at(0), at(30)]
        assert reading_minutes(connection, *period, longest_min=60.0) == [3.0]
        assert len(list(turnarounds(connection, *period, priority_kind="priority"))) == 2
