"""Zips as they come from strangers: nothing they say of themselves is believed, and nothing of them names a path."""

import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from cxr_node.worklist.web.drop import unpack as unpack_module
from cxr_node.worklist.web.drop.unpack import ZIP, is_hidden, sniff, unpack

pytestmark = pytest.mark.requirement("SRS-DRP-003")

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def opened(tmp_path):
    """Return a function that unpacks bytes into a folder of its own, and what it wrote."""
    (tmp_path / "out").mkdir()
    numbers = iter(range(10**6))

    def opened_zip(data: bytes, most_files: int = 100, most_bytes: int = 10**8):
        source = tmp_path / "in.zip"
        source.write_bytes(data)
        return list(
            unpack(
                source,
                lambda: tmp_path / "out" / str(next(numbers)),
                most_files=most_files,
                most_bytes=most_bytes,
            )
        )

    return opened_zip


def written(tmp_path: Path) -> list[Path]:
    return sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != "in.zip")


def test_files_come_out_as_they_went_in(opened):
    """Stored and deflated; folders are no files."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (entry,) = opened(make_zip({"folder/": b"", "folder/a.png": PNG}, method))
        assert (entry.name, entry.size, entry.reason) == ("folder/a.png", len(PNG), "")
        assert entry.path.read_bytes() == PNG


@pytest.mark.requirement("SRS-DRP-002")
@pytest.mark.parametrize(
    "name", ["../../../etc/cron.d/x", "/etc/passwd", "C:\\Windows\\x", "a\0b", "a/../b", "x" * 5000, "\u202egnp.exe"]
)
def test_a_name_in_a_zip_is_no_path(opened, tmp_path, name):
    """What is written lies in the folder that was given, under a name that was given."""
    (entry,) = opened(make_zip({name: PNG}))
    assert entry.path.parent == tmp_path / "out"
    assert written(tmp_path) == [entry.path]


def test_what_a_file_manager_left_is_passed_over(opened):
    """Nobody meant to drop it."""
    found = opened(make_zip({"__MACOSX/._a.png": b"1", ".DS_Store": b"2", "sub/Thumbs.db": b"3", "a.png": PNG}))
    assert [entry.name for entry in found] == ["a.png"]
    assert not is_hidden("folder.d/a.png")


def test_a_bomb_is_given_up_early(opened, tmp_path):
    """100 MB of zeros in 100 KB: nothing stays, and the next file of the zip has its turn."""
    bomb, other = opened(make_zip({"bomb": bytes(100 << 20), "a.png": PNG}), most_bytes=10**9)
    assert "packed more than 200-fold" in bomb.reason
    assert other.reason == ""
    assert written(tmp_path) == [other.path]


def test_a_size_that_lies_does_not_help(opened, tmp_path):
    """The zip says 1 byte in both of its headers; what comes out is counted."""
    data = bytearray(make_zip({"a": bytes(1 << 20)}, zipfile.ZIP_STORED))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(signature) + at
        data[start : start + 4] = struct.pack("<I", 1)
    (entry,) = opened(bytes(data), most_bytes=1000)
    assert entry.path is None
    assert written(tmp_path) == []


def test_the_whole_has_a_limit_too(opened, tmp_path):
    """Many files below a limit are as large as one above it."""
    found = opened(make_zip({str(number): bytes([number]) * 600 for number in range(5)}), most_bytes=1500)
    assert [bool(entry.reason) for entry in found] == [False, False, True, True, True]
    assert sum(path.stat().st_size for path in written(tmp_path)) == 1200


def test_entries_that_overlap_write_no_more_than_the_limit(opened, tmp_path):
    """D. Fifield, A better zip bomb, 2019: many entries of the directory point at one packed file."""
    data = make_zip({"a": bytes(range(256)) * 40})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    directory = b"".join(entry[:46] + bytes([65 + number % 26]) + entry[47:] for number in range(2000))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2000, 2000, len(directory), start, 0)
    opened(data[:start] + directory + tail, most_files=3000, most_bytes=100_000)
    assert sum(path.stat().st_size for path in written(tmp_path)) <= 100_000


def test_of_10_000_entries_so_many_are_looked_at_as_may_be(opened):
    """And the rest is told of in one line."""
    found = opened(make_zip({f"{number}.png": b"x" for number in range(10_000)}, zipfile.ZIP_STORED), most_files=20)
    assert len(found) == 21
    assert found[-1].reason == "9980 more files of the zip are not looked at: too many"


def test_a_directory_that_would_fill_the_memory_is_not_read(opened, monkeypatch):
    """The library reads it whole, before anybody may count."""
    monkeypatch.setattr(unpack_module, "LARGEST_DIRECTORY", 70_000)
    (told,) = opened(make_zip({f"{number:060}.png": b"" for number in range(1500)}, zipfile.ZIP_STORED))
    assert told.reason == "the zip lists too many entries"


@pytest.mark.parametrize("cut", [10, 100, 1000])
def test_a_zip_that_is_cut_off_is_told_as_such(opened, tmp_path, cut):
    """An upload that broke, or a copy."""
    data = make_zip({"a.png": PNG * 100, "b.png": PNG}, zipfile.ZIP_STORED)
    (told,) = opened(data[:-cut])
    assert told.reason == "the zip is damaged or cut off"
    assert written(tmp_path) == []


def test_a_checksum_that_does_not_hold_costs_one_file(opened, tmp_path):
    """The others are whole."""
    data = bytearray(make_zip({"a.png": PNG, "b.png": PNG}, zipfile.ZIP_STORED))
    data[data.index(PNG) + 20] ^= 1
    broken, whole = opened(bytes(data))
    assert "checksum" in broken.reason
    assert written(tmp_path) == [whole.path]


def test_links_encrypted_files_zips_and_odd_methods_are_refused_with_their_reason(opened, tmp_path):
    """Each says why it was not looked at."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("inner.png", make_zip({"a.png": PNG}))
        archive.writestr("odd", PNG, zipfile.ZIP_LZMA)
        archive.writestr("secret", PNG)
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x01\x02")
    data[at + 8] |= 1  # encrypted, in the directory
    reasons = [entry.reason for entry in opened(bytes(data))]
    assert reasons[0] == "a link in the zip, not a file"
    assert reasons[1] == "a zip within a zip is not opened"
    assert "method" in reasons[2]
    assert "encrypted" in reasons[3]
    assert written(tmp_path) == []


def test_a_zip_of_nothing_says_so(opened):
    """An empty folder was packed."""
    assert [entry.reason for entry in opened(make_zip({}))] == ["the zip holds no file"]


@pytest.mark.requirement("SRS-DRP-002")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PNG, ""),
        (b"\xff\xd8\xff\xe0rest", ""),
        (b"\0" * 128 + b"DICM", ""),
        (b"PK\x03\x04" + b"\0" * 124 + b"DICM", ""),  # a preamble may hold anything
        (make_zip({"a": b"b"}), ZIP),
        (make_zip({}), ZIP),
        (b"%PDF-1.7", "a PDF document"),
        (b"RIFF\0\0\0\0WEBP", "a WebP picture"),
        (b"II*\0", "a TIFF picture"),
        (b"\x08\0\0\0", ""),  # a dataset without preamble
    ],
)
def test_the_first_bytes_say_what_a_file_is(tmp_path, data, words):
    """The name is not asked."""
    (tmp_path / "x.png").write_bytes(data)
    assert sniff(tmp_path / "x.png") == words
