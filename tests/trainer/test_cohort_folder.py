"""A site's own data: read as the site wrote it, refused with the place where it is wrong."""

import math
import os

import numpy as np
import pytest

from trainer.cohorts import COHORTS, CohortError

from .cohort_builders import dicom, folder_classes, folder_table, picture

folder = COHORTS["folder"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def site(data, text, rng, *names):
    for name in names:
        picture(data / name, False, rng)
    (data / "cases.csv").write_text(text, "utf-8")
    return data


@pytest.mark.requirement("SRS-TRN-118")
def test_a_table_gives_parts_labels_and_what_is_known_of_the_patient(tmp_path):
    folder_table(tmp_path)
    cohort = folder(tmp_path)
    cases = {case.identifier: case for case in cohort.cases}
    png, header = cases["pictures/p0.png"], cases["pictures/p6.dcm"]
    assert (png.part, png.patient, png.age, png.sex, png.view) == ("train", "p0", 40, "M", "AP")
    assert png.labels == {"pneumonia": 1.0, "effusion": 1.0}
    assert math.isnan(cases["pictures/p2.png"].labels["effusion"])
    assert cohort.findings == ("pneumonia", "effusion")
    # What the table leaves open the header tells.
    assert (header.patient, header.age, header.sex, header.view) == ("p6", 51, "F", "PA")
    assert header.original_size == (64, 64)
    assert cohort.problems == ("scanner: column of cases.csv, the name of no finding: not read",)


@pytest.mark.requirement("SRS-TRN-118")
def test_without_parts_patients_are_split_by_their_name(tmp_path, rng):
    lines = [f"p{number}_{image}.png,p{number},{number % 2}" for number in range(60) for image in range(2)]
    names = [line.split(",")[0] for line in lines]
    cohort = folder(site(tmp_path, "path,patient,pneumonia\n" + "\n".join(lines), rng, *names))
    assert {case.part for case in cohort.cases} == {"train", "tune", "test"}
    assert len(cohort.part("train")) > 60
    assert "The site gave no parts" in cohort.split_rule


@pytest.mark.requirement("SRS-TRN-118")
def test_a_spreadsheets_byte_order_mark_and_spaces_do_not_hide_a_column(tmp_path, rng):
    data = site(tmp_path, "\ufeffpath, patient , pneumonia\r\n a.png , p , 1 \r\n", rng, "a.png")
    assert folder(data).cases[0].labels == {"pneumonia": 1.0}


@pytest.mark.requirement("SRS-TRN-119")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,patient,pneumonia\na.png,p,yes", "line 2, column 'pneumonia': expected 1, 0 or nothing, found 'yes'"),
        ("path,patient,pneumonia\na.png,,1", "line 2, column 'patient': expected a name for the patient"),
        ("path,patient,pneumonia,split\na.png,p,1,x", "line 2, column 'split': expected one of train, .* found 'x'"),
        ("path,patient,pneumonia,age\na.png,p,1,old", "line 2, column 'age': expected a number of years, or nothing"),
        ("path,patient,pneumonia,age\na.png,p,1,-3", "line 2, column 'age': expected a number of years, or nothing"),
        ("path,patient,pneumonia,sex\na.png,p,1,W", "line 2, column 'sex': expected F, M or nothing, found 'W'"),
        ("path,patient,pneumonia,view\na.png,p,1,LAT", "line 2, column 'view': expected PA, AP or nothing"),
        ("path,patient,pneumonia\na.png,p,1\na.png,q,0", "line 3, column 'path': expected a picture that line 2 does"),
        ("path,pneumonia\na.png,1", "line 1: expected the columns patient, found path, pneumonia"),
        ("path,patient,flu\na.png,p,1", "line 1: expected a column of labels named as a finding"),
        ("", "expected a line of column names, found an empty file"),
        ("path,patient,pneumonia\n", "expected pictures"),
        (
            "path,patient,pneumonia,split\na.png,p,1,train\nb.png,p,1,test",
            "patient p stands in two parts: a.png in train, b.png in test",
        ),
    ],
)
def test_an_error_of_a_sites_table_names_file_line_column_found_and_expected(tmp_path, rng, text, says):
    """The one who reads it has the table open, not the code."""
    with pytest.raises(CohortError, match=says) as error:
        folder(site(tmp_path, text, rng, "a.png", "b.png"))
    assert str(tmp_path) in str(error.value) or "two parts" in says


@pytest.mark.requirement("SRS-TRN-119")
@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "in/../../secret.png", "", ".", "link.png", "a\0b"])
def test_no_path_leads_out_of_the_folder(tmp_path, rng, path):
    """A table is data from outside: what it names would be read, copied into reports and learned."""
    data = tmp_path / "site"
    picture(tmp_path / "secret.png", False, rng)
    (data / "in").mkdir(parents=True)
    os.symlink(tmp_path / "secret.png", data / "link.png")
    with pytest.raises(CohortError, match=r"line 2, column 'path': expected a path inside|does not read"):
        folder(site(data, f"path,patient,pneumonia\n{path},p,1\n", rng))


@pytest.mark.requirement("SRS-TRN-119")
def test_no_link_of_a_class_folder_leads_out_of_it(tmp_path, rng):
    data = tmp_path / "site"
    picture(tmp_path / "secret.png", False, rng)
    folder_classes(data)
    os.symlink(tmp_path / "secret.png", data / "NORMAL" / "p_1.png")
    with pytest.raises(CohortError, match="found a link that leads out of it"):
        folder(data)


