"""The audit trail as a chain: whatever is done to it behind the node's back is found, and told by entry."""

import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from storage import Database, audit, audit_chain, audit_standings, audit_verification
from storage.audit_tables import audit_seals
from storage.tables import audit_events

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write(database, count, *, at=NOON, event="study_read"):
    with database.begin() as connection:
        for number in range(count):
            audit.record(connection, event, actor="ann", now=at, study_instance_uid="1.2.3", detail={"n": number})


def seal(database, *, at=NOON):
    """Seal everything there is; return the links."""
    links = []
    while True:
        with database.begin() as connection:
            link = audit_chain.seal(connection, now=at)
        if link is None:
            return links
        links.append(link)


def verify(database, head=""):
    found = audit_verification.verify(database, head=head)
    assert found is not None
    return found


def tamper(database, statement):
    with database.begin() as connection:
        connection.execute(statement)


def _three_links(database):
    """Three links over ten entries each, ids 1 to 30."""
    for _ in range(3):
        write(database, 10)
        seal(database)
    return database


@pytest.fixture
def trail(database):
    """Three links, on each database."""
    return _three_links(database)


@pytest.fixture
def sqlite_trail(sqlite_database):
    """Three links, where the database makes no difference."""
    return _three_links(sqlite_database)


@pytest.mark.requirement("SRS-AUD-001")
def test_every_entry_is_covered_by_exactly_one_seal(trail):
    """An entry that no link covers could be changed by anybody."""
    found = verify(trail)
    assert found.is_whole
    assert (found.seals, found.entries, found.unsealed, found.head_number) == (4, 30, 0, 3)
    assert found.good_to == NOON
    with trail.read() as connection:
        covered = [
            entry
            for row in connection.execute(select(*audit_chain.COLUMNS))
            for entry in audit_chain.Seal(**row._mapping).covered()
        ]
        assert sorted(covered) == list(
            connection.execute(select(audit_events.c.id).order_by(audit_events.c.id)).scalars()
        )
    assert seal(trail) == [], "nothing new, no new link"


@pytest.mark.requirement("SRS-AUD-002")
def test_entries_that_another_host_sealed_meanwhile_are_not_sealed_twice(database):
    """Hashes are made before the transaction that writes."""
    write(database, 3)
    with database.read() as connection:
        found = audit_chain.unsealed(connection)
    seal(database)
    with pytest.raises(audit_chain.AlreadySealed), database.begin() as connection:
        audit_chain.seal(connection, now=NOON, found=found)
    assert verify(database).is_whole


@pytest.mark.requirement("SRS-AUD-003")
def test_an_entry_that_is_altered_while_it_is_sealed_is_found(sqlite_database):
    """It is sealed as it was read."""
    write(sqlite_database, 3)
    with sqlite_database.read() as connection:
        found = audit_chain.unsealed(connection)
    tamper(sqlite_database, update(audit_events).where(audit_events.c.id == 2).values(actor="bob"))
    with sqlite_database.begin() as connection:
        audit_chain.seal(connection, now=NOON, found=found)
    assert [item.entry for item in verify(sqlite_database).breaks] == [2]


@pytest.mark.requirement("SRS-AUD-001")
def test_a_link_covers_a_bounded_number_of_entries(database):
    """A link is read as a whole: after a night without upkeep it must still fit in memory."""
    write(database, audit_chain.SEAL_AT_MOST + 5)
    assert [link.entries for link in seal(database)] == [audit_chain.SEAL_AT_MOST, 5]
    assert verify(database).is_whole


@pytest.mark.requirement("SRS-AUD-002")
def test_an_entry_that_is_committed_late_is_sealed_by_the_next_link(postgresql_database):
    """On PostgreSQL an id is given before the commit: a slow transaction shows its entry after later ones."""
    database = postgresql_database
    with database.begin() as slow:
        audit.record(slow, "slow", actor="a", now=NOON)
        write(database, 2, event="quick")
        (first,) = seal(database)
        assert first.entries == 2
    (second,) = seal(database)
    assert (second.entries, second.first_entry < first.first_entry) == (1, True)
    assert verify(database).is_whole


