"""Bytes are durable before anybody is told of them, under names that no sender chose."""

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import InstanceFiles
from storage.errors import StorageBusy, StorageError, StorageFull

UID = "1.2.826.0.1.3680043.9.7777.1"


def received(files: InstanceFiles, data: bytes = b"instance") -> Path:
    temporary = files.new_temporary()
    temporary.write_bytes(data)
    return temporary


def everything_in(files: InstanceFiles) -> list[Path]:
    root = files.new_temporary().parent.parent
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.fixture
def calls(monkeypatch, files) -> list[str]:
    """What is asked of the operating system, in order, by the name of what it is asked for."""
    recorded: list[str] = []
    fsync, rename = os.fsync, os.rename

    def name(path: str) -> str:
        return "temporary" if path.endswith(".part") else "instance" if path.endswith(".dcm") else Path(path).name

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        recorded.append(f"fsync {name(os.readlink(f'/proc/self/fd/{descriptor}'))}")

    def recording_rename(source: Path, target: Path) -> None:
        rename(source, target)
        recorded.append(f"rename {name(str(source))} to {name(str(target))}")

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "rename", recording_rename)
    return recorded


@pytest.mark.requirement("SRS-STO-006")
def test_an_instance_is_synced_before_it_is_renamed_and_its_folder_after(files, calls):
    """Renamed first, a power cut leaves a name with no bytes; without the folder, bytes with no name."""
    location = files.keep(received(files), UID, 0)
    folder = location.split("/")[1]
    assert calls == ["fsync temporary", "fsync instances", "rename temporary to instance", f"fsync {folder}"]
    calls.clear()
    files.keep(received(files), UID, 0)  # the folder is there and durable by now
    assert calls == ["fsync temporary", "rename temporary to instance", f"fsync {folder}"]


@pytest.mark.requirement("SRS-STO-006")
def test_a_result_object_is_synced_before_it_is_renamed_and_its_folder_after(files, calls):
    """Its bytes are what is sent, and sent again, always."""
    folder = files.write_object(UID, b"object").split("/")[1]
    assert calls == ["fsync temporary", "fsync objects", "rename temporary to instance", f"fsync {folder}"]


@pytest.mark.requirement("SRS-STO-006")
def test_what_was_kept_is_read_back_by_its_location(files, tmp_path):
    """A location is relative, so a data folder can be moved."""
    location = files.keep(received(files, b"bytes as they came"), UID, 0)
    assert InstanceFiles(tmp_path / "data").read(location) == b"bytes as they came"
    assert files.path(location).is_relative_to(tmp_path / "data" / "instances")
    assert not Path(location).is_absolute()
    files.delete(location)
    files.delete(location)
    with pytest.raises(StorageError):
        files.read(location)


@pytest.mark.requirement("SRS-STO-006")
def test_no_call_puts_other_bytes_under_a_location_that_was_given_out(files):
    """Two associations may send one UID at once; the loser must not overwrite what the winner acknowledged."""
    first, second = files.keep(received(files, b"first"), UID, 0), files.keep(received(files, b"second"), UID, 0)
    assert (files.read(first), files.read(second)) == (b"first", b"second")


@pytest.mark.requirement("SRS-STO-006")
def test_many_threads_keep_at_once(files):
    """Every association is a thread, and the first images of a day meet in folders that are not there yet."""
    locations: list[str] = []

    def keep(number: int) -> None:
        locations.append(files.keep(received(files, str(number).encode()), UID, 0))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(files.read(location)) for location in locations) == list(range(16))


@pytest.mark.requirement("SRS-STO-003")
@pytest.mark.parametrize("function", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageBusy),
        (errno.EACCES, StorageError),
    ],
)
def test_a_disk_that_refuses_is_told_by_kind_and_leaves_nothing(files, monkeypatch, function, code, expected):
    """A refused image is sent again; what it left would only fill the disk further."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    temporary = received(files)
    monkeypatch.setattr(os, function, refuse)
    with pytest.raises(expected) as caught:
        files.keep(temporary, UID, 0)
    assert type(caught.value) is expected
    assert everything_in(files) == []
    with pytest.raises(expected):
        files.write_object(UID, b"object")
    assert everything_in(files) == []
    assert UID not in str(caught.value)


@pytest.mark.requirement("SRS-STO-003")
def test_a_folder_that_cannot_be_synced_takes_the_instance_back(files, monkeypatch):
    """The rename may not outlive a power cut, so the instance must not be acknowledged, nor stay."""
    files.keep(received(files), UID, 0)
    before = everything_in(files)
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "no space")
        fsync(descriptor)

    temporary = received(files)
    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.raises(StorageFull):
        files.keep(temporary, UID, 0)
    assert everything_in(files) == before


@pytest.mark.requirement("SRS-STO-007")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(uid=st.text(max_size=80))
def test_no_name_in_the_folder_was_written_by_a_sender(files, uid):
    """A UID may hold a path, or a patient's name."""
    for location in (files.keep(received(files), uid, 0), files.write_object(uid, b"object")):
        assert set(location) <= set("0123456789abcdefghijklmnopqrstuvwxyz/.-")
        assert location.count("/") == 2
        assert files.path(location).is_file()


@pytest.mark.requirement("SRS-STO-007")
@pytest.mark.parametrize(
    "location",
    ["", "/etc/passwd", "instances", "instances/../../secret", "incoming/x.part", "../instances/x", "other/x"],
)
def test_a_location_that_leads_elsewhere_is_refused(files, location):
    """Locations come from the database, which a restore or a mistake may have changed."""
    with pytest.raises(StorageError):
        files.path(location)


@pytest.mark.requirement("SRS-STO-007")
def test_folders_are_for_the_owner_only(files, tmp_path):
    """They hold images of patients."""
    location = files.keep(received(files), UID, 0)
    for folder in (tmp_path / "data" / "incoming", files.path(location).parent, files.path(location).parent.parent):
        assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.requirement("SRS-STO-008")
def test_an_object_written_again_is_the_same_file_and_other_bytes_are_another(files):
    """An attempt lost before its commit leaves a file; it must neither be overwritten nor block the next attempt."""
    first = files.write_object(UID, b"revision 1")
    assert files.write_object(UID, b"revision 1") == first
    assert files.write_object(UID, b"revision 1, later") != first
    assert files.read(first) == b"revision 1"


@pytest.mark.requirement("SRS-STO-009")
def test_sweeping_takes_what_was_abandoned_and_nothing_that_is_being_written(files):
    """A broken association leaves a part of an image; a slow one is still writing."""
    abandoned, fresh = received(files), received(files)
    location = files.keep(received(files), UID, 0)
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    for path, age_s in ((abandoned, 7200), (fresh, 60), (files.path(location), 7200)):
        os.utime(path, (now.timestamp() - age_s, now.timestamp() - age_s))
    assert files.sweep(3600, now) == 1
    assert not abandoned.exists()
    assert fresh.exists()
    assert files.path(location).exists()
    assert list(files.locations(3600, now)) == [location]
    assert list(files.locations(7300, now)) == []


@pytest.mark.requirement("SRS-STO-009")
def test_free_space_is_what_the_node_may_still_fill(files, tmp_path):
    """Intake refuses before the disk is full; root's reserve is not ours."""
    status = os.statvfs(tmp_path)
    assert files.free_bytes() == pytest.approx(status.f_bavail * status.f_frsize, rel=0.05)


@pytest.mark.requirement("SRS-STO-003")
def test_a_storage_folder_that_cannot_be_made_is_told(tmp_path):
    """Where it should be there is a file."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(StorageError, match="folders"):
        InstanceFiles(tmp_path / "data")
