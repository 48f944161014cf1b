"""RSNA Pneumonia Detection Challenge 2018: NIH's images as DICOM, labeled by radiologists. For evaluation only.

Source: Shih et al., Radiology: Artificial Intelligence 2019, doi 10.1148/ryai.2019180041;
https://www.kaggle.com/c/rsna-pneumonia-detection-challenge.
"""

import math
from pathlib import Path
from typing import NamedTuple

from cxr_node.errors import UnreadableDataset
from trainer.cohorts.case import Case, Cohort, CohortError, Part, counted
from trainer.cohorts.dicom import described
from trainer.cohorts.nih_table import RSNA_CLASSES, WORST_MATCH, adult, patient_of, subset_of
from trainer.cohorts.tables import Table, find, number, read_names, years

SPLIT_RULE = (
    "Every case is a test case: the challenge's terms allow non-commercial research and education, so nothing that is "
    "released is learned from or tuned on it. Children and ages that cannot be are used for nothing."
)
OWN_RULE = "Parts as parts.csv of the folder says. Children and ages that cannot be are used for nothing."
_PARTS: dict[str, Part] = {"train": "train", "tune": "tune", "test": "test", "apart": "apart"}


class _Image(NamedTuple):
    """What the tables say of one image."""

    read: str
    nih_image: str = ""
    age: float = math.nan
    sex: str = ""
    view: str = ""
    spacing: float = math.nan


def rsna(data: Path) -> Cohort:
    """Read the challenge's train images and labels.

    Labels come from ``stage_2_detailed_class_info.csv`` and ``stage_2_train_labels.csv``, or where those are not
    there from ``metadata/rsna_labels_with_nih_match.csv``; ``pneumonia`` is 1 for Lung Opacity, ``abnormal`` 0 for
    Normal. That last table also tells NIH's image, and with it the patient: without it each image counts as a patient.
    Age, sex and view come from ``rsna_stage2_train_dicom_headers.csv``, or from each image's header, which takes
    about a millisecond each. `subset` is ``official`` where NIH's image is on its official test list: a model that was
    trained on NIH has seen the patients of all others, and only the official ones are new to it.

    Every case is in the test part. The terms are for non-commercial research and education, and a folder that a
    download makes says nothing of what its user may do; so learning from it is something to say, not to slip into: a
    file ``parts.csv`` (patientId, part) does.

    Raises
    ------
    CohortError
        No table of labels is there, the two tables disagree, or a cell cannot be read.
    """
    folders = (data, data / "metadata")
    images = _read_labels(folders)
    matched = _match(folders, images)
    described_by_table = _describe(folders, images)
    lists = find(folders, ("test_list.txt",))
    official = read_names(lists) if lists is not None else frozenset()
    parts = _own_parts(data)
    place = data / "stage_2_train_images"
    there = {path.stem: path for path in place.iterdir() if path.suffix == ".dcm"} if place.is_dir() else {}
    cases: list[Case] = []
    absent: list[Case] = []
    broken: list[str] = []
    for name, told in sorted(images.items()):
        read_header = name in there and not described_by_table
        image = _from_header(there[name], told, broken) if read_header else told
        labels = RSNA_CLASSES[image.read]
        (cases if name in there else absent).append(
            Case(
                identifier=name,
                path=place / f"{name}.dcm",
                labels={"pneumonia": labels["rsna"], "abnormal": labels["rsna_abnormal"]},
                patient=patient_of(image.nih_image) if image.nih_image else f"rsna-{name}",
                part=(parts.get(name, "apart") if parts is not None else "test") if adult(image.age) else "apart",
                age=image.age,
                sex=image.sex,
                view=image.view,
                source="rsna",
                subset=subset_of(image.age, official=image.nih_image in official),
                pixel_spacing_mm=image.spacing,
            )
        )
    problems = [*counted(broken, "the header does not read: age, sex and view are unknown")]
    if absent:
        problems.append(f"{place}: {len(absent):,} of {len(images):,} images listed, not found")
    if not matched:
        problems.append("no images are known to be of one patient: each counts as one, and intervals are too narrow")
    elif official:
        problems.append("the images are NIH's: only subset 'official' is new to a model that was trained on NIH")
    return Cohort(
        name="rsna",
        title="RSNA Pneumonia Detection Challenge 2018, adults, labels by radiologists",
        cases=tuple(cases),
        absent=tuple(absent),
        split_rule=SPLIT_RULE if parts is None else OWN_RULE,
        problems=tuple(problems),
        findings=("pneumonia", "abnormal"),
    )


