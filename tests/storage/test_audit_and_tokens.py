"""Who did what, and who may."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from storage import audit, tokens
from storage.errors import StorageError
from storage.tokens import Token

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.requirement("SRS-STO-023")
def test_the_audit_trail_is_read_newest_first_and_by_study(database):
    """A person asks what happened to one study, or what happened last."""
    with database.begin() as connection:
        for number, study in enumerate(("1.2", "9.9", "1.2", "")):
            audit.record(connection, f"event_{number}", actor="analyze", now=NOON, study_instance_uid=study)
        audit.record(connection, "viewed", actor="dr.roe", now=NOON, study_instance_uid="1.2", detail={"page": 1})
    with database.read() as connection:
        assert [event.event for event in audit.events(connection, limit=2)] == ["viewed", "event_3"]
        of_study = audit.events(connection, study_instance_uid="1.2")
    assert [event.event for event in of_study] == ["viewed", "event_2", "event_0"]
    assert (of_study[0].actor, of_study[0].detail, of_study[0].created_at) == ("dr.roe", {"page": 1}, NOON)
    assert of_study[1].detail == {}


@pytest.mark.requirement("SRS-STO-024")
def test_a_token_is_found_by_its_secret_until_it_is_revoked(database):
    """A secret that leaked must stop working at once."""
    with database.begin() as connection:
        tokens.create(connection, "viewer-1", "viewer", now=NOON, secret="first secret")
        tokens.create(connection, "admin-1", "admin", now=NOON, secret="second secret")
        assert tokens.find(connection, "first secret") == Token("viewer-1", "viewer")
        assert tokens.find(connection, "no secret") is None
        assert tokens.listed(connection) == [Token("admin-1", "admin"), Token("viewer-1", "viewer")]
        assert tokens.revoke(connection, "viewer-1")
        assert not tokens.revoke(connection, "viewer-1")
        assert tokens.find(connection, "first secret") is None
        tokens.create(connection, "viewer-1", "viewer", now=NOON, secret="third secret")
        with pytest.raises(StorageError, match="viewer-1"):
            tokens.create(connection, "viewer-1", "admin", now=NOON, secret="fourth secret")
        assert tokens.find(connection, "third secret") == Token("viewer-1", "viewer")


@pytest.mark.requirement("SRS-STO-024")
def test_a_secret_is_not_kept(database):
    """A copy of the database must open nothing."""
    with database.begin() as connection:
        tokens.create(connection, "viewer-1", "viewer", now=NOON, secret="the secret itself")
        rows = connection.execute(text("SELECT * FROM tokens")).all()
    assert "the secret itself" not in str(rows)