@pytest.mark.requirement("SRS-AUD-002")
def test_hosts_that_seal_at_once_make_one_chain(database):
    """Every host runs upkeep; two links that follow the same one would be a chain with two ends."""
    write(database, 300)
    stop, failures = threading.Event(), []

    def write_on():
        try:
            while not stop.is_set():
                write(database, 1)
        except Exception as error:  # noqa: BLE001  # told by the test's own thread
            failures.append(error)

    def seal_on():
        try:
            for _ in range(5):
                with database.begin() as connection:
                    audit_chain.seal(connection, now=NOON)
        except Exception as error:  # noqa: BLE001  # told by the test's own thread
            failures.append(error)

    writer = threading.Thread(target=write_on)
    sealers = [threading.Thread(target=seal_on) for _ in range(2)]
    for thread in (writer, *sealers):
        thread.start()
    for thread in sealers:
        thread.join(60)
    stop.set()
    writer.join(60)
    assert failures == []
    seal(database)
    found = verify(database)
    assert found.is_whole
    assert found.unsealed == 0


CRIMES = {
    "actor": (update(audit_events).where(audit_events.c.id == 15).values(actor="bob"), 15, "altered"),
    "time": (
        update(audit_events).where(audit_events.c.id == 15).values(created_at=NOON - timedelta(days=1)),
        15,
        "altered",
    ),
    "detail": (update(audit_events).where(audit_events.c.id == 15).values(detail={"n": 99}), 15, "altered"),
    "deleted": (delete(audit_events).where(audit_events.c.id == 15), 15, "missing"),
    "put in": (
        insert(audit_events).values(id=999, created_at=NOON, event="x", actor="", detail={}, seal=2),
        999,
        "put in",
    ),
    "moved": (update(audit_events).where(audit_events.c.id == 15).values(seal=3), 15, "missing"),
    "hidden": (
        insert(audit_events).values(id=999, created_at=NOON, event="x", actor="", detail={}, seal=77),
        999,
        "never made",
    ),
    "unmarked": (update(audit_events).where(audit_events.c.id == 15).values(seal=None), 15, "missing"),
    "renumbered": (update(audit_events).where(audit_events.c.id == 15).values(id=1015), 1015, "put in"),
}


@pytest.mark.requirement("SRS-AUD-003")
@pytest.mark.parametrize("crime", CRIMES)
def test_what_is_done_to_an_entry_is_found_and_the_entry_named(trail, crime):
    """An auditor must know which entry not to believe."""
    statement, entry, word = CRIMES[crime]
    tamper(trail, statement)
    found = verify(trail)
    assert not found.is_whole
    assert any(item.entry == entry and word in item.found for item in found.breaks), found.breaks
    assert {item.entry for item in found.breaks} <= {entry, 15}, "and nothing else is accused"


@pytest.mark.requirement("SRS-AUD-003")
def test_entries_that_change_places_are_found(sqlite_trail):
    """Who read first may be what matters."""
    with sqlite_trail.begin() as connection:
        for old, new in ((14, 10_000), (15, 14), (10_000, 15)):
            connection.execute(update(audit_events).where(audit_events.c.id == old).values(id=new))
    assert [item.entry for item in verify(sqlite_trail).breaks] == [14, 15]


@pytest.mark.requirement("SRS-AUD-003")
@pytest.mark.parametrize(
    ("statement", "seal_number", "word"),
    [
        (update(audit_seals).where(audit_seals.c.number == 2).values(created_at=NOON + timedelta(1)), 2, "altered"),
        (update(audit_seals).where(audit_seals.c.number == 2).values(digest="0" * 64), 2, "altered"),
        (delete(audit_seals).where(audit_seals.c.number == 2), 3, "between are missing"),
        (delete(audit_seals).where(audit_seals.c.number < 2), 2, "first that is left"),
        (delete(audit_seals), 0, "no seal found"),
    ],
    ids=["time", "digest", "taken out", "beginning", "all"],
)
def test_what_is_done_to_a_seal_is_found(sqlite_trail, statement, seal_number, word):
    """Whoever changes an entry will change its seal too."""
    tamper(sqlite_trail, statement)
    found = verify(sqlite_trail)
    assert any(item.seal == seal_number and word in item.found for item in found.breaks), found.breaks
    assert not found.is_whole


