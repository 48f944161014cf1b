"""A site that runs the release before this one, with rows in every table, upgrades in place, and may go back."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, DateTime, MetaData, Numeric, Table, select, text
from sqlalchemy.sql.sqltypes import Float, Integer

from storage import Database, InstanceFiles, deliveries, instances, jobs, results
from storage.database import knows_revision, newest_revision
from storage.errors import StorageError

PREVIOUS = "0003"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def filled(column: Any, dialect: str) -> Any:
    """Return a value of the column's type, as the previous release could have written it."""
    kind = column.type
    if isinstance(kind, DateTime):
        return NOON.replace(tzinfo=None) if dialect == "sqlite" else NOON
    if isinstance(kind, JSON):
        return {"of": "the previous release"}
    if isinstance(kind, Boolean):
        return True
    if isinstance(kind, Float | Numeric) and not isinstance(kind, Integer):
        return 0.5
    if isinstance(kind, Integer):
        return 1
    return f"{column.name} of the previous release"


def tables_of(database: Database) -> list[Table]:
    metadata = MetaData()
    with database.read() as connection:
        metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def rows_of(database: Database, tables: list[Table]) -> dict[str, list[dict[str, Any]]]:
    """Return every row of these tables, of the columns that they had."""
    with database.read() as connection:
        return {
            table.name: [
                {name: float(value) if isinstance(value, Decimal) else value for name, value in row._mapping.items()}
                for row in connection.execute(select(table))
            ]
            for table in tables
        }


# What a node had of one study, its image received and its report on the way.
STUDY = {
    "studies": {"study_instance_uid": "1.2.3", "status": "analysed", "origin": "", "revision": 1},
    "instances": {"sop_instance_uid": "1.2.3.1", "study_instance_uid": "1.2.3", "variant": 0, "deleted_at": None},
    "jobs": {"kind": "deliver:pacs", "key": "1", "state": "IN_PROGRESS", "lease_owner": "deliver:7:pacs", "wanted": 1,
             "claimed": 1, "settled_at": None, "payload": {}},
    "results": {"study_instance_uid": "1.2.3", "revision": 1, "status": "analysed", "superseded_at": None},
    "result_objects": {"kind": "sr", "sop_instance_uid": "2.25.1", "location": "objects/aa/1.dcm"},
    "deliveries": {"study_instance_uid": "1.2.3", "revision": 1, "kind": "sr", "destination": "pacs",
                   "state": "SCHEDULED", "reason": ""},
}  # fmt: skip


@pytest.fixture
def previous(empty_url, tmp_path):
    """A database as the previous release left it: a row in every table, an image on the disk."""
    database = Database(empty_url)
    database.migrate(PREVIOUS)
    files = InstanceFiles(tmp_path / "data")
    temporary = files.new_temporary()
    temporary.write_bytes(b"pixels")
    location = files.keep(temporary, "1.2.3.1", 0)
    tables = tables_of(database)
    with database.begin() as connection:
        for table in tables:
            row = {column.name: filled(column, database.dialect) for column in table.columns}
            row |= STUDY.get(table.name, {})
            if table.name == "instances":
                row |= {"location": location, "size": 6}
            connection.execute(table.insert().values(**row))
            if database.dialect == "postgresql" and "id" in table.columns and isinstance(table.c.id.type, Integer):
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), 1)"))
    yield database, tables, files
    database.dispose()


@pytest.mark.requirement("SRS-STO-331")
def test_what_the_previous_release_queued_is_gone_on_with(previous):
    """Its worker died with the old process; the report it was sending goes out under the same UID."""
    database, _, files = previous
    assert newest_revision() != PREVIOUS
    database.migrate()
    assert database.is_current()
    with database.begin() as connection:
        (job,) = jobs.claim(connection, ["deliver:pacs"], owner="new:1:", now=datetime.now(UTC))
        (delivery,) = deliveries.of_study(connection, "1.2.3")
        (stored,) = results.objects(connection, delivery.result_id)
        (held,) = instances.of_study(connection, "1.2.3")
        assert (job.key, delivery.state, stored.sop_instance_uid) == ("1", "SCHEDULED", "2.25.1")
        assert files.read(held.location) == b"pixels"
        jobs.complete(connection, job, now=NOON)
        jobs.schedule(connection, "analyze", "1.2.3", run_at=NOON, now=NOON)
        assert jobs.claim(connection, ["analyze"], owner="new:1:", now=NOON)


@pytest.mark.requirement("SRS-STO-331")
def test_every_row_survives_up_and_down_and_up_again(previous):
    """No table is forgotten: whatever the previous release wrote is there after each step."""
    database, tables, _ = previous
    before = rows_of(database, tables)
    assert all(len(rows) == 1 for rows in before.values())
    assert len(before) > 25
    database.migrate()
    assert rows_of(database, tables) == before
    database.downgrade(PREVIOUS)
    assert rows_of(database, tables) == before
    assert {table.name for table in tables_of(database)} == {table.name for table in tables}
    database.migrate()
    assert rows_of(database, tables) == before


@pytest.mark.requirement("SRS-STO-332")
def test_a_database_of_a_newer_release_is_refused_with_a_sentence(previous):
    """An older program would drop what it does not know, or misread it."""
    database, tables, _ = previous
    database.migrate()
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = rows_of(database, tables)
    with pytest.raises(StorageError, match="written by a newer release: its tables are of revision 9999"):
        database.migrate()
    assert rows_of(database, tables) == before
    assert not knows_revision("9999")
    assert knows_revision(PREVIOUS)
