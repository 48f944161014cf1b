"""Whether an object that came is one that is stored: what a sender sends twice is one instance."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRBigEndian

from cxr_node.imaging import read_header
from cxr_node.imaging.description import UNCONVERTIBLE

# What compression changes in a header (PS3.5 8.2): not a difference when an object comes in another transfer syntax.
_OF_ENCODING = frozenset({0x00080005, 0x00280006, 0x00282110, 0x00282112, 0x00282114})
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_CHUNK = 1 << 20


def is_same(header: Dataset, path: Path, stored_path: Path, *, has_same_syntax: bool) -> bool:
    """Whether the stored file is this object: the same dataset, or an equal one in another encoding.

    Raises
    ------
    UnreadableDataset, OSError
        The stored file does not read.
    """
    if has_same_syntax and _have_same_bytes(path, stored_path):
        return True
    if not _are_equal(header, read_header(stored_path), is_reencoded=not has_same_syntax):
        return False
    return _may_have_same_pixels(path, stored_path)


def _are_equal(one: Dataset, other: Dataset, *, is_reencoded: bool) -> bool:
    """Whether two headers say the same; of one that was encoded anew, what its encoding must say is left out."""
    for tag in set(one.keys()) | set(other.keys()):
        if tag.element == 0:
            continue  # a group length
        if is_reencoded and tag in _OF_ENCODING:
            continue
        if tag not in one or tag not in other:
            return False
        first, second = one[tag], other[tag]
        if first.VR == second.VR == "SQ":
            if len(first.value) != len(second.value):
                return False
            if not all(
                _are_equal(left, right, is_reencoded=is_reencoded)
                for left, right in zip(first.value, second.value, strict=True)
            ):
                return False
            continue
        if is_reencoded and first.VR != second.VR:
            continue  # Implicit VR tells no VR: a private attribute, or one that depends on another
        if is_reencoded and tag == _PHOTOMETRIC_INTERPRETATION and not _is_monochrome(first.value, second.value):
            continue  # compression turns RGB into YBR; MONOCHROME1 into 2 it does not
        if first.value != second.value:
            return False
    return True


def _is_monochrome(*values: Any) -> bool:
    return any(str(value).startswith("MONOCHROME") for value in values)


def _may_have_same_pixels(path: Path, stored_path: Path) -> bool:
    """Whether the pixels are the same bytes; True where one is compressed otherwise, which only decoding could tell.

    Reads both into memory: only an object whose header is equal and whose bytes are not comes here. What the library
    cannot read is not the same: it is kept beside the other, and nothing is lost.
    """
    try:
        one, other = pydicom.dcmread(path, force=True), pydicom.dcmread(stored_path, force=True)
        syntaxes = [UID(str(item.file_meta.get("TransferSyntaxUID") or "")) for item in (one, other)]
        compressed = [syntax.is_transfer_syntax and syntax.is_encapsulated for syntax in syntaxes]
        if syntaxes[0] != syntaxes[1] and any(compressed):
            return True
        return _little_endian_pixels(one) == _little_endian_pixels(other)
    except (*UNCONVERTIBLE, EOFError, InvalidDicomError):
        return False


def _little_endian_pixels(dataset: Dataset) -> Any:
    pixels = dataset.get("PixelData")
    if not isinstance(pixels, bytes) or dataset.file_meta.get("TransferSyntaxUID") != ExplicitVRBigEndian:
        return pixels
    swapped = bytearray(pixels)
    if dataset["PixelData"].VR == "OW" and len(swapped) % 2 == 0:
        swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
    return bytes(swapped)


def _have_same_bytes(path: Path, stored_path: Path) -> bool:
    """Whether two files hold the same dataset, group 2 aside: it differs from sender to sender."""
    return all(one == other for one, other in zip_longest(_dataset_chunks(path), _dataset_chunks(stored_path)))


def _dataset_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        head = file.read(144)
        is_part_10 = head[128:136] == b"DICM\x02\x00\x00\x00"
        file.seek(144 + int.from_bytes(head[140:144], "little") if is_part_10 else 0)
        while chunk := file.read(_CHUNK):
            yield chunk
