"""NIH ChestX-ray14 as NIH ships it and as a selection of it: what the tables say, and who may be learned from."""

import csv
import gzip
import math
import time
from collections import Counter

import pytest

from trainer.cohorts import COHORTS, NIH_FINDINGS, CohortError
from trainer.cohorts.nih_table import patient_of

from .cohort_builders import (
    NIH_HEADER,
    nih_line,
    nih_lists,
    nih_rows,
    nih_selection,
    nih_shipped,
    nih_table,
    picture,
    table,
)

nih = COHORTS["nih"]


def by_image(cohort):
    return {case.identifier: case for case in cohort.rows}


@pytest.mark.requirement("SRS-TRN-106")
@pytest.mark.parametrize(
    "name", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "metadata/Data_Entry_2017.csv.gz"]
)
def test_both_releases_of_the_table_are_read_in_full(tmp_path, name):
    """The header is broken as NIH ships it, and the first release has an empty column after it."""
    (tmp_path / "metadata").mkdir()
    line = nih_line("00000007_003.png", "Pleural_Thickening|Pneumonia", "058Y", "M", "AP")
    text = f"{NIH_HEADER},\n{line},\n" if "v2020" not in name else f"{NIH_HEADER}\n{line.replace('058Y', '58')}\n"
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    nih_lists(tmp_path, [("00000007_003.png", "", 0)])
    (case,) = nih(tmp_path).absent
    assert (case.patient, case.age, case.sex, case.view, case.follow_up) == ("nih-7", 58, "M", "AP", 3)
    assert (case.original_size, case.pixel_spacing_mm) == ((2048, 2500), 0.143)
    present = {finding for finding, label in case.labels.items() if label == 1}
    assert present == {"pleural_thickening", "pneumonia", "abnormal"}
    assert set(case.labels) == {*NIH_FINDINGS, "abnormal"}
    assert len(NIH_FINDINGS) == 14


@pytest.mark.requirement("SRS-TRN-106")
@pytest.mark.parametrize("place", ["", "images", "images_004", "images_012/images"])
def test_images_are_found_where_nih_and_others_put_them(tmp_path, place, rng):
    rows = [("00000001_000.png", "No Finding", 40), ("00000001_001.png", "Mass", 41)]
    nih_table(tmp_path / "Data_Entry_2017_v2020.csv", rows)
    picture(tmp_path / place / "00000001_001.png", False, rng)
    cohort = nih(tmp_path)
    assert [case.path for case in cohort.cases] == [tmp_path / place / "00000001_001.png"]
    assert [case.identifier for case in cohort.absent] == ["00000001_000.png"]
    assert "1 of 2 images listed, not found" in " ".join(cohort.problems)


@pytest.mark.requirement("SRS-TRN-107")
def test_the_official_test_list_is_the_test_part_and_nothing_else_is(tmp_path):
    """Figures on another part are not comparable with those that others published."""
    nih_shipped(tmp_path)
    listed = set((tmp_path / "test_list.txt").read_text().split())
    cohort = nih(tmp_path)
    assert {case.identifier for case in cohort.rows if case.part == "test"} == listed
    assert {case.subset for case in cohort.rows if case.part == "test"} == {"official"}
    assert len({case.part for case in cohort.rows if case.part in ("train", "tune")}) == 2


@pytest.mark.requirement("SRS-TRN-107")
def test_a_patient_on_both_official_lists_is_an_error(tmp_path):
    nih_table(tmp_path / "Data_Entry_2017_v2020.csv", nih_rows())
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n")
    with pytest.raises(CohortError, match="patient nih-1 stands in two parts"):
        nih(tmp_path)


@pytest.mark.requirement("SRS-TRN-107")
def test_without_the_official_lists_the_split_is_drawn_and_that_is_said(tmp_path):
    nih_table(tmp_path / "Data_Entry_2017_v2020.csv", nih_rows(200, 1))
    cohort = nih(tmp_path)
    parts = Counter(case.part for case in cohort.rows)
    assert 120 < parts["train"] < 160
    assert 8 < parts["tune"] < 35
    assert 25 < parts["test"] < 60
    assert any("test_list.txt" in problem and "not comparable" in problem for problem in cohort.problems)
    assert "official lists are not there" in cohort.split_rule


