"""A power cut after any step: every image that was answered Success and every report that was sent are whole.

The receiver, the analysis and the deliver stage run under `strace` while images come in and a report goes out; from
the trace what a cut may leave is rebuilt, at each moment at which it may differ, and opened as a node would open it.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from storage import Database, InstanceFiles, instances, results
from storage.errors import StorageError
from tests.builders import to_part_10
from tests.cxr_node.deliver.conftest import Pacs, serving
from tests.faults.conftest import Box, dataset_of, small_radiograph, store_until_success
from tests.faults.disk_model import CALLS, WAYS, Disk, steps
from tests.system.conftest import free_port, wait_until

pytestmark = [pytest.mark.requirement("SRS-FLT-011"), pytest.mark.timeout(170), pytest.mark.peer("strace")]


@contextlib.contextmanager
def traced(folder: Path, *pids: int) -> Iterator[Path]:
    """Trace processes for the block."""
    trace, told = folder / "trace.txt", folder / "strace.txt"
    command = ["strace", "-f", "-y", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    with told.open("wb") as said:
        process = subprocess.Popen([*command, *(part for pid in pids for part in ("-p", str(pid)))], stderr=said)
    try:
        time.sleep(0.2)
        if process.poll() is not None and "ptrace" in told.read_text():
            pytest.skip(f"this machine lets nobody trace: {told.read_text()[:200]}")
        wait_until(lambda: len(re.findall(r"attached", told.read_text())) >= len(pids), 30, "strace attached")
        yield trace
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def check_whole(folder: Path, heard: dict[str, Dataset], sent: set[str]) -> None:
    """Everything told of is there, and no row names what is not."""
    database = Database(f"sqlite:///{folder / 'cxr-node.db'}")
    files = InstanceFiles(folder / "instances")
    try:
        with database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            studies = connection.exec_driver_sql("SELECT DISTINCT study_instance_uid FROM instances").scalars().all()
            held = {item.sop_instance_uid: item for uid in studies for item in instances.of_study(connection, uid)}
            objects = {
                item.sop_instance_uid: item
                for uid in studies
                for result in results.revisions(connection, uid)
                for item in results.objects(connection, result.id)
            }
        assert set(held) >= set(heard), "a sender heard Success and the image is gone"
        assert set(objects) >= sent, "a report was sent and its row is gone"
        for item in held.values():
            data = files.read(item.location)
            assert len(data) == item.size
            if item.sop_instance_uid in heard:
                assert dataset_of(data) == dataset_of(to_part_10(heard[item.sop_instance_uid]))
        for item in objects.values():
            assert files.read(item.location), "a row names an object that is empty"
    finally:
        database.dispose()


def test_what_was_acknowledged_and_what_was_sent_is_whole_after_a_cut_at_any_step(box, tmp_path):
    """A modality deletes its copy on Success; a PACS keeps what it was sent for good."""
    datasets = {str(item.SOPInstanceUID): item for item in (small_radiograph() for _ in range(2))}
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        box.configure(destination=[{**to, "settle_s": 0.0, "commit": False}])
        stages = [box.start(name) for name in ("receive", "analyze", "deliver")]
        box.wait(lambda: box.tail().count("_ready") >= len(stages), "the stages ready")
        # What a heartbeat writes between the picture of the disk and the trace would be in neither.
        pids = [stage.pid for stage in stages]
        _stop(pids)
        disk = Disk(box.settings.data_dir)
        with traced(tmp_path, *pids) as trace:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for dataset in datasets.values():
                store_until_success(box.port, dataset)
            box.wait(lambda: len(pacs.received) == len(datasets), "every report in the PACS")
    _cut_at_every_step(box, disk, trace, datasets, {item.sop_instance_uid for item in pacs.received}, tmp_path)


def _stop(pids: list[int]) -> None:
    """Have processes stand still with all their threads."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def stand_still() -> bool:
        states = [path.read_text().rpartition(")")[2].split()[0] for pid in pids for path in _threads(pid)]
        return set(states) == {"T"}

    wait_until(stand_still, 30, "the stages stand still")


def _threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").glob("*/stat"))


def _cut_at_every_step(
    box: Box, disk: Disk, trace: Path, datasets: dict[str, Dataset], reports: set[str], tmp_path: Path
) -> None:
    told: set[str] = set()
    cuts = 0
    for step in steps(trace):
        if step.call in ("sendto", "sendmsg"):
            said = b"".join(step.texts)
            new = {uid for uid in {*datasets, *reports} - told if uid.encode() in said}
            if not new:
                continue
            told |= new
        elif not disk.apply(step):
            continue
        for way in WAYS:
            left = tmp_path / f"cut-{cuts}"
            disk.rebuild(left, way)
            try:
                check_whole(left, {uid: datasets[uid] for uid in told & set(datasets)}, told & reports)
            except (AssertionError, StorageError) as error:
                raise AssertionError(f"{way} at cut {cuts}, after {step.call} {step.path}: {error}") from error
            shutil.rmtree(left)
            cuts += 1
    assert told == {*datasets, *reports}, "the trace shows every answer"
    assert cuts > 20


@pytest.mark.parametrize("way", WAYS)
def test_the_model_takes_what_was_not_synced(tmp_path, way):
    """A model that loses nothing would let everything pass."""
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    script = (
        "import os, sys; root = sys.argv[1]\n"
        "for name, synced in (('synced', True), ('unsynced', False)):\n"
        "    f = os.open(f'{root}/a/{name}.part', os.O_CREAT | os.O_WRONLY); os.write(f, b'12345678')\n"
        "    if synced: os.fsync(f)\n"
        "    os.close(f); os.rename(f'{root}/a/{name}.part', f'{root}/a/{name}')\n"
        "d = os.open(f'{root}/a', os.O_RDONLY); os.fsync(d)\n"
        "os.rename(f'{root}/a/synced', f'{root}/a/renamed')\n"
    )
    disk = Disk(root)
    trace = tmp_path / "trace.txt"
    command = ["strace", "-f", "-y", "-xx", "-s", "1000", "-e", f"trace={CALLS}", "-o", str(trace)]
    subprocess.run([*command, "python3", "-c", script, str(root)], check=True)
    for step in steps(trace):
        disk.apply(step)
    disk.rebuild(tmp_path / "left", way)
    left = {path.name: path.read_bytes() for path in (tmp_path / "left" / "a").iterdir()}
    if way == "names lost":
        assert left == {"synced": b"12345678", "unsynced": b""}
    else:
        assert left == {"renamed": b"12345678", "unsynced": b"1234"}


def test_sqlite_syncs_every_commit(box):
    """In WAL mode the default, NORMAL, may lose the last commits in a power cut."""
    with box.database.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
