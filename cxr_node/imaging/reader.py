"""A DICOM image as a radiograph."""

import errno
import struct
import zlib
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.decode import stored_values
from cxr_node.imaging.description import MAXIMUM_PIXELS, UNCONVERTIBLE
from cxr_node.imaging.grayscale import to_grayscale
from cxr_node.imaging.radiograph import Radiograph

_LARGEST_INFLATED = 2 * MAXIMUM_PIXELS + (64 << 20)  # the largest image of 16 bits, and a header
_CHUNK = 1 << 20
_NO_DATASET = (*UNCONVERTIBLE, RecursionError)  # sequences in sequences, deeper than Python goes


def radiograph_from_dataset(dataset: Dataset, target: tuple[int, int] | None = None) -> Radiograph:
    """Decode and render; see `decode.stored_values` and `grayscale.to_grayscale` for what is raised.

    `target` is the (rows, columns) that the first step of `preprocess` shrinks to; with it a JPEG 2000 image may be
    decoded at a lower resolution of at least twice that.
    """
    return Radiograph(to_grayscale(stored_values(dataset, target), dataset))


def radiograph_from_dicom_file(path: Path, target: tuple[int, int] | None = None) -> Radiograph:
    """Read a file, with or without preamble and group 2, and render it; see `radiograph_from_dataset`.

    Raises
    ------
    UnreadablePixels
        The file does not read to its end, or its pixels do not decode.
    OSError
        The file cannot be read: another try may succeed.
    """
    try:
        dataset = read_dataset(path)
    except (*_NO_DATASET, InvalidDicomError, EOFError, NotImplementedError, struct.error, zlib.error) as error:
        raise UnreadablePixels(f"the file does not read to its end ({type(error).__name__})") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        # The library's own, where it finds no tag or is told to seek before the beginning: the bytes, not the disk.
        raise UnreadablePixels("the file does not read to its end (no tag where one must be)") from error
    return radiograph_from_dataset(dataset, target)


def read_dataset(path: Path) -> Dataset:
    """Read a file, with or without preamble and group 2, pixels and all; a deflated one that is too large is refused.

    What the library raises for bytes that are no dataset is not translated; see `radiograph_from_dicom_file`.
    """
    try:
        meta = pydicom.filereader.read_file_meta_info(path)
    except InvalidDicomError:
        meta = None  # without a preamble nothing is deflated: nobody said so
    if meta is not None and meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        _check_inflated_size(path, meta)
    return pydicom.dcmread(path, force=True)


def _check_inflated_size(path: Path, meta: Dataset) -> None:
    """Refuse a deflated dataset that is larger than any image: pydicom inflates the whole. Source: PS3.5 A.5."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    with path.open("rb") as file:
        file.seek(144 + int(meta.FileMetaInformationGroupLength))
        waiting = b""
        while not inflater.eof and (waiting := waiting or file.read(_CHUNK)):
            size += len(inflater.decompress(waiting, _CHUNK))
            waiting = inflater.unconsumed_tail
            if size > _LARGEST_INFLATED:
                raise UnreadablePixels(f"the dataset inflates to more than {_LARGEST_INFLATED} bytes")
