"""The RSNA challenge: evaluation only, and NIH's patients under other names."""

import pytest

from trainer.cohorts import COHORTS, CohortError

from .cohort_builders import rsna_challenge, rsna_match, table

rsna = COHORTS["rsna"]


@pytest.mark.requirement("SRS-TRN-116")
def test_every_case_is_a_test_case(tmp_path):
    """The terms are non-commercial: nothing that is released is learned from or tuned on it."""
    rsna_challenge(tmp_path)
    cohort = rsna(tmp_path)
    assert {case.part for case in cohort.cases} == {"test", "apart"}
    assert [case.subset for case in cohort.part("apart")] == ["child", "age"]
    assert "terms" in cohort.split_rule


@pytest.mark.requirement("SRS-TRN-116")
def test_only_a_file_of_the_folder_says_otherwise(tmp_path):
    rsna_challenge(tmp_path)
    rsna_match(tmp_path)
    rows = [
        {"patientId": f"0000-{number:04d}", "part": "train" if number < 8 else "tune" if number < 12 else "test"}
        for number in range(18)
    ]
    table(tmp_path / "parts.csv", ("patientId", "part"), rows)
    assert {case.part for case in rsna(tmp_path).cases} == {"train", "tune", "test", "apart"}
    rows[0]["part"] = "test"  # its patient's other image is in train
    table(tmp_path / "parts.csv", ("patientId", "part"), rows)
    with pytest.raises(CohortError, match="patient nih-1 stands in two parts"):
        rsna(tmp_path)
    rows[0]["part"] = "learn"
    table(tmp_path / "parts.csv", ("patientId", "part"), rows)
    with pytest.raises(CohortError, match=r"parts\.csv, line 2, column 'part': expected one of train"):
        rsna(tmp_path)


@pytest.mark.requirement("SRS-TRN-117")
def test_labels_are_those_of_the_radiologists_and_boxes_are_counted_once(tmp_path):
    rsna_challenge(tmp_path)
    cases = rsna(tmp_path).cases
    assert len(cases) == 18
    assert [(case.labels["pneumonia"], case.labels["abnormal"]) for case in cases[:3]] == [(1, 1), (0, 0), (0, 1)]
    assert (cases[0].age, cases[0].sex, cases[0].view) == (30, "F", "PA")
    assert cases[0].radiograph().rows == 64


@pytest.mark.requirement("SRS-TRN-117")
def test_images_of_one_nih_patient_are_one_patient(tmp_path):
    """Two images of a patient are not two independent cases; a bad match is no match."""
    rsna_challenge(tmp_path)
    alone = rsna(tmp_path)
    assert len({case.patient for case in alone.cases}) == 18
    assert any("each counts as one, and intervals are too narrow" in said for said in alone.problems)
    rsna_match(tmp_path / "metadata")
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    matched = rsna(tmp_path)
    assert [case.patient for case in matched.cases[:3]] == ["nih-1", "nih-1", "nih-2"]
    assert matched.cases[-1].patient == "rsna-0000-0017"
    assert [case.subset for case in matched.cases[:3]] == ["official", "official", "internal"]
    assert any("only subset 'official' is new to a model that was trained on NIH" in said for said in matched.problems)


@pytest.mark.requirement("SRS-TRN-117")
def test_the_tables_alone_are_a_cohort_without_pictures(tmp_path):
    """What there is without the challenge's download: classes, NIH's patients, and the headers."""
    rsna_match(tmp_path / "metadata")
    table(
        tmp_path / "metadata" / "rsna_stage2_train_dicom_headers.csv",
        ("PatientID", "PatientAge", "PatientSex", "ViewPosition", "PixelSpacing"),
        [{"PatientID": f"0000-{n:04d}", "PatientAge": 40, "PatientSex": "M", "ViewPosition": "AP"} for n in range(18)],
    )
    cohort = rsna(tmp_path)
    assert (len(cohort.cases), len(cohort.absent)) == (0, 18)
    assert {(case.age, case.sex, case.view, case.part) for case in cohort.absent} == {(40, "M", "AP", "test")}


@pytest.mark.requirement("SRS-TRN-105")
def test_tables_that_contradict_one_another_are_an_error(tmp_path):
    rsna_challenge(tmp_path)
    path = tmp_path / "stage_2_train_labels.csv"
    text = path.read_text()
    path.write_text(text.replace("0000-0001,,,,,0", "0000-0001,,,,,1"))
    with pytest.raises(CohortError, match="column 'Target': expected 0, as the class is Normal, found '1'"):
        rsna(tmp_path)
    path.write_text(text.replace("0000-0001,,,,,0", "0000-0099,,,,,0"))
    with pytest.raises(CohortError, match="column 'patientId': expected an image of the table of classes"):
        rsna(tmp_path)
    path.write_text(text)
    classes = tmp_path / "stage_2_detailed_class_info.csv"
    text = classes.read_text()
    classes.write_text(text + "0000-0001,Lung Opacity\n")
    with pytest.raises(CohortError, match="column 'class': expected Normal as in an earlier line"):
        rsna(tmp_path)
    classes.write_text(text + "../../etc/passwd,Normal\n")
    with pytest.raises(CohortError, match="expected an image's name without a folder"):
        rsna(tmp_path)
    classes.write_text(text + "0000-0077,Fine\n")
    with pytest.raises(CohortError, match="column 'class': expected one of Lung Opacity"):
        rsna(tmp_path)
    classes.unlink()
    with pytest.raises(CohortError, match="tells Normal from Not Normal"):
        rsna(tmp_path)


@pytest.mark.requirement("SRS-TRN-103")
def test_a_header_that_does_not_read_is_counted(tmp_path):
    rsna_challenge(tmp_path)
    (tmp_path / "stage_2_train_images" / "0000-0003.dcm").write_bytes(b"no DICOM")
    cohort = rsna(tmp_path)
    assert any(said.startswith("0000-0003.dcm: the header does not read") for said in cohort.problems)
    assert len(cohort.cases) == 18


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-117")
def test_the_real_tables_have_their_known_counts(shared_data):
    """26,684 images: Lung Opacity 6,012, Normal 8,851; regulatory-ml.md 3.2."""
    cohort = rsna(shared_data)
    assert len(cohort.absent) == 26_684
    assert sum(case.labels["pneumonia"] for case in cohort.absent) == 6_012
    assert sum(case.labels["abnormal"] == 0 for case in cohort.absent) == 8_851
    assert sum(case.age > 120 for case in cohort.absent) == 5
    assert sum(case.patient.startswith("nih-") for case in cohort.absent) == 26_684 - 98
    assert {case.part for case in cohort.absent} == {"test", "apart"}
