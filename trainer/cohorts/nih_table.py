"""NIH ChestX-ray14's tables: labels, what is known of the patient, and what other readers said of the same images.

Sources: Wang et al., CVPR 2017 (https://nihcc.app.box.com/v/ChestXray-NIHCC); RSNA Pneumonia Detection Challenge 2018,
Shih et al. 2019; Majkowska et al., Radiology 2020.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from trainer.cohorts.case import CohortError
from trainer.cohorts.tables import Table, find, number, years

NIH_FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "consolidation",
    "edema",
    "effusion",
    "emphysema",
    "fibrosis",
    "hernia",
    "infiltration",
    "mass",
    "nodule",
    "pleural_thickening",
    "pneumonia",
    "pneumothorax",
)
# `abnormal` is any of the 14. Its absence is NIH's No Finding: none of the 14, not a healthy chest for certain.
LABELS = (*NIH_FINDINGS, "abnormal")
NO_FINDING = "no finding"

ADULT_YEARS = 18
# What is above is a typing error of the source: NIH's first release has 414 years, RSNA's headers have 155.
OLDEST_YEARS = 120
# A match of an RSNA image with a worse mean squared error may be of another patient.
WORST_MATCH = 10.0

GOOGLE = ("pneumothorax", "airspace_opacity", "nodule_or_mass", "fracture")
UNREAD: Mapping[str, float] = {
    "rsna": math.nan,
    "rsna_abnormal": math.nan,
    **{f"google_{finding}": math.nan for finding in GOOGLE},
}
RSNA_CLASSES = {
    "Lung Opacity": {"rsna": 1.0, "rsna_abnormal": 1.0},
    "No Lung Opacity / Not Normal": {"rsna": 0.0, "rsna_abnormal": 1.0},
    "Normal": {"rsna": 0.0, "rsna_abnormal": 0.0},
}

YES_NO = {"YES": 1.0, "NO": 0.0}

_NEEDED = ("Image Index", "Finding Labels", "Patient ID")


class Entry(NamedTuple):
    """One row of an NIH table; `labels` is shared between rows of the same findings and must not be changed."""

    line: int
    image: str
    labels: Mapping[str, float]
    patient: str
    age: float
    sex: str
    view: str
    follow_up: float
    original_size: tuple[int, int] | None
    pixel_spacing_mm: float


def entries(table: Table) -> Iterator[Entry]:
    """Read a table with NIH's column names, of either release: 2017 or v2020.

    Both have the broken header ``OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]``, which a CSV reader
    takes for four columns; 2017 has an empty one after them. Ages stay as the table has them, those above 120 too:
    `adult` tells which may be used.

    Raises
    ------
    CohortError
        A row names a finding that is none of the 14, or has a Patient ID that is no number.
    """
    column = table.columns
    image, found, patient = (column[name] for name in _NEEDED)
    age, sex, view, follow_up, width, height, spacing = (
        column.get(name, -1)
        for name in (
            "Patient Age",
            "Patient Gender",
            "View Position",
            "Follow-up #",
            "OriginalImage[Width",
            "Height]",
            "y]",
        )
    )
    labels: dict[str, Mapping[str, float]] = {}
    patients: dict[str, str] = {}
    for line, cells in table.rows():
        findings = cells[found]
        if findings not in labels:
            labels[findings] = _labels(table, line, findings)
        number_of = cells[patient]
        if number_of not in patients:
            patients[number_of] = _patient(table, line, number_of)
        yield Entry(
            line,
            cells[image].strip(),
            labels[findings],
            patients[number_of],
            years(cells[age]) if age >= 0 else math.nan,
            _one_of(cells[sex], ("F", "M")) if sex >= 0 else "",
            _one_of(cells[view], ("PA", "AP")) if view >= 0 else "",
            number(cells[follow_up]) if follow_up >= 0 else math.nan,
            _size(cells[height], cells[width]) if width >= 0 and height >= 0 else None,
            number(cells[spacing]) if spacing >= 0 else math.nan,
        )


def nih_table(path: Path) -> Table:
    """Open a table of NIH's; CohortError where it is not there or lacks a column."""
    return Table.of(path, _NEEDED)


