"""A patient whose images are on both sides of a split makes every figure of it too good."""

import gzip
import math
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.cohorts import COHORTS, Case, Cohort, CohortError, check_split, without_broken

from .conftest import write_kermany


@pytest.fixture(scope="module", params=sorted(COHORTS))
def cohort(request, shared_data):
    return COHORTS[request.param](shared_data)


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_no_patient_and_no_picture_stands_in_two_parts(cohort):
    """Counted anew here, without the code that splits."""
    for key in ("patient", "duplicate_group", "identifier"):
        parts: dict[str, set[str]] = {}
        for case in cohort.cases:
            if case.part != "apart" and getattr(case, key):
                parts.setdefault(getattr(case, key), set()).add(case.part)
        assert [name for name, found in parts.items() if len(found) > 1] == []


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_every_part_has_both_labels_and_every_file_is_there(cohort):
    assert cohort.problems == ()
    for part in ("train", "tune", "test"):
        labels = {case.labels["pneumonia"] for case in cohort.part(part)}
        assert labels == {0.0, 1.0}
        assert all(case.path.is_file() for case in cohort.part(part))


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_reading_a_cohort_again_gives_the_same_parts(cohort, shared_data):
    """A split that moves with the order of a table would leak between two runs."""
    assert COHORTS[cohort.name](shared_data) == cohort


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_the_official_kermany_test_part_is_whole_and_its_person_numbers_are_not_learned(shared_data):
    cohort = COHORTS["kermany"](shared_data)
    test = cohort.part("test")
    assert {case.path.parent.parent.name for case in test} == {"test"}
    files = [path for path in (shared_data / "kermany" / "test").rglob("*") if path.is_file()]
    assert len(test) == len(files)
    learned = {case.patient for part in ("train", "tune") for case in cohort.part(part)}
    assert learned.isdisjoint({case.patient for case in test})


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_official_nih_test_patients_are_not_learned_and_everybody_is_an_adult(shared_data):
    cohort = COHORTS["nih"](shared_data)
    with gzip.open(shared_data / "metadata" / "test_list.txt.gz", "rt") as lines:
        official = {int(name.split("_")[0]) for name in lines.read().split()}
    learned = {int(case.patient.removeprefix("nih-")) for part in ("train", "tune") for case in cohort.part(part)}
    assert learned.isdisjoint(official)
    assert min(case.age for case in cohort.cases) >= 18
    assert {case.source for part in ("tune", "test") for case in cohort.part(part)} == {"cxr14"}


@pytest.mark.requirement("SRS-TRN-001")
def test_a_patient_in_two_parts_is_an_error():
    """Whatever a cohort's code does, the value cannot be made."""
    case = Case("a", Path("a.png"), {"pneumonia": 1.0}, "p1", "train")
    with pytest.raises(CohortError, match="patient p1 stands in two parts: a in train, b in test"):
        Cohort("x", "x", (case, replace(case, identifier="b", part="test")), "")
    with pytest.raises(CohortError, match="duplicate_group 7"):
        check_split(
            [
                replace(case, duplicate_group="7"),
                replace(case, identifier="b", patient="p2", part="tune", duplicate_group="7"),
            ]
        )
    check_split([case, replace(case, identifier="b", part="apart")])


@pytest.mark.requirement("SRS-TRN-001")
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
    cohort = COHORTS["kermany"](tmp_path)
    apart = {case.patient for case in cohort.part("apart")}
    assert apart == {"person1", "person3"}
    assert {case.patient for case in cohort.part("test")} == {"person1", "person2"}
    assert {case.patient for case in cohort.part("tune")} == {"person10", "person11", "person12"}


@pytest.mark.requirement("SRS-TRN-001")
def test_missing_and_broken_pictures_are_reported_not_hidden(tmp_path):
    rows = [
        {"split": "train", "label": "NORMAL", "file": f"IM-{number}.png", "patient": f"IM-{number}"}
        for number in range(4)
    ]
    write_kermany(tmp_path, rows)
    folder = tmp_path / "kermany" / "train" / "NORMAL"
    (folder / "IM-1.png").unlink()
    (folder / "IM-2.png").write_bytes(b"no picture")
    cohort = COHORTS["kermany"](tmp_path)
    assert cohort.problems == ("IM-1.png: listed in labels.csv, not found",)
    good, problems = without_broken(cohort.cases)
    assert [case.patient for case in good] == ["IM-0", "IM-3"]
    assert "train/NORMAL/IM-2.png: expected a PNG or JPEG picture" in problems[0]


@pytest.mark.requirement("SRS-TRN-001")
def test_a_cohort_that_is_not_there_is_an_error_that_names_the_table(tmp_path):
    for read in COHORTS.values():
        with pytest.raises(CohortError, match="found none"):
            read(tmp_path)


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-001")
def test_a_disputed_nih_label_is_taught_as_doubt(shared_data):
    """Report and radiologists disagree on two of three Pneumonia images; figures still use each label by itself."""
    cases = COHORTS["nih"](shared_data).cases
    for case in cases:
        read = case.references["rsna"]
        expected = case.labels["pneumonia"] if math.isnan(read) else (case.labels["pneumonia"] + read) / 2
        assert case.taught("pneumonia") == expected
    assert {case.taught("pneumonia") for case in cases} == {0.0, 0.5, 1.0}
