"""A process that is stuck is ended and started anew; one that works, however long, is not."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from cxr_node.cli import serve
from cxr_node.cli.hung import HungWatch, _descends_from_us
from cxr_node.cli.serve import Supervisor
from cxr_node.clock import utc_now
from cxr_node.settings import load_settings
from cxr_node.work.owner import owners_of
from cxr_node.work.pulse import FOLDER, pulses, pulsing
from storage import Database, jobs
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-CLI-901")


class Place:
    """A watch over made-up processes, by a clock that the test holds."""

    def __init__(self, tmp_path):
        self.ours, self.sent, self.metrics = {7}, [], tmp_path / "metrics"
        self.metrics.mkdir()
        self.watch = HungWatch(
            tmp_path / "run",
            self.metrics,
            is_ours=self.ours.__contains__,
            send=lambda pid, number: self.sent.append((pid, signal.Signals(number).name)),
        )
        self.folder = tmp_path / "run" / "pulses"

    def sign(self, at, pid=7, stage="analyze"):
        (self.folder / f"{stage}.{pid}").write_text(str(int(at * 1e9)))

    def look(self, start, end):
        for second in range(start, end, 5):
            self.watch.look(float(second))

    def counted(self):
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.metrics))
        return registry.get_sample_value("cxr_hung_processes_total", {"stage": "analyze"})


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_process_without_a_sign_is_ended_and_then_killed_and_counted(place):
    """A process that is stopped never sees SIGTERM; each is counted once."""
    place.sign(100)
    place.look(100, 160)
    assert place.sent == []
    place.look(160, 200)
    assert place.sent == [(7, "SIGTERM"), (7, "SIGKILL")]
    assert place.counted() == 1


def test_a_process_that_goes_on_giving_signs_is_left_alone(place):
    """Also one that was late once, and was told to end: it may be on its way."""
    for second in range(0, 600, 5):
        place.sign(second)
        place.look(second, second + 1)
    assert place.sent == []


def test_nobody_is_ended_for_the_time_in_which_the_supervisor_did_not_run_either(place):
    """A laptop that was closed, a container that was frozen: all signs are old at once."""
    place.sign(100)
    place.look(100, 110)
    place.look(5000, 5055)
    assert place.sent == []
    place.look(5055, 5100)
    assert place.sent[0] == (7, "SIGTERM")


def test_a_number_that_is_somebody_elses_now_gets_no_signal(place):
    """The kernel gives process ids out again."""
    place.sign(100, pid=8)
    place.look(100, 300)
    assert place.sent == []
    assert not list(place.folder.iterdir())


def test_nobody_is_ended_while_the_folder_takes_no_signs(place, monkeypatch):
    """A disk that turned read-only keeps everybody's sign away."""
    place.sign(100)
    monkeypatch.setattr(place.watch, "_can_write", lambda: False)
    place.look(100, 400)
    assert place.sent == []


def test_signs_of_an_earlier_supervisor_say_nothing(tmp_path):
    """Its processes are gone."""
    Place(tmp_path).sign(1)
    HungWatch(tmp_path / "run", tmp_path)
    assert list((tmp_path / "run" / "pulses").iterdir()) == []


def test_processes_below_the_supervisor_are_its_own_and_no_others():
    """An acceptor is a grandchild; the test's parent is nobody's business."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert _descends_from_us(child.pid)
        child.stdin.close()
    assert not _descends_from_us(child.pid)
    assert not _descends_from_us(os.getppid())


def test_signs_come_while_the_process_works_and_go_with_its_end(tmp_path, monkeypatch):
    """What is gone must not look stuck; what nobody minds writes nothing."""
    with pulsing("analyze"):
        pass
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pulsing("analyze", every_s=0.02):
        wait_until(lambda: list(pulses(tmp_path)), 10, "a sign")
        ((stage, pid, first, _),) = pulses(tmp_path)
        assert (stage, pid) == ("analyze", os.getpid())
        assert 0 <= time.monotonic() - first < 60
        wait_until(lambda: next(pulses(tmp_path))[2] > first, 10, "the next")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_cannot_make_its_file_works_unjudged(tmp_path, monkeypatch):
    """A full disk must not stop intake over a file that only says that it runs."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "missing"))
    with pulsing("receive"):
        worked = True
    assert worked


@pytest.mark.requirement("SRS-CLI-001")
def test_a_stage_that_is_stopped_is_started_anew_and_its_job_is_free(tmp_path, monkeypatch):
    """Its lease would hold the study until it ends, and the stage for ever."""
    settings = load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path)})
    program = tmp_path / "stage.py"
    program.write_text(
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from cxr_node.work.pulse import pulsing\n"
        f"with (Path({str(tmp_path)!r}) / sys.argv[1]).open('a') as file: file.write(f'{{os.getpid()}}\\n')\n"
        "with pulsing(sys.argv[1], every_s=0.05): threading.Event().wait(120)\n"
    )
    watch = partial(HungWatch, after_s=3.0, kill_after_s=0.2, look_every_s=0.1)
    monkeypatch.setattr(serve, "HungWatch", watch)
    monkeypatch.setattr(serve, "TURN_S", 0.05)
    supervisor = Supervisor(settings, None)
    supervisor._command = [sys.executable, str(program)]
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,), daemon=True)
    thread.start()
    database = Database(settings.database_url)

    def pids(stage):
        path = tmp_path / stage
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    try:
        wait_until(lambda: len(list((tmp_path / "run" / "pulses").glob("*.*"))) == 5, 60, "signs of all stages")
        (stuck,) = pids("upkeep")
        with database.begin() as connection:
            jobs.schedule(connection, "upkeep", "task", run_at=utc_now(), now=utc_now())
            owner = owners_of(tmp_path, "upkeep", stuck) + "main"
            assert jobs.claim(connection, ("upkeep",), owner=owner, now=utc_now(), lease_s=3600)
        os.kill(stuck, signal.SIGSTOP)
        wait_until(lambda: len(pids("upkeep")) > 1, 60, "another process of the stage")
        assert stuck not in pids("upkeep")[1:]
        assert not _descends_from_us(stuck)
        with database.read() as connection:
            assert jobs.get(connection, "upkeep", "task").state == jobs.SCHEDULED
    finally:
        stop.set()
        thread.join(60)
        database.dispose()
