"""A selection of NIH ChestX-ray14 in three sizes: ``cxr14`` (512 px), ``cxr14-300`` and ``cxr14-64``.

Each folder has a ``labels.csv`` with NIH's columns, the file's name, and RSNA's and Google's labels of the same image.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part, assign, counted, linked_groups
from trainer.cohorts.nih_table import (
    GOOGLE,
    LABELS,
    RSNA_CLASSES,
    UNREAD,
    YES_NO,
    adult,
    drawn,
    entries,
    nih_table,
    subset_of,
)
from trainer.cohorts.tables import find, read_names

FOLDERS = ("cxr14", "cxr14-300", "cxr14-64")
# (tune, test) of the official train_val patients: with a Pneumonia image, and without. The second kind gives more to
# the test part, as cxr14-300 brings enough 'No Finding' images to train on.
_FRACTIONS = {True: (0.18, 0.20), False: (0.20, 0.35)}
_SALT = "cxr-node nih 1"
# (tune, test) of the patients known from 64-pixel images only.
_FRACTIONS_64 = (0.15, 0.20)
_SALT_64 = "cxr-node nih 64 1"
_SAME_PIXELS = {"00002658_001.png": "1", "00002658_002.png": "1"}  # told by the collection's notes
SPLIT_RULE = (
    "Adults (18 to 120 years) only: children are used for nothing. Official test patients (test_list) are in the test "
    "part only, subset 'official'. Official train_val patients with a 512-pixel image are split by a hash of the "
    "patient number: of those with a Pneumonia image 62 % train, 18 % tune, 20 % test; of the others 45 % train, 20 % "
    "tune, 35 % test; subset 'internal'. Patients with 300-pixel images and none of 512 pixels are trained on; "
    "300-pixel images of patients in another part are used for nothing. Patients with 64-pixel images only: 65 % "
    "train, 15 % tune, 20 % test, by a hash. A patient is in one part over all three sizes. Images with the same "
    "pixels stay together."
)


def is_selection(data: Path) -> bool:
    """Tell whether the folder has this form."""
    return (data / FOLDERS[0]).is_dir()


def read_selection(data: Path) -> Cohort:
    """Read ``cxr14/labels.csv``, those of the two smaller sizes where they are there, and the official list.

    Raises
    ------
    CohortError
        A table or the official list is missing, or a table lists an image twice.
    """
    lists = find((data, data / "metadata"), ("test_list.txt",))
    if lists is None:
        raise CohortError(f"{data / 'metadata'}: expected the official list test_list.txt of test images, found none")
    official_test = read_names(lists)
    cases: list[Case] = []
    problems: list[str] = []
    for name in FOLDERS:
        if name == FOLDERS[0] or (data / name).is_dir():
            cases += _read(data / name)
    official_patients = {case.patient for case in cases if case.identifier.rsplit("/", 1)[-1] in official_test}
    split = _assigned(cases, official_patients)
    there = {name: {path.name for path in (data / name).iterdir()} for name in {case.source for case in cases}}
    found = tuple(case for case in split if case.path.name in there[case.source])
    absent = tuple(case for case in split if case.path.name not in there[case.source])
    for name in FOLDERS:
        missing = [case.path.name for case in absent if case.source == name]
        problems += counted(missing, f"listed in {data / name / 'labels.csv'}, not found")
    return Cohort(
        name="nih",
        title="NIH ChestX-ray14, adults: a selection of 512, 300 and 64 px",
        cases=found,
        absent=absent,
        split_rule=SPLIT_RULE,
        problems=tuple(problems),
        findings=LABELS,
    )


def _read(folder: Path) -> list[Case]:
    table = nih_table(folder / "labels.csv")
    if "file" not in table.columns:
        raise CohortError(f"{table.path}, line 1: expected the column file, found {', '.join(table.columns)}")
    cases = []
    seen: set[str] = set()
    for entry, (_, row) in zip(entries(table), table.records(), strict=True):
        if entry.image in seen:
            raise CohortError(f"{table.path}, line {entry.line}: the same image is listed twice: {entry.image}")
        seen.add(entry.image)
        if Path(row["file"]).name != row["file"]:
            raise table.wrong(entry.line, "file", row["file"], "a file name without a folder")
        cases.append(
            Case(
                identifier=f"{folder.name}/{entry.image}",
                path=folder / row["file"],
                labels=entry.labels,
                patient=entry.patient,
                part="train",
                age=entry.age,
                sex=entry.sex,
                view=entry.view,
                source=folder.name,
                subset=subset_of(entry.age, official=False),
                duplicate_group=_SAME_PIXELS.get(entry.image, ""),
                references=_references(row),
                follow_up=entry.follow_up,
            )
        )
    return cases


def _references(row: Mapping[str, str]) -> Mapping[str, float]:
    return {
        **UNREAD,
        **RSNA_CLASSES.get(row.get("rsna_class", ""), {}),
        **{f"google_{name}": YES_NO.get(row.get(f"google_{name}", ""), math.nan) for name in GOOGLE},
    }


def _assigned(cases: list[Case], official_patients: set[str]) -> tuple[Case, ...]:
    groups = linked_groups(cases)
    official = {groups[patient] for patient in official_patients}
    # Only what was there before the 64-pixel images came decides on their patients: released models keep their split.
    larger = [case for case in cases if case.source != FOLDERS[2] and adult(case.age)]
    with_pneumonia = {groups[case.patient] for case in larger if case.labels["pneumonia"] == 1}
    with_512 = {groups[case.patient] for case in larger if case.source == FOLDERS[0]}
    with_300 = {groups[case.patient] for case in larger} - with_512

    def group_part(group: str) -> Part:
        if group in official:
            return "test"
        if group in with_300:
            return "train"
        if group in with_512:
            (tune, test), salt = _FRACTIONS[group in with_pneumonia], _SALT
        else:
            (tune, test), salt = _FRACTIONS_64, _SALT_64
        share = drawn(salt, group)
        return "tune" if share < tune else "test" if share < tune + test else "train"

    def part_of(case: Case) -> Part:
        if not adult(case.age):
            return "apart"
        part = group_part(groups[case.patient])
        return "apart" if case.source == FOLDERS[1] and part != "train" else part

    return tuple(
        replace(case, subset=subset_of(case.age, official=True)) if case.patient in official_patients else case
        for case in assign(cases, part_of)
    )
