"""A dataset's header: every attribute before the pixels, read without touching them."""

import errno
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr_node.errors import UnreadableDataset

PIXEL_DATA = 0x7FE00010
PIXELS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
UNDEFINED_LENGTH = 0xFFFFFFFF

_ITEM, _SEQUENCE_DELIMITATION_ITEM = 0xFFFEE000, 0xFFFEE0DD
_LARGEST_INFLATED_HEADER = 64 << 20  # a few KB of deflate can inflate to gigabytes
# Whether a deflated dataset is whole is found out up to this size; no chest image is larger.
_LARGEST_INFLATED = 256 << 20
_CHUNK = 1 << 20

# What the library raises on bytes that are no element, or no value of their VR.
_UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    NotImplementedError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class PixelPlace:
    """Where the value of Pixel Data lies: `length` bytes from `start` of the file, or of `inflated` where the dataset
    is deflated. `is_whole` is False where it inflates to more than was kept."""

    vr: str
    start: int
    length: int
    inflated: bytes | None = None
    is_whole: bool = True


@dataclass(frozen=True)
class Read:
    """What one reading of a file finds: the header as it was sent, every value untouched, and where the pixels lie."""

    header: Dataset
    pixels: PixelPlace | None


def read_header(path: Path) -> Dataset:
    """Read the attributes before Pixel Data, in any transfer syntax, with or without preamble and group 2.

    Every attribute of what is returned converts to a value: one whose bytes contradict its VR is left out, as if it
    had not been sent. Bytes that a character set cannot decode are replaced.

    Raises
    ------
    UnreadableDataset
        The bytes are no DICOM dataset, or end in the middle of an element; the pixels count, though they are not read.
    OSError
        The file cannot be read.

    Source: DICOM PS3.10 7, PS3.5 7 and A.4.
    """
    header = read_whole_header(path).header
    leave_out_unconvertible(header)
    if not len(header):
        raise UnreadableDataset("expected a DICOM dataset, found no element")
    return header


def read_whole_header(path: Path, *, keeps_pixels: bool = False) -> Read:
    """As `read_header`, with every attribute as it was sent, and where the pixels lie.

    Parameters
    ----------
    keeps_pixels : keep what a deflated dataset inflates to, up to 256 MiB
    """
    try:
        with path.open("rb") as file:
            return _read(file, keeps_pixels)
    except _UNREADABLE as error:
        raise UnreadableDataset(
            f"expected a DICOM dataset, found bytes that do not read ({type(error).__name__})"
        ) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # The library's own, for a sequence that ends after the last byte, or told to seek before the first one.
        raise UnreadableDataset("a sequence ends after the dataset's last byte") from error


def _read(file: BinaryIO, keeps_pixels: bool) -> Read:
    meta = read_partial(file, lambda *_: True, force=True).file_meta
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        # The library inflates the whole dataset to reach its first element: what this may cost is bounded here.
        file.seek(0)
        return _read_deflated(file, meta, keeps_pixels)
    file.seek(0)
    watch = _Watch(file, os.fstat(file.fileno()).st_size)
    header = read_partial(file, watch, force=True)
    watch.check(header)
    return Read(header, watch.pixels)


class _Watch:
    """Sees the head of every top-level element before its value is read, and stops at the pixels."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file = file
        self._end = end
        self._last = 0
        self.pixels: PixelPlace | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        self._last = int(tag)
        start = self._file.tell()
        if length != UNDEFINED_LENGTH:
            if start + length > self._end:
                raise UnreadableDataset(f"({tag.group:04X},{tag.element:04X}) ends after the dataset's last byte")
        elif tag in PIXELS:
            self._check_fragments()
            length = self._file.tell() - start
        if tag == PIXEL_DATA:
            self.pixels = PixelPlace(vr or "OW", start, length)
        return tag in PIXELS

    def check(self, header: Dataset) -> None:
        """A sequence of undefined length that the bytes end in is dropped by the library, with a warning."""
        if self._last and self._last not in PIXELS and self._last not in header:
            raise UnreadableDataset("a sequence ends after the dataset's last byte")

    def _check_fragments(self) -> None:
        while len(head := self._file.read(8)) == 8:
            group, element, length = struct.unpack("<HHL", head)
            if group << 16 | element == _SEQUENCE_DELIMITATION_ITEM:
                return
            if group << 16 | element != _ITEM or self._file.tell() + length > self._end:
                raise UnreadableDataset("the fragments of Pixel Data end after the dataset's last byte")
            self._file.seek(length, os.SEEK_CUR)
        # The last delimitation item is left out by some senders; every fragment is here.


def _read_deflated(file: BinaryIO, meta: FileMetaDataset, keeps_pixels: bool) -> Read:
    most = _LARGEST_INFLATED if keeps_pixels else _LARGEST_INFLATED_HEADER
    file.seek(_after_meta(file))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    head, size = BytesIO(), 0
    waiting = b""
    while not inflater.eof and size <= _LARGEST_INFLATED:
        waiting = waiting or file.read(_CHUNK)
        if not waiting:
            raise UnreadableDataset("the deflated dataset ends before its end is told")
        out = inflater.decompress(waiting, _CHUNK)
        waiting = inflater.unconsumed_tail
        size += len(out)
        if head.tell() < most:
            head.write(out)
    kept = head.tell()
    head.seek(0)
    found: PixelPlace | None = None
    stopped = False

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal stopped, found
        stopped = tag in PIXELS
        if tag == PIXEL_DATA:
            start = head.tell()
            is_whole = size == kept and length != UNDEFINED_LENGTH and start + length <= kept
            found = PixelPlace(vr or "OB", start, length, head.getvalue() if keeps_pixels else None, is_whole)
        return stopped

    header = read_dataset(head, False, True, stop_when=at_pixels)
    if not stopped and kept >= _LARGEST_INFLATED_HEADER:
        raise UnreadableDataset("the attributes before the pixels inflate to more than 64 MiB")
    header.file_meta = meta
    return Read(header, found)


def _after_meta(file: BinaryIO) -> int:
    """Return where the dataset starts: File Meta Information Group Length says so. Source: PS3.10 7.1."""
    file.seek(132)
    head = file.read(12)
    if head[:4] != b"\x02\x00\x00\x00" or head[4:8] != b"UL\x04\x00":
        raise UnreadableDataset("a deflated dataset without File Meta Information Group Length")
    return 144 + int(struct.unpack_from("<L", head, 8)[0])


def leave_out_unconvertible(dataset: Dataset) -> None:
    """Convert every value, and delete what does not convert."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            values = element.value if element.VM > 1 or element.VR == "SQ" else [element.value]
            if element.VR == "SQ":
                for item in values:
                    leave_out_unconvertible(item)
            elif element.VR in ("DS", "IS") and any(type(value) is str and value for value in values):
                del dataset[tag]  # the library keeps the text of a number that is none
        except (*_UNREADABLE, OSError):  # the bytes are in memory: the library's own, for a sequence that ends early
            del dataset[tag]
