"""A database that is locked, gone, read-only or stopped: senders hear a status, the stages wait and then go on."""

import contextlib
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import Database
from tests.conftest import ROOT
from tests.cxr_node.deliver.conftest import Pacs, serving
from tests.faults.conftest import Box, small_radiograph, store, store_until_success
from tests.faults.zygote import Stage
from tests.storage.conftest import find_server_program, wait_for
from tests.system.conftest import free_port

pytestmark = [pytest.mark.requirement("SRS-FLT-014"), pytest.mark.timeout(170)]

OUT_OF_RESOURCES = 0xA700
STAGES = ("receive", "analyze", "deliver", "worklist", "orders")
PRIVATELY = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
IMPATIENT = {"storage.database:BUSY_TIMEOUT_S": 0.3}


@contextlib.contextmanager
def line(box: Box) -> Iterator[tuple[list[Stage], Pacs]]:
    """A node of all stages but upkeep, with a PACS behind it."""
    with serving(Pacs(free_port())) as pacs:
        to = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        box.configure(destination=[{**to, "settle_s": 0.0, "commit": False}], orders={"hl7_port": free_port()})
        stages = [box.start(name, patches=IMPATIENT) for name in STAGES]
        box.wait(lambda: all(f"{name}_ready" in box.log.read_text() for name in STAGES), "the stages ready")
        yield stages, pacs


def check_whole(box: Box, stages: list[Stage], pacs: Pacs, datasets: list) -> None:
    """Everything that was answered Success is there once, told once, and no process went down."""
    box.wait(
        lambda: len({item.sop_instance_uid for item in pacs.received}) == len(datasets), "every report in the PACS"
    )
    box.wait(lambda: box.open_jobs() == {}, "the queue empty")
    for dataset in datasets:
        box.check_held(dataset)
        (result,) = box.results_of(dataset.StudyInstanceUID)
        assert (result.revision, result.status) == (1, "analysed")
    came = {(item.sop_instance_uid, item.dataset) for item in pacs.received}
    assert len(came) == len(datasets)
    assert [(stage.name, stage.deaths) for stage in stages] == [(stage.name, 0) for stage in stages]


def test_a_database_that_another_program_locks_is_waited_for(box):
    """A backup program, or a person with a shell."""
    first, second = small_radiograph(), small_radiograph()
    with line(box) as (stages, pacs):
        store_until_success(box.port, first)
        other = sqlite3.connect(box.settings.data_dir / "cxr-node.db", isolation_level=None, timeout=20)
        other.execute("BEGIN IMMEDIATE")
        assert store(box.port, second) == OUT_OF_RESOURCES
        box.wait(lambda: "storage_unavailable" in box.log.read_text(), "a stage that waits")
        other.execute("ROLLBACK")
        other.close()
        store_until_success(box.port, second)
        check_whole(box, stages, pacs, [first, second])


def test_a_database_whose_file_is_gone_is_waited_for_and_not_made_anew(box):
    """A share that is not mounted for a minute. What an empty database in its place took would be lost afterwards."""
    path = box.settings.data_dir / "cxr-node.db"
    away = box.folder / "away"
    database = Database(f"sqlite:///{path}")
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    database.dispose()
    away.mkdir()
    for file in path.parent.glob("cxr-node.db*"):
        shutil.move(file, away)
    with pytest.raises(Exception, match="not there any more"), database.begin():
        pass
    assert not path.exists()
    for file in away.iterdir():
        shutil.move(file, path.parent)
    with database.begin() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM jobs")
    database.dispose()


def test_a_database_on_a_file_system_that_turned_read_only_is_one_that_may_come_back(tmp_path, migrated):
    """As Linux does to a disk with errors: a job must wait, not fail."""
    shutil.copy(migrated, tmp_path)
    script = (
        "from storage import Database; from storage.errors import StorageBusy; import sys\n"
        "try:\n"
        "    with Database('sqlite:///' + sys.argv[1]).begin() as c: c.exec_driver_sql('DELETE FROM jobs')\n"
        "except StorageBusy as error: print('busy')\n"
    )
    (tmp_path / "cxr-node.db-shm").touch()
    command = f'mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && exec "$0" "$@"'
    done = subprocess.run(
        [*PRIVATELY, command, sys.executable, "-c", script, str(tmp_path / "cxr-node.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"this system lets nobody mount: {done.stderr[:200]}")
    assert done.stdout == "busy\n", done.stderr


class Server:
    """A PostgreSQL server that a test may kill."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cxr-postgresql-"))
        self.port = free_port()
        user = "postgres" if os.geteuid() == 0 else None
        self._as_user = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        if user is not None:
            os.chown(self.folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        command = [find_server_program("initdb"), "-D", self.folder / "data", "-U", "cxr", "-A", "trust"]
        subprocess.run(
            [*command, "-N", "-E", "UTF8", "--locale=C"],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._as_user,
        )
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://cxr@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    find_server_program("postgres"),
                    "-D",
                    self.folder / "data",
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_user,
            )
        wait_for(self.url.replace("+psycopg", ""), self._process, self.folder / "log")

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """SIGQUIT is PostgreSQL's "immediate": no farewell to anybody, recovery at the next start."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(30)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.peer("initdb", "postgres")
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT], ids=["killed", "stopped"])
def test_a_postgresql_server_that_ends_in_the_middle_is_waited_for(box, server, number):
    """It is restarted for an update, or its host dies."""
    box.configure(node={"database": server.url})
    first, second, third = (small_radiograph() for _ in range(3))
    box.database.migrate()
    with line(box) as (stages, pacs):
        store_until_success(box.port, first)
        server.stop(number)
        assert store(box.port, second) in (OUT_OF_RESOURCES, None)
        box.wait(lambda: "storage_unavailable" in box.log.read_text(), "a stage that waits")
        assert store(box.port, third) == OUT_OF_RESOURCES
        server.start()
        store_until_success(box.port, second)
        store_until_success(box.port, third)
        check_whole(box, stages, pacs, [first, second, third])
