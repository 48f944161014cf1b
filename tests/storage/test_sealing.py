"""What lies on the disk is unreadable without the key, and nothing that was altered is ever given out."""

import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import InstanceFiles
from storage.errors import BytesAltered, StorageError
from storage.files import open_files
from storage.keys import KeyFile, add_key, make_current
from storage.sealing import CHUNK_BYTES, HEADER_BYTES

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
UID = "1.2.826.0.1.3680043.9.7777.1"
NAME = b"Doe^Jane"


@pytest.fixture
def key_path(tmp_path) -> Path:
    add_key(tmp_path / "keys.json", now=NOON)
    return tmp_path / "keys.json"


@pytest.fixture
def sealed(tmp_path, key_path) -> InstanceFiles:
    return InstanceFiles(tmp_path / "data", keys=KeyFile(key_path))


def keep(files: InstanceFiles, data: bytes) -> str:
    temporary = files.new_temporary()
    temporary.write_bytes(data)
    return files.keep(temporary, UID, 0)


def on_disk(files: InstanceFiles, location: str) -> Path:
    path = files.store.path(location)
    assert path is not None
    return path


def everything_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.requirement("SRS-STO-303")
@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_sealed_bytes_come_back_as_they_came(sealed, size):
    """At the edges of a chunk above all."""
    data = os.urandom(size)
    location = keep(sealed, data)
    assert sealed.read(location) == data
    assert sealed.size(location) == size
    with sealed.local(location) as path:
        assert path.read_bytes() == data
        assert path.stat().st_size == size
    assert sealed.read(sealed.write_object(UID, data)) == data


@pytest.mark.requirement("SRS-STO-303")
def test_no_file_of_the_folder_holds_what_was_kept(sealed, tmp_path):
    """Neither the instance, nor the file it was received into, nor what a reader is lent."""
    location = keep(sealed, b"\0" * 200 + NAME)
    sealed.write_object(UID, b"report of " + NAME)
    with sealed.local(location) as path:
        assert NAME in path.read_bytes()
        assert len(everything_in(tmp_path / "data")) == 2
        for file in everything_in(tmp_path / "data"):
            assert NAME not in file.read_bytes()


@pytest.mark.requirement("SRS-STO-304")
@pytest.mark.parametrize("place", ["header", "key", "size", "chunk", "tag", "last", "cut", "longer", "empty", "plain"])
def test_an_altered_file_is_told_and_nothing_of_it_is_given(sealed, place):
    """Whoever writes to the disk must not be able to change what a radiologist sees."""
    location = keep(sealed, b"x" * (CHUNK_BYTES + 100))
    path = on_disk(sealed, location)
    data = bytearray(path.read_bytes())
    at = {"header": 3, "key": 60, "size": 110, "chunk": HEADER_BYTES, "tag": HEADER_BYTES + CHUNK_BYTES, "last": -20}
    if place in at:
        data[at[place]] ^= 1
    elif place == "cut":
        del data[HEADER_BYTES + CHUNK_BYTES + 16 :]
    elif place == "longer":
        data += b"x"
    elif place == "empty":
        data.clear()
    else:
        data[:] = b"\0" * 128 + b"DICM"
    path.write_bytes(data)
    with pytest.raises(BytesAltered, match=location):
        sealed.read(location)
    with pytest.raises(BytesAltered), sealed.local(location):
        pytest.fail("it was lent")


@pytest.mark.requirement("SRS-STO-304")
def test_a_file_in_the_place_of_another_does_not_open(sealed):
    """One patient's image under another's name is the worst that could be made of two good files."""
    one, other = keep(sealed, b"one"), keep(sealed, b"two")
    on_disk(sealed, one).write_bytes(on_disk(sealed, other).read_bytes())
    with pytest.raises(BytesAltered):
        sealed.read(one)


@pytest.mark.requirement("SRS-STO-304")
def test_chunks_cannot_be_swapped(sealed):
    """Each is authentic by itself; its place is part of that."""
    location = keep(sealed, b"a" * CHUNK_BYTES + b"b" * CHUNK_BYTES + b"c")
    path, step = on_disk(sealed, location), CHUNK_BYTES + 16
    data = path.read_bytes()
    head, first, second, rest = (
        data[:HEADER_BYTES],
        data[HEADER_BYTES : HEADER_BYTES + step],
        data[HEADER_BYTES + step : HEADER_BYTES + 2 * step],
        data[HEADER_BYTES + 2 * step :],
    )
    path.write_bytes(head + second + first + rest)
    with pytest.raises(BytesAltered):
        sealed.read(location)


@pytest.mark.requirement("SRS-STO-305")
def test_a_missing_key_is_named_with_the_file(sealed, tmp_path):
    """Whoever restored the wrong key file must be told which one is needed."""
    location = keep(sealed, b"x")
    key_id = sealed.header(location).key_id
    add_key(tmp_path / "other.json", now=NOON)
    other = InstanceFiles(tmp_path / "data", keys=KeyFile(tmp_path / "other.json"))
    with pytest.raises(StorageError) as caught:
        other.read(location)
    assert key_id in str(caught.value)
    assert str(tmp_path / "other.json") in str(caught.value)
    assert location in str(caught.value)
    with pytest.raises(StorageError, match="encryption_key_file is not set"):
        InstanceFiles(tmp_path / "data").read(location)


