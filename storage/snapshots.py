"""One consistent moment of the database, in a file, while others write; and the way back.

SQLite: its online backup in one step, which in WAL mode holds nobody up. PostgreSQL: pg_dump in its custom format, of a
snapshot that this process holds open and reads the locations from.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import make_url

from storage.database import Database
from storage.errors import StorageBusy, StorageError, StorageFull

SQLITE_FILE = "database.sqlite3"
DUMP_FILE = "database.dump"
# Every row that names bytes. What somebody only tries (drop_files) is gone within minutes and is left out.
_LOCATIONS = (
    "SELECT location FROM instances WHERE deleted_at IS NULL "
    "UNION SELECT location FROM result_objects UNION SELECT location FROM heat_maps WHERE location <> ''"
)
_REVISION = "SELECT version_num FROM alembic_version"


@contextmanager
def snapshot(database: Database, folder: Path) -> Iterator[tuple[str, str, Iterator[str]]]:
    """Write the database into the folder; give the file's name, the revision, and the locations that its rows name.

    Raises
    ------
    StorageFull, StorageBusy, StorageError
    """
    taken = _of_sqlite(database, folder) if database.dialect == "sqlite" else _of_postgresql(database, folder)
    with taken as found:
        yield found


@contextmanager
def _of_sqlite(database: Database, folder: Path) -> Iterator[tuple[str, str, Iterator[str]]]:
    path = folder / SQLITE_FILE
    try:
        with (
            closing(sqlite3.connect(make_url(database.url).database or "", timeout=30)) as source,
            closing(sqlite3.connect(path)) as target,
        ):
            source.backup(target)
        _sync(path)
        with closing(open_read_only(path)) as copy:
            yield SQLITE_FILE, _only(copy.execute(_REVISION)), (str(row[0]) for row in copy.execute(_LOCATIONS))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise StorageFull("no space is left for the backup of the database") from error
        raise StorageBusy(f"the database cannot be copied now: {type(error).__name__}: {error}") from error


@contextmanager
def _of_postgresql(database: Database, folder: Path) -> Iterator[tuple[str, str, Iterator[str]]]:
    program = _program("pg_dump")
    with database.apart() as connection:
        connection.execute("SET idle_in_transaction_session_timeout = 0")  # pg_dump may take hours meanwhile
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        path = folder / DUMP_FILE
        _run([program, "--format=custom", f"--snapshot={row[0]}", f"--file={path}"], database, "pg_dump")
        _sync(path)
        revision = connection.execute(_REVISION).fetchone()
        if revision is None:
            raise StorageError("the database has no tables of the node yet: there is nothing to save")
        with connection.cursor(name="locations") as cursor:
            cursor.execute(_LOCATIONS)
            yield DUMP_FILE, str(revision[0]), (str(found[0]) for found in cursor)


def load(database_url: str, file: Path) -> None:
    """Put the saved database where the node expects it.

    Raises
    ------
    StorageError
        There is something already, or the file is of the other kind of database.
    """
    url = make_url(database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite != (file.name == SQLITE_FILE):
        kind = "SQLite" if file.name == SQLITE_FILE else "PostgreSQL"
        raise StorageError(f"the backup is of a {kind} database, node.database is {url.get_backend_name()}")
    if is_sqlite:
        target = Path(url.database or "")
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        target.chmod(0o600)
        _sync(target)
        return
    database = Database(database_url)
    try:
        command = [_program("pg_restore"), "--single-transaction", "--no-owner", "--no-privileges", "--exit-on-error"]
        _run([*command, str(file)], database, "pg_restore", names_database=True)
    finally:
        database.dispose()


def is_empty(database_url: str) -> bool:
    """Whether there is no database file, or no table in the database."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return not Path(url.database or "").exists()
    database = Database(database_url)
    try:
        with database.read() as connection:
            return not inspect(connection).get_table_names()
    finally:
        database.dispose()


def problem_with(file: Path) -> str:
    """Return why the saved database cannot be used, "" where it can: SQLite checks every page, pg_restore its list."""
    if file.name == SQLITE_FILE:
        try:
            with closing(open_read_only(file)) as connection:
                found = _only(connection.execute("PRAGMA integrity_check(1)"))
        except sqlite3.Error as error:
            return f"{file.name} does not open: {error}"
        return "" if found == "ok" else f"{file.name}: {found}"
    program = shutil.which("pg_restore")
    if program is None:
        return ""  # its bytes are those that were written; more only pg_restore can tell
    done = subprocess.run([program, "--list", str(file)], capture_output=True, check=False)
    return "" if done.returncode == 0 else f"{file.name} is no dump that pg_restore reads"


def open_read_only(file: Path) -> sqlite3.Connection:
    """Open a saved SQLite database without leaving a trace beside it."""
    return sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise StorageError(
            f"{name} was not found: install the PostgreSQL client programs (Debian: postgresql-client), "
            "or save the database with the means of its server and the folder of instances after it"
        )
    return found


def _run(command: list[str], database: Database, name: str, *, names_database: bool = False) -> None:
    """Run a program of PostgreSQL; the password goes by the environment: everybody may read a command line."""
    url = make_url(database.url)
    environment = dict(os.environ)
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    given = [f"--dbname={address}"] if names_database else ["--dbname", address]
    done = subprocess.run([*command, *given], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        # The first line alone: what follows may quote rows.
        first = next(iter(done.stderr.strip().splitlines()), "it said nothing")
        raise StorageError(f"{name} ended with {done.returncode}: {first}")


def _only(cursor: sqlite3.Cursor) -> str:
    row = cursor.fetchone()
    return "" if row is None else str(row[0])


def _sync(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path.name} cannot be made durable: {error.strerror}") from error
