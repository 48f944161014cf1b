"""What is kept is counted as it is."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import audit, holdings, instances, jobs

pytestmark = pytest.mark.requirement("SRS-ADM-206")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def image(connection, number, at):
    return instances.add(
        connection,
        sop_instance_uid=f"1.{number}",
        series_instance_uid="1.0",
        study_instance_uid="1",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2",
        variant=0,
        size=100 + number,
        location=str(number),
        calling_ae_title="CR",
        called_ae_title="N",
        peer_address="127.0.0.1",
        association_id="a",
        received_at=at,
    )


def test_deleted_bytes_are_not_held_and_old_ones_are_told_apart(database):
    """The page must not promise space that is gone already."""
    with database.begin() as connection:
        assert holdings.images(connection) == holdings.Images(0, 0, None)
        kept = [image(connection, number, NOON - timedelta(days=number)) for number in range(3)]
        instances.mark_deleted(connection, [kept[2].id], now=NOON)
        assert holdings.images(connection) == holdings.Images(2, 201, NOON - timedelta(days=1))
        assert holdings.images(connection, before=NOON) == holdings.Images(1, 101, NOON - timedelta(days=1))


def test_rows_of_every_kind_are_counted_and_the_last_run_is_known(database):
    with database.begin() as connection:
        audit.record(connection, "signed_in", actor="x", now=NOON)
        assert holdings.last_run(connection, "upkeep", "retention") == ("", None)
        jobs.schedule(connection, "upkeep", "retention", run_at=NOON, now=NOON)
        (claimed,) = jobs.claim(connection, ["upkeep"], owner="t:", now=NOON)
        jobs.complete(connection, claimed, now=NOON)
        assert holdings.last_run(connection, "upkeep", "retention") == ("COMPLETED", NOON)
        found = holdings.rows(connection)
    assert set(found) == set(holdings.KINDS)
    assert found["audit"] == holdings.Rows(1, NOON)
    assert found["studies"] == holdings.Rows(0, None)