@pytest.mark.requirement("SRS-TRN-120")
def test_class_folders_give_the_label_and_the_name_gives_the_patient(tmp_path):
    folder_classes(tmp_path)
    cohort = folder(tmp_path)
    cases = {case.identifier: case for case in cohort.cases}
    assert cases["NORMAL/p1_0.png"].labels == {"pneumonia": 0.0}
    assert cases["Pneumonia/p0_1.png"].labels == {"pneumonia": 1.0}
    assert cases["Pneumonia/p0_1.png"].patient == "p0"
    assert {case.part for case in cohort.cases} == {"train", "tune", "test"}


@pytest.mark.requirement("SRS-TRN-120")
def test_a_class_says_nothing_of_the_other_classes(tmp_path, rng):
    """A picture in `effusion` may show pneumonia as well: nobody looked."""
    for name in ("effusion", "pneumonia", "normal", "notes"):
        picture(tmp_path / "train" / name / f"{name}.png", False, rng)
    picture(tmp_path / "val" / "normal" / "v.png", False, rng)
    picture(tmp_path / "test" / "effusion" / "t.png", False, rng)
    cohort = folder(tmp_path)
    cases = {case.identifier: case for case in cohort.cases}
    assert math.isnan(cases["train/effusion/effusion.png"].labels["pneumonia"])
    assert cases["train/effusion/effusion.png"].labels["effusion"] == 1
    assert set(cases["train/normal/normal.png"].labels.values()) == {0.0}
    assert cases["val/normal/v.png"].part == "tune"
    assert cases["test/effusion/t.png"].part == "test"
    assert len(cases) == 5


@pytest.mark.requirement("SRS-TRN-120")
def test_folders_that_cannot_be_understood_are_errors(tmp_path, rng):
    picture(tmp_path / "a" / "normal" / "a.png", False, rng)
    with pytest.raises(CohortError, match=r"expected cases\.csv, or folders named normal"):
        folder(tmp_path / "a" / "normal")
    with pytest.raises(CohortError, match="expected a folder named as a finding beside normal"):
        folder(tmp_path / "a")
    picture(tmp_path / "a" / "train" / "mass" / "b.png", False, rng)
    with pytest.raises(CohortError, match="every class in train, tune or test, or none, found both"):
        folder(tmp_path / "a")
    (tmp_path / "b" / "mass").mkdir(parents=True)
    with pytest.raises(CohortError, match="expected pictures"):
        folder(tmp_path / "b")


@pytest.mark.requirement("SRS-TRN-121")
def test_a_patient_id_of_a_header_does_not_leave_it(tmp_path, rng):
    """Cases are written into splits, records and reports; two images of one patient still stay together."""
    for name in ("a.dcm", "b.dcm"):
        dicom(tmp_path / "pneumonia" / name, True, rng, PatientID="JANE-DOE-1960")
    dicom(tmp_path / "pneumonia" / "c.dcm", True, rng, PatientID=None)
    cohort = folder(tmp_path)
    assert "JANE" not in repr(cohort)
    assert len({case.patient for case in cohort.cases}) == 2
    assert cohort.cases[0].patient == cohort.cases[1].patient
    assert cohort.cases[0].patient.startswith("dicom-")


@pytest.mark.requirement("SRS-TRN-121")
def test_a_dicom_file_is_known_by_its_bytes_and_a_broken_header_is_counted(tmp_path, rng):
    """Systems export files without an ending."""
    header = {"PatientID": "1", "ViewPosition": None, "PatientPosition": "AP", "PixelSpacing": [0.2, 0.3]}
    dicom(tmp_path / "IMG0001", True, rng, **header)
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM")
    (tmp_path / "cases.csv").write_text("path,patient,pneumonia,sex\nIMG0001,p,1,M\nbad.dcm,,0,\n")
    cohort = folder(tmp_path)
    good, bad = cohort.cases
    assert (good.view, good.age, good.sex, good.pixel_spacing_mm) == ("AP", 66, "M", 0.2)
    assert good.radiograph().rows == 64
    assert bad.patient == "unknown bad.dcm"
    (tmp_path / "cases.csv").write_text("path,patient,pneumonia,sex,age,view\nIMG0001,p,1,M,44,PA\n")
    (told,) = folder(tmp_path).cases
    assert (told.view, told.age, told.sex) == ("PA", 44, "M")  # the site knows better than the header
    assert cohort.problems[0].startswith("bad.dcm: the header does not read")


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-118")
def test_a_table_over_real_pictures_of_every_kind_is_a_cohort(shared_data, tmp_path):
    """JPEG, PNG and DICOM as they are found in the wild."""
    picked = [
        *sorted((shared_data / "cxr14").glob("*.jpg"))[:3],
        *sorted((shared_data / "cxr14-64").glob("*.png"))[:3],
        *sorted((shared_data / "dicom").glob("udacity_test[123].dcm")),
    ]
    for path in picked:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = [f"{path.name},p{index},{index % 2}" for index, path in enumerate(picked)]
    (tmp_path / "cases.csv").write_text("path,patient,pneumonia\n" + "\n".join(lines))
    cohort = folder(tmp_path)
    assert len(cohort.cases) == 9
    assert all(case.radiograph().rows >= 64 for case in cohort.cases)
    assert [case.view for case in cohort.cases if case.path.suffix == ".dcm"] == ["PA", "AP", "AP"]
