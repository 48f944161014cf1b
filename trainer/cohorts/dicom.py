"""What a DICOM file's header tells of a case; the pixels are not read."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from cxr_node.imaging import read_header
from trainer.cohorts.tables import number, years


@dataclass(frozen=True)
class Described:
    """A header's age (years, NaN), sex, view, row spacing (mm, NaN), (rows, columns) and a pseudonym of the patient."""

    patient: str
    age: float
    sex: str
    view: str
    pixel_spacing_mm: float
    original_size: tuple[int, int] | None


def described(path: Path) -> Described:
    """Read a header.

    `patient` is made of (0010,0020) Patient ID by SHA-256: cases stay together by patient, and no identifier gets into
    splits, records and reports. It is "" where the header has none. View is (0018,5101) View Position, or where that
    is empty (0018,5100) Patient Position, which some systems use for it.

    Raises
    ------
    UnreadableDataset
        The file is no DICOM dataset.
    OSError
        The file cannot be read.
    """
    header = read_header(path)
    identifier = _text(header, "PatientID")
    sex = _text(header, "PatientSex")
    views = (_text(header, "ViewPosition"), _text(header, "PatientPosition"))
    return Described(
        patient=f"dicom-{hashlib.sha256(identifier.encode()).hexdigest()[:16]}" if identifier else "",
        age=years(_text(header, "PatientAge")),
        sex=sex if sex in ("F", "M") else "",
        view=next((view for view in views if view in ("PA", "AP")), ""),
        pixel_spacing_mm=_spacing(header),
        original_size=_size(header),
    )


def _text(header: Dataset, keyword: str) -> str:
    value: Any = header.get(keyword)
    return "" if value is None else str(value).strip().upper() if keyword != "PatientID" else str(value).strip()


def _spacing(header: Dataset) -> float:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = header.get(keyword)
        if value is not None and not isinstance(value, str | bytes) and hasattr(value, "__len__") and len(value):
            return number(str(value[0]))
    return math.nan


def _size(header: Dataset) -> tuple[int, int] | None:
    rows, columns = header.get("Rows"), header.get("Columns")
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
