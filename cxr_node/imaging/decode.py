"""Stored values from any transfer syntax that a PACS sends. Sources: DICOM PS3.5 8 and annex A, PS3.3 C.7.6.3."""

import copy
import tempfile
from pathlib import Path

import gdcm
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEGExtended12Bit

from cxr_node.errors import UnreadablePixels

MAXIMUM_PIXELS = 100_000_000  # larger than any detector; a decompression bomb is refused by its header


def stored_values(dataset: Dataset) -> np.ndarray:
    """Decode the pixels of a single-frame, single-sample image.

    Returns
    -------
    (rows, columns) integer

    Raises
    ------
    UnreadablePixels
        Absent, contradictory, too large, of several frames or samples, or not decodable; the attribute is named.
    """
    _check(dataset)
    syntax = UID(str(getattr(dataset.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian)))
    try:
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            pixels = _with_gdcm(dataset)
        else:
            pixels, _ = get_decoder(syntax).as_array(dataset, raw=True)
    except (RuntimeError, ValueError, AttributeError, TypeError, NotImplementedError, KeyError, IndexError) as error:
        raise UnreadablePixels(
            f"(7FE0,0010) Pixel Data of {syntax.name} does not decode ({type(error).__name__})"
        ) from error
    pixels = np.squeeze(np.asarray(pixels))
    if pixels.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise UnreadablePixels(
            f"decoded image is {pixels.shape}, expected (0028,0010) Rows {dataset.Rows} "
            f"x (0028,0011) Columns {dataset.Columns}"
        )
    return pixels


def _with_gdcm(dataset: Dataset) -> np.ndarray:
    """Decode JPEG Extended of 12 bits, which pydicom's plug-ins refuse; GDCM reads files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        whole = copy.copy(dataset)
        # GDCM masks to Bits Stored, and a lossy codec overshoots: white would turn black. It is clipped below instead.
        whole.BitsStored, whole.HighBit = 12, 11
        whole.save_as(path, enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        if not reader.Read():
            raise ValueError("GDCM does not read the image")
        image = reader.GetImage()
        data = image.GetBuffer().encode("utf-8", "surrogateescape")
    signed = image.GetPixelFormat().GetPixelRepresentation() == 1
    pixels = np.frombuffer(data, np.int16 if signed else np.uint16).reshape(int(dataset.Rows), int(dataset.Columns))
    return pixels if signed else np.minimum(pixels, 2 ** int(dataset.BitsStored) - 1)


def _check(dataset: Dataset) -> None:
    if not dataset.get("PixelData"):
        raise UnreadablePixels("(7FE0,0010) Pixel Data is absent")
    values = {}
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        try:
            values[keyword] = int(dataset[keyword].value)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadablePixels(f"{keyword} is absent or no number") from error
    if values["Rows"] * values["Columns"] > MAXIMUM_PIXELS:
        raise UnreadablePixels(f"{values['Rows']} x {values['Columns']} pixels are more than {MAXIMUM_PIXELS}")
    if values["BitsStored"] > values["BitsAllocated"]:
        raise UnreadablePixels(
            f"(0028,0101) Bits Stored is {values['BitsStored']}, "
            f"more than (0028,0100) Bits Allocated {values['BitsAllocated']}"
        )
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise UnreadablePixels(f"(0028,0002) Samples per Pixel is {dataset.SamplesPerPixel}, expected 1")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise UnreadablePixels(f"(0028,0008) Number of Frames is {dataset.NumberOfFrames}, expected 1")