@pytest.mark.requirement("SRS-AUD-003")
def test_a_seal_made_anew_over_an_altered_entry_is_found_by_the_next(sqlite_trail):
    """The links hold one another: one cannot be replaced alone."""
    with sqlite_trail.begin() as connection:
        connection.execute(update(audit_events).where(audit_events.c.id == 15).values(actor="bob"))
        forged = _forge(connection, 2)
    found = verify(sqlite_trail)
    assert [(item.seal, "does not follow" in item.found) for item in found.breaks] == [(3, True)]
    assert found.good_to == NOON
    assert forged != ""


def _forge(connection, number):
    """Make a link anew over what stands in the trail now, as an attacker would who read this code."""
    row = connection.execute(select(*audit_chain.COLUMNS).where(audit_seals.c.number == number)).one()
    rows = connection.execute(
        audit_chain.entries_as_stored(connection).where(audit_events.c.seal == number).order_by(audit_events.c.id)
    )
    leaves = b"".join(item.id.to_bytes(8, "big") + audit_chain.leaf(item) for item in rows)
    previous = connection.execute(select(audit_seals.c.digest).where(audit_seals.c.number == number - 1)).scalar_one()
    values = {**row._mapping, "leaves": leaves, "previous": previous}
    digest = audit_chain.Seal(**values).computed()
    changed = update(audit_seals).where(audit_seals.c.number == number)
    connection.execute(changed.values(leaves=leaves, previous=previous, digest=digest))
    return digest


@pytest.mark.requirement("SRS-AUD-004")
def test_a_digest_that_left_the_node_shows_that_the_end_was_cut_off(trail):
    """What is left of the chain is whole: only who knows its end misses it."""
    head = verify(trail).head
    assert verify(trail, head).is_whole
    with trail.begin() as connection:
        connection.execute(delete(audit_events).where(audit_events.c.seal == 3))
        connection.execute(delete(audit_seals).where(audit_seals.c.number == 3))
    assert verify(trail).is_whole, "alone the chain cannot tell"
    assert verify(trail, head).is_head_known is False
    assert not verify(trail, head).is_whole


@pytest.mark.requirement("SRS-AUD-004")
def test_a_digest_that_left_the_node_shows_that_the_chain_was_made_anew(sqlite_trail):
    """An attacker who owns the database and this code makes a chain that is whole, but not the same one."""
    head = verify(sqlite_trail).head
    with sqlite_trail.begin() as connection:
        connection.execute(update(audit_events).where(audit_events.c.id == 15).values(actor="bob"))
        _forge(connection, 2)
        _forge(connection, 3)
    assert verify(sqlite_trail).is_whole
    assert not verify(sqlite_trail, head).is_whole
    write(sqlite_trail, 1)
    seal(sqlite_trail)
    assert verify(sqlite_trail, verify(sqlite_trail).head).is_head_known


@pytest.mark.requirement("SRS-AUD-005")
def test_entries_from_before_the_chain_are_its_first_links_and_said_to_be_so(empty_url):
    """Nobody can say what was done to them before: sealed as they were found."""
    database = Database(empty_url)
    database.migrate("0003")
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO audit_events (id, created_at, event, actor, detail) VALUES (7, :at, 'old', 'ann', '{}')"),
            {"at": "2025-01-01 12:00:00.000000" + ("" if database.dialect == "sqlite" else "+00")},
        )
    database.migrate()
    with database.begin() as connection:
        connection.execute(insert(audit_events).values(id=8, created_at=NOON, event="new", actor="", detail={}))
    inherited, regular = seal(database)
    assert (inherited.kind, inherited.entries, regular.kind, regular.entries) == ("inherited", 1, "regular", 1)
    found = verify(database)
    assert found.is_whole
    assert (found.inherited, found.entries, found.late) == (1, 2, 0)
    database.downgrade("0003")
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM audit_events")).scalar_one() == 2
    database.migrate()
    seal(database)
    assert verify(database).inherited == 2, "the chain begins again, and says so"
    database.dispose()