@pytest.mark.requirement("SRS-TRN-107")
def test_an_image_on_neither_list_is_used_for_nothing(tmp_path):
    rows = nih_rows()
    nih_table(tmp_path / "Data_Entry_2017_v2020.csv", [*rows, ("00000099_000.png", "Mass", 40)])
    nih_lists(tmp_path, rows)
    assert by_image(nih(tmp_path))["00000099_000.png"].part == "apart"


@pytest.mark.requirement("SRS-TRN-108")
@pytest.mark.parametrize(
    ("age", "part", "years", "subset"),
    [
        ("17", "apart", 17, "child"),
        ("014M", "apart", 14 / 12, "child"),
        ("018Y", "used", 18, "internal"),
        ("120", "used", 120, "internal"),
        ("121", "apart", 121, "age"),
        ("414", "apart", 414, "age"),
        ("", "apart", math.nan, "age"),
    ],
)
def test_children_and_impossible_ages_are_shown_but_used_for_nothing(tmp_path, age, part, years, subset):
    """The explorer shows 414 years as the table has it; a model for adults must not learn from it."""
    nih_table(tmp_path / "Data_Entry_2017.csv", [("00000001_000.png", "No Finding", age)])
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    (case,) = nih(tmp_path).rows
    assert (case.part == "apart") == (part == "apart")
    assert case.age == pytest.approx(years, nan_ok=True)
    assert case.subset == subset


@pytest.mark.requirement("SRS-TRN-108")
def test_a_child_on_the_official_test_list_can_be_told(tmp_path):
    """Others published figures on the whole list, children included."""
    nih_table(tmp_path / "Data_Entry_2017.csv", [("00000001_000.png", "No Finding", 5)])
    (tmp_path / "test_list.txt").write_text("00000001_000.png\n")
    (case,) = nih(tmp_path).rows
    assert (case.part, case.subset) == ("apart", "official child")


@pytest.mark.requirement("SRS-TRN-109")
def test_other_readers_are_references_and_never_labels(tmp_path):
    """Their terms allow evaluation only; the value of a label must not depend on them."""
    rows = nih_rows(4, 1)
    nih_table(tmp_path / "Data_Entry_2017_v2020.csv", rows)
    before = {image: case.labels for image, case in by_image(nih(tmp_path)).items()}
    table(
        tmp_path / "metadata" / "rsna_labels_with_nih_match.csv",
        ("rsna_id", "rsna_class", "rsna_target", "nih_image_index", "match_mse"),
        [
            {"rsna_class": "Lung Opacity", "nih_image_index": rows[0][0], "match_mse": 1},
            {"rsna_class": "Normal", "nih_image_index": rows[1][0], "match_mse": 9.9},
            {"rsna_class": "No Lung Opacity / Not Normal", "nih_image_index": rows[2][0], "match_mse": 1},
            {"rsna_class": "Lung Opacity", "nih_image_index": rows[3][0], "match_mse": 10.1},
        ],
    )
    table(
        tmp_path / "metadata" / "google2019_nih_chest_xray_labels.csv",
        ("Image Index", "Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"),
        [{"Image Index": rows[3][0], "Fracture": "NO", "Pneumothorax": "YES", "Airspace opacity": "NO"}],
    )
    cases = by_image(nih(tmp_path))
    assert {image: case.labels for image, case in cases.items()} == before
    read = [cases[image].references for image, _, _ in rows]
    assert [(of["rsna"], of["rsna_abnormal"]) for of in read[:3]] == [(1, 1), (0, 0), (0, 1)]
    assert math.isnan(read[3]["rsna"])
    assert (read[3]["google_pneumothorax"], read[3]["google_airspace_opacity"], read[3]["google_fracture"]) == (1, 0, 0)
    assert math.isnan(read[3]["google_nodule_or_mass"])
    assert not hasattr(cases[rows[0][0]], "taught")


