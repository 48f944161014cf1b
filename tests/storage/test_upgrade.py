"""A site upgrades in place, with its studies in the database, and may have to go back."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import MetaData, Table, inspect, select

from storage import Database, deliveries, jobs, results, studies, tables

pytestmark = pytest.mark.requirement("SRS-STO-004")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# One row of everything that a node of the first release kept of a study.
FIRST_RELEASE = {
    "studies": {
        "id": 1,
        "study_instance_uid": "1.2.3",
        "patient_name": "Doe^Jane",
        "patient_id": "P1",
        "ordered_priority": "ROUTINE",
        "ordered_rank": 1,
        "ai_priority": "HIGH",
        "effective_priority": "HIGH",
        "priority_rank": 3,
        "status": "analysed",
        "flagged": True,
        "revision": 1,
        "first_received_at": NOON,
        "last_received_at": NOON,
    },
    "jobs": {
        "id": 1,
        "kind": "deliver",
        "key": "1",
        "state": "SCHEDULED",
        "priority": 3,
        "run_at": NOON,
        "wanted": 1,
        "payload": {"destination": "pacs"},
        "created_at": NOON,
    },
    "results": {
        "id": 1,
        "study_instance_uid": "1.2.3",
        "revision": 1,
        "created_at": NOON,
        "status": "analysed",
        "flagged": True,
        "ai_priority": "HIGH",
        "outcome": {"images": []},
    },
    "result_objects": {
        "id": 1,
        "result_id": 1,
        "kind": "sr",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
        "sop_instance_uid": "2.25.1",
        "location": "objects/aa/1.dcm",
        "created_at": NOON,
    },
    "deliveries": {
        "id": 1,
        "result_id": 1,
        "study_instance_uid": "1.2.3",
        "revision": 1,
        "kind": "sr",
        "destination": "pacs",
        "state": "SCHEDULED",
        "updated_at": NOON,
    },
}


@pytest.fixture
def first_release(empty_url):
    """A database as the first release left it."""
    database = Database(empty_url)
    database.migrate("0001")
    with database.begin() as connection:
        for name, row in FIRST_RELEASE.items():
            table = Table(name, MetaData(), autoload_with=connection)
            values = dict(row)
            if database.dialect == "sqlite":  # its time columns hold no zone; the node writes UTC
                values = {key: value.replace(tzinfo=None) if value is NOON else value for key, value in row.items()}
            connection.execute(table.insert().values(**values))
    yield database
    database.dispose()


def test_a_database_of_the_first_release_goes_on_where_it_was(first_release):
    """The report that waited for the PACS when the node was stopped is delivered by its successor."""
    first_release.migrate()
    with first_release.begin() as connection:
        study = studies.get(connection, "1.2.3")
        assert study is not None
        assert (study.context.patient_name, study.effective_priority, study.flagged) == ("Doe^Jane", "HIGH", True)
        assert [item.study_instance_uid for item in studies.listed(connection, since=NOON)] == ["1.2.3"]
        assert "jane" in connection.execute(select(tables.studies.c.search)).scalar_one(), "it is found on the worklist"
        (delivery,) = deliveries.of_study(connection, "1.2.3")
        assert (delivery.state, delivery.destination, delivery.reason) == ("SCHEDULED", "pacs", "")
        (job,) = jobs.claim(connection, ["deliver"], owner="test:1:", now=NOON)
        assert (job.key, job.priority) == ("1", 3)
        (stored,) = results.objects(connection, delivery.result_id)
        assert (stored.sop_instance_uid, stored.location) == ("2.25.1", "objects/aa/1.dcm")


def test_going_back_keeps_what_the_first_release_knew(first_release):
    """A downgrade takes what is new and nothing else."""
    with first_release.read() as connection:
        before = _rows(connection)
        names = set(inspect(connection).get_table_names())
    first_release.migrate()
    first_release.downgrade("0001")
    with first_release.read() as connection:
        assert _rows(connection) == before
        assert set(inspect(connection).get_table_names()) == names


def _rows(connection):
    return {
        name: [
            dict(row._mapping) for row in connection.execute(select(Table(name, MetaData(), autoload_with=connection)))
        ]
        for name in FIRST_RELEASE
    }
