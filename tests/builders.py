"""Datasets made by hand, for every test that needs one."""

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Literal

import numpy as np
from pydicom import dcmread, dcmwrite
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

from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score, StudyOutcome
from cxr_node.imaging import radiograph_from_dataset
from cxr_node.reporting import BUILDERS, Device, Material

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


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DEVICE = Device("cxr-node", "cxr-node project", "cxr-node", "0001", "0.1.0", "2.25.1")


def make_score(probability: float = 0.9, *, finding: str = "pneumonia", model: str = "pneumonia-adult") -> Score:
    """A score held against an operating point of 0.5."""
    return Score(finding, model, "1.0.0", "ab" * 32, probability, 0.5, "locked", probability >= 0.5)


def make_heat_map(rows: int, columns: int) -> np.ndarray:
    """Warm low on the left of the picture, and nowhere else."""
    down, right = np.mgrid[0:rows, 0:columns].astype(np.float32)
    distance = ((down / rows - 0.65) / 0.14) ** 2 + ((right / columns - 0.3) / 0.1) ** 2
    return np.exp(-distance / 2).astype(np.float32)


def make_material(
    *datasets: Dataset,
    probability: float = 0.9,
    exclusions: dict[int, Exclusion] | None = None,
    profile: Literal["triage", "research"] = "triage",
    **changes: Any,
) -> Material:
    """What result objects of the datasets' study are made of; every image scores the same.

    Parameters
    ----------
    datasets : of one study, with pixels; one default radiograph where none is given
    exclusions : by position, instead of a score
    profile : in `research` every flagged image has its heat map and its radiograph
    changes : other fields of Material
    """
    datasets = datasets or (make_radiograph_dataset(),)
    images, headers, heat_maps, radiographs = [], {}, {}, {}
    for number, dataset in enumerate(datasets):
        uid = str(dataset.SOPInstanceUID)
        reference = ImageReference(uid, str(dataset.SOPClassUID), str(dataset.SeriesInstanceUID))
        exclusion = (exclusions or {}).get(number)
        scores = () if exclusion else (make_score(probability),)
        images.append(ImageAnalysis(reference, scores, exclusion))
        headers[uid] = dcmread(BytesIO(to_part_10(dataset)), stop_before_pixels=True)
        if profile == "research" and any(score.flagged for score in scores):
            heat_maps[uid] = make_heat_map(dataset.Rows, dataset.Columns)
            radiographs[uid] = radiograph_from_dataset(dataset).grayscale
    values: dict[str, Any] = {
        "outcome": StudyOutcome(str(datasets[0].StudyInstanceUID), tuple(images)),
        "headers": headers,
        "device": DEVICE,
        "revision": 1,
        "content_time": NOON,
        "time_zone": UTC,
        "profile": profile,
        "heat_maps": heat_maps,
        "radiographs": radiographs,
        **changes,
    }
    return Material(**values)


def make_objects(material: Material) -> dict[str, Dataset]:
    """Every result object of the material, by kind, in the order they are built."""
    made: dict[str, Dataset] = {}
    for kind, build in BUILDERS.items():
        found = build(replace(material, made=dict(made)))
        if found is not None:
            made[kind] = found
    return made
