"""The clock and its tasks: each on time, none in the way of another, on many hosts as on one."""

import io
import json
import os
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.log import configure_logging
from cxr_node.settings import Settings
from cxr_node.upkeep import run_upkeep, stage
from cxr_node.upkeep.self_test import Checked, Interrupted
from storage import audit, jobs, model_changes

pytestmark = pytest.mark.requirement("SRS-UPK-001")


def wait_for(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.requirement("SRS-UPK-002")
def test_a_job_whose_worker_died_is_given_back_and_its_stage_is_woken(site):
    """A worker that hangs keeps its process: the supervisor cannot see it."""
    upkeep = site.upkeep()
    with site.database.begin() as connection:
        now = utc_now()
        jobs.schedule(connection, "analyze", "1.2.3", run_at=now, now=now)
        jobs.claim(connection, ["analyze"], owner="analyze:1", now=now - timedelta(seconds=60), lease_s=30)
        jobs.claim(connection, ["analyze"], owner="analyze:1", now=now, lease_s=0)
    bell = upkeep.doorbell.listen("analyze")
    try:
        upkeep.recover_leases()
        assert bell.wait(30)
        upkeep.recover_leases()
        assert not bell.wait(0.05)
    finally:
        bell.close()
    with site.database.read() as connection:
        assert jobs.get(connection, "analyze", "1.2.3").state == jobs.SCHEDULED


@pytest.mark.requirement("SRS-UPK-002")
def test_abandoned_temporary_files_go_and_young_ones_stay(site):
    """A sender that is cut off mid-image leaves a file; one that is sending has one too."""
    abandoned, young = site.files.new_temporary(), site.files.new_temporary()
    for path in (abandoned, young):
        path.write_bytes(b"half an image")
    long_ago = time.time() - stage.TEMPORARY_AFTER_S - 60
    os.utime(abandoned, (long_ago, long_ago))
    site.upkeep().sweep_temporary()
    assert (abandoned.exists(), young.exists()) == (False, True)


@pytest.mark.requirement("SRS-UPK-003")
def test_zero_retention_days_keep_everything(site):
    """node.toml says so."""
    locations = site.study("1.2.3", age_days=3650)
    site.upkeep(retention_days=0).retention()
    assert site.held(locations) == [True, True]
    site.upkeep(retention_days=30).retention()
    assert site.held(locations) == [False, False]


@pytest.mark.requirement("SRS-UPK-004")
def test_a_failed_self_test_is_seen_by_metric_and_audit_trail(site, monkeypatch):
    """A model that drifted must not go on in silence."""
    good, bad = Checked("good", "1", "0" * 64, "CPU", 1e-6), Checked("bad", reason="scores differ by 0.3")
    monkeypatch.setattr(stage, "run_apart", lambda *_: [good, bad])
    site.upkeep().self_test()
    assert metrics.SELF_TEST._value.get() == 0
    with site.database.read() as connection:
        (event,) = audit.events(connection)
    assert (event.event, event.detail["package"], event.detail["reason"]) == (
        "self_test_failed",
        "bad",
        "scores differ by 0.3",
    )
    monkeypatch.setattr(stage, "run_apart", lambda *_: [good])
    site.upkeep().self_test()
    assert metrics.SELF_TEST._value.get() == 1


@pytest.mark.requirement("SRS-ADM-204")
def test_the_self_test_is_of_the_models_that_run(site, monkeypatch):
    """One that an admin activated is tested, one that was turned off is not missed."""
    with site.database.begin() as connection:
        model_changes.add(connection, "pneumonia-adult", "off", changed_by="ada", now=utc_now())
        model_changes.add(connection, "of-the-site", "active", digest="d" * 64, changed_by="ada", now=utc_now())
    asked = []
    monkeypatch.setattr(stage, "run_apart", lambda names, *_: asked.append(names) or [])
    site.upkeep().self_test()
    assert asked == [("pneumonia-paediatric", "of-the-site")]


@pytest.mark.requirement("SRS-UPK-004")
def test_a_self_test_that_was_stopped_says_nothing(site, monkeypatch):
    """A restart of the node is no failure of a model."""

    def interrupted(*_: object) -> list[Checked]:
        raise Interrupted("stopped")

    metrics.SELF_TEST.set(1)
    monkeypatch.setattr(stage, "run_apart", interrupted)
    site.upkeep().self_test()
    assert metrics.SELF_TEST._value.get() == 1


def test_a_task_that_fails_is_logged_runs_again_and_stops_no_other(site, monkeypatch):
    """Retention on a read-only disk must not end lease recovery."""
    ran = {"bad": 0, "good": 0}

    def bad() -> None:
        ran["bad"] += 1
        raise OSError(30, "Read-only file system")

    def good() -> None:
        ran["good"] += 1

    upkeep = site.upkeep()
    tasks = (stage.Task("bad", 0.1, 0.0, False, bad), stage.Task("good", 0.1, 0.0, False, good))
    monkeypatch.setattr(upkeep, "tasks", lambda: tasks)
    out = io.StringIO()
    configure_logging("info", "upkeep", out)
    scheduler = stage.make_scheduler(upkeep)
    try:
        scheduler.start()
        wait_for(lambda: min(ran.values()) >= 3)
    finally:
        scheduler.shutdown(wait=True)
        configure_logging("info", "test", sys.stderr)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"upkeep_failed"}
    assert lines[0]["task"] == "bad"
    assert "Read-only file system" in lines[0]["error"]


