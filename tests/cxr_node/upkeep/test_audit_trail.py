"""The chain keeps itself: sealed, verified daily, its end told outside the database, its troubles told to a person."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update

from cxr_node import metrics
from cxr_node.upkeep import stage
from cxr_node.upkeep.audit_trail import Keeper
from storage import audit, audit_chain, audit_standings
from storage.audit_tables import audit_seals
from storage.tables import audit_events

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.at = NOON

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keeper(site, clock):
    return Keeper(site.database, records_head=True, now=clock)


def write(site, count=1):
    with site.database.begin() as connection:
        for _ in range(count):
            audit.record(connection, "study_read", actor="ann", now=NOON)


def events(site, name):
    with site.database.read() as connection:
        return audit.newest(connection, name, limit=10)


@pytest.mark.requirement("SRS-AUD-008")
def test_everything_new_is_sealed_and_nothing_is_written_where_nothing_is_new(site, keeper):
    """Every five seconds for years: an idle node must not grow."""
    write(site, 1250)
    assert keeper.seal() == 1250
    keeper.seal()  # the entry that tells of the head
    with site.database.read() as connection:
        before = audit_chain.head(connection).number
    assert keeper.seal() == 0
    with site.database.read() as connection:
        assert audit_chain.head(connection).number == before == 4


@pytest.mark.requirement("SRS-AUD-008")
def test_the_head_leaves_the_database_by_the_log_each_minute_and_by_the_trail_each_hour(site, keeper, clock, capsys):
    """Whoever keeps either outside the node can hold the chain to it."""
    for minutes in (0, 0, 2, 70):
        clock.at = NOON + timedelta(minutes=minutes)
        write(site)
        keeper.seal()
    assert capsys.readouterr().err.count("audit_chain_head") == 3
    newest, oldest = events(site, "audit_chain_head")
    assert newest.detail["seal"] > oldest.detail["seal"]
    with site.database.read() as connection:
        digests = {audit_chain.Seal(*row).digest for row in connection.execute(audit_seals.select())}
    assert {newest.detail["digest"], oldest.detail["digest"]} <= digests


@pytest.mark.requirement("SRS-AUD-009")
def test_the_chain_is_verified_once_a_day_and_its_end_goes_into_the_trail(site, keeper, clock):
    """The page shows the last; the entry leaves the node as a message."""
    write(site, 3)
    keeper.seal()
    found = keeper.verify()
    assert found.is_whole
    (entry,) = events(site, "audit_chain_verified")
    assert entry.detail == {"seal": found.head_number, "digest": found.head, "entries": 3}
    clock.at = NOON + timedelta(hours=23)
    assert keeper.verify() is None
    clock.at = NOON + timedelta(hours=25)
    assert keeper.verify() is not None
    assert len(events(site, "audit_chain_verified")) == 2
    clock.at = NOON - timedelta(days=30)
    assert keeper.verify() is not None, "the clock was set back: a month without verification would be the price"


@pytest.mark.requirement("SRS-AUD-009")
def test_a_broken_chain_is_an_alarm_once(site, keeper, clock, capsys):
    """In the log, in the metric, for the page, and as an entry that leaves as a Security Alert."""
    write(site, 3)
    keeper.seal()
    with site.database.begin() as connection:
        connection.execute(update(audit_events).where(audit_events.c.id == 2).values(actor="bob"))
    for hours in (0, 25, 50):
        clock.at = NOON + timedelta(hours=hours)
        assert not keeper.verify().is_whole
    (entry,) = events(site, "audit_chain_broken")
    assert entry.detail == {"reason": "entry 2 (seal 1): was altered", "broken": 1}
    assert metrics.AUDIT_CHAIN._value.get() == 0
    assert capsys.readouterr().err.count("audit_chain_broken") == 3
    with site.database.read() as connection:
        kept = audit_standings.get(connection, "verified")
    assert (kept.updated_at, kept.detail["breaks"]) == (clock.at, ["entry 2 (seal 1): was altered"])


@pytest.mark.requirement("SRS-AUD-009")
def test_a_chain_that_is_gone_is_an_alarm_and_no_task_falls_over(site, keeper, capsys):
    """A sealer that began anew would help whoever took the chain away."""
    with site.database.begin() as connection:
        connection.execute(delete(audit_seals))
    write(site)
    assert keeper.seal() == 0
    assert "audit_chain_missing" in capsys.readouterr().err
    assert not keeper.verify().is_whole


@pytest.mark.requirement("SRS-AUD-008")
def test_the_stage_seals_verifies_and_tells_of_its_start_and_end(site):
    """The tasks stand in the table; the daily one is done by one host of many."""
    upkeep = site.upkeep()
    shared = {task.name: task.shared for task in upkeep.tasks()}
    assert {name: shared[name] for name in ("seal-audit-trail", "send-audit-trail", "verify-audit-trail")} == {
        "seal-audit-trail": False,
        "send-audit-trail": False,
        "verify-audit-trail": True,
    }
    site.stop.set()
    stage.run_upkeep(site.settings, site.stop)
    with site.database.read() as connection:
        ended, began = audit.events(connection, limit=2)
        assert (began.event, ended.event) == ("node_started", "node_stopped")
        assert not audit_chain.has_unsealed(connection), "what follows a stop may be a while away"
