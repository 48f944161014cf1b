"""The Kermany children: whose pictures may be learned, and which parts are not what they are called."""

import csv
import hashlib
import shutil

import numpy as np
import pytest

from trainer.cohorts import COHORTS, CohortError, without_broken

from .cohort_builders import kermany_kaggle, kermany_table, picture
from .conftest import write_kermany

kermany = COHORTS["kermany"]


def by_name(cohort):
    return {case.path.name: case for case in cohort.rows}


@pytest.mark.requirement("SRS-TRN-114")
def test_train_cases_that_share_a_number_or_a_picture_with_the_test_part_are_kept_apart(tmp_path):
    """Whether the number is the same child is not known: the test part stays as it is, training gives way."""

    def row(split, number, **more):
        file = f"person{number}_virus_{split}{len(more)}.png"
        return {
            "split": split,
            "label": "PNEUMONIA",
            "file": file,
            "patient": f"person{number}",
            "subtype": "virus",
            **more,
        }

    rows = [
        row("test", 1),
        row("train", 1),
        row("test", 2, duplicate_group="9"),
        row("train", 3, duplicate_group="9"),
        row("train", 3),
        *[row("train", number) for number in range(10, 30)],
    ]
    write_kermany(tmp_path, rows)
    cohort = kermany(tmp_path)
    apart = {case.patient for case in cohort.part("apart")}
    assert apart == {"person1", "person3"}
    assert {case.patient for case in cohort.part("test")} == {"person1", "person2"}
    assert {case.patient for case in cohort.part("tune")} == {"person10", "person11", "person12"}


@pytest.mark.requirement("SRS-TRN-103")
def test_missing_and_broken_pictures_are_reported_not_hidden(tmp_path):
    rows = [
        {"split": "train", "label": "NORMAL", "file": f"IM-{number}.png", "patient": f"IM-{number}"}
        for number in range(4)
    ]
    write_kermany(tmp_path, rows)
    folder = tmp_path / "kermany" / "train" / "NORMAL"
    (folder / "IM-1.png").unlink()
    (folder / "IM-2.png").write_bytes(b"no picture")
    cohort = kermany(tmp_path)
    assert cohort.problems == ("IM-1.png: listed in labels.csv, not found",)
    assert [case.patient for case in cohort.absent] == ["IM-1"]
    good, problems = without_broken(cohort.cases)
    assert [case.patient for case in good] == ["IM-0", "IM-3"]
    assert "train/NORMAL/IM-2.png: expected a PNG or JPEG picture" in problems[0]


@pytest.mark.requirement("SRS-TRN-103")
def test_many_missing_pictures_are_one_sentence_with_their_count(tmp_path):
    rows = [
        {"split": "train", "label": "NORMAL", "file": f"IM-{number}.png", "patient": f"IM-{number}"}
        for number in range(9)
    ]
    write_kermany(tmp_path, rows)
    shutil.rmtree(tmp_path / "kermany" / "train")
    (problem,) = kermany(tmp_path).problems
    assert problem == (
        "IM-0.png, IM-1.png, IM-2.png, IM-3.png, IM-4.png and 4 more (9 in all): listed in labels.csv, not found"
    )


@pytest.mark.requirement("SRS-TRN-114")
@pytest.mark.parametrize("place", ["chest_xray", "chest_xray/chest_xray", "."])
def test_kaggles_folders_are_found_at_every_depth_that_its_archive_makes(tmp_path, place):
    kermany_kaggle(tmp_path / "drawn")
    target = tmp_path / "data" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "drawn" / "chest_xray").rename(target)
    cohort = kermany(tmp_path / "data")
    assert len(cohort.cases) == 4 * (20 + 2 + 8)
    assert cohort.problems == ()


@pytest.mark.requirement("SRS-TRN-115")
def test_patient_and_subtype_come_from_the_file_name(tmp_path):
    kermany_kaggle(tmp_path)
    cases = by_name(kermany(tmp_path))
    of = {name: (case.patient, case.subset, case.labels["pneumonia"], case.view) for name, case in cases.items()}
    assert of["person100_bacteria_300.jpeg"] == ("person100", "bacteria", 1, "AP")
    assert of["person600_virus_300.jpeg"] == ("person600", "virus", 1, "AP")
    assert of["IM-0100-0001.jpeg"] == ("IM-0100", "normal", 0, "AP")
    assert of["NORMAL2-IM-0100-0001-0002.jpeg"] == ("NORMAL2-IM-0100", "normal", 0, "AP")


@pytest.mark.requirement("SRS-TRN-114")
def test_the_official_val_part_of_sixteen_images_is_never_tuned_on(tmp_path):
    """16 images have an interval of 15 to 20 points."""
    kermany_kaggle(tmp_path)
    cohort = kermany(tmp_path)
    of = {case.identifier.split("/")[0]: set() for case in cohort.cases}
    for case in cohort.cases:
        of[case.identifier.split("/")[0]].add(case.part)
    assert of == {"train": {"train", "tune"}, "val": {"apart"}, "test": {"test"}}
    numbers = {case.patient for case in cohort.part("tune") if case.subset == "virus"}
    assert numbers == {"person600", "person601", "person602"}


