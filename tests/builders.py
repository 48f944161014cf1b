"""Datasets made by hand, for every test that needs one."""

from io import BytesIO
from typing import Any, Literal

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

_SOP_CLASSES = {
    "CR": ComputedRadiographyImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "SC": SecondaryCaptureImageStorage,
}


def make_pixels(rows: int = 256, columns: int = 256, bits_stored: int = 12) -> np.ndarray:
    """A gradient from black to the largest stored value: uint8 for 8 bits, uint16 for more."""
    slope = np.add.outer(np.linspace(0.0, 0.5, rows), np.linspace(0.0, 0.5, columns))
    return (slope * (2**bits_stored - 1)).astype(np.uint8 if bits_stored <= 8 else np.uint16)


def make_radiograph_dataset(
    pixels: np.ndarray | None = None,
    *,
    kind: Literal["CR", "DX", "SC"] = "DX",
    bits_stored: int | None = None,
    **attributes: Any,
) -> Dataset:
    """A frontal adult chest radiograph that every acceptance rule takes, changed as told; None deletes an attribute.

    Parameters
    ----------
    pixels : (rows, columns) uint8 or uint16 stored values; a gradient of 256 x 256 where None
    kind : CR, DX (for presentation) or SC; sets SOP Class UID and Modality
    bits_stored : 8 to 16; 8 for uint8 and 12 for uint16 where None
    """
    if pixels is None:
        pixels = make_pixels(bits_stored=bits_stored) if bits_stored else _gradient()
    bits = bits_stored or (8 if pixels.dtype == np.uint8 else 12)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": _SOP_CLASSES[kind],
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyDate": "20260101",
        "StudyTime": "101530",
        "Modality": "DX" if kind == "SC" else kind,
        "PatientName": "DOE^JANE",
        "PatientID": "P1",
        "PatientBirthDate": "19600101",
        "PatientSex": "F",
        "PatientAge": "066Y",
        "AccessionNumber": "A1",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes() + b"\0" * (pixels.nbytes % 2),
        **attributes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
    return dataset


def in_transfer_syntax(dataset: Dataset, syntax: str) -> Dataset:
    """Say that a dataset is encoded so: uncompressed pixels keep their values, compressed ones become a fragment that
    nothing decodes (for what only carries bytes)."""
    syntax = UID(syntax)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        dataset.PixelData = encapsulate([b"\xff\xd8" + dataset.PixelData[:4094]])
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    elif syntax == ExplicitVRBigEndian and dataset["PixelData"].VR == "OW":
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    return dataset


def to_part_10(dataset: Dataset) -> bytes:
    """Encode as a DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _gradient() -> np.ndarray:
    return np.add.outer(np.arange(256), np.arange(256)).astype(np.uint16) * 8
