"""Drawn studies for benchmarks: a phantom at a detector's size, in every transfer syntax that is measured.

Noise of 1.5 of 4096 gray levels makes the lossless JPEG 2000 file 2.5 to 3 bits a pixel, as large as those of real
detectors; what a decoder takes hangs on that.
"""

import copy
from pathlib import Path

import cv2
import gdcm
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_node.cli.phantom import phantom_dataset
from cxr_node.clock import utc_now
from tests.builders import to_part_10

NOISE = 1.5
SYNTAXES = {
    "raw": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "j2k-lossy": JPEG2000,
}
_LOSSY_RATIO = 10
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


def draw(rows: int, columns: int, *, opacity: float = 0.5, seed: int = 1) -> Dataset:
    """Return an uncompressed drawn chest of 12 bits with so many rows and columns."""
    rng = np.random.default_rng(seed)
    dataset = phantom_dataset(utc_now(), rng, opacity=opacity, accession_number="BENCH")
    small = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns).astype(np.float32)
    # The phantom's own noise would be smeared over many pixels, and no detector's is.
    large = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2), (columns, rows), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(np.rint(large + rng.normal(0, NOISE, large.shape)), 0, 4095).astype(np.uint16)
    dataset.Rows, dataset.Columns, dataset.PixelData = rows, columns, pixels.tobytes()
    for place, keyword in enumerate(_UIDS):
        setattr(dataset, keyword, numbered(0, place))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def encode(dataset: Dataset, name: str, scratch: Path) -> bytes:
    """Return the file in a syntax of `SYNTAXES`; `scratch` is a folder for what is in between."""
    syntax = SYNTAXES[name]
    changed = copy.deepcopy(dataset)
    if name == "jpeg-lossless":
        return _by_gdcm(dataset, scratch)
    if name.startswith("j2k"):
        options = {"j2k_cr": [_LOSSY_RATIO]} if name == "j2k-lossy" else {}
        changed.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False, **options)
    elif syntax.is_encapsulated:
        changed.compress(syntax, generate_instance_uid=False)
    else:
        changed.file_meta.TransferSyntaxUID = syntax
    return to_part_10(changed)


def numbered(number: int, place: int) -> str:
    """Return the UID of a copy; all have the same length, so that bytes can be exchanged for others."""
    return f"1.2.826.0.1.3680043.10.777.{place}.9{number:09d}"


def copied(data: bytes, number: int) -> bytes:
    """Return the file under the UIDs of copy `number`."""
    for place in range(len(_UIDS)):
        data = data.replace(numbered(0, place).encode(), numbered(number, place).encode())
    return data


def study_uid(number: int) -> str:
    """Return the Study Instance UID of a copy."""
    return numbered(number, _UIDS.index("StudyInstanceUID"))


def _by_gdcm(dataset: Dataset, scratch: Path) -> bytes:
    plain, small = scratch / "plain.dcm", scratch / "jpeg-lossless.dcm"
    plain.write_bytes(to_part_10(dataset))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    if not reader.Read():
        raise RuntimeError("GDCM does not read the drawn file")
    change.SetInput(reader.GetImage())
    if not change.Change():
        raise RuntimeError("GDCM does not encode JPEG Lossless")
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(small))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    if not writer.Write():
        raise RuntimeError("GDCM does not write JPEG Lossless")
    return small.read_bytes()