@pytest.mark.requirement("SRS-AUD-005")
def test_later_entries_cannot_be_passed_off_as_inherited(sqlite_trail):
    """An attacker would like a link to which nobody holds anything against."""
    with sqlite_trail.begin() as connection:
        connection.execute(update(audit_seals).where(audit_seals.c.number == 3).values(kind="inherited"))
        _forge(connection, 3)
    assert any("not at its beginning" in item.found for item in verify(sqlite_trail).breaks)


@pytest.mark.requirement("SRS-AUD-006")
def test_a_chain_whose_beginning_was_cut_off_verifies_from_the_cut(trail):
    """A site may have to forget after some years; the entry that tells of it is part of the chain."""
    write(trail, 1, at=NOON + timedelta(days=2))
    seal(trail, at=NOON + timedelta(days=2))
    with trail.begin() as connection:
        last = audit_chain.last_before(connection, before=NOON + timedelta(days=1))
        assert last.number == 3
        rows = [row.id for part in audit_chain.sealed_up_to(connection, 3, batch=7) for row in part]
        assert len(rows) == len(set(rows)) == 30
        assert audit_chain.cut(connection, last.number) == 30
        detail = {"seal": last.number, "digest": last.digest}
        audit.record(connection, audit_verification.CUT, actor="ann", now=NOON, detail=detail)
    assert not verify(trail).is_whole, "until the entry that tells of it is sealed"
    seal(trail)
    found = verify(trail)
    assert found.is_whole
    assert (found.cut_before, found.entries) == (4, 2)


@pytest.mark.requirement("SRS-AUD-006")
def test_a_cut_that_another_entry_tells_of_excuses_nothing(sqlite_trail):
    """Else one cut on purpose would allow every other."""
    with sqlite_trail.begin() as connection:
        audit.record(connection, audit_verification.CUT, actor="ann", now=NOON, detail={"seal": 2, "digest": "0" * 64})
    seal(sqlite_trail)
    with sqlite_trail.begin() as connection:
        audit_chain.cut(connection, 2)
    assert not verify(sqlite_trail).is_whole


@pytest.mark.requirement("SRS-AUD-006")
def test_the_newest_link_is_never_cut_off(sqlite_trail):
    """The chain would have nothing to go on from."""
    with sqlite_trail.read() as connection:
        assert audit_chain.last_before(connection, before=NOON + timedelta(days=9)).number == 2
        assert audit_chain.last_before(connection, before=NOON - timedelta(days=99)) is None


@pytest.mark.requirement("SRS-AUD-003")
def test_an_entry_with_an_old_time_that_is_sealed_today_is_counted(sqlite_trail):
    """Whoever puts in an entry before it is sealed can date it back; that it was sealed late stays."""
    write(sqlite_trail, 1, at=NOON - timedelta(days=1))
    seal(sqlite_trail)
    found = verify(sqlite_trail)
    assert found.is_whole
    assert (found.late, found.first_late) == (1, 31)


@pytest.mark.requirement("SRS-AUD-003")
def test_what_cannot_be_read_as_an_entry_breaks_nothing_but_is_found(sqlite_database):
    """A verification that falls over tells nothing."""
    write(sqlite_database, 3)
    seal(sqlite_database)
    with sqlite_database.begin() as connection:
        connection.execute(text("UPDATE audit_events SET detail = '{broken', created_at = 'yesterday' WHERE id = 2"))
        connection.execute(text("UPDATE audit_events SET actor = x'00ff' WHERE id = 3"))
    assert [item.entry for item in verify(sqlite_database).breaks] == [2, 3]
    tamper(sqlite_database, update(audit_events).values(seal=None))
    assert verify(sqlite_database).unsealed == 3