@pytest.mark.requirement("SRS-STO-305")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_may_read_is_refused(key_path, mode):
    """Then it is no secret."""
    key_path.chmod(mode)
    with pytest.raises(StorageError, match=rf"{mode:o}, expected 600"):
        KeyFile(key_path)


@pytest.mark.requirement("SRS-STO-305")
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "current": "k", "keys": {}}'])
def test_a_file_that_is_no_key_file_is_refused_with_its_name(tmp_path, text):
    """At the start, not at the first image."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(StorageError, match=str(path)):
        open_files(tmp_path, "", tmp_path / "data", path)


@pytest.mark.requirement("SRS-STO-305")
def test_a_key_file_is_made_for_its_owner_alone(key_path):
    """From its first moment on."""
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600


@pytest.mark.requirement("SRS-STO-306")
def test_plain_files_of_before_are_read_beside_sealed_ones(sealed, tmp_path):
    """Encryption is switched on in a node that has images."""
    plain = InstanceFiles(tmp_path / "data")
    old, new = keep(plain, b"old"), keep(sealed, b"new")
    assert (sealed.read(old), sealed.read(new), sealed.size(old)) == (b"old", b"new", 3)
    assert plain.write_object(UID, b"report") != sealed.write_object(UID, b"report")


@pytest.mark.requirement("SRS-STO-306")
def test_a_sender_cannot_pass_a_plain_file_for_a_sealed_one(tmp_path):
    """The first 128 bytes of a DICOM file are its sender's."""
    files = InstanceFiles(tmp_path / "data")
    data = b"CXRSEAL1" + b"k" * 300
    assert files.read(keep(files, data)) == data


@pytest.mark.requirement("SRS-STO-307")
def test_rotation_wraps_every_file_anew_while_others_read_and_write(sealed, key_path, tmp_path):
    """The node goes on; what was sealed with the old key needs it no longer."""
    locations = [keep(sealed, f"image {number}".encode()) for number in range(30)]
    old, stop, seen = sealed.header(locations[0]).key_id, threading.Event(), []
    new = add_key(key_path, now=NOON)
    assert sealed.header(keep(sealed, b"x")).key_id == old, "a key that hosts may not have yet is not used"

    def read_on() -> None:
        while not stop.is_set():
            for number, location in enumerate(locations):
                seen.append(sealed.read(location) == f"image {number}".encode())
            keep(sealed, b"arrives")

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        make_current(key_path, new)
        other = InstanceFiles(tmp_path / "data", keys=KeyFile(key_path))
        for location in list(other.sealed_locations()):
            other.rewrap(location)
    finally:
        stop.set()
        reader.join()
    assert seen
    assert all(seen)
    # One that was being sealed when the key changed is for the next run, which leaves the others alone.
    again = [location for location in other.sealed_locations() if other.rewrap(location)]
    assert len(again) <= 1
    assert {sealed.header(location).key_id for location in sealed.sealed_locations()} == {new}
    assert [sealed.read(location) for location in locations] == [f"image {number}".encode() for number in range(30)]


@pytest.mark.requirement("SRS-STO-307")
def test_rotation_never_changes_a_file_in_place(sealed, key_path):
    """A backup may hold it by a hard link, and a header written half would cost the image."""
    location = keep(sealed, b"x")
    path = on_disk(sealed, location)
    linked = path.with_name("linked")
    os.link(path, linked)
    before, changed_at = linked.read_bytes(), path.stat().st_mtime_ns
    make_current(key_path, add_key(key_path, now=NOON))
    assert sealed.rewrap(location)
    assert linked.read_bytes() == before
    assert path.stat().st_mtime_ns == pytest.approx(changed_at, abs=1000)
    linked.unlink()


@pytest.mark.requirement("SRS-STO-307")
def test_two_who_add_a_key_at_once_lose_none(key_path):
    """A key that files were sealed with and that is overwritten would cost all of them."""
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(add_key(key_path, now=NOON))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made) <= set(KeyFile(key_path).made_at())
    assert len(set(made)) == 8


@pytest.mark.requirement("SRS-STO-303")
def test_an_instance_taken_back_is_in_the_spool_as_it_came(sealed):
    """Another association stored the same UID meanwhile; this file is looked at anew."""
    location, temporary = keep(sealed, b"as it came"), sealed.new_temporary()
    sealed.take_back(location, temporary)
    assert temporary.read_bytes() == b"as it came"
    assert not sealed.exists(location)


@pytest.mark.requirement("SRS-STO-303")
@pytest.mark.parametrize("is_sealed", [False, True])
def test_incoming_may_be_a_file_system_of_its_own(tmp_path, key_path, monkeypatch, is_sealed):
    """On a tmpfs no plain byte of a patient's image ever touches the disk."""
    files = InstanceFiles(tmp_path / "data", keys=KeyFile(key_path) if is_sealed else None)
    rename, incoming = os.rename, str(tmp_path / "data" / "incoming")

    def other_file_system(source, target):
        if str(source).startswith(incoming) != str(target).startswith(incoming):
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", other_file_system)
    location = keep(files, b"image")
    assert files.read(location) == b"image"
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
    back = files.new_temporary()
    files.take_back(location, back)
    assert back.read_bytes() == b"image"
    assert not files.exists(location)
    assert list((tmp_path / "data" / "staging").iterdir()) == []
