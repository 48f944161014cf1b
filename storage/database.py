"""The database: opens it, keeps its promises (durable; one writer at a time on SQLite), keeps its tables up to date."""

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event, func, inspect, select, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from storage.errors import StorageBusy, StorageError, StorageFull
from storage.faults import fault_point
from storage.tables import metadata, to_json

if TYPE_CHECKING:
    import psycopg

    from storage.exchange import Exchange

BUSY_TIMEOUT_S = 30.0
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x63787231  # PostgreSQL advisory lock; any constant will do that nobody else in this database uses
_ALEMBIC = threading.Lock()  # alembic keeps the environment it runs in a module: one thread at a time
_READ_ONLY = "storage_read_only"
# PostgreSQL, both sides: silent for so long, then so many probes so far apart, then the connection is lost.
_SILENT_S, _PROBE_S, _PROBES = 10, 5, 3

_open_databases: "weakref.WeakSet[Database]" = weakref.WeakSet()
_left_behind: list[Any] = []


class Database:
    """One database, for any number of threads; a process made by fork may use it too, with connections of its own.

    Parameters
    ----------
    url : ``sqlite:////path/of/file.db`` or ``postgresql+psycopg://user:password@host/name``
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            # Not from it: the library's message may quote the address, and so the password in it.
            raise StorageError(
                "the address of the database cannot be read: expected sqlite:////path or postgresql+psycopg://user@host/name"
            ) from None
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._url = parsed
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            self._engine = _sqlite_engine(parsed)
        elif self.dialect == "postgresql":
            self._engine = create_engine(
                parsed,
                pool_size=8,
                max_overflow=32,
                pool_pre_ping=True,
                hide_parameters=True,
                json_serializer=to_json,
                connect_args=_postgresql_arguments(parsed),
            )
        else:
            raise StorageError(f"database {self!r} is neither sqlite nor postgresql")
        self.exchanges: dict[Path, Exchange] = {}  # by run folder; see `storage.doorbell`
        _open_databases.add(self)

    @property
    def url(self) -> str:
        """The address as it was given, password included."""
        return self._url.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """Open a transaction that writes; committed at the end of the block, rolled back when it raises.

        On SQLite it has the write lock from its first statement on (BEGIN IMMEDIATE): a transaction that reads first
        and asks for the lock later may be refused it at once, whatever the busy timeout.

        Raises
        ------
        StorageBusy, StorageFull
            Also when the commit itself fails: then nothing was kept.
        """
        with _translated(writes=True), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that cannot write; on SQLite it waits for nobody."""
        with _translated(), self._engine.connect() as plain:
            options: dict[str, Any] = {_READ_ONLY: True}
            if self.dialect == "postgresql":
                options["postgresql_readonly"] = True
            connection = plain.execution_options(**options)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def apart(self) -> Iterator["psycopg.Connection[Any]"]:
        """Open a driver's connection to PostgreSQL outside the pool, every statement a transaction of its own."""
        import psycopg

        positional, named = self._engine.dialect.create_connect_args(self._url)
        arguments: dict[str, Any] = {**named, **_postgresql_arguments(self._url), "autocommit": True}
        connection = psycopg.connect(*positional, **arguments)
        try:
            yield connection
        finally:
            connection.close()

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables up to `revision`. Many processes may call it at once: one does it, the others wait."""
        if revision == "head":
            found = self._revision()
            if found == newest_revision():
                return
            if found and not knows_revision(found):
                raise StorageError(
                    f"{self!r} was written by a newer release: its tables are of revision {found}, this release knows "
                    f"them up to {newest_revision()}; install the newer release, or put back a backup of this one"
                )
        self._run_alembic("upgrade", revision)

    def downgrade(self, revision: str) -> None:
        """Take the tables back to `revision`; ``base`` removes them with all they hold."""
        self._run_alembic("downgrade", revision)

    def is_current(self) -> bool:
        """Whether the tables are those of this release. Every process asks when it starts, so without alembic."""
        return self._revision() == newest_revision()

    def _revision(self) -> str:
        """Return the revision of the tables, "" where there are none."""
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return ""
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or "")

    def dispose(self) -> None:
        """Close the connections that nobody uses."""
        self._engine.dispose()

    def _run_alembic(self, direction: str, revision: str) -> None:
        # Imported here: alembic takes a fifth of a second that most processes need not spend.
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with _ALEMBIC, self.begin() as connection:
            if self.dialect == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            config.attributes["connection"] = connection
            config.attributes["target_metadata"] = metadata
            try:
                getattr(command, direction)(config, revision)
                fault_point("storage.migrated")
            except CommandError as error:
                raise StorageError(f"{direction} of {self!r} to revision {revision}: {error}") from error


def _postgresql_arguments(url: URL) -> dict[str, Any]:
    """What makes both sides notice within half a minute that the other is cut off.

    Without it a worker would wait for an answer for hours; and the server would keep the locks of a host that is gone,
    so that nobody else could take over the jobs it was about to claim.
    """
    arguments: dict[str, Any] = {
        "connect_timeout": 10,
        "application_name": "cxr-node",
        "keepalives_idle": _SILENT_S,
        "keepalives_interval": _PROBE_S,
        "keepalives_count": _PROBES,
        "tcp_user_timeout": 1000 * (_SILENT_S + _PROBES * _PROBE_S),
    }
    if "options" not in url.query:
        arguments["options"] = (
            f"-c tcp_keepalives_idle={_SILENT_S} -c tcp_keepalives_interval={_PROBE_S}"
            f" -c tcp_keepalives_count={_PROBES} -c tcp_user_timeout={arguments['tcp_user_timeout']}"
        )
    return {name: value for name, value in arguments.items() if name not in url.query}


def newest_revision() -> str:
    """Return the revision of this release: its file is named after it, and the last by name."""
    return max(path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")).partition("_")[0]


def knows_revision(revision: str) -> bool:
    """Whether this release has the migration of that name."""
    return any(path.name.partition("_")[0] == revision for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _sqlite_engine(url: URL) -> Any:
    if not url.database or url.database == ":memory:":
        raise StorageError("an SQLite database needs a file: stages are processes and must meet in it")
    try:
        Path(url.database).absolute().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"folder of {url.database} cannot be made: {error.strerror}") from error
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=32,
        pool_use_lifo=True,  # each has a cache of 2 MB; those that rest do not fill theirs
        hide_parameters=True,
        json_serializer=to_json,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )

    path, was_there = Path(url.database).absolute(), False

    @event.listens_for(engine, "do_connect")
    def opening(*_: object) -> None:
        # SQLite makes a file that is not there. Behind the back of a node that runs that would be an empty database,
        # and what is written to it is lost when the disk comes back.
        nonlocal was_there
        if was_there and not path.exists():
            raise StorageBusy(f"database: {path} is not there any more")
        was_there = was_there or path.exists()

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself, and never an immediate one
        _to_wal(connection)
        # FULL: in WAL mode NORMAL may lose the last commits in a power cut, and a sender has heard Success by then.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        read_only = bool(connection.get_execution_options().get(_READ_ONLY))
        if connection.info.get(_READ_ONLY) is not read_only:
            connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
            connection.info[_READ_ONLY] = read_only
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. The switch asks for the whole file and does not always honor the busy timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise StorageError(f"journal mode is {mode}, expected wal: the file system has no shared memory for SQLite")
        return


@contextlib.contextmanager
def _translated(*, writes: bool = False) -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise StorageBusy("no database connection became free") from error
    except DBAPIError as error:
        translated = _translate(error, writes)
        if translated is None:
            raise
        raise translated from error


def _translate(error: DBAPIError, writes: bool = False) -> StorageError | None:
    """Return what a driver's error means here; None: a mistake in a statement or a broken constraint."""
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_FULL:
            return StorageFull(f"database: {cause}")
        if primary in _SQLITE_MAY_PASS or (writes and primary == sqlite3.SQLITE_READONLY):
            return StorageBusy(f"database: {cause}")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StorageError(f"database: {cause}")
        return None
    if getattr(cause, "sqlstate", None) in _POSTGRESQL_FULL:
        return StorageFull(f"database: {type(cause).__name__}")
    if isinstance(error, OperationalError) or error.connection_invalidated:
        return StorageBusy(f"database: {type(cause).__name__}")
    return None


_SQLITE_MAY_PASS = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
)
_POSTGRESQL_FULL = frozenset({"53100"})  # disk_full; PostgreSQL documentation, appendix A


def _forget_connections_of_the_parent() -> None:
    for database in list(_open_databases):
        # Kept, never closed: closing a parent's connection here would end its session, or drop its file locks.
        _left_behind.append((database._engine.pool, database.exchanges))
        database.exchanges = {}
        database._engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections_of_the_parent)
