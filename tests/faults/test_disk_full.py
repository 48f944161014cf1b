"""A full disk: senders hear of it, what was accepted is finished, and nobody has to act when space is back.

The data folder is a small file system of its own, in a mount namespace that ends with the test.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import Database, jobs
from tests.cxr_node.deliver.conftest import Pacs, serving
from tests.faults.conftest import Box, at, small_radiograph, store, store_until_success
from tests.faults.zygote import Zygote
from tests.system.conftest import free_port

pytestmark = [pytest.mark.requirement("SRS-FLT-012"), pytest.mark.timeout(170)]

OUT_OF_RESOURCES = 0xA700
DISK_MB = 48
RESERVE_MB = 20


class SmallDisk(Box):
    """Its database is looked at in copies: SQLite follows the link into a namespace back to this one."""

    @property
    def database(self) -> Database:
        if self._database is not None:
            self._database.dispose()
        copy = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ("cxr-node.db", "cxr-node.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(self.seen_at / name, copy)
        self._database = Database(f"sqlite:///{copy / 'cxr-node.db'}")
        return self._database


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Zygote]]:
    """A folder, and a zygote that has a file system of `DISK_MB` at its `var`."""
    folder = tmp_path_factory.mktemp("disk")
    var = folder / "var"
    var.mkdir()
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace needs root, and a system that lets it")
    mount = f'mount -t tmpfs -o size={DISK_MB}m none {var} && exec "$0" "$@"'
    zygote = Zygote("unshare", "--mount", "--propagation", "private", "sh", "-c", mount)
    assert zygote.ask("hello") == zygote.pid
    yield folder, zygote
    zygote.close()


@pytest.fixture
def small_disk(namespace: tuple[Path, Zygote], migrated: Path) -> Iterator[Box]:
    """A box whose data folder holds `DISK_MB`, of which `RESERVE_MB` are kept from senders."""
    folder, zygote = namespace
    seen_at = Path(f"/proc/{zygote.pid}/root{folder / 'var'}")
    for left in seen_at.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    shutil.copy(migrated, seen_at)
    (folder / "log.txt").unlink(missing_ok=True)
    box = SmallDisk(folder, zygote, seen_at)
    box.configure(receive={"min_free_gb": RESERVE_MB / 1000})
    try:
        yield box
    finally:
        box.close()


def fill(box: Box, leave_mb: float) -> None:
    """Let somebody else's file take what is free, but for so much."""
    status = os.statvfs(box.seen_at)
    free = status.f_bavail * status.f_frsize - int(leave_mb * 1e6)
    with (box.seen_at / "filler").open("ab") as file:
        try:
            while free > 0:
                free -= file.write(bytes(min(free, 1 << 20)))
                file.flush()
        except OSError:
            pass


def make_room(box: Box) -> None:
    (box.seen_at / "filler").unlink()


def test_senders_are_refused_and_what_was_accepted_is_analysed_and_delivered_from_the_reserve(small_disk):
    """The reserve that node.toml keeps from senders is what the accepted studies are finished with."""
    box = small_disk
    first, second = small_radiograph(), small_radiograph()
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        box.configure(destination=[{**to, "settle_s": 0.0, "commit": False}])
        receiver = box.start("receive")
        store_until_success(box.port, first)
        fill(box, leave_mb=RESERVE_MB / 2)
        assert store(box.port, second) == OUT_OF_RESOURCES
        assert box.rows_of(second) == []
        stages = [receiver, box.start("analyze"), box.start("deliver")]
        box.wait(lambda: len(pacs.received) == 1, "the accepted study's report in the PACS")
        assert store(box.port, second) == OUT_OF_RESOURCES
        make_room(box)
        store_until_success(box.port, second)
        box.wait(lambda: len(pacs.received) == 2, "the report of the study that waited")
        box.wait(lambda: box.open_jobs() == {}, "the queue empty")
    box.check_held(first)
    box.check_held(second)
    assert [stage.deaths for stage in stages] == [0, 0, 0]


