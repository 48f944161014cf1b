"""The database keeps what it said it keeps, for many processes at once."""

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

import storage.database
from storage import Database, audit
from storage.errors import StorageBusy, StorageError, StorageFull

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

WRITE_MANY = """
import sys
from datetime import UTC, datetime
from storage import Database, audit
database = Database(sys.argv[1])
for number in range(int(sys.argv[3])):
    with database.begin() as connection:
        before = len(audit.events(connection, study_instance_uid="counter", limit=100000))
        audit.record(connection, "counted", actor=sys.argv[2], now=datetime.now(UTC), study_instance_uid="counter",
                     detail={"before": before})
"""


@pytest.mark.requirement("SRS-STO-001")
def test_sqlite_is_opened_so_that_a_commit_outlives_a_power_cut(sqlite_database):
    """In WAL mode the default, NORMAL, may lose the last commits, whose senders have heard Success."""
    for access in (sqlite_database.begin, sqlite_database.read):
        with access() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 30_000


@pytest.mark.requirement("SRS-STO-001")
def test_a_transaction_that_raises_leaves_nothing(database):
    """What must appear together must also be absent together."""

    def half_done() -> None:
        with database.begin() as connection:
            audit.record(connection, "half_done", actor="test", now=NOON)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    with database.read() as connection:
        assert audit.events(connection) == []


