"""NIH ChestX-ray14: adults, frontal, with report-mined labels, and radiologists' labels where others gave them.

Sources: Wang et al., CVPR 2017 (https://nihcc.app.box.com/v/ChestXray-NIHCC); RSNA Pneumonia Detection Challenge 2018,
Shih et al. 2019.
"""

import csv
import gzip
import hashlib
import math
from collections import Counter
from pathlib import Path

from trainer.cohorts.case import Case, Cohort, CohortError, Part, assign, linked_groups

ADULT_YEARS = 18
# Ages above are typing errors of the source; the table has a handful.
OLDEST_YEARS = 110
# (tune, test) of the official train_val patients: with a Pneumonia image, and without. The second kind gives more to
# the test part, as cxr14-300 brings enough 'No Finding' images to train on.
_FRACTIONS = {True: (0.18, 0.20), False: (0.20, 0.35)}
_SALT = "cxr-node nih 1"
SPLIT_RULE = (
    "Adults (18 years and older). Official test patients (test_list) are in the test part only, subset 'official'. "
    "Official train_val patients are split by a hash of the patient number: of those with a Pneumonia image 62 % "
    "train, 18 % tune, 20 % test; of the others 45 % train, 20 % tune, 35 % test; subset 'internal'. The 300-pixel "
    "images are used for training only, and patients of theirs that are in another part are used for nothing. Images "
    "with the same pixels stay together."
)


def nih(data: Path) -> Cohort:
    """Read ``cxr14/labels.csv``, ``cxr14-300/labels.csv`` and the official list, and split by patient.

    The label ``pneumonia`` is the report's: 1 where Finding Labels names Pneumonia, 0 where it does not. The reference
    ``rsna`` is the radiologists': 1 for Lung Opacity, 0 otherwise, NaN where they did not read the image. What is
    taught is the mean of both where both are given: a label in dispute is learned as doubt.

    Raises
    ------
    CohortError
        A table is missing, or lists the same image twice.
    """
    official_test = _official_test(data / "metadata" / "test_list.txt.gz")
    cases: list[Case] = []
    problems: list[str] = []
    for folder in ("cxr14", "cxr14-300"):
        _read(data / folder, cases, problems)
    twice = [name for name, count in Counter(case.identifier for case in cases).items() if count > 1]
    if twice:
        raise CohortError(f"the same image is listed twice: {', '.join(twice[:5])}")
    official_patients = {case.patient for case in cases if _image(case) in official_test}
    groups = linked_groups(cases)
    official_groups = {groups[patient] for patient in official_patients}
    with_pneumonia = {groups[case.patient] for case in cases if case.labels["pneumonia"] == 1}

    def group_part(group: str) -> Part:
        if group in official_groups:
            return "test"
        tune, test = _FRACTIONS[group in with_pneumonia]
        digest = hashlib.sha256(f"{_SALT} {group}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
        return "tune" if drawn < tune else "test" if drawn < tune + test else "train"

    # Only patients with a 512-pixel image are drawn: all others are there to train on.
    drawn_groups = {groups[case.patient] for case in cases if case.source == "cxr14"}

    def part_of(case: Case) -> Part:
        group = groups[case.patient]
        part = group_part(group) if group in drawn_groups or group in official_groups else "train"
        return part if case.source == "cxr14" or part == "train" else "apart"

    split = assign(cases, part_of)
    return Cohort(
        name="nih",
        title="NIH ChestX-ray14, adults, 512 px (and 300 px 'No Finding' to train on)",
        cases=tuple(
            Case(**{**case.__dict__, "subset": "official" if case.patient in official_patients else "internal"})
            for case in split
        ),
        split_rule=SPLIT_RULE,
        problems=tuple(problems),
    )


def _image(case: Case) -> str:
    return case.identifier.rsplit("/", 1)[-1]


def _official_test(path: Path) -> set[str]:
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            return set(lines.read().split())
    except OSError as error:
        raise CohortError(f"{path}: expected the official list of test images, found none ({error})") from error


def _read(folder: Path, cases: list[Case], problems: list[str]) -> None:
    table = folder / "labels.csv"
    try:
        rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    except OSError as error:
        raise CohortError(f"{table}: expected the table of the cohort, found none ({error.strerror})") from error
    same_pixels = {"00002658_001.png": "1", "00002658_002.png": "1"}  # told by the collection's notes
    for row in rows:
        path = folder / row["file"]
        try:
            age = float(row["Patient Age"])
        except ValueError:
            age = math.nan
        if not path.is_file():
            problems.append(f"{path.name}: listed in {table}, not found")
            continue
        if not ADULT_YEARS <= age <= OLDEST_YEARS:
            continue
        reported = float("Pneumonia" in row["Finding Labels"].split("|"))
        read = {"Lung Opacity": 1.0, "No Lung Opacity / Not Normal": 0.0, "Normal": 0.0}.get(
            row["rsna_class"], math.nan
        )
        cases.append(
            Case(
                identifier=f"{folder.name}/{row['Image Index']}",
                path=path,
                labels={"pneumonia": reported},
                patient=f"nih-{int(row['Patient ID'])}",
                part="train",
                age=age,
                sex=row["Patient Gender"],
                view=row["View Position"],
                source=folder.name,
                duplicate_group=same_pixels.get(row["Image Index"], ""),
                references={"rsna": read},
                teaching={"pneumonia": reported if math.isnan(read) else (reported + read) / 2},
            )
        )
