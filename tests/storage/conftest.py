"""Databases to test with: SQLite in a file, and a PostgreSQL server of the test session's own."""

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from storage import Database, InstanceFiles

NUMBERS = itertools.count(1)
BIN = "/usr/lib/postgresql/15/bin"


def find_server_program(name: str) -> str:
    """Return the path of a PostgreSQL program."""
    return shutil.which(name, path=f"{BIN}:/usr/bin:/usr/local/bin") or name


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Start a server on loopback in a folder of its own; yield its address without a database.

    The folder is not pytest's: PostgreSQL refuses to run as root, and nobody else may enter pytest's folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="cxr-postgresql-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    as_user = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
    data, log = folder / "data", (folder / "log").open("wb")
    server = None
    try:
        subprocess.run(
            [find_server_program("initdb"), "-D", data, "-U", "cxr", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True,
            stdout=log,
            stderr=log,
            cwd=folder,
            **as_user,
        )
        port = free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        server = subprocess.Popen(
            [find_server_program("postgres"), "-D", data, *(f"--{name}={value}" for name, value in options.items())],
            stdout=log,
            stderr=log,
            cwd=folder,
            **as_user,
        )
        address = f"postgresql+psycopg://cxr@127.0.0.1:{port}"
        wait_for(f"postgresql://cxr@127.0.0.1:{port}/postgres", server, folder / "log")
        yield address
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once: what it would still write is thrown away below
            server.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server takes connections."""
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {log.read_text()}")
            time.sleep(0.05)


def create_database(server: str, template: str = "template1") -> str:
    """Make a database of a new name and return its address."""
    name = f"test_{next(NUMBERS)}"
    with psycopg.connect(f"{server}/postgres".replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{server}/{name}"


def drop_database(url: str) -> None:
    """Remove it, whoever is still connected."""
    server, name = url.rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres".replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> str:
    """Name of a migrated database, to be copied."""
    url = create_database(postgresql_server)
    database = Database(url)
    database.migrate()
    database.dispose()
    return url.rsplit("/", 1)[1]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a migrated database file, to be copied."""
    path = tmp_path_factory.mktemp("template") / "node.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.dispose()
    return path


BOTH = (
    "sqlite",
    pytest.param("postgresql", marks=[pytest.mark.peer("initdb"), pytest.mark.peer("postgres")]),
)


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'node.db'}"
    else:
        url = create_database(request.getfixturevalue("postgresql_server"))
        yield url
        drop_database(url)


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database of the newest revision."""
    return request.getfixturevalue(f"{request.param}_database")


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database of the newest revision."""
    shutil.copy(sqlite_template, tmp_path / "node.db")
    opened = Database(f"sqlite:///{tmp_path / 'node.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def postgresql_database(postgresql_server: str, postgresql_template: str) -> Iterator[Database]:
    """An empty PostgreSQL database of the newest revision."""
    url = create_database(postgresql_server, postgresql_template)
    opened = Database(url)
    yield opened
    opened.dispose()
    drop_database(url)


@pytest.fixture
def files(tmp_path: Path) -> InstanceFiles:
    """An empty storage folder."""
    return InstanceFiles(tmp_path / "data")


RunPython = Callable[[str, Sequence[Sequence[str]]], list[str]]


@pytest.fixture
def run_python() -> Iterator[RunPython]:
    """Run a script in one process for each list of arguments, at once; return what each printed."""
    processes: list[subprocess.Popen[str]] = []

    def run(script: str, arguments: Sequence[Sequence[str]]) -> list[str]:
        started = [
            subprocess.Popen([sys.executable, "-c", script, *given], stdout=subprocess.PIPE, text=True)
            for given in arguments
        ]
        processes.extend(started)
        printed = [process.communicate(timeout=90)[0] for process in started]
        assert [process.returncode for process in started] == [0] * len(started)
        return printed

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
