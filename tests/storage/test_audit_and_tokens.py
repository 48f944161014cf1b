"""Who did what, and who may."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from storage import audit, tokens
from storage.errors import StorageError
from storage.tokens import Token

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _who(token: Token | None) -> tuple[str, str] | None:
    return None if token is None else (token.name, token.role)


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
        assert _who(tokens.find(connection, "first secret", now=NOON)) == ("viewer-1", "viewer")
        assert tokens.find(connection, "no secret", now=NOON) is None
        assert [_who(token) for token in tokens.listed(connection)] == [("admin-1", "admin"), ("viewer-1", "viewer")]
        assert tokens.revoke(connection, "viewer-1")
        assert not tokens.revoke(connection, "viewer-1")
        assert tokens.find(connection, "first secret", now=NOON) is None
        tokens.create(connection, "viewer-1", "viewer", now=NOON, secret="third secret")
        with pytest.raises(StorageError, match="viewer-1"):
            tokens.create(connection, "viewer-1", "admin", now=NOON, secret="fourth secret")
        assert _who(tokens.find(connection, "third secret", now=NOON)) == ("viewer-1", "viewer")


@pytest.mark.requirement("SRS-STO-024")
def test_a_secret_is_not_kept(database):
    """A copy of the database must open nothing."""
    with database.begin() as connection:
        tokens.create(connection, "viewer-1", "viewer", now=NOON, secret="the secret itself")
        rows = connection.execute(text("SELECT * FROM tokens")).all()
    assert "the secret itself" not in str(rows)


@pytest.mark.requirement("SRS-STO-024")
def test_a_token_that_expired_opens_nothing_but_is_still_listed(database):
    """Somebody must see why a gateway hears 401, and remove it."""
    with database.begin() as connection:
        later = NOON + timedelta(days=30)
        tokens.create(connection, "gateway", "service", now=NOON, secret="a secret", created_by="ada", expires_at=later)
        assert _who(tokens.find(connection, "a secret", now=later - timedelta(seconds=1))) == ("gateway", "service")
        assert tokens.find(connection, "a secret", now=later) is None
        (token,) = tokens.listed(connection)
    assert (token.created_by, token.expires_at, token.last_used_at) == ("ada", later, None)


@pytest.mark.requirement("SRS-STO-024")
def test_the_last_use_of_a_token_is_kept_without_a_write_for_each_request(database):
    """Whether anybody still uses it decides whether it may go."""
    with database.begin() as connection:
        token = tokens.create(connection, "gateway", "service", now=NOON, secret="a secret")
        assert tokens.is_due(token, NOON)
        tokens.used(connection, token, now=NOON)
        token = tokens.get(connection, token.id)
        assert token is not None
        assert token.last_used_at == NOON
    assert not tokens.is_due(token, NOON + timedelta(minutes=9))
    assert tokens.is_due(token, NOON + timedelta(minutes=10))
