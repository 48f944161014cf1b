"""What a file is by its first bytes, and what a zip holds: unpacked in a stream, under limits, by names of our own."""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ZIP = "a zip file"
# Formats that people drop and that are no image here, by (offset, bytes).
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftyp", "a video or a HEIC picture"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"<", "a web page or an XML file"),
    (0, b"{", "a JSON file"),
)
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

LARGEST_DIRECTORY = 4 << 20  # of a zip, in bytes: some 50,000 entries
LARGEST_RATIO = 200  # no radiograph is packed so small, but for a blank one
RATIO_FROM = 8 << 20  # below this size a ratio says nothing
_CHUNK = 1 << 20
_OPENED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What the library raises for a file that is no zip, or lies about itself.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    OverflowError,
)


def sniff(path: Path) -> str:
    """Return in words what the file is where it is no image; empty where it may be one. The name is not asked."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return ""
    if start.startswith(_ZIP_STARTS):
        return ZIP
    return next((words for at, sign, words in _OTHERS if start[at : at + len(sign)] == sign), "")


def is_hidden(name: str) -> bool:
    """Whether it is what a file manager leaves beside the files: nobody meant to drop it."""
    parts = name.replace("\\", "/").split("/")
    return parts[-1].startswith(".") or "__MACOSX" in parts or parts[-1] in ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Entry:
    """One file of a zip: written to `path`, or with the reason why not."""

    name: str
    path: Path | None = None
    size: int = 0
    reason: str = ""


class _Bounded:
    """A file that gives no more than `LARGEST_DIRECTORY` at once: the library reads the whole directory of a zip."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.close = file.tell, file.close

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < 0:  # where an entry says that it begins
            raise zipfile.BadZipFile("an entry outside the file")
        return self._file.seek(offset, whence)

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too large")
        return self._file.read(LARGEST_DIRECTORY if size < 0 else size)


def unpack(source: Path, new_path: Callable[[], Path], *, most_files: int, most_bytes: int) -> Iterator[Entry]:
    """Yield every file of a zip, written to a path of its own.

    Whatever the zip says of itself: not more than `most_files` and, in all, `most_bytes` are written, and no name of
    it is part of a path. Links, encrypted entries, zips within and what is packed too small are told and left out.
    """
    try:
        with source.open("rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:  # type: ignore[call-overload]
            yield from _entries(archive, new_path, most_files, most_bytes)
    except _BROKEN as error:
        too_large = "directory" in str(error)
        yield Entry("", reason="the zip lists too many entries" if too_large else "the zip is damaged or cut off")


def _entries(
    archive: zipfile.ZipFile, new_path: Callable[[], Path], most_files: int, most_bytes: int
) -> Iterator[Entry]:
    listed = [info for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
    if not listed:
        yield Entry("", reason="the zip holds no file")
    left = most_bytes
    for number, info in enumerate(listed):
        if number >= most_files:
            yield Entry("", reason=f"{len(listed) - number} more files of the zip are not looked at: too many")
            return
        entry = _unpacked(archive, info, new_path, left)
        left -= entry.size
        yield entry


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, new_path: Callable[[], Path], left: int) -> Entry:
    objection = _objection(info)
    if objection:
        return Entry(info.filename, reason=objection)
    path = new_path()
    try:
        size = _write(archive, info, path, left)
        found = sniff(path)
    except _BROKEN:
        path.unlink(missing_ok=True)
        return Entry(info.filename, reason="damaged in the zip: its checksum does not hold, or it is cut off")
    except _Refused as refusal:
        path.unlink(missing_ok=True)
        return Entry(info.filename, reason=str(refusal))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if found == ZIP:
        path.unlink(missing_ok=True)
        return Entry(info.filename, reason="a zip within a zip is not opened")
    return Entry(info.filename, path, size)


def _objection(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x1:
        return "encrypted in the zip; send it without a password"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link in the zip, not a file"
    if info.compress_type not in _OPENED:
        return "packed in the zip by a method that is not opened here"
    return ""


class _Refused(Exception):
    """It would be too large; the message says so."""


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Write one entry and return its size, counted as it comes: what the zip states may be a lie."""
    size = 0
    with archive.open(info) as packed, path.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            if size > left:
                raise _Refused("too large: more than the upload may hold together")
            if size > RATIO_FROM and size > LARGEST_RATIO * max(1, info.compress_size):
                raise _Refused(f"packed more than {LARGEST_RATIO}-fold: no image is")
            file.write(chunk)
    return size
