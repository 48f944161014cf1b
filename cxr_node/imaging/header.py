"""A dataset's header: every attribute before the pixels, read without touching them."""

import struct
import zlib
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from cxr_node.errors import UnreadableDataset

# pydicom has no common base for what it raises on bytes that make no sense.
_UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def read_header(path: Path) -> Dataset:
    """Read the attributes before Pixel Data.

    Raises
    ------
    UnreadableDataset
        The bytes are no DICOM dataset, or end in the middle of an element.

    Source: DICOM PS3.10 7, PS3.5 7.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        header.walk(lambda *_: None)
    except _UNREADABLE as error:
        raise UnreadableDataset(
            f"expected a DICOM dataset, found bytes that do not read ({type(error).__name__})"
        ) from error
    if not len(header):
        raise UnreadableDataset("expected a DICOM dataset, found no element")
    return header
