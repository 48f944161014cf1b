"""What a cluster's probes and a service manager are told."""

import socket
from argparse import Namespace
from datetime import timedelta

import pytest

from cxr_node.cli.alive import NoSignOfLife, alive
from cxr_node.cli.service_manager import Watchdog, notify, watchdog_every_s
from cxr_node.clock import utc_now
from cxr_node.settings import load_settings
from storage import heartbeats
from tests.databases import migrated

HERE = socket.gethostname()


@pytest.fixture
def settings(tmp_path):
    """A node with an SQLite database in a folder of its own."""
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n')
    return load_settings(config, {})


def beat(settings, stage, process, ago_s):
    """Write one sign of life."""
    database = migrated(settings.database_url)
    seen = utc_now() - timedelta(seconds=ago_s)
    with database.begin() as connection:
        heartbeats.beat(connection, stage, process, started_at=seen, now=seen, detail={})
    database.dispose()


@pytest.mark.requirement("SRS-DEP-003")
def test_a_stage_that_beats_is_alive(settings, capsys):
    """The newest process counts: one that was killed leaves its row for a while."""
    beat(settings, "analyze", f"{HERE}:1", ago_s=4000)
    beat(settings, "analyze", f"{HERE}:2", ago_s=3)
    assert alive(settings, Namespace(stage="analyze", within=60.0)) == 0
    assert "2 process(es)" in capsys.readouterr().out


@pytest.mark.requirement("SRS-DEP-003")
@pytest.mark.parametrize(
    ("process", "ago_s", "expected"),
    [
        (f"{HERE}:1", 300, "was last seen 30"),
        ("another-host:1", 1, "no process of the stage analyze"),
    ],
)
def test_a_stage_that_hangs_or_runs_elsewhere_is_not(settings, process, ago_s, expected):
    """A probe asks about its own container only."""
    beat(settings, "analyze", process, ago_s)
    with pytest.raises(NoSignOfLife, match=expected):
        alive(settings, Namespace(stage="analyze", within=60.0))


@pytest.mark.requirement("SRS-DEP-003")
def test_before_the_first_start_nothing_is_alive(settings):
    """A database without tables is an answer, not a traceback."""
    with pytest.raises(NoSignOfLife, match="tables"):
        alive(settings, Namespace(stage="receive", within=60.0))


@pytest.mark.requirement("SRS-DEP-002")
def test_the_service_manager_hears_each_state(tmp_path):
    """As systemd listens: a datagram socket whose path is in the environment."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(15)
        assert notify("READY=1", {"NOTIFY_SOCKET": str(path)})
        assert manager.recv(100) == b"READY=1"


@pytest.mark.requirement("SRS-DEP-002")
def test_without_a_manager_nothing_is_told(tmp_path):
    """The node runs by hand too, and a manager that is gone ends nothing."""
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})


@pytest.mark.requirement("SRS-DEP-002")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time_where_it_asks(environment, expected):
    """A child that inherits the environment does not answer for the supervisor."""
    assert watchdog_every_s(environment) == expected


@pytest.mark.requirement("SRS-DEP-002")
def test_the_watchdog_is_fed_when_it_is_time_and_not_before(tmp_path):
    """Once at first, then each half of what the manager allows."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.setblocking(False)
        watchdog = Watchdog({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000000"})
        for now in (100.0, 101.0, 109.9, 110.0, 111.0):
            watchdog.feed(now)
        assert [manager.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        with pytest.raises(BlockingIOError):
            manager.recv(100)