def test_a_disk_without_a_byte_left_loses_nothing_and_the_node_goes_on_by_itself(small_disk):
    """Here not even the database can write: everything waits, and nothing that waits is given up."""
    box = small_disk
    box.configure(receive={"min_free_gb": 0.0})
    first, second = small_radiograph(), small_radiograph()
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        box.configure(destination=[{**to, "settle_s": 0.0, "commit": False}])
        receiver = box.start("receive")
        store_until_success(box.port, first)
        stages = [receiver, box.start("analyze", "analyze.claimed:busy"), box.start("deliver")]
        box.wait(lambda: "fault point analyze.claimed" in box.tail(), "the study waiting")
        fill(box, leave_mb=0)
        box.disarm("analyze.claimed")
        heard = {store(box.port, second) for _ in range(3)}
        assert heard == {OUT_OF_RESOURCES}
        box.wait(
            lambda: "storage_unavailable" in box.tail() or "ENOSPC" in box.tail(), "the stages meeting the full disk"
        )
        make_room(box)
        store_until_success(box.port, second)
        box.wait(lambda: len(pacs.received) == 2, "both reports in the PACS")
        box.wait(lambda: box.open_jobs() == {}, "the queue empty")
    box.check_held(first)
    box.check_held(second)
    for dataset in (first, second):
        (result,) = box.results_of(dataset.StudyInstanceUID)
        assert (result.revision, result.status) == (1, "analysed")
    assert [stage.deaths for stage in stages] == [0, 0, 0]


@pytest.mark.parametrize("action", ["full", "busy"])
def test_a_study_waits_for_the_disk_however_often_it_is_tried(box, action):
    """The tries of a job bound what the job does wrong; a disk that is full for an hour is none of its doing."""
    dataset = small_radiograph()
    box.keep(dataset)
    patches = {"cxr_node.work.decision:STORAGE_PAUSE_S": 0.05}
    stage = box.start("analyze", f"storage.synced:{action}", patches=patches)
    uid = str(dataset.StudyInstanceUID)
    box.wait(
        lambda: box.log.exists() and box.log.read_text().count('"result": "retried"') > 8, "more tries than allowed"
    )
    assert box.job("analyze", uid).state != "FAILED"
    assert box.results_of(uid) == []
    box.disarm("storage.synced")
    assert box.wait_until_settled("analyze", uid).state == "COMPLETED"
    (result,) = box.results_of(uid)
    assert (result.revision, result.status) == (1, "analysed")
    assert stage.deaths == 0


@pytest.mark.parametrize("point", ["storage.complete", "storage.renamed", "receive.before-commit"])
def test_an_image_that_the_disk_did_not_take_is_refused_and_leaves_nothing(box, point):
    """Some file systems say that they are full only at fsync, a database at its commit."""
    box.start("receive", f"{point}:full")
    dataset = small_radiograph()
    box.wait(lambda: store(box.port, dataset) is not None, "an answer")
    assert store(box.port, dataset) == OUT_OF_RESOURCES
    assert box.rows_of(dataset) == []
    assert [path for path in (box.seen_at / "instances" / "instances").rglob("*") if path.is_file()] == []
    box.disarm(point)
    store_until_success(box.port, dataset)
    box.check_held(dataset)


def test_a_try_that_is_given_back_costs_none_and_its_lease_is_no_later_one(box):
    """What tells one lease from the next goes on growing: a late outcome of the first must not settle the second."""
    now = at()
    with box.database.begin() as connection:
        jobs.schedule(connection, "analyze", "1.2", run_at=now, now=now)
        (first,) = jobs.claim(connection, ["analyze"], owner="analyze:1", now=now)
        assert jobs.retry(connection, first, run_at=now, reason="full", now=now, counted=False)
        (second,) = jobs.claim(connection, ["analyze"], owner="analyze:1", now=now)
        assert second.attempts == first.attempts == 1
        assert second.claimed > first.claimed
        assert not jobs.complete(connection, first, now=now)
        assert jobs.complete(connection, second, now=now)
    assert box.job("analyze", "1.2").state == jobs.COMPLETED