@pytest.mark.requirement("SRS-TRN-105")
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([nih_line("00000001_000.png", "Flu", 40)], r"2017\.csv, line 2, column 'Finding Labels': expected .*'Flu'"),
        (["a.png,Mass,0,x,40,F,PA,1,1,1,1"], "line 2, column 'Patient ID': expected a whole number, found 'x'"),
        ([nih_line("00000001_000.png", "Mass", 40)] * 2, "line 3: the same image is listed twice: 00000001_000"),
    ],
)
def test_a_cell_that_cannot_be_is_an_error_with_its_place(tmp_path, lines, says):
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([NIH_HEADER, *lines]))
    with pytest.raises(CohortError, match=says):
        nih(tmp_path)


@pytest.mark.requirement("SRS-TRN-105")
def test_tables_that_are_cut_off_or_lack_a_column_are_errors(tmp_path):
    path = tmp_path / "Data_Entry_2017_v2020.csv.gz"
    nih_table(path, nih_rows(200))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CohortError, match="does not read to its end"):
        nih(tmp_path)
    path.write_bytes(gzip.compress(b"Image Index,Patient ID\n"))
    with pytest.raises(CohortError, match="line 1: expected the columns Finding Labels, found Image Index, Patient ID"):
        nih(tmp_path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(CohortError, match="found an empty file"):
        nih(tmp_path)
    with pytest.raises(CohortError, match="expected an NIH file name"):
        patient_of("image.png")


@pytest.mark.requirement("SRS-TRN-110")
def test_a_patient_of_the_selection_is_in_one_part_over_all_sizes(tmp_path):
    """The 64-pixel image of a test patient shows the same chest."""
    nih_selection(tmp_path)
    cohort = nih(tmp_path)
    parts: dict[str, set[str]] = {}
    for case in cohort.cases:
        parts.setdefault(case.patient, set()).add(case.part)
    assert all(len(found - {"apart"}) <= 1 for found in parts.values())
    of = {(case.source, case.patient): case.part for case in cohort.cases}
    both = [patient for (source, patient) in of if source == "cxr14" and ("cxr14-64", patient) in of]
    assert len(both) > 10
    assert all(of["cxr14", patient] == of["cxr14-64", patient] for patient in both)
    assert {of["cxr14", patient] for patient in both} == {"train", "tune", "test"}
    assert {of[key] for key in of if key[0] == "cxr14-300"} == {"train", "apart"}
    numbers = {patient: int(patient.removeprefix("nih-")) for _, patient in of}
    only_300 = [key for key in of if 60 < numbers[key[1]] <= 70 and numbers[key[1]] % 4]
    assert {of[key] for key in only_300} == {"train"}
    only_64 = [key for key in of if numbers[key[1]] > 70 and numbers[key[1]] % 4]
    assert {of[key] for key in only_64} == {"train", "tune", "test"}


@pytest.mark.requirement("SRS-TRN-110")
def test_the_64_pixel_images_move_nobody_of_the_larger_ones(tmp_path):
    """Released models were split before they came: a moved patient would be tested on after training."""
    nih_selection(tmp_path)
    with_64 = {case.identifier: case.part for case in nih(tmp_path).cases if case.source != "cxr14-64"}
    (tmp_path / "cxr14-64").rename(tmp_path / "elsewhere")
    assert {case.identifier: case.part for case in nih(tmp_path).cases} == with_64


@pytest.mark.requirement("SRS-TRN-110")
def test_a_picture_of_the_selection_that_is_not_there_is_absent_and_named(tmp_path):
    nih_selection(tmp_path)
    (tmp_path / "cxr14" / "00000007_000.jpg").unlink()
    cohort = nih(tmp_path)
    assert [case.identifier for case in cohort.absent] == ["cxr14/00000007_000.png"]
    assert cohort.problems[0].startswith("00000007_000.jpg: listed in ")


@pytest.mark.requirement("SRS-TRN-105")
def test_a_file_name_of_the_selection_stays_in_its_folder(tmp_path):
    nih_selection(tmp_path)
    path = tmp_path / "cxr14" / "labels.csv"
    path.write_text(path.read_text().replace("00000001_000.jpg", "../../secret.jpg"))
    with pytest.raises(CohortError, match=r"line 2, column 'file': expected a file name without a folder"):
        nih(tmp_path)
    path.write_text(path.read_text().replace("../../secret.jpg", "00000001_000.jpg"))
    (tmp_path / "metadata" / "test_list.txt").unlink()
    with pytest.raises(CohortError, match="expected the official list"):
        nih(tmp_path)


@pytest.fixture
def rng():
    import numpy as np

    return np.random.default_rng(0)


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-106")
def test_the_whole_real_table_is_read_in_seconds_with_its_known_counts(shared_data):
    """112,120 images, 1,431 with pneumonia in 1,008 patients, 25,596 on the official list: regulatory-ml.md 3.1."""
    start = time.process_time()
    cohort = nih(shared_data / "metadata")
    assert time.process_time() - start < 3
    assert cohort.cases == ()
    assert len(cohort.absent) == 112_120
    assert len({case.patient for case in cohort.absent}) == 30_805
    with_pneumonia = [case for case in cohort.absent if case.labels["pneumonia"] == 1]
    assert (len(with_pneumonia), len({case.patient for case in with_pneumonia})) == (1_431, 1_008)
    assert sum(case.view == "PA" for case in cohort.absent) == 67_310
    official = [case for case in cohort.absent if case.subset.startswith("official")]
    assert (len(official), sum(case.labels["pneumonia"] for case in official)) == (25_596, 555)
    assert sum(case.age < 18 for case in cohort.absent) == 5_402
    assert {case.subset for case in cohort.absent if case.part == "test"} == {"official"}
    assert sum(not math.isnan(case.references["rsna"]) for case in cohort.absent) == 26_585
    assert sum(not math.isnan(case.references["google_fracture"]) for case in cohort.absent) == 4_376


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-110")
def test_official_test_patients_of_the_real_selection_are_not_learned_and_everybody_is_an_adult(shared_data):
    cohort = nih(shared_data)
    with gzip.open(shared_data / "metadata" / "test_list.txt.gz", "rt") as lines:
        official = {int(name.split("_")[0]) for name in lines.read().split()}
    used = [case for case in cohort.cases if case.part != "apart"]
    learned = {int(case.patient.removeprefix("nih-")) for case in used if case.part != "test"}
    assert learned.isdisjoint(official)
    assert min(case.age for case in used) >= 18
    assert {case.source for case in used if case.part != "train"} == {"cxr14", "cxr14-64"}
    assert len(cohort.cases) == 841 + 338 + 751
    assert cohort.problems == ()
    for source, finding in (("cxr14", "pneumonia"), ("cxr14-64", "abnormal")):
        for part in ("train", "tune", "test"):
            assert {case.labels[finding] for case in cohort.part(part) if case.source == source} == {0.0, 1.0}


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-110")
def test_the_split_of_the_released_model_is_as_it_was(shared_data):
    """Counted when `pneumonia` was released: 334, 129 and 298 images of 512 pixels, 330 of 300 pixels to train on."""
    found = Counter((case.source, case.part) for case in nih(shared_data).cases)
    assert [found["cxr14", part] for part in ("train", "tune", "test")] == [334, 129, 298]
    assert [found["cxr14-300", part] for part in ("train", "tune", "test")] == [330, 0, 0]
    with (shared_data / "cxr14-64" / "labels.csv").open() as file:
        assert sum(found["cxr14-64", part] for part in ("train", "tune", "test")) == len(list(csv.DictReader(file)))
