"""Kermany paediatric pneumonia: children of one to five years, one hospital, AP; pictures of 224 x 224, stretched.

Source: Kermany, Zhang, Goldbaum 2018, Mendeley Data, doi 10.17632/rscbjbr9sj, CC BY 4.0.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part, assign, linked_groups

TUNE_FRACTION = 0.15
SPLIT_RULE = (
    "The official test part is untouched. Train cases whose personNNN also occurs in the official test part are used "
    "for nothing. The tune part is, in each series of numbers (IM, NORMAL2-IM, person bacteria, person virus), the "
    f"{TUNE_FRACTION:.0%} of train patients with the lowest numbers: the official test part holds the lowest numbers "
    "of all, so the tune part lies next to it and shows more of the drift than a random part would. Patients that "
    "share a picture with the same pixels stay together."
)


def kermany(data: Path) -> Cohort:
    """Read ``kermany/labels.csv`` and split by patient.

    Raises
    ------
    CohortError
        The table is not there, or a row has a label or part that is not known.
    """
    folder = data / "kermany"
    table = folder / "labels.csv"
    try:
        rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    except OSError as error:
        raise CohortError(f"{table}: expected the table of the cohort, found none ({error.strerror})") from error
    cases, problems = [], []
    for row in rows:
        if row["split"] not in ("train", "test") or row["label"] not in ("NORMAL", "PNEUMONIA"):
            raise CohortError(f"{table}: {row['file']} has the split {row['split']!r} and the label {row['label']!r}")
        path = folder / row["split"] / row["label"] / row["file"]
        if not path.is_file():
            problems.append(f"{path.name}: listed in {table.name}, not found")
            continue
        native = data / "kermany-native" / row["split"] / row["label"] / row["file"]
        cases.append(
            Case(
                identifier=f"{row['split']}/{row['label']}/{row['file']}",
                path=path,
                labels={"pneumonia": float(row["label"] == "PNEUMONIA")},
                patient=row["patient"],
                part="test" if row["split"] == "test" else "train",
                view="AP",
                source="kermany",
                subset=row["subtype"] or "normal",
                duplicate_group=row["duplicate_group"],
                again=native if row["native"] == "1" and native.is_file() else None,
            )
        )
    test_patients = {case.patient for case in cases if case.part == "test"}
    test_groups = {case.duplicate_group for case in cases if case.part == "test" and case.duplicate_group}
    groups = linked_groups(cases)
    kept_apart = {groups[patient] for patient in test_patients}
    train = [case for case in cases if case.part == "train" and groups[case.patient] not in kept_apart]
    tune = _lowest_numbers(train, groups)

    def part_of(case: Case) -> Part:
        if case.part == "test":
            return "test"
        if groups[case.patient] in kept_apart or case.duplicate_group in test_groups:
            return "apart"
        return "tune" if groups[case.patient] in tune else "train"

    return Cohort(
        name="kermany",
        title="Kermany paediatric pneumonia (Guangzhou), 224 x 224",
        cases=assign(cases, part_of),
        split_rule=SPLIT_RULE,
        problems=tuple(problems),
    )


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
