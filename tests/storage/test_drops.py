"""Rows and files of what somebody tries."""

from datetime import UTC, datetime, timedelta

import pytest

from storage import drops
from storage.drops import DropFolder
from storage.errors import StorageError

pytestmark = pytest.mark.requirement("SRS-DRP-004")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def open_drop(connection, owner: str = "session:me", minutes: float = 15.0):
    return drops.add(
        connection,
        owner=owner,
        purpose="try",
        options={"population": ""},
        now=NOON,
        expires_at=NOON + timedelta(minutes=minutes),
    )


def test_a_key_is_random_and_ends_with_its_time(database):
    """Who does not know it cannot guess it; who knows it too late gets nothing."""
    with database.begin() as connection:
        drop, other = open_drop(connection), open_drop(connection)
    assert drop.key != other.key
    assert len(drop.key) == 22  # 128 bits
    with database.read() as connection:
        assert drops.find(connection, drop.key, now=NOON) == drop
        assert drops.find(connection, drop.key, now=NOON + timedelta(minutes=15)) is None
        assert drops.find(connection, "x" * 22, now=NOON) is None
        assert [item.id for item in drops.of_owner(connection, "session:me")] == [drop.id, other.id]


def test_a_file_is_settled_and_counted(database):
    """Its result appears with its state."""
    with database.begin() as connection:
        drop = open_drop(connection)
        file = drops.add_file(
            connection, drop.id, name="a.png", state=drops.WAITING, now=NOON, location="f" * 32, size=7
        )
        assert drops.settle(connection, file.id, state=drops.DONE, now=NOON, result={"outcome": "flagged"})
        assert not drops.settle(connection, file.id + 1, state=drops.DONE, now=NOON)
    with database.read() as connection:
        assert drops.used(connection, drop.id) == (1, 7)
        assert drops.get_file(connection, file.id)[1].result == {"outcome": "flagged"}
        assert drops.locations(connection) == {"f" * 32}


def test_removing_a_drop_removes_its_files_and_tells_their_locations(database):
    """The bytes are deleted once this is committed."""
    with database.begin() as connection:
        drop, other = open_drop(connection), open_drop(connection)
        for number, of in enumerate((drop, drop, other)):
            drops.add_file(connection, of.id, name="a", state=drops.WAITING, now=NOON, location=str(number) * 32)
        drops.add_file(connection, drop.id, name="refused", state=drops.REFUSED, now=NOON, reason="a zip")
    with database.begin() as connection:
        assert sorted(drops.remove(connection, drop.id)) == ["0" * 32, "1" * 32]
    with database.read() as connection:
        assert drops.locations(connection) == {"2" * 32}
        assert drops.expired(connection, now=NOON + timedelta(hours=1), limit=9) == [other]


@pytest.mark.parametrize("location", ["", "../../etc/passwd", "a" * 31, "a" * 31 + "/", "é" * 32])
def test_a_location_that_was_not_made_here_is_no_path(tmp_path, location):
    """A row that was tampered with leads nowhere."""
    with pytest.raises(StorageError):
        DropFolder(tmp_path).path(location)


def test_a_folder_is_its_owners_alone_and_deletes_previews_too(tmp_path):
    """They are images of patients."""
    folder = DropFolder(tmp_path / "drops")
    location = folder.new()
    folder.path(location).write_bytes(b"x")
    folder.preview(location).write_bytes(b"y")
    assert folder.root.stat().st_mode & 0o777 == 0o700
    folder.delete([location, folder.new()])
    assert list(folder.root.iterdir()) == []
