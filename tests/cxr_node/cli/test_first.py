"""Intake is started first: before the supervisor loads its libraries, and only where a database is there."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_node.cli import first
from cxr_node.cli.serve import Supervisor
from cxr_node.settings import Settings, load_settings
from storage import heartbeats
from tests.databases import migrated
from tests.system.conftest import wait_until

pytestmark = pytest.mark.requirement("SRS-RCV-905")

SLEEPS = "import sys, time\nopen({path!r}, 'a').write(sys.argv[1] + chr(10))\ntime.sleep(600)\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, {"CXR_NODE__NODE__DATA_DIR": str(tmp_path)})


@pytest.fixture
def spawned(tmp_path, monkeypatch):
    """The stages that were started, by a program that does nothing in their place."""
    told = tmp_path / "spawned"
    program = SLEEPS.format(path=str(told))
    monkeypatch.setattr(first, "command_of", lambda config: [sys.executable, "-c", program])
    return lambda: told.read_text().split() if told.exists() else []


def has_begun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "database").write_text("seen")


def test_what_comes_before_intake_loads_no_database_library():
    """Else its half second is waited for by every modality that sends after a restart."""
    program = (
        "import sys, cxr_node.cli.first\n"
        "print([name for name in ('sqlalchemy', 'prometheus_client', 'pydicom', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_supervisor_takes_over_the_intake_that_runs(settings, tmp_path, spawned, monkeypatch):
    """Started twice, the second would find the port taken, and die of it again and again."""
    has_begun(tmp_path)
    seen = []

    def run(supervisor, stop, begun):
        seen.append((begun.intake.pid, begun.intake.poll(), begun.environment["PROMETHEUS_MULTIPROC_DIR"]))
        supervisor._take_over(begun)
        (stage,) = (stage for stage in supervisor._stages if stage.process is not None)
        assert (stage.name, stage.process) == ("receive", begun.intake)
        wait_until(spawned, 60, "intake")

    monkeypatch.setattr(Supervisor, "run", run)
    assert first.serve(settings, argparse.Namespace(config=None)) == 0
    ((pid, code, metrics_dir),) = seen
    assert code is None
    assert Path(metrics_dir).parent == tmp_path / "run"
    assert spawned() == ["receive"]
    with pytest.raises(ProcessLookupError):  # it was ended and waited for
        os.kill(pid, 0)


def test_without_a_database_intake_waits_until_the_supervisor_has_made_one(settings, tmp_path, spawned, monkeypatch):
    """A stage that finds none takes it for lost, and ends."""
    seen = []
    monkeypatch.setattr(Supervisor, "run", lambda supervisor, stop, begun: seen.append(begun.intake))
    assert first.serve(settings, argparse.Namespace(config=None)) == 0
    assert seen == [None]
    assert spawned() == []


def test_intake_does_not_outlive_a_supervisor_that_cannot_begin(settings, tmp_path, spawned, monkeypatch):
    """It would hold the port against the next try."""
    has_begun(tmp_path)
    pids = []

    def run(supervisor, stop, begun):
        pids.append(begun.intake)
        raise OSError("no database")

    monkeypatch.setattr(Supervisor, "run", run)
    with pytest.raises(OSError, match="no database"):
        first.serve(settings, argparse.Namespace(config=None))
    assert pids[0].poll() is not None


def test_signs_of_an_intake_that_runs_already_are_not_forgotten(settings, tmp_path):
    """Those of an earlier supervisor's processes are; its own intake may have given its first by then."""
    from cxr_node.clock import utc_now
    from cxr_node.work.heartbeat import process_name

    database = migrated(settings.database_url)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with database.begin() as connection:
            for pid in (process.pid, 1):
                name = process_name(pid)
                heartbeats.beat(connection, "receive", name, started_at=utc_now(), now=utc_now(), detail={})
        supervisor = Supervisor(settings, None)
        with first.taken(settings) as begun:
            begun.intake = process
            supervisor._take_over(begun)
            supervisor._forget_signs(database)
        with database.read() as connection:
            assert [beat.process for beat in heartbeats.listed(connection)] == [process_name(process.pid)]
    database.dispose()
