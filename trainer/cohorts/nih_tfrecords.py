"""NIH ChestX-ray14 as TFRecords: 256 files ``NNN-SIZE.tfrec`` of 600 x 600 JPEGs, beside ``preprocessed_data.csv``.

Each record is an Example with ``image`` (the bytes of a one-channel JPEG), ``image_id`` (the path of NIH's image where
the set was made, such as ``../input/data/images_001/images/00000001_000.png``) and 15 integers: ``No Finding`` and
the 14 findings under NIH's names. The table has the same paths in a first column without a name, and True or False
for each of the 15. The set has no age, sex or view: NIH's own table gives them where it lies beside.

Source: https://www.kaggle.com/datasets/nickuzmenkov/nih-chest-xrays-tfrecords, and notebooks that read it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part, counted
from trainer.cohorts.nih_shipped import TABLES, folders_of, official_lists, part_rule
from trainer.cohorts.nih_table import (
    ADULT_YEARS,
    LABELS,
    NIH_FINDINGS,
    UNREAD,
    Entry,
    adult,
    entries,
    nih_table,
    other_readers,
    patient_of,
    subset_of,
)
from trainer.cohorts.tables import Table, find
from trainer.cohorts.tfrecords import BrokenRecords, Record, records

_FEATURES = {finding: "_".join(word.capitalize() for word in finding.split("_")) for finding in NIH_FINDINGS}
_NAME = re.compile(r"(\d+)-(\d+)\.tfrec")
NO_PATIENT = (
    "which record is which image is not known: the records have no image_id, and their labels in order are not those "
    "of preprocessed_data.csv. Without patients there is no honest split, and every image is used for nothing"
)


@dataclass(frozen=True)
class _Read:
    """What one record says: its picture's place, NIH's name of the image ("" where it does not say), the labels."""

    path: Path
    span: tuple[int, int]
    image: str
    labels: Mapping[str, float]


def is_tfrecords(data: Path) -> bool:
    """Tell whether the folder has this form."""
    return bool(_files(data))


def read_tfrecords(data: Path) -> Cohort:
    """Find every record, and split by patient as `nih_shipped` does: with the official lists where they lie beside.

    Every file is read once, a record at a time; no picture is decoded. Patients come from ``image_id``; where the
    records have none, from the table, if record by record its labels are the same in the same order. Where neither
    tells, every case is `apart`. A record or file that is damaged is a problem, and the others are read.

    Raises
    ------
    CohortError
        There are no files, or an image stands in two records.
    """
    files = _files(data)
    if not files:
        raise CohortError(f"{data}: expected files named NNN-SIZE.tfrec, here or in data, found none")
    problems: list[str] = []
    found = [read for path in files for read in _read_file(path, problems)]
    named = _named(data, found, problems)
    twice = [image for image, count in Counter(read.image for read in named if read.image).items() if count > 1]
    if twice:
        raise CohortError(f"{data}: the same image stands in two records: {', '.join(twice[:5])}")
    lists, said = official_lists(data)
    part_of = part_rule(lists)
    readers = other_readers(folders_of(data))
    known = _known(data, problems)

    def part(image: str, age: float) -> Part:
        if not image or (known and not adult(age)):
            return "apart"
        return part_of(image, patient_of(image))

    cases = []
    for index, read in enumerate(named):
        entry = known.get(read.image)
        age = entry.age if entry else math.nan
        cases.append(
            Case(
                identifier=read.image or f"{read.path.name}#{index}",
                path=read.path,
                labels=read.labels,
                patient=patient_of(read.image) if read.image else "",
                part=part(read.image, age),
                age=age,
                sex=entry.sex if entry else "",
                view=entry.view if entry else "",
                source="nih-tfrecords",
                subset=subset_of(age if known else ADULT_YEARS, official=lists.holds(read.image)),
                references=readers.get(read.image, UNREAD),
                span=read.span,
                follow_up=entry.follow_up if entry else math.nan,
                original_size=entry.original_size if entry else None,
                pixel_spacing_mm=entry.pixel_spacing_mm if entry else math.nan,
            )
        )
    return Cohort(
        name="nih",
        title="NIH ChestX-ray14, adults, TFRecords of 600 x 600 px",
        cases=tuple(cases),
        split_rule=lists.rule,
        problems=(*problems, *said),
        findings=LABELS,
    )


def _files(data: Path) -> list[Path]:
    for folder in (data, data / "data"):
        if folder.is_dir() and (files := [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]):
            return sorted(files)
    return []


def _read_file(path: Path, problems: list[str]) -> list[_Read]:
    found: list[_Read] = []
    count = 0
    try:
        for count, record in enumerate(records(path), 1):
            try:
                found.append(_parsed(path, record))
            except ValueError as error:
                problems.append(f"{path.name}, record {count - 1} at byte {record.offset}: {error}")
    except (BrokenRecords, OSError) as error:
        problems.append(f"{path.name}: {error}; nothing after it was read")
    name = _NAME.fullmatch(path.name)
    if name and int(name[2]) != count:
        problems.append(f"{path.name}: expected {int(name[2])} records by the file's name, found {count}")
    return found


def _parsed(path: Path, record: Record) -> _Read:
    """Read one Example; ValueError where it is none, or has no picture."""
    from google.protobuf.message import DecodeError
    from tensorflow.train import Example

    try:
        features = Example.FromString(record.data).features.feature
    except DecodeError as error:
        raise ValueError("expected an Example, found bytes that do not parse") from error
    pictures: Sequence[bytes] = features["image"].bytes_list.value if "image" in features else ()
    if len(pictures) != 1 or not pictures[0]:
        raise ValueError(f"expected one picture in the feature image, found {len(pictures)}")
    names: Sequence[bytes] = features["image_id"].bytes_list.value if "image_id" in features else ()
    image = _image(names[0].decode("utf-8", "replace")) if names else ""
    labels = {}
    for finding, feature in _FEATURES.items():
        values: Sequence[int] = features[feature].int64_list.value if feature in features else ()
        labels[finding] = float(values[0]) if len(values) == 1 and values[0] in (0, 1) else math.nan
    nothing: Sequence[int] = features["No Finding"].int64_list.value if "No Finding" in features else ()
    labels["abnormal"] = _abnormal(labels, bool(nothing and nothing[0] == 1))
    return _Read(path, (record.offset + record.data.index(pictures[0]), len(pictures[0])), image, labels)


def _abnormal(labels: Mapping[str, float], nothing: bool) -> float:
    """Return 1 where any finding is present, 0 where all are absent or the report found nothing, NaN otherwise."""
    if any(label == 1 for label in labels.values()):
        return 1.0
    return 0.0 if nothing or all(label == 0 for label in labels.values()) else math.nan


def _image(text: str) -> str:
    """Return NIH's file name from a path of either system's, or a name without its ending."""
    name = re.split(r"[/\\]", text.strip())[-1]
    name = name if not name or name.endswith(".png") else f"{name.rsplit('.', 1)[0]}.png"
    return name if re.fullmatch(r"\d+_\d+\.png", name) else ""


def _named(data: Path, found: list[_Read], problems: list[str]) -> list[_Read]:
    """Return the records with the names that the table gives, where they have none themselves."""
    unnamed = [read for read in found if not read.image]
    if not unnamed:
        return found
    if len(unnamed) < len(found):
        problems.append(f"{len(unnamed)} of {len(found)} records have no image_id that names an NIH image: not used")
        return found
    table = find((data, data.parent), ("preprocessed_data.csv",))
    rows = _table_rows(table) if table is not None else []
    if len(rows) != len(found) or any(
        labels[finding] != read.labels[finding]
        for (_, labels), read in zip(rows, found, strict=True)
        for finding in NIH_FINDINGS
    ):
        problems.append(NO_PATIENT)
        return found
    return [_Read(read.path, read.span, image, read.labels) for (image, _), read in zip(rows, found, strict=True)]


def _table_rows(path: Path) -> list[tuple[str, Mapping[str, float]]]:
    table = Table.of(path, tuple(_FEATURES.values()))
    truth = {"True": 1.0, "False": 0.0, "1": 1.0, "0": 0.0}
    first = next(iter(table.columns))
    return [
        (
            _image(row[first]),
            {finding: truth.get(row[feature], math.nan) for finding, feature in _FEATURES.items()},
        )
        for _, row in table.records()
    ]


def _known(data: Path, problems: list[str]) -> dict[str, Entry]:
    """Return NIH's own rows by image, where its table lies beside."""
    path = find(folders_of(data), TABLES)
    if path is None:
        problems += counted(
            [data.name],
            f"expected {' or '.join(TABLES)}, found none: age, sex and view are unknown, and children are among the "
            "cases",
        )
        return {}
    return {entry.image: entry for entry in entries(nih_table(path))}