@pytest.mark.requirement("SRS-TRN-115")
def test_files_with_the_same_bytes_stay_together_and_give_way_to_the_test_part(tmp_path):
    kermany_kaggle(tmp_path)
    folder = tmp_path / "chest_xray"
    test = folder / "test" / "NORMAL" / "IM-0001-0001.jpeg"
    shutil.copy(test, folder / "train" / "NORMAL" / "IM-0777-0001.jpeg")
    shutil.copy(
        folder / "train" / "PNEUMONIA" / "person619_virus_357.jpeg",
        folder / "train" / "PNEUMONIA" / "person800_virus_1.jpeg",
    )
    cases = by_name(kermany(tmp_path))
    assert cases["IM-0777-0001.jpeg"].part == "apart"
    assert cases["IM-0777-0001.jpeg"].duplicate_group == cases["IM-0001-0001.jpeg"].duplicate_group
    assert cases["IM-0777-0001.jpeg"].duplicate_group == hashlib.sha256(test.read_bytes()).hexdigest()[:16]
    pair = [cases[name] for name in ("person619_virus_357.jpeg", "person800_virus_1.jpeg")]
    assert len({(case.part, case.duplicate_group) for case in pair}) == 1
    assert cases["person100_bacteria_300.jpeg"].duplicate_group == ""


@pytest.mark.requirement("SRS-TRN-115")
def test_a_name_that_tells_no_patient_is_not_trained_on_and_said(tmp_path):
    kermany_kaggle(tmp_path)
    picture(tmp_path / "chest_xray" / "train" / "NORMAL" / "holiday.jpeg", False, np.random.default_rng(1))
    cohort = kermany(tmp_path)
    assert by_name(cohort)["holiday.jpeg"].part == "apart"
    assert cohort.problems[0].startswith("train/NORMAL/holiday.jpeg: the name tells no patient")


@pytest.mark.requirement("SRS-TRN-114")
def test_the_picture_in_its_own_aspect_is_there_to_train_with(tmp_path):
    kermany_table(tmp_path)
    cases = kermany(tmp_path).cases
    assert {case.again is not None for case in cases if case.part == "train"} == {True, False}
    assert all(case.again is None for case in cases if case.part == "test")
    assert all(case.again.is_file() for case in cases if case.again)


@pytest.mark.requirement("SRS-TRN-105")
def test_a_label_or_part_that_is_not_known_is_an_error_with_its_place(tmp_path):
    write_kermany(tmp_path, [{"split": "train", "label": "NORMAL", "file": "IM-1.png", "patient": "IM-1"}])
    path = tmp_path / "kermany" / "labels.csv"
    text = path.read_text()
    path.write_text(text.replace("NORMAL", "FLU"))
    with pytest.raises(CohortError, match="line 2, column 'label': expected NORMAL or PNEUMONIA, found 'FLU'"):
        kermany(tmp_path)
    path.write_text(text.replace("train", "val"))
    with pytest.raises(CohortError, match="line 2, column 'split': expected train or test, found 'val'"):
        kermany(tmp_path)


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-114")
def test_the_official_test_part_is_whole_and_its_person_numbers_are_not_learned(shared_data):
    cohort = kermany(shared_data)
    test = cohort.part("test")
    assert {case.path.parent.parent.name for case in test} == {"test"}
    files = [path for path in (shared_data / "kermany" / "test").rglob("*") if path.is_file()]
    assert len(test) == len(files)
    learned = {case.patient for part in ("train", "tune") for case in cohort.part(part)}
    assert learned.isdisjoint({case.patient for case in test})
    assert cohort.problems == ()


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-114")
def test_the_split_of_the_released_model_is_as_it_was(shared_data):
    """Counted when `pneumonia` was released."""
    cohort = kermany(shared_data)
    assert [len(cohort.part(part)) for part in ("train", "tune", "test", "apart")] == [3173, 873, 545, 372]
    assert sum(case.again is not None for case in cohort.cases) == 1305


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-115")
def test_names_and_bytes_of_the_real_files_tell_what_the_real_table_tells(shared_data):
    """Kaggle's form has no table: patient, subtype and duplicates are found from the files alone."""
    with (shared_data / "kermany" / "labels.csv").open(newline="") as file:
        told = {f"{row['split']}/{row['label']}/{row['file']}": row for row in csv.DictReader(file)}
    from trainer.cohorts.kermany import _from_folders

    found = _from_folders(shared_data / "kermany")
    assert {case.identifier for case in found.cases} == set(told)
    groups: dict[str, set[str]] = {}
    for case in found.cases:
        row = told[case.identifier]
        assert (case.patient, case.subset) == (row["patient"], row["subtype"] or "normal")
        if case.duplicate_group:
            groups.setdefault(case.duplicate_group, set()).add(case.identifier)
    by_table: dict[str, set[str]] = {}
    for name, row in told.items():
        if row["duplicate_group"]:
            by_table.setdefault(row["duplicate_group"], set()).add(name)
    assert {frozenset(group) for group in groups.values()} == {frozenset(group) for group in by_table.values()}
    assert [case.part for case in found.cases] == [
        case.part for case in sorted(kermany(shared_data).cases, key=lambda case: case.identifier)
    ]
