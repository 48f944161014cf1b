"""The supervisor's decisions, apart from its processes."""

import sys
import threading

import pytest

from cxr_node.cli import serve
from cxr_node.cli.serve import HEALTHY_AFTER_S, LONGEST_BACKOFF_S, AlreadyRunning, Stage, Supervisor, stages_of
from cxr_node.clock import utc_now
from cxr_node.inference.devices import GIVEN_UP
from cxr_node.settings import load_settings
from storage import Database, heartbeats
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-CLI-001")


def test_every_stage_runs_once_and_analyze_as_often_as_told():
    """One binary from a laptop to a fleet."""
    settings = load_settings(None, {"CXR_NODE__ANALYZE__WORKERS": "3"})
    names = [stage.name for stage in stages_of(settings)]
    assert sorted(set(names)) == ["analyze", "deliver", "receive", "upkeep", "worklist"]
    assert names.count("analyze") == 3


def test_a_stage_that_keeps_dying_is_restarted_ever_more_slowly():
    """A stage that cannot start must not eat the machine; one that slipped once must not be missed."""
    stage = Stage("analyze")
    waits = [stage.died(now=float(index)) for index in range(9)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_BACKOFF_S


def test_a_stage_that_ran_well_starts_its_backoff_anew():
    """A crash a week is no crash loop."""
    stage = Stage("analyze")
    for _ in range(5):
        stage.died(now=0.0)
    stage.started_at = 100.0
    assert stage.died(now=100.0 + HEALTHY_AFTER_S) == 0.0


def test_two_supervisors_never_share_a_data_folder(tmp_path):
    """Two receivers on one port, two sweeps of one spool: the second is refused before it does anything."""
    settings = load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path)})
    (tmp_path / "run").mkdir()
    import fcntl

    with (tmp_path / "run" / "serve.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match=str(tmp_path)):
            Supervisor(settings, None).run(threading.Event())


@pytest.mark.requirement("SRS-SYS-204")
@pytest.mark.parametrize(
    ("gpus", "workers", "engine", "expected"),
    [
        ((), "auto", "auto", [None]),
        (("0", "1"), "auto", "auto", ["0", "1"]),
        (("0", "1"), "auto", "litert", [None]),
        (("0", "1"), "3", "auto", ["0", "1", "0"]),
        ((), "2", "savedmodel", [None, None]),
    ],
)
def test_each_gpu_has_a_worker_that_sees_no_other(monkeypatch, gpus, workers, engine, expected):
    """Two workers on one GPU would take its memory from one another."""
    monkeypatch.setattr(serve, "visible_gpus", lambda: gpus)
    given = {"CXR_NODE__ANALYZE__WORKERS": workers, "CXR_NODE__ANALYZE__ENGINE": engine}
    stages = [stage for stage in stages_of(load_settings(None, given)) if stage.name == "analyze"]
    assert [stage.environment.get("CUDA_VISIBLE_DEVICES") for stage in stages] == expected
    assert all(stage.environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") == "PCI_BUS_ID" for stage in stages)


@pytest.mark.requirement("SRS-SYS-204")
def test_a_gpu_that_ends_its_worker_again_and_again_is_given_up():
    """A driver that aborts the process cannot be caught in it; studies must not wait for it."""
    stage = Stage("analyze", {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    given_up = []
    for number in range(5):
        stage.died(now=float(number))
        given_up.append(stage.crashed(-6))
    assert given_up == ["", "", "1", "", ""]
    assert stage.environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert stage.environment[GIVEN_UP] == "1"


@pytest.mark.requirement("SRS-SYS-204")
def test_a_worker_that_ends_by_itself_says_nothing_of_its_gpu():
    """A package that is refused ends it too."""
    stage = Stage("analyze", {"CUDA_VISIBLE_DEVICES": "1"})
    for number, status in enumerate((-6, -6, 1, -6, -6)):
        stage.died(now=float(number))
        assert stage.crashed(status) == ""
    processor = Stage("analyze")
    for number in range(5):
        processor.died(now=float(number))
        assert processor.crashed(-11) == ""


@pytest.fixture
def supervised(tmp_path):
    """Return a supervisor whose stages are a short program: they write a line when they start, and serve when told."""
    given = {"NODE__DATA_DIR": str(tmp_path), "ORDERS__HL7_PORT": "1", "ANALYZE__WORKERS": "2"}
    settings = load_settings(None, {f"CXR_NODE__{key}": value for key, value in given.items()})
    program = tmp_path / "stage.py"
    program.write_text(
        "import sys, time, threading\n"
        "from pathlib import Path\n"
        "from cxr_node.work.heartbeat import beating\n"
        "from storage import Database\n"
        f"folder, name = Path({str(tmp_path)!r}), sys.argv[1]\n"
        f"database = Database({settings.database_url!r})\n"
        "with (folder / 'started').open('a') as file: file.write(name + '\\n')\n"
        "while not (folder / 'serve').exists(): time.sleep(0.02)\n"
        "with beating(database, name): threading.Event().wait(60)\n"
    )
    supervisor = Supervisor(settings, None)
    supervisor._command = [sys.executable, str(program)]
    stop = threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,), daemon=True)
    yield settings, thread
    stop.set()
    thread.join(30)


def started(settings):
    path = settings.data_dir / "started"
    return path.read_text().split() if path.exists() else []


@pytest.mark.requirement("SRS-SYS-203")
def test_intake_and_page_start_first_and_the_others_when_intake_serves(supervised, monkeypatch):
    """On few cores each stage that starts delays the others, and a modality does not wait as a report can."""
    monkeypatch.setattr(serve, "TURN_S", 3600.0)
    settings, thread = supervised
    thread.start()
    wait_until(lambda: len(started(settings)) == 2, 60, "the first stages")
    assert set(started(settings)) == {"receive", "worklist"}
    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            said = {beat.stage: beat.detail for beat in heartbeats.listed(connection)}
        assert said["receive"] == {"state": "starting"}
        (settings.data_dir / "serve").touch()
        wait_until(lambda: len(started(settings)) == 7, 60, "all stages")
        assert started(settings)[2:4] == ["analyze", "analyze"]
        assert started(settings)[-1] == "upkeep"
    finally:
        database.dispose()


@pytest.mark.requirement("SRS-SYS-203")
def test_what_was_said_for_a_process_that_leaves_the_work_to_its_own_goes_off_the_list(supervised, monkeypatch):
    """Intake with several acceptors: the page would tell of a process that ended without a word."""
    monkeypatch.setattr(serve, "TURN_S", 0.05)
    monkeypatch.setattr(serve, "LOOK_AGAIN_S", 0.05)
    settings, thread = supervised
    thread.start()
    wait_until(lambda: len(started(settings)) == 7, 60, "all stages")
    database = Database(settings.database_url)

    def said():
        with database.read() as connection:
            return [(beat.process, beat.detail) for beat in heartbeats.listed(connection) if beat.stage == "receive"]

    try:
        ((main, detail),) = said()
        assert detail == {"state": "starting"}
        acceptor = main.rpartition(":")[0] + ":1"
        with database.begin() as connection:
            heartbeats.beat(connection, "receive", acceptor, started_at=utc_now(), now=utc_now(), detail={})
        wait_until(lambda: said() == [(acceptor, {})], 60, f"only the acceptor; {said()}")
    finally:
        database.dispose()


@pytest.mark.requirement("SRS-SYS-203")
def test_a_stage_that_does_not_come_up_holds_up_the_others_for_a_moment_only(supervised, monkeypatch):
    """Models that are converted first take a minute, in which results of earlier studies can leave."""
    monkeypatch.setattr(serve, "TURN_S", 0.1)
    settings, thread = supervised
    thread.start()
    wait_until(lambda: len(started(settings)) == 7, 60, "all stages")