def _read_labels(folders: tuple[Path, ...]) -> dict[str, _Image]:
    """Return what was read of each image, from the challenge's tables or the match with NIH."""
    classes = find(folders, ("stage_2_detailed_class_info.csv",))
    targets = find(folders, ("stage_2_train_labels.csv",))
    if classes is None:
        match = find(folders, ("rsna_labels_with_nih_match.csv",))
        if match is None:
            says = "" if targets is None else ", which tells Normal from Not Normal, beside stage_2_train_labels.csv"
            raise CohortError(f"{folders[0]}: expected stage_2_detailed_class_info.csv{says}, found none")
        table, key, column = Table.of(match, ("rsna_id", "rsna_class")), "rsna_id", "rsna_class"
    else:
        table, key, column = Table.of(classes, ("patientId", "class")), "patientId", "class"
    images: dict[str, _Image] = {}
    for line, row in table.records():  # an image with several boxes has several rows
        if row[column] not in RSNA_CLASSES:
            raise table.wrong(line, column, row[column], f"one of {', '.join(RSNA_CLASSES)}")
        if Path(row[key]).name != row[key] or not row[key]:
            raise table.wrong(line, key, row[key], "an image's name without a folder")
        if images.setdefault(row[key], _Image(row[column])).read != row[column]:
            raise table.wrong(line, column, row[column], f"{images[row[key]].read} as in an earlier line")
    if targets is not None:
        table = Table.of(targets, ("patientId", "Target"))
        for line, row in table.records():
            image = images.get(row["patientId"])
            if image is None:
                raise table.wrong(line, "patientId", row["patientId"], "an image of the table of classes")
            if number(row["Target"]) != RSNA_CLASSES[image.read]["rsna"]:
                expected = f"{RSNA_CLASSES[image.read]['rsna']:.0f}, as the class is {image.read}"
                raise table.wrong(line, "Target", row["Target"], expected)
    return images


def _match(folders: tuple[Path, ...], images: dict[str, _Image]) -> bool:
    """Put NIH's image to each; False where there is no table of matches."""
    path = find(folders, ("rsna_labels_with_nih_match.csv",))
    if path is None:
        return False
    for _, row in Table.of(path, ("rsna_id", "nih_image_index", "match_mse")).records():
        if row["rsna_id"] in images and number(row["match_mse"]) <= WORST_MATCH:
            images[row["rsna_id"]] = images[row["rsna_id"]]._replace(nih_image=row["nih_image_index"])
    return True


def _describe(folders: tuple[Path, ...], images: dict[str, _Image]) -> bool:
    """Put age, sex, view and spacing to each; False where there is no table of headers."""
    path = find(folders, ("rsna_stage2_train_dicom_headers.csv",))
    if path is None:
        return False
    columns = ("PatientID", "PatientAge", "PatientSex", "ViewPosition", "PixelSpacing")
    for _, row in Table.of(path, columns).records():
        if row["PatientID"] in images:
            images[row["PatientID"]] = images[row["PatientID"]]._replace(
                age=years(row["PatientAge"]),
                sex=row["PatientSex"] if row["PatientSex"] in ("F", "M") else "",
                view=row["ViewPosition"] if row["ViewPosition"] in ("PA", "AP") else "",
                spacing=number(row["PixelSpacing"]),
            )
    return True


def _from_header(path: Path, image: _Image, broken: list[str]) -> _Image:
    try:
        header = described(path)
    except (UnreadableDataset, OSError):
        broken.append(path.name)
        return image
    return image._replace(age=header.age, sex=header.sex, view=header.view, spacing=header.pixel_spacing_mm)


def _own_parts(data: Path) -> dict[str, Part] | None:
    path = find((data,), ("parts.csv",))
    if path is None:
        return None
    table = Table.of(path, ("patientId", "part"))
    parts = {}
    for line, row in table.records():
        if row["part"] not in _PARTS:
            raise table.wrong(line, "part", row["part"], f"one of {', '.join(_PARTS)}")
        parts[row["patientId"]] = _PARTS[row["part"]]
    return parts