def patient_of(image: str) -> str:
    """Return the patient of an NIH file name, ``00000001_000.png``; CohortError where it is none."""
    digits, _, rest = image.partition("_")
    if not digits.isdigit() or not rest:
        raise CohortError(f"expected an NIH file name like 00000001_000.png, found {image!r}")
    return f"nih-{int(digits)}"


def adult(age: float) -> bool:
    """Tell whether a model for adults may use an image: of a known, believable age of 18 years or more."""
    return ADULT_YEARS <= age <= OLDEST_YEARS


def subset_of(age: float, *, official: bool) -> str:
    """Return ``official`` or ``internal``; for an image that its age keeps apart ``child`` or ``age``.

    The last two follow the word ``official`` where the image is on the official test list: figures that others
    published on that list include them.
    """
    if adult(age):
        return "official" if official else "internal"
    return ("official " if official else "") + ("child" if age < ADULT_YEARS else "age")


def drawn(salt: str, name: str) -> float:
    """Return a number in [0, 1) that a name always gets: the same patient, the same part, in any order of rows."""
    return float(int.from_bytes(hashlib.sha256(f"{salt} {name}".encode()).digest()[:8], "big") / 2**64)


def other_readers(folders: tuple[Path, ...]) -> Mapping[str, Mapping[str, float]]:
    """Return what other readers said of NIH's images, by Image Index.

    ``rsna`` is 1 for Lung Opacity, 0 otherwise; ``rsna_abnormal`` 0 for Normal, 1 otherwise; ``google_…`` 1 for YES
    and 0 for NO. NaN where a reader did not see the image. Both are for evaluation only, by their terms.
    """
    read: dict[str, dict[str, float]] = {}
    path = find(folders, ("rsna_labels_with_nih_match.csv",))
    if path is not None:
        table = Table.of(path, ("rsna_class", "nih_image_index", "match_mse"))
        for line, row in table.records():
            if row["rsna_class"] not in RSNA_CLASSES:
                raise table.wrong(line, "rsna_class", row["rsna_class"], f"one of {', '.join(RSNA_CLASSES)}")
            if number(row["match_mse"]) <= WORST_MATCH:
                read.setdefault(row["nih_image_index"], {**UNREAD}).update(RSNA_CLASSES[row["rsna_class"]])
    path = find(folders, ("google2019_nih_chest_xray_labels.csv",))
    if path is not None:
        names = {finding: finding.capitalize().replace("_", " ") for finding in GOOGLE}
        for _, row in Table.of(path, ("Image Index", *names.values())).records():
            said = {f"google_{finding}": YES_NO.get(row[name], math.nan) for finding, name in names.items()}
            read.setdefault(row["Image Index"], {**UNREAD}).update(said)
    return read


def _labels(table: Table, line: int, findings: str) -> Mapping[str, float]:
    named = {finding.strip().lower().replace(" ", "_") for finding in findings.split("|")}
    unknown = named - set(NIH_FINDINGS) - {NO_FINDING.replace(" ", "_")}
    if unknown:
        raise table.wrong(line, "Finding Labels", findings, f"No Finding or some of {', '.join(NIH_FINDINGS)}")
    labels = {finding: float(finding in named) for finding in NIH_FINDINGS}
    return {**labels, "abnormal": max(labels.values())}


def _patient(table: Table, line: int, text: str) -> str:
    try:
        return f"nih-{int(text)}"
    except ValueError as error:
        raise table.wrong(line, "Patient ID", text, "a whole number") from error


def _one_of(text: str, known: tuple[str, ...]) -> str:
    text = text.strip().upper()
    return text if text in known else ""


def _size(rows: str, columns: str) -> tuple[int, int] | None:
    try:
        return int(rows), int(columns)
    except ValueError:
        return None
