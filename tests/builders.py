"""Datasets made by hand, for every test that needs one."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)


def make_radiograph_dataset(pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """A frontal adult DX that every acceptance rule takes, changed as told; None deletes an attribute.

    `pixels` is (rows, columns) uint8 or uint16; a gradient of 256 x 256 where None.
    """
    if pixels is None:
        pixels = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint16) * 8
    bits = 8 if pixels.dtype == np.uint8 else 12
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    values: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "StudyDate": "20260101",
        "StudyTime": "101530",
        "Modality": "DX",
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
