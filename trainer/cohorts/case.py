"""A labeled image of a cohort, and a cohort of them: lazy, nothing is decoded before it is asked for."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import Radiograph, radiograph_from_dicom_file, radiograph_from_picture

# `apart` is used for nothing: a case that may not be trained on and belongs to no test.
Part = Literal["train", "tune", "test", "apart"]
PARTS: tuple[Part, ...] = ("train", "tune", "test", "apart")

# Of a cohort's many files of one kind of trouble, so many are named; the rest are counted.
NAMED = 5


class CohortError(Exception):
    """A cohort's tables or files contradict one another; says which and how."""


@dataclass(frozen=True)
class Case:
    """One image with what its tables say about it.

    `labels` maps a finding to 1 present, 0 absent or NaN unknown, as training and the first evaluation use it;
    `references` holds other readers' labels in the same form, for evaluation only. `again` is the same image from
    another source, for training only. `span` is (offset, length) in bytes of the picture inside `path` where it is one
    record of a larger file. `age` is in years, NaN where unknown or not believable; `view` is "PA", "AP" or "".
    `follow_up` counts a patient's images from 0, NaN where unknown; `original_size` is (rows, columns) and
    `pixel_spacing_mm` the row spacing as acquired, before the cohort's makers made the picture smaller.
    """

    identifier: str
    path: Path
    labels: Mapping[str, float]
    patient: str
    part: Part
    age: float = math.nan
    sex: str = ""
    view: str = ""
    source: str = ""
    subset: str = ""
    duplicate_group: str = ""
    references: Mapping[str, float] = field(default_factory=dict)
    again: Path | None = None
    span: tuple[int, int] | None = None
    follow_up: float = math.nan
    original_size: tuple[int, int] | None = None
    pixel_spacing_mm: float = math.nan

    def content(self) -> bytes:
        """Return the picture's bytes as they are stored.

        Raises
        ------
        UnreadablePixels
            The file ends before the record does.
        OSError
            The file cannot be read.
        """
        if self.span is None:
            return self.path.read_bytes()
        offset, length = self.span
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise UnreadablePixels(f"expected a record of {length} bytes at byte {offset}, found {len(data)}")
        return data

    def radiograph(self) -> Radiograph:
        """Decode the image: a DICOM file by the node's own reader, a PNG or JPEG as the cohorts' pictures.

        Raises
        ------
        UnreadablePixels
            The bytes do not decode.
        OSError
            The file cannot be read.
        """
        if self.span is None and is_dicom(self.path):
            return radiograph_from_dicom_file(self.path)
        try:
            return radiograph_from_picture(self.content())
        except cv2.error as error:  # an empty file, or one that says it is larger than any picture
            raise UnreadablePixels(
                f"expected a PNG or JPEG picture, found bytes that OpenCV refuses ({error.err})"
            ) from error


@dataclass(frozen=True)
class Cohort:
    """Cases with each patient in one part, the rule that split them, and what was found wrong with the source.

    `cases` have a picture; `absent` are listed in the cohort's table, but no picture of theirs was found: they count
    where a table is described, and can be neither learned nor tested; their path may be the folder that was searched.
    `findings` are the names that `labels` uses.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    split_rule: str
    problems: tuple[str, ...] = ()
    absent: tuple[Case, ...] = ()
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_split(self.rows)

    @property
    def rows(self) -> tuple[Case, ...]:
        """Every row of the cohort's table, with and without a picture."""
        return self.cases + self.absent

    def part(self, part: Part) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.part == part)


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its preamble, or by its name where it has none. Source: DICOM PS3.10 7.1."""
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def check_split(cases: Iterable[Case]) -> None:
    """Raise CohortError where a patient, or a picture with the same pixels, stands in two of train, tune and test."""
    patients: dict[str, Case] = {}
    groups: dict[str, Case] = {}
    for case in cases:
        if case.part == "apart":
            continue
        for kind, seen, key in (("patient", patients, case.patient), ("duplicate_group", groups, case.duplicate_group)):
            other = seen.setdefault(key, case) if key else case
            if other.part != case.part:
                raise CohortError(
                    f"{kind} {key} stands in two parts: {other.identifier} in {other.part}, "
                    f"{case.identifier} in {case.part}"
                )


def linked_groups(cases: Iterable[Case]) -> dict[str, str]:
    """Return for each patient the name of its group: patients joined by pictures with the same pixels share one."""
    cases = tuple(cases)
    parent = {case.patient: case.patient for case in cases}

    def find(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    first: dict[str, str] = {}
    for case in cases:
        if case.duplicate_group:
            other = first.setdefault(case.duplicate_group, case.patient)
            parent[find(case.patient)] = find(other)
    return {patient: find(patient) for patient in parent}


def assign(cases: Iterable[Case], part_of: Callable[[Case], Part]) -> tuple[Case, ...]:
    """Return the cases with the part that `part_of` names."""
    return tuple(replace(case, part=part_of(case)) for case in cases)


def decoded(cases: Iterable[Case], problems: list[str]) -> Iterator[tuple[Case, Radiograph]]:
    """Yield each case that decodes with its radiograph, one at a time; put a sentence for each other into `problems`.

    Nothing is kept: a cohort may be larger than memory, and `cases` may be a generator.
    """
    for case in cases:
        try:
            radiograph = case.radiograph()
        except (UnreadablePixels, OSError) as error:
            problems.append(f"{case.identifier}: {error}")
        else:
            yield case, radiograph


def without_broken(cases: Iterable[Case]) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Decode every picture once; return the cases that decode, and a sentence for each that does not."""
    problems: list[str] = []
    good = tuple(case for case, _ in decoded(cases, problems))
    return good, tuple(problems)


def counted(names: Sequence[str], says: str) -> tuple[str, ...]:
    """Return a sentence for each name, or one that counts them where they are many; none where there is none."""
    if len(names) <= NAMED:
        return tuple(f"{name}: {says}" for name in names)
    return (f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more ({len(names)} in all): {says}",)
