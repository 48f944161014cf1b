"""Work beside the studies: done while they are, one file's harm kept to itself, and over when the stage is."""

import os
import threading
from datetime import timedelta

import pytest

from cxr_node.analyze import side as side_module
from cxr_node.analyze.analyzer import Analyzer
from cxr_node.analyze.apart import CallFailed
from cxr_node.analyze.side import NICENESS, Bench, SideKind, side_work
from cxr_node.clock import utc_now
from cxr_node.settings import Settings
from storage import InstanceFiles, drops, jobs
from storage.drops import DropFolder
from tests.builders import to_part_10
from tests.cxr_node.analyze.test_drops import PACKAGES, Brightness, chest_dataset
from tests.databases import migrated
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-DRP-007")


@pytest.fixture
def bench(tmp_path):
    settings = Settings.model_validate({"base_dir": str(tmp_path)})
    settings.data_dir.mkdir()
    database = migrated(settings.database_url)
    analyzer = Analyzer(PACKAGES, profile="triage", engine=Brightness)
    yield Bench(settings, database, InstanceFiles(settings.instances_dir), lambda: analyzer)
    database.dispose()


def schedule(bench: Bench, *keys: str) -> None:
    with bench.database.begin() as connection:
        for key in keys:
            jobs.schedule(connection, drops.KIND, key, run_at=utc_now(), now=utc_now())


def state(bench: Bench, key: str) -> str:
    with bench.database.read() as connection:
        return jobs.get(connection, drops.KIND, key).state


def use(monkeypatch, handle, on_failed=lambda connection, job, reason: None):
    monkeypatch.setattr(side_module, "SIDE", {drops.KIND: lambda bench: SideKind(handle, on_failed)})


def test_a_tried_file_is_looked_at_and_scored_end_to_end(bench):
    """With the process apart, the database and the queue as they are in a node."""
    folder = DropFolder(bench.settings.data_dir / "drops")
    location = folder.new()
    folder.path(location).write_bytes(to_part_10(chest_dataset()))
    now = utc_now()
    with bench.database.begin() as connection:
        drop = drops.add(
            connection, owner="me", purpose="try", options={}, now=now, expires_at=now + timedelta(minutes=5)
        )
        file = drops.add_file(connection, drop.id, name="a", state=drops.WAITING, now=now, location=location)
    schedule(bench, str(file.id))

    def looked_at():
        with bench.database.read() as connection:
            found = drops.get_file(connection, file.id)[1]
        return found if found.state != drops.WAITING else None

    stop = threading.Event()
    with side_work(bench, stop):
        found = wait_until(looked_at, 30.0, "the file was looked at")
    assert stop.is_set()
    assert found.state == drops.DONE
    assert [item["model"] for item in found.result["findings"]] == ["grown"]
    assert folder.preview(location).is_file()


def test_the_thread_has_less_claim_to_the_processor_than_the_studies(bench, monkeypatch):
    """A study waits for nobody who tries images."""
    seen = []
    use(monkeypatch, lambda job: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) or _nothing)
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    schedule(bench, "1")
    with side_work(bench, threading.Event()):
        wait_until(lambda: state(bench, "1") == "COMPLETED", 10.0, "the job was done")
    assert seen == [NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == here != NICENESS


def test_a_file_that_ends_its_decoder_fails_alone_and_at_once(bench, monkeypatch):
    """The next one is done, and the row says why."""
    failed = []

    def handle(job):
        if job.key == "1":
            raise CallFailed("reading it ended the process that read it")
        return _nothing

    use(monkeypatch, handle, lambda connection, job, reason: failed.append((job.key, reason)))
    schedule(bench, "1", "2")
    with side_work(bench, threading.Event()):
        wait_until(lambda: state(bench, "2") == "COMPLETED", 10.0, "the second was done")
    assert failed == [("1", "reading it ended the process that read it")]
    assert state(bench, "1") == "FAILED"


def test_a_file_that_is_looked_at_when_the_stage_stops_is_not_failed(bench, monkeypatch):
    """After a restart somebody looks at it."""
    entered = threading.Event()
    apart = side_module.SIDE[drops.KIND]

    def make(of):
        kind = apart(of)

        def handle(job):
            entered.set()
            closed.wait(10.0)
            return kind.handle(job)

        return SideKind(handle, kind.on_failed, lambda: (kind.close(), closed.set()))

    closed = threading.Event()
    monkeypatch.setattr(side_module, "SIDE", {drops.KIND: make})
    folder, now = DropFolder(bench.settings.data_dir / "drops"), utc_now()
    with bench.database.begin() as connection:
        drop = drops.add(
            connection, owner="me", purpose="try", options={}, now=now, expires_at=now + timedelta(minutes=5)
        )
        file = drops.add_file(connection, drop.id, name="a", state=drops.WAITING, now=now, location=folder.new())
    schedule(bench, str(file.id))
    with side_work(bench, threading.Event()):
        assert entered.wait(10.0)
    assert state(bench, str(file.id)) == "IN_PROGRESS"
    with bench.database.read() as connection:
        assert drops.get_file(connection, file.id)[1].state == drops.WAITING


def _nothing(connection) -> None:
    """There is nothing to settle."""