@pytest.mark.requirement("SRS-UPK-005")
def test_two_hosts_do_not_run_a_shared_task_at_once(site, monkeypatch):
    """They share database and folder: two retentions would undo each other's counts."""
    running, most, ran = 0, 0, 0
    lock = threading.Lock()

    def slow() -> None:
        nonlocal running, most, ran
        with lock:
            running += 1
            most = max(most, running)
            ran += 1
        time.sleep(0.3)
        with lock:
            running -= 1

    task = stage.Task("retention", 3600.0, 0.0, True, slow)
    hosts = [site.upkeep() for _ in range(2)]
    threads = []
    for number, host in enumerate(hosts):
        monkeypatch.setattr(host, "tasks", lambda: (task,))
        worker = replace(host.worker(), owner=f"upkeep:{number}")
        threads.append(threading.Thread(target=worker.run, args=(site.stop,)))
    for thread in threads:
        thread.start()
    try:
        for host in hosts:
            host.queue(task)
        wait_for(lambda: ran >= 1)
        hosts[0].queue(task)
        wait_for(lambda: _state(site) == jobs.COMPLETED)
    finally:
        site.stop.set()
        for thread in threads:
            thread.join()
    assert most == 1
    assert ran in (1, 2, 3)


def _state(site):
    with site.database.read() as connection:
        return jobs.get(connection, "upkeep", "retention").state


@pytest.mark.requirement("SRS-UPK-005")
def test_a_shared_task_that_failed_runs_again_when_it_is_due_next(site, monkeypatch):
    """A dead letter of upkeep is revived by the clock, not by a person."""
    upkeep = site.upkeep()
    ran = []

    def fails_first() -> None:
        ran.append(1)
        if len(ran) == 1:
            raise OSError(5, "Input/output error")

    task = stage.Task("retention", 3600.0, 0.0, True, fails_first)
    monkeypatch.setattr(upkeep, "tasks", lambda: (task,))
    monkeypatch.setattr(stage, "ATTEMPTS", 1)
    upkeep.queue(task)
    upkeep.worker().run_once()
    assert _state(site) == jobs.FAILED
    upkeep.queue(task)
    upkeep.worker().run_once()
    assert _state(site) == jobs.COMPLETED
    assert len(ran) == 2


def test_the_stage_recovers_sweeps_and_stops_in_time(tmp_path, monkeypatch):
    """As the supervisor runs it, with the self-test under way when the node stops."""
    monkeypatch.setattr(stage, "FIRST_SELF_TEST_S", 0.0)
    monkeypatch.setattr(stage, "FIRST_RETENTION_S", 0.0)
    settings = Settings(node={"data_dir": str(tmp_path / "var")}, upkeep={"sweep_s": 0.1})
    stop = threading.Event()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            run_upkeep(settings, stop)
        except BaseException as error:  # noqa: BLE001  # told to the test below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(1.5)
    started = time.monotonic()
    stop.set()
    thread.join(10)
    assert raised == []
    assert not thread.is_alive()
    assert time.monotonic() - started < 5
