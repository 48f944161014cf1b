"""NIH ChestX-ray14 as NIH ships it: one table, the images in twelve folders or one, the official lists."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part
from trainer.cohorts.nih_table import LABELS, UNREAD, adult, drawn, entries, nih_table, other_readers, subset_of
from trainer.cohorts.tables import find, read_names

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_SALT = "cxr-node nih shipped 1"
TUNE_OF_TRAIN_VAL = 0.12
# Where the official lists are not there: (tune, test) of all patients, as CheXNet and its followers drew them.
_DRAWN = (0.10, 0.20)

OFFICIAL_RULE = (
    "Adults (18 to 120 years) only: children and images with an age that cannot be are used for nothing. Images of the "
    "official test list are the test part, whole. Patients of the official train_val list are split by a hash of the "
    f"patient number: {TUNE_OF_TRAIN_VAL:.0%} tune, the others train."
)
DRAWN_RULE = (
    "Adults (18 to 120 years) only: children and images with an age that cannot be are used for nothing. The official "
    "lists are not there: patients are split by a hash of the patient number, "
    f"{1 - sum(_DRAWN):.0%} train, {_DRAWN[0]:.0%} tune, {_DRAWN[1]:.0%} test."
)


@dataclass(frozen=True)
class Lists:
    """NIH's official lists; None where a list is not there."""

    test: frozenset[str] | None
    train_val: frozenset[str] | None

    def holds(self, image: str) -> bool:
        """Tell whether an image is on the official test list."""
        return self.test is not None and image in self.test

    @property
    def rule(self) -> str:
        return DRAWN_RULE if self.test is None else OFFICIAL_RULE


def folders_of(data: Path) -> tuple[Path, ...]:
    """Return where tables and lists are looked for."""
    return data, data / "metadata"


def official_lists(data: Path) -> tuple[Lists, tuple[str, ...]]:
    """Read the lists, plain or gzip; also return what has to be said where one is not there."""
    test, train_val = (find(folders_of(data), (f"{name}_list.txt",)) for name in ("test", "train_val"))
    problems = []
    if test is None:
        problems.append(
            f"{data}: expected test_list.txt, found none; the test part is drawn, and figures on it are not "
            "comparable with those on the official one"
        )
    return Lists(
        None if test is None else read_names(test), None if train_val is None else read_names(train_val)
    ), tuple(problems)


def part_rule(lists: Lists) -> Callable[[str, str], Part]:
    """Return the function of (image, patient) that names an adult's part."""
    parts: dict[str, Part] = {}

    def of_patient(patient: str) -> Part:
        share = drawn(_SALT, patient)
        if lists.test is not None:
            return "tune" if share < TUNE_OF_TRAIN_VAL else "train"
        tune, test = _DRAWN
        return "tune" if share < tune else "test" if share < tune + test else "train"

    def part_of(image: str, patient: str) -> Part:
        if lists.holds(image):
            return "test"
        if lists.train_val is not None and image not in lists.train_val:
            return "apart"  # in neither list: whether it may be learned was never said
        part = parts.get(patient)
        if part is None:
            part = parts[patient] = of_patient(patient)
        return part

    return part_of


def read_shipped(data: Path) -> Cohort:
    """Read NIH's table, with images in ``images_001/images`` … ``images_012/images``, ``images`` or beside the table.

    No image need be there: rows without one are `absent`, with the folder as their path. The whole table of 112,120
    rows takes a second or two.

    Raises
    ------
    CohortError
        The table is not there, lists an image twice, or has a cell that cannot be; the official lists put a patient
        into two parts.
    """
    path = find(folders_of(data), TABLES)
    if path is None:
        raise CohortError(f"{data}: expected {' or '.join(TABLES)}, found none")
    lists, problems = official_lists(data)
    part_of = part_rule(lists)
    readers = other_readers(folders_of(data))
    pictures = _pictures(data)
    cases: list[Case] = []
    absent: list[Case] = []
    seen: set[str] = set()
    for entry in entries(nih_table(path)):
        image = entry.image
        if image in seen:
            raise CohortError(f"{path}, line {entry.line}: the same image is listed twice: {image}")
        seen.add(image)
        folder = pictures.get(image)
        (absent if folder is None else cases).append(
            Case(
                identifier=image,
                path=data if folder is None else folder / image,
                labels=entry.labels,
                patient=entry.patient,
                part=part_of(image, entry.patient) if adult(entry.age) else "apart",
                age=entry.age,
                sex=entry.sex,
                view=entry.view,
                source="nih",
                subset=subset_of(entry.age, official=lists.holds(image)),
                references=readers.get(image, UNREAD),
                follow_up=entry.follow_up,
                original_size=entry.original_size,
                pixel_spacing_mm=entry.pixel_spacing_mm,
            )
        )
    return Cohort(
        name="nih",
        title="NIH ChestX-ray14, adults, as NIH ships it",
        cases=tuple(cases),
        absent=tuple(absent),
        split_rule=lists.rule,
        problems=(*problems, *_said(path, cases, absent)),
        findings=LABELS,
    )


def _pictures(data: Path) -> dict[str, Path]:
    """Return the folder of each image that is there. Listed, not asked one by one: 112,120 questions take a minute."""
    places = [data, data / "images", *sorted(data.glob("images_*")), *sorted(data.glob("images_*/images"))]
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            with os.scandir(place) as files:
                found.update((file.name, place) for file in files if file.name.endswith(".png"))
    return found


def _said(table: Path, cases: list[Case], absent: list[Case]) -> tuple[str, ...]:
    said = []
    if absent:
        said.append(f"{table.name}: {len(absent):,} of {len(cases) + len(absent):,} images listed, not found")
    unbelievable = sum(case.subset.endswith("age") for case in (*cases, *absent))
    if unbelievable:
        said.append(f"{table.name}: {unbelievable} images with no age or one above 120 years, used for nothing")
    return tuple(said)
