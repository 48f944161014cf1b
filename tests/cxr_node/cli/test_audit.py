"""`cxr-node audit`: the answer to an auditor, with a status that a script can use."""

import json

import pytest
from sqlalchemy import delete, update

from cxr_node.cli import main
from cxr_node.clock import utc_now
from storage import audit, audit_chain
from storage.audit_tables import audit_seals
from storage.tables import audit_events
from tests.databases import migrated


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command line on a node of its own; return status and what it printed."""
    config = tmp_path / "node.toml"
    config.write_text("[node]\n")

    def call(*words: str) -> tuple[int, str]:
        status = main(["--config", str(config), "audit", *words])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


@pytest.fixture
def database(tmp_path):
    """The database of that node, with three sealed entries."""
    opened = migrated(f"sqlite:///{tmp_path / 'var' / 'cxr-node.db'}")
    for number in range(3):
        with opened.begin() as connection:
            audit.record(connection, "study_read", actor="ann", now=utc_now(), detail={"n": number})
            audit_chain.seal(connection, now=utc_now())
    yield opened
    opened.dispose()


def tamper(database, *statements):
    with database.begin() as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.requirement("SRS-AUD-007")
def test_a_whole_trail_is_said_to_be_whole_and_where_it_ends(run, database):
    """With the limits of what that says."""
    with database.begin() as connection:
        audit.record(connection, "study_read", actor="ann", now=utc_now())
    status, told = run("verify")
    assert status == 0
    assert "3 entries under 4 seals." in told
    assert "1 entries are not sealed yet" in told
    assert "Whole. Its end: seal 3, " in told
    assert "shows only with --head" in told


@pytest.mark.requirement("SRS-AUD-007")
def test_a_broken_trail_ends_in_a_failure_and_names_the_entry(run, database):
    """A nightly job of the site must notice."""
    tamper(database, update(audit_events).where(audit_events.c.id == 2).values(actor="bob"))
    status, told = run("verify")
    assert status == 1
    assert "BROKEN  entry 2 (seal 2): was altered" in told
    assert "Whole up to the seal of 20" in told
    assert "Whole. " not in told


@pytest.mark.requirement("SRS-AUD-004")
def test_a_digest_that_was_kept_elsewhere_shows_a_trail_without_its_end(run, database):
    """What is left verifies; only the digest tells."""
    with database.begin() as connection:
        audit.record(connection, "study_read", actor="ann", now=utc_now())
    status, told = run("head")
    digest = told.split()[0]
    assert (status, len(digest), "seal 4" in told) == (0, 64, True), "what is new was sealed first"
    assert run("verify", "--head", digest.upper())[0] == 0
    newest = audit_events.c.seal == 4
    tamper(database, delete(audit_events).where(newest), delete(audit_seals).where(audit_seals.c.number == 4))
    assert run("verify")[0] == 0
    status, told = run("verify", "--head", digest)
    assert (status, f"BROKEN  no seal has the digest {digest}" in told) == (1, True)


@pytest.mark.requirement("SRS-AUD-006")
def test_the_beginning_is_moved_to_a_file_and_the_rest_verifies(run, database, tmp_path):
    """Nothing else ever takes entries away."""
    archive = tmp_path / "2026.jsonl"
    status, told = run("cut", "--before", "2020-01-01", "--to", str(archive))
    assert (status, "nothing was sealed before" in told, archive.exists()) == (0, True, False)
    status, told = run("cut", "--before", "2999-01-01", "--to", str(archive))
    assert status == 0, told
    *entries, last = [json.loads(line) for line in archive.read_text().splitlines()]
    assert [json.loads(item["detail"])["n"] for item in entries] == [0, 1]
    assert last["cut"]["seal"] == 2
    assert archive.stat().st_mode & 0o077 == 0
    status, told = run("verify")
    assert (status, "The beginning was cut off: the first seal that is left is number 3." in told) == (0, True)
    with database.read() as connection:
        (newest,) = audit.events(connection, limit=1)
    assert (newest.event, newest.actor, newest.detail["entries"]) == ("audit_trail_cut", "command line", 2)


@pytest.mark.requirement("SRS-AUD-006")
def test_nothing_is_cut_off_a_broken_trail_or_without_its_file(run, database, tmp_path):
    """A cut would hide what was done."""
    taken = tmp_path / "there"
    taken.write_text("")
    status, told = run("cut", "--before", "2999-01-01", "--to", str(taken))
    assert (status, "expected a file that is not there yet" in told) == (1, True)
    tamper(database, update(audit_events).where(audit_events.c.id == 2).values(actor="bob"))
    status, told = run("cut", "--before", "2999-01-01", "--to", str(tmp_path / "new"))
    assert (status, "is not whole" in told) == (1, True)
    with database.read() as connection:
        assert len(audit.events(connection)) == 3
