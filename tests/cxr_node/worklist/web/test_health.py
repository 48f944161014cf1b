"""For monitoring."""

from datetime import timedelta

import pytest

from storage import jobs, model_changes

pytestmark = pytest.mark.requirement("SRS-WLT-008")


def with_models(settings, *models: str):
    """Return the settings with other models."""
    return settings.model_copy(update={"analyze": settings.analyze.model_copy(update={"models": models})})


def test_the_process_is_up_whatever_else_is_not(client, database):
    """A supervisor that restarts it for a database that is gone helps nobody."""
    database.downgrade("base")
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_with_database_and_models(make_client, settings):
    """Both are there: nothing to say."""
    answer = make_client(with_models(settings, "pneumonia-paediatric")).get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "reasons": []})


def test_not_ready_says_what_is_missing(make_client, settings, database):
    """An administrator reads the reason in the probe's answer."""
    client = make_client(with_models(settings, "pneumonia-none"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    assert [reason.split(":")[0] for reason in answer.json()["reasons"]] == ["model pneumonia-none"]
    database.downgrade("base")
    assert any("tables are not those of this release" in reason for reason in client.get("/readyz").json()["reasons"])


@pytest.mark.requirement("SRS-ADM-204")
@pytest.mark.parametrize(
    ("state", "digest", "status"), [("off", "", 200), ("active", "", 503), ("active", "d" * 64, 503)]
)
def test_ready_asks_for_what_admins_decided(make_client, settings, database, clock, state, digest, status):
    """A model that was turned off is not missed; one that is not the confirmed one is."""
    name = "pneumonia-paediatric" if digest else "pneumonia-none"
    with database.begin() as connection:
        model_changes.add(connection, name, state, digest=digest, changed_by="ada", now=clock.now)
    configured = "pneumonia-none" if state == "off" else "pneumonia-paediatric"
    answer = make_client(with_models(settings, configured)).get("/readyz")
    assert answer.status_code == status
    assert all(name in reason for reason in answer.json()["reasons"])


def test_the_queue_and_the_disk_are_gauges_taken_now(client, database, clock):
    """What an alarm is set on: dead letters, the age of the oldest job, room on the disk."""
    with database.begin() as connection:
        jobs.schedule(connection, "deliver", "1", run_at=clock.now - timedelta(seconds=90), now=clock.now)
        jobs.schedule(connection, "analyze", "1.2", run_at=clock.now + timedelta(seconds=5), now=clock.now)
    lines = client.get("/metrics").text.splitlines()
    assert 'cxr_jobs{kind="deliver",state="SCHEDULED"} 1.0' in lines
    assert 'cxr_oldest_due_job_seconds{kind="deliver"} 90.0' in lines
    assert 'cxr_oldest_due_job_seconds{kind="analyze"} 0.0' in lines
    assert "cxr_database_up 1.0" in lines
    assert next(float(line.split()[1]) for line in lines if line.startswith("cxr_free_bytes ")) > 0
    assert any(line.startswith("cxr_instance_bytes_total ") for line in lines)


def test_metrics_answer_when_the_database_does_not(client, database):
    """That is when they are looked at."""
    database.downgrade("base")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "cxr_database_up 0.0" in answer.text.splitlines()


def test_the_counters_of_all_stages_are_merged(make_client, settings, tmp_path, monkeypatch):
    """Stages are processes; one of them answers for all."""
    import subprocess
    import sys

    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    script = "from cxr_node import metrics; metrics.CONFLICTS.inc(2)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], check=True, env={"PROMETHEUS_MULTIPROC_DIR": str(folder)})
    lines = make_client(settings).get("/metrics").text.splitlines()
    assert "cxr_conflicting_instances_total 4.0" in lines
    assert "cxr_database_up 1.0" in lines
