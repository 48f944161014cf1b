"""Kermany paediatric pneumonia: children of one to five years, one hospital, AP.

Source: Kermany, Zhang, Goldbaum 2018, Mendeley Data, doi 10.17632/rscbjbr9sj, CC BY 4.0.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part, assign, counted, linked_groups
from trainer.cohorts.tables import Table

TUNE_FRACTION = 0.15
SPLIT_RULE = (
    "The official test part is untouched. Train cases whose personNNN also occurs in the official test part are used "
    "for nothing. The tune part is, in each series of numbers (IM, NORMAL2-IM, person bacteria, person virus), the "
    f"{TUNE_FRACTION:.0%} of train patients with the lowest numbers: the official test part holds the lowest numbers "
    "of all, so the tune part lies next to it and shows more of the drift than a random part would. Patients that "
    "share a picture with the same pixels stay together."
)
VAL_RULE = " The 16 images of the official val part are used for nothing: no figure on 16 images tunes anything."
CLASSES = ("NORMAL", "PNEUMONIA")
_PERSON = re.compile(r"(person\d+)_(bacteria|virus)_\d+.*", re.IGNORECASE)
_NORMAL = re.compile(r"((?:NORMAL2-)?IM-\d+)-.*", re.IGNORECASE)
_PICTURES = (".jpeg", ".jpg", ".png")


def kermany(data: Path) -> Cohort:
    """Read the cohort in the form that the folder has, and split it by patient.

    - ``kermany/labels.csv``: a table of pictures of 224 x 224, stretched; `again` is the same image in its own aspect
      from ``kermany-native``, where that has it;
    - ``{train,val,test}/{NORMAL,PNEUMONIA}``, here, in ``chest_xray`` or in ``chest_xray/chest_xray``: as Kaggle
      ships it; patient and subtype come from the file's name, duplicates are files with the same bytes.

    Raises
    ------
    CohortError
        The folder has neither form, or a row has a label or part that is not known.
    """
    if (data / "kermany" / "labels.csv").is_file():
        return _from_table(data)
    for folder in (data, data / "chest_xray", data / "chest_xray" / "chest_xray", data / "kermany"):
        if all((folder / split / name).is_dir() for split in ("train", "test") for name in CLASSES):
            return _from_folders(folder)
    raise CohortError(
        f"{data}: expected kermany/labels.csv or the folders train and test with {' and '.join(CLASSES)} in each, "
        "found none"
    )


def _from_table(data: Path) -> Cohort:
    folder = data / "kermany"
    table = Table.of(
        folder / "labels.csv", ("split", "label", "file", "subtype", "patient", "duplicate_group", "native")
    )
    there = _listed(folder)
    native_there = _listed(data / "kermany-native")
    rows = []
    for line, row in table.records():
        if row["split"] not in ("train", "test"):
            raise table.wrong(line, "split", row["split"], "train or test")
        if row["label"] not in CLASSES:
            raise table.wrong(line, "label", row["label"], " or ".join(CLASSES))
        place = f"{row['split']}/{row['label']}/{row['file']}"
        rows.append(
            Case(
                identifier=place,
                path=folder / place,
                labels={"pneumonia": float(row["label"] == "PNEUMONIA")},
                patient=row["patient"],
                part="test" if row["split"] == "test" else "train",
                view="AP",
                source="kermany",
                subset=row["subtype"] or "normal",
                duplicate_group=row["duplicate_group"],
                again=data / "kermany-native" / place if row["native"] == "1" and place in native_there else None,
            )
        )
    split = _assigned(rows)
    absent = tuple(case for case in split if case.identifier not in there)
    return Cohort(
        name="kermany",
        title="Kermany paediatric pneumonia (Guangzhou), 224 x 224",
        cases=tuple(case for case in split if case.identifier in there),
        absent=absent,
        split_rule=SPLIT_RULE,
        problems=counted([case.path.name for case in absent], "listed in labels.csv, not found"),
        findings=("pneumonia",),
    )


def _from_folders(folder: Path) -> Cohort:
    places = sorted(_listed(folder))
    same = _same_bytes(folder, places)
    rows, strange = [], []
    for place in places:
        split, label, name = place.split("/")
        found = _PERSON.fullmatch(name) if label == "PNEUMONIA" else _NORMAL.fullmatch(name)
        if found is None:
            strange.append(place)
        rows.append(
            Case(
                identifier=place,
                path=folder / place,
                labels={"pneumonia": float(label == "PNEUMONIA")},
                patient=found[1] if found else f"unknown {place}",
                part="test" if split == "test" else "train" if split == "train" and found else "apart",
                view="AP",
                source="kermany",
                subset=found[2].lower() if found and label == "PNEUMONIA" else "normal" if found else "unknown",
                duplicate_group=same.get(place, ""),
            )
        )
    return Cohort(
        name="kermany",
        title="Kermany paediatric pneumonia (Guangzhou), as Kaggle ships it",
        cases=_assigned(rows),
        split_rule=SPLIT_RULE + VAL_RULE,
        problems=counted(
            strange, "the name tells no patient (personNNN_bacteria_N, personNNN_virus_N, IM-NNNN-N): not trained on"
        ),
        findings=("pneumonia",),
    )


def _assigned(cases: list[Case]) -> tuple[Case, ...]:
    """Return the cases, read with their official part, with the part that `SPLIT_RULE` gives them."""
    test_patients = {case.patient for case in cases if case.part == "test"}
    test_groups = {case.duplicate_group for case in cases if case.part == "test" and case.duplicate_group}
    groups = linked_groups(cases)
    kept_apart = {groups[patient] for patient in test_patients}
    train = [case for case in cases if case.part == "train" and groups[case.patient] not in kept_apart]
    tune = _lowest_numbers(train, groups)

    def part_of(case: Case) -> Part:
        if case.part != "train":
            return case.part
        if groups[case.patient] in kept_apart or case.duplicate_group in test_groups:
            return "apart"
        return "tune" if groups[case.patient] in tune else "train"

    return assign(cases, part_of)


def _lowest_numbers(cases: list[Case], groups: dict[str, str]) -> set[str]:
    """Return the groups of the patients with the lowest numbers of each series."""
    series: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases:
        name = re.fullmatch(r"(.*?)(\d+)", case.patient)
        series[name[1] if name else "", case.subset].add(case.patient)
    chosen = set()
    for patients in series.values():
        ordered = sorted(patients, key=lambda patient: int(re.sub(r"^.*?(\d+)$", r"\1", patient)))
        chosen |= {groups[patient] for patient in ordered[: round(TUNE_FRACTION * len(ordered))]}
    return chosen


def _listed(folder: Path) -> frozenset[str]:
    """Return ``split/label/file`` of every picture that is there."""
    return frozenset(
        f"{split}/{label}/{path.name}"
        for split in ("train", "val", "test")
        for label in CLASSES
        if (folder / split / label).is_dir()
        for path in (folder / split / label).iterdir()
        # Kaggle's archive was made on a Mac, which leaves ._NAME beside each file.
        if path.suffix.lower() in _PICTURES and not path.name.startswith(".")
    )


def _same_bytes(folder: Path, places: Iterable[str]) -> dict[str, str]:
    """Return a name for each group of files with the same bytes. Only files of one size are read."""
    sizes: dict[int, list[str]] = defaultdict(list)
    for place in places:
        sizes[(folder / place).stat().st_size].append(place)
    groups: dict[str, list[str]] = defaultdict(list)
    for alike in sizes.values():
        if len(alike) > 1:
            for place in alike:
                groups[hashlib.sha256((folder / place).read_bytes()).hexdigest()[:16]].append(place)
    return {place: name for name, members in groups.items() if len(members) > 1 for place in members}
