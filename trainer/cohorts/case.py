"""A labeled image of a cohort, and a cohort of them: lazy, nothing is decoded before it is asked for."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import Radiograph, radiograph_from_picture_file

# `apart` is used for nothing: a case that may not be trained on and belongs to no test.
Part = Literal["train", "tune", "test", "apart"]
PARTS: tuple[Part, ...] = ("train", "tune", "test", "apart")


class CohortError(Exception):
    """A cohort's tables or files contradict one another; says which and how."""


@dataclass(frozen=True)
class Case:
    """One image with what its tables say about it.

    `labels` maps a finding to 1 present, 0 absent or NaN unknown, as training and the first evaluation use it;
    `references` holds other readers' labels in the same form. `teaching` is the label to learn from where that differs
    (it may lie between 0 and 1). `again` is the same image from another source, for training only. `age` is in years,
    NaN where unknown; `view` is "PA", "AP" or "".
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
    teaching: Mapping[str, float] = field(default_factory=dict)
    again: Path | None = None

    def radiograph(self) -> Radiograph:
        """Decode the image; UnreadablePixels where it does not."""
        return radiograph_from_picture_file(self.path)

    def taught(self, finding: str) -> float:
        """Return the label to learn from."""
        return self.teaching.get(finding, self.labels.get(finding, math.nan))


@dataclass(frozen=True)
class Cohort:
    """Cases with each patient in one part, the rule that split them, and what was found wrong with the source."""

    name: str
    title: str
    cases: tuple[Case, ...]
    split_rule: str
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_split(self.cases)

    def part(self, part: Part) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.part == part)


def check_split(cases: Iterable[Case]) -> None:
    """Raise CohortError where a patient, or a picture with the same pixels, stands in two of train, tune and test."""
    for kind in ("patient", "duplicate_group"):
        seen: dict[str, Case] = {}
        for case in cases:
            key = getattr(case, kind)
            if not key or case.part == "apart":
                continue
            other = seen.setdefault(key, case)
            if other.part != case.part:
                raise CohortError(
                    f"{kind} {key} stands in two parts: {other.identifier} in {other.part}, "
                    f"{case.identifier} in {case.part}"
                )


def linked_groups(cases: Sequence[Case]) -> dict[str, str]:
    """Return for each patient the name of its group: patients joined by pictures with the same pixels share one."""
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


def assign(cases: Sequence[Case], part_of: Callable[[Case], Part]) -> tuple[Case, ...]:
    """Return the cases with the part that `part_of` names."""
    return tuple(replace(case, part=part_of(case)) for case in cases)


def without_broken(cases: Sequence[Case]) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Decode every picture once; return the cases that decode, and a sentence for each that does not."""
    good, problems = [], []
    for case in cases:
        try:
            case.radiograph()
        except (UnreadablePixels, OSError) as error:
            problems.append(f"{case.identifier}: {error}")
        else:
            good.append(case)
    return tuple(good), tuple(problems)