@pytest.mark.requirement("SRS-AUD-001")
def test_a_chain_without_its_first_link_is_not_begun_anew(sqlite_trail):
    """A sealer that began again would hide for the attacker that everything is gone."""
    tamper(sqlite_trail, delete(audit_seals))
    write(sqlite_trail, 1)
    with pytest.raises(audit_chain.ChainMissing), sqlite_trail.begin() as connection:
        audit_chain.seal(connection, now=NOON)


@pytest.mark.requirement("SRS-AUD-001")
def test_values_of_every_kind_have_one_form_on_both_databases(database):
    """A trail that moves from SQLite to PostgreSQL keeps its seals."""
    detail = {"ü": '\U0001f600 \\ "', "f": 0.1, "big": 2**70, "deep": [{"a": None}, True, 1e300], "": "\u2028"}
    with database.begin() as connection:
        audit.record(
            connection,
            "e",
            actor="Jürgen\x00",
            now=datetime(2026, 3, 1, 13, 0, 0, 5, tzinfo=UTC),
            study_instance_uid="1.2",
            detail=detail,
        )
        row = connection.execute(audit_chain.entries_as_stored(connection)).one()
        leaf = audit_chain.leaf(row).hex()
    told = [1, "2026-03-01T13:00:00.000005+00:00", "e", "Jürgen", "1.2", detail]
    assert leaf == hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.requirement("SRS-AUD-010")
def test_entries_leave_in_the_order_of_their_seals_from_where_the_last_ones_ended(trail):
    """What a repository was given is noted durably; after a crash nothing is left out."""
    with trail.begin() as connection:
        held = audit_standings.hold(connection, "syslog", owner="a", now=NOON, lease_s=30)
        assert audit_standings.backlog(connection, held) == audit_standings.Backlog(30, NOON)
        some = audit_standings.after(connection, held, limit=15)
        assert [item.event.id for item in some] == list(range(1, 16))
        assert audit_standings.advance(connection, "syslog", owner="a", now=NOON, detail={}, to=some[-1])
    with trail.read() as connection:
        at = audit_standings.get(connection, "syslog")
        assert (at.seal, at.entry) == (2, 15)
        assert [item.event.id for item in audit_standings.after(connection, at, limit=100)] == list(range(16, 31))


@pytest.mark.requirement("SRS-AUD-011")
def test_one_host_exports_until_it_dies(trail):
    """Two hosts that send the same entries would tell of everything twice."""

    def hold(owner, at):
        with trail.begin() as connection:
            return audit_standings.hold(connection, "syslog", owner=owner, now=at, lease_s=30)

    def advance(owner):
        with trail.begin() as connection:
            return audit_standings.advance(connection, "syslog", owner=owner, now=NOON, detail={"by": owner})

    assert hold("a", NOON) is not None
    assert hold("b", NOON + timedelta(seconds=29)) is None
    assert hold("a", NOON + timedelta(seconds=29)) is not None, "who holds it keeps it"
    assert hold("b", NOON + timedelta(seconds=60)) is not None, "a dead host's is taken over"
    assert (advance("a"), advance("b")) == (False, True), "and the one that was thought dead changes nothing"
    assert hold("c", NOON - timedelta(days=1)) is not None, "a lease from before the clock was set back holds nobody up"
    assert hold("b", NOON) is not None
    with trail.begin() as connection:
        audit_standings.release(connection, "syslog", owner="b")
    assert hold("c", NOON) is not None


@pytest.mark.requirement("SRS-AUD-001")
def test_marking_an_entry_leaves_what_the_rest_of_the_node_reads_as_it_was(sqlite_trail):
    """The page and the search know nothing of seals."""
    with sqlite_trail.read() as connection:
        assert connection.execute(select(func.count()).select_from(audit_events)).scalar_one() == 30
        assert audit.events(connection, limit=1)[0].detail == {"n": 9}