@pytest.mark.requirement("SRS-STO-001")
def test_what_a_killed_process_had_not_committed_is_gone_and_blocks_nobody(database):
    """A stage may die anywhere, with the write lock in its hands."""
    script = (
        "import sys, time\nfrom datetime import UTC, datetime\nfrom storage import Database, audit\n"
        "with Database(sys.argv[1]).begin() as c:\n"
        "    audit.record(c, 'lost', actor='victim', now=datetime.now(UTC))\n"
        "    print('written', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, database.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with database.begin() as connection:
        audit.record(connection, "kept", actor="test", now=NOON)
        assert [event.event for event in audit.events(connection)] == ["kept"]


@pytest.mark.requirement("SRS-STO-002")
def test_many_processes_write_one_sqlite_file_without_losing_or_refusing_a_write(sqlite_database, run_python):
    """Every stage is a process. A transaction that read before it wrote would be refused without BEGIN IMMEDIATE."""
    run_python(WRITE_MANY, [[sqlite_database.url, f"writer {number}", "25"] for number in range(4)])
    with sqlite_database.read() as connection:
        events = audit.events(connection, study_instance_uid="counter", limit=1000)
    assert [event.detail["before"] for event in reversed(events)] == list(range(100))


@pytest.mark.requirement("SRS-STO-002")
def test_a_process_made_by_fork_has_connections_of_its_own(database, run_python):
    """A connection used on both sides of a fork mixes two conversations, and corrupts an SQLite file."""
    script = """
import os, sys
from datetime import UTC, datetime
from storage import Database, audit
database = Database(sys.argv[1])
def write(actor):
    for number in range(10):
        with database.begin() as connection:
            audit.record(connection, "written", actor=actor, now=datetime.now(UTC))
write("before")
child = os.fork()
if child == 0:
    write("child")
    os._exit(0)
write("parent")
assert os.waitpid(child, 0)[1] == 0
write("after")
"""
    run_python(script, [[database.url]])
    with database.read() as connection:
        actors = [event.actor for event in audit.events(connection)]
        assert {actor: actors.count(actor) for actor in actors} == {
            "before": 10,
            "child": 10,
            "parent": 10,
            "after": 10,
        }
        if database.dialect == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


@pytest.mark.requirement("SRS-STO-002")
def test_reading_waits_for_no_writer_and_sees_what_was_committed(sqlite_database):
    """The worklist must answer while images come in."""
    with sqlite_database.begin() as writing:
        audit.record(writing, "not_yet", actor="test", now=NOON)
        with sqlite_database.read() as reading:
            assert audit.events(reading) == []


@pytest.mark.requirement("SRS-STO-002")
def test_a_reading_transaction_cannot_write(database):
    """On SQLite it would write without the lock that `begin` takes."""
    with pytest.raises((DBAPIError, StorageError)), database.read() as connection:
        audit.record(connection, "smuggled", actor="test", now=NOON)
    with database.begin() as connection:
        assert audit.events(connection) == []
        audit.record(connection, "declared", actor="test", now=NOON)


@pytest.mark.requirement("SRS-STO-003")
def test_a_lock_that_is_held_too_long_is_storage_busy(monkeypatch, tmp_path):
    """The caller answers a sender with a failure status it may retry on, and needs to know that it may."""
    monkeypatch.setattr(storage.database, "BUSY_TIMEOUT_S", 0.05)
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    with database.begin(), pytest.raises(StorageBusy), database.begin():
        pass


@pytest.mark.requirement("SRS-STO-003")
def test_a_database_without_space_is_storage_full(sqlite_database):
    """A full disk needs a person; a busy one needs patience."""

    def fill() -> None:
        with sqlite_database.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
            for _ in range(100):
                audit.record(connection, "large", actor="test", now=NOON, detail={"text": "x" * 4096})

    with pytest.raises(StorageFull):
        fill()
    sqlite_database.dispose()
    with sqlite_database.read() as connection:
        assert audit.events(connection) == []


@pytest.mark.requirement("SRS-STO-003")
@pytest.mark.parametrize("url", ["sqlite:////proc/none/node.db", "sqlite://", "mysql://host/name"])
def test_a_database_that_cannot_be_is_refused_by_name(url):
    """A node must not start into a database that its stages do not share."""
    with pytest.raises(StorageError):
        Database(url)


@pytest.mark.requirement("SRS-STO-003")
def test_a_server_that_is_gone_is_storage_busy_and_its_password_is_not_shown():
    """It may come back; meanwhile its address goes to the log."""
    database = Database("postgresql://node:s3cret@127.0.0.1:1/cxr")
    with pytest.raises(StorageBusy) as caught, database.begin():
        pass
    assert "s3cret" not in repr(database) + str(caught.value)
    assert database.url == "postgresql+psycopg://node:s3cret@127.0.0.1:1/cxr"


@pytest.mark.requirement("SRS-STO-003")
def test_a_broken_constraint_is_no_storage_trouble(database):
    """It is a mistake of the caller's; a retry would meet it again."""
    statement = text("INSERT INTO tokens (name, role, secret_sha256, created_at) VALUES (NULL, 'r', 's', '2026-01-01')")
    with pytest.raises(IntegrityError) as caught, database.begin() as connection:
        connection.execute(statement)
    assert "[SQL parameters hidden" in str(caught.value) or "parameters" not in str(caught.value)


@pytest.mark.requirement("SRS-STO-004")
def test_migrations_go_up_down_and_up_again(empty_url):
    """A site that upgraded must be able to go back."""
    database = Database(empty_url)
    assert not database.is_current()
    database.migrate()
    assert database.is_current()
    database.migrate()
    database.downgrade("base")
    assert not database.is_current()
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
    database.migrate()
    assert database.is_current()
    database.dispose()


@pytest.mark.requirement("SRS-STO-004")
def test_the_migrations_make_the_tables_that_the_code_uses(database):
    """The first is written by hand and the second by another hand."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    # The tables are known once their modules are loaded.
    from storage import audit_tables, monitoring_tables, site_tables  # noqa: F401
    from storage.tables import metadata

    with database.read() as connection:
        options = {"compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        found, expected = inspect(connection), metadata.tables
        for name, table in expected.items():
            indexes = {index["name"] for index in found.get_indexes(name) if not index.get("duplicates_constraint")}
            assert indexes == {index.name for index in table.indexes}


@pytest.mark.requirement("SRS-STO-004")
def test_many_processes_may_migrate_at_once(empty_url, run_python):
    """All stages start together, and each makes sure of its tables."""
    script = (
        "import sys\nfrom storage import Database\n"
        "d = Database(sys.argv[1]); d.migrate(); assert d.is_current(); print('done')"
    )
    assert run_python(script, [[empty_url]] * 3) == ["done\n"] * 3


@pytest.mark.requirement("SRS-STO-004")
def test_many_threads_may_migrate_at_once(empty_url):
    """Tests and `serve` on a laptop run stages as threads."""
    databases = [Database(empty_url) for _ in range(4)]
    threads = [threading.Thread(target=database.migrate) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(database.is_current() for database in databases)
    for database in databases:
        database.dispose()


@pytest.mark.requirement("SRS-STO-004")
def test_tables_of_a_newer_release_are_left_alone(database):
    """After a rollback of the program the database is ahead of it; it must say so and touch nothing."""
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not database.is_current()
    with pytest.raises(StorageError, match="9999"):
        database.migrate()


@pytest.mark.requirement("SRS-STO-005")
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))])
def test_times_come_back_equal_and_in_utc(database, zone):
    """SQLite forgets zones and PostgreSQL answers in the session's own."""
    written = datetime(2026, 3, 29, 1, 59, 59, 999999, tzinfo=zone)
    with database.begin() as connection:
        audit.record(connection, "written", actor="test", now=written)
        [event] = audit.events(connection)
    assert event.created_at == written
    assert event.created_at.tzinfo is UTC


@pytest.mark.requirement("SRS-STO-005")
def test_a_time_without_a_zone_is_refused(database):
    """Which hour it means depends on where the reader sits."""
    with pytest.raises(Exception, match="without a time zone"), database.begin() as connection:
        audit.record(connection, "naive", actor="test", now=datetime(2026, 3, 1, 12))  # noqa: DTZ001  # on purpose


@pytest.mark.requirement("SRS-STO-005")
def test_text_that_no_database_holds_is_cleaned_not_refused(database):
    """A dataset may hold NUL and bytes that are no character; its study is triaged all the same."""
    with database.begin() as connection:
        audit.record(connection, "odd", actor="A\x00B\udcffC", now=NOON)
        [event] = audit.events(connection)
    assert event.actor == "AB?C"


@pytest.mark.requirement("SRS-STO-003")
def test_the_folder_of_the_database_is_made_for_its_owner_only(tmp_path: Path):
    """It holds names of patients."""
    Database(f"sqlite:///{tmp_path / 'var' / 'state' / 'node.db'}")
    assert (tmp_path / "var" / "state").stat().st_mode & 0o077 == 0


@pytest.mark.requirement("SRS-RCV-333")
def test_the_newest_revision_is_known_without_alembic():
    """Every process asks at its start; a file that is not named after its revision would have all migrate for ever."""
    from alembic.script import ScriptDirectory

    from storage.database import _MIGRATIONS, newest_revision

    assert newest_revision() == ScriptDirectory(str(_MIGRATIONS)).get_current_head()
