"""The doorbell wakes who waits, and never holds up who rings."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage import Doorbell

pytestmark = pytest.mark.requirement("SRS-STO-025")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def doorbell(run_dir: Path) -> Doorbell:
    return Doorbell(run_dir)


def test_a_ring_wakes_every_listener_of_its_topic_and_no_other(doorbell):
    """All idle workers of a kind may race for the job; the claim decides."""
    first, second, other = doorbell.listen("analyze"), doorbell.listen("analyze"), doorbell.listen("deliver")
    doorbell.ring("analyze")
    assert (first.wait(30), second.wait(30), other.wait(0)) == (True, True, False)
    for bell in (first, second, other):
        bell.close()


def test_a_ring_before_the_wait_is_not_missed_and_many_are_one(doorbell):
    """Between the last look into the queue and the wait a job may arrive."""
    bell = doorbell.listen("analyze")
    for _ in range(5):
        doorbell.ring("analyze")
    assert bell.wait(0)
    assert not bell.wait(0)
    bell.close()


def test_a_waiting_worker_is_woken_well_before_its_timeout(doorbell):
    """A priority should be visible in milliseconds, not at the next poll."""
    bell = doorbell.listen("analyze")
    ringer = threading.Timer(0.05, doorbell.ring, ["analyze"])
    ringer.start()
    started = time.monotonic()
    assert bell.wait(30)
    assert time.monotonic() - started < 10
    ringer.join()
    bell.close()


def test_ringing_with_nobody_there_or_no_folder_does_nothing(doorbell, run_dir):
    """Intake must answer its sender, whatever became of the workers."""
    doorbell.ring("analyze")
    run_dir.rmdir()
    doorbell.ring("analyze")
    assert not run_dir.exists()


def test_the_socket_of_a_dead_process_is_removed_and_the_living_still_hear(doorbell, run_dir):
    """A killed worker cannot clean up after itself."""
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom storage import Doorbell\n"
        "bell = Doorbell(Path(sys.argv[1])).listen('analyze')\nos.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(run_dir)], timeout=60).returncode == -9
    bell = doorbell.listen("analyze")
    assert len(list(run_dir.iterdir())) == 2
    doorbell.ring("analyze")
    assert bell.wait(30)
    assert len(list(run_dir.iterdir())) == 1
    bell.close()
    assert list(run_dir.iterdir()) == []


def test_a_listener_that_never_looks_does_not_block_the_ringer(doorbell):
    """A worker may be busy for minutes while thousands of images arrive."""
    bell = doorbell.listen("analyze")
    for _ in range(2000):
        doorbell.ring("analyze")
    assert bell.wait(0)
    assert not bell.wait(0)
    bell.close()


def test_other_files_in_the_folder_are_left_alone(doorbell, run_dir):
    """An administrator may put a note there."""
    for name in ("analyze.note", "analyze.1.1.sock", "analyzer.1.1.sock"):
        (run_dir / name).write_text("")
    doorbell.ring("analyze")
    doorbell.ring("no such topic")
    # A plain file under a socket's name refuses like a dead one; a name of another topic is not touched.
    assert {path.name for path in run_dir.iterdir()} == {"analyze.note", "analyzer.1.1.sock"}


def test_a_folder_with_a_long_name_works_too(tmp_path):
    """The address of a socket holds 108 bytes; a data folder may lie deeper."""
    doorbell = Doorbell(tmp_path / ("d" * 90) / ("e" * 90))
    bell = doorbell.listen("analyze")
    doorbell.ring("analyze")
    assert bell.wait(30)
    bell.close()


def test_a_topic_is_a_plain_word(doorbell):
    """It becomes part of a path."""
    for topic in ("", "../analyze", "a.b", "A"):
        with pytest.raises(ValueError, match="plain word"):
            doorbell.listen(topic)


def test_a_closed_bell_leaves_no_socket_open(doorbell, run_dir):
    """Stages restart their loops; descriptors must not pile up."""
    bell = doorbell.listen("analyze")
    [path] = run_dir.iterdir()
    bell.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe, pytest.raises(OSError):
        probe.sendto(b"!", str(path))
