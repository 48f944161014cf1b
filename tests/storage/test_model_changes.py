"""What is to run: node.toml, overruled by the newest decision about each name."""

from datetime import UTC, datetime

import pytest

from storage import model_changes
from storage.errors import StorageError
from storage.model_changes import Chosen

pytestmark = pytest.mark.requirement("SRS-ADM-204")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def decide(database, name, state, digest="d" * 64):
    with database.begin() as connection:
        model_changes.add(connection, name, state, digest=digest, changed_by="r.admin", now=NOON)


def effective(database):
    with database.read() as connection:
        return model_changes.effective(connection, ["adult", "child"], ["next"])


def test_without_a_decision_the_file_counts(database):
    """A fresh node runs what it was configured to."""
    found = effective(database)
    assert (found.active, found.shadow, found.basis) == ((Chosen("adult"), Chosen("child")), (Chosen("next"),), 0)


def test_the_newest_decision_about_a_name_counts_and_binds_the_digest(database):
    """Confirmed was that package, not whatever may lie there tomorrow; of a shadow nothing is reported."""
    decide(database, "next", "active", "e" * 64)
    decide(database, "adult", "off")
    decide(database, "adult", "shadow")
    decide(database, "other", "shadow")
    found = effective(database)
    assert found.active == (Chosen("child"), Chosen("next", "e" * 64))
    assert found.shadow == (Chosen("adult"), Chosen("other"))
    assert found.basis == 4


def test_a_decision_is_taken_back_to_the_file(database):
    """The way back needs no text editor."""
    decide(database, "adult", "off")
    decide(database, "adult", "file")
    assert effective(database).active == (Chosen("adult"), Chosen("child"))
    with database.read() as connection:
        assert [item.state for item in model_changes.history(connection, name="adult")] == ["file", "off"]


def test_no_other_state_is_kept(database):
    """A word that no stage knows would run nothing, silently."""
    with pytest.raises(StorageError, match="expected one of active, shadow, off, file"), database.begin() as connection:
        model_changes.add(connection, "adult", "on", changed_by="x", now=NOON)


def test_whoever_decides_sees_the_newest_decision(database):
    """Two admins confirm at once: the second must find that something changed."""
    decide(database, "adult", "off")
    with database.begin() as connection:
        assert model_changes.basis(connection, lock=True) == 1
