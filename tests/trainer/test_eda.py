"""The exploration against cohorts whose answers are known beforehand."""

import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.cohorts import Case, Cohort, kermany, nih
from trainer.eda import explore
from trainer.eda.agreement import cohen_kappa, compared
from trainer.eda.audit import shortcut
from trainer.eda.explore import describe
from trainer.eda.pictures import border, measured, sample
from trainer.eda.table import Columns, ages, co_occurrence, comorbidity, per_patient, prevalence

NO_PICTURES = "not run: no pictures found"


def case(number: int, **what) -> Case:
    known = {
        "identifier": f"case-{number}",
        "path": Path("nowhere"),
        "labels": {"pneumonia": float(number % 2), "effusion": float(number % 2), "mass": float(number % 4 == 0)},
        "patient": f"p{number // 2}",
        "part": "train",
    }
    return Case(**{**known, **what})


def cohort(cases=(), absent=(), **what) -> Cohort:
    known = {
        "name": "made",
        "title": "Made by hand",
        "split_rule": "All train.",
        "findings": ("pneumonia", "effusion", "mass"),
    }
    return Cohort(**{**known, "cases": tuple(cases), "absent": tuple(absent), **what})


def described(made: Cohort, most: int = 1000) -> dict:
    return describe(made, Columns.of(made), most=most, seed=1)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Cohort:
    """40 pictures: those with pneumonia are noise, which a PNG cannot make small; two files have the same bytes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    cases = []
    for number in range(40):
        ill = number % 2 == 1
        pixels = rng.integers(0, 256, (40, 40)) if ill else np.full((40, 40), 90 + number)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), pixels.astype(np.uint8))
        if number == 4:
            path.write_bytes((folder / "2.png").read_bytes())
        cases.append(
            case(number, path=path, patient=f"p{number}", view=("PA", "AP")[number // 2 % 2], age=30.0, sex="F")
        )
    broken = folder / "broken.png"
    broken.write_bytes(b"no picture")
    cases.append(case(41, path=broken, patient="p41"))
    return cohort(cases)


@pytest.mark.requirement("SRS-TRN-200")
def test_phi_of_identical_findings_is_one_and_of_one_that_never_varies_is_null():
    """A correlation that is off by its denominator would still look like a matrix."""
    made = co_occurrence(Columns.of(cohort([case(number) for number in range(40)])))
    assert made["findings"] == ["pneumonia", "effusion", "mass"]
    assert made["phi"][0][1] == pytest.approx(1.0)
    assert made["phi"][0][2] == pytest.approx(
        np.corrcoef([n % 2 for n in range(40)], [n % 4 == 0 for n in range(40)])[0, 1], abs=1e-4
    )
    assert made["counts"] == [[20, 20, 0], [20, 20, 0], [0, 0, 10]]
    never = co_occurrence(
        Columns.of(
            cohort(
                [case(n, labels={"pneumonia": 0.0, "mass": float(n % 2)}) for n in range(9)],
                findings=("pneumonia", "mass"),
            )
        )
    )
    assert never["phi"][0][1] is None


@pytest.mark.requirement("SRS-TRN-200")
def test_an_unknown_label_counts_neither_as_present_nor_as_absent():
    """Unknown read as absent would lower every prevalence."""
    cases = [case(n, labels={"pneumonia": (1.0, 0.0, math.nan, math.nan)[n % 4]}) for n in range(40)]
    found = prevalence(Columns.of(cohort(cases, findings=("pneumonia",))))["pneumonia"]
    assert (found["present"], found["absent"], found["unknown"]) == (10, 10, 20)
    assert found["prevalence"]["value"] == 0.5
    assert found["prevalence"]["n"] == 20


@pytest.mark.requirement("SRS-TRN-201")
def test_comorbidity_counts_images_that_have_the_finding_alone():
    """A model sold on pneumonia may have learned what stands beside it."""
    rows = (
        [{"pneumonia": 1.0, "effusion": 1.0}] * 3
        + [{"pneumonia": 1.0, "effusion": 0.0}] * 2
        + [{"pneumonia": 0.0, "effusion": 1.0}] * 5
    )
    made = cohort([case(n, labels=labels) for n, labels in enumerate(rows)], findings=("pneumonia", "effusion"))
    found = comorbidity(Columns.of(made))
    assert (found["present"], found["alone"], found["with"]["effusion"]["images"]) == (5, 2, 3)
    assert found["with"]["effusion"]["share_without"]["value"] == 1.0


@pytest.mark.requirement("SRS-TRN-201")
def test_findings_and_images_are_counted_per_patient():
    """A patient with many images weighs in a set as if many patients had the finding."""
    cases = [
        case(0, patient="a", labels={"pneumonia": 1.0, "mass": 0.0}),
        case(1, patient="a", labels={"pneumonia": 0.0, "mass": 1.0}),
        case(2, patient="b", labels={"pneumonia": 0.0, "mass": 0.0}),
    ]
    found = per_patient(Columns.of(cohort(cases, findings=("pneumonia", "mass"))))
    assert found["findings_of_an_image"] == {"0": 1, "1": 2}
    assert found["findings_of_a_patient"] == {"0": 1, "1": 0, "2": 1}
    assert found["images_of_a_patient"]["histogram"] == {"1": 1, "2": 1}


@pytest.mark.requirement("SRS-TRN-202")
def test_ages_above_120_are_counted_by_value_and_in_no_other_figure():
    """NIH's first release has a patient of 414 years."""
    found = ages(Columns.of(cohort([case(n, age=age) for n, age in enumerate([30, 40, 50, 414, 414, 155, math.nan])])))
    assert (found["known"], found["unknown"], found["above_120"]) == (6, 1, 3)
    assert found["values_above_120"] == {"155": 1, "414": 2}
    assert found["range"] == [30.0, 50.0]
    assert sum(found["histogram"]["images"]) == 3


@pytest.mark.requirement("SRS-TRN-203")
def test_kappa_is_the_one_known_by_hand():
    """Cohen's own form: observed 0.7, expected 0.5, kappa 0.4."""
    assert cohen_kappa(20, 5, 10, 15) == pytest.approx(0.4)
    assert math.isnan(cohen_kappa(0, 0, 0, 9))
    found = compared(
        np.array([True] * 25 + [False] * 25), np.array([True] * 20 + [False] * 5 + [True] * 10 + [False] * 15)
    )
    assert found["confusion"] == {"true_positive": 20, "false_positive": 5, "true_negative": 15, "false_negative": 10}
    assert found["kappa"] == pytest.approx(0.4)
    assert found["sensitivity"]["value"] == pytest.approx(20 / 30, abs=1e-4)
    assert found["ppv"]["value"] == 0.8


@pytest.mark.requirement("SRS-TRN-203")
def test_labels_are_held_against_a_reader_over_the_images_that_both_read():
    """An image that the reader never saw is no disagreement."""
    cases = [case(n, references={"rsna": float(n % 2) if n < 30 else math.nan}) for n in range(60)]
    rows = {row["label"]: row for row in described(cohort(cases), 0)["agreement"]}
    assert rows["pneumonia"]["n"] == 30
    assert rows["pneumonia"]["kappa"] == 1.0
    assert described(cohort([case(n) for n in range(9)]), 0)["agreement"] == "not run: no other reader's labels found"


@pytest.mark.requirement("SRS-TRN-204")
def test_a_file_size_that_tells_the_label_is_flagged(pictured):
    """Pictures of Kermany's classes differ in size: the size alone has an AUC of 0.8."""
    rows = {(row["feature"], row["label"]): row for row in described(pictured)["shortcuts"]}
    assert rows["file_size", "pneumonia"]["auc"]["value"] == 1.0
    assert rows["file_size", "pneumonia"]["flagged"] is True
    assert rows["sharpness", "pneumonia"]["flagged"] is True
    assert rows["view", "pneumonia"]["flagged"] is False
    assert rows["picture_size", "pneumonia"]["not_run"] == "the same for every image"


@pytest.mark.requirement("SRS-TRN-204")
def test_a_shortcut_is_flagged_in_either_direction_and_only_by_its_lower_limit():
    """An AUC of 0.1 is as good a shortcut as one of 0.9; an AUC of 0.7 on few images proves nothing."""
    labels = np.repeat([1.0, 0.0], 50)
    turned = shortcut("age", "pneumonia", -np.arange(100.0)[::-1] + 100 * labels * -1, labels)
    assert turned["flagged"]
    assert turned["higher_means"] == "absent"
    noise = shortcut("age", "pneumonia", np.random.default_rng(1).normal(size=100), labels)
    assert not noise["flagged"]
    unsure = shortcut("age", "pneumonia", np.arange(24.0) % 12 + 3 * (np.arange(24) < 12), np.repeat([1.0, 0.0], 12))
    assert unsure["auc"]["value"] > 0.65
    assert unsure["auc"]["low"] < 0.6
    assert not unsure["flagged"]
    few = shortcut("age", "pneumonia", np.arange(12.0), np.repeat([1.0, 0.0], 6))
    assert "too few" in few["not_run"]
    assert "auc" not in few


@pytest.mark.requirement("SRS-TRN-204")
def test_the_data_set_that_an_image_came_from_is_a_shortcut():
    """Two sets pooled, one ill and one healthy: the model learns the scanner."""
    cases = [case(n, source="ill" if n % 2 else "well") for n in range(60)]
    rows = {(row["feature"], row["label"]): row for row in described(cohort(cases), 0)["shortcuts"]}
    assert rows["data_set", "pneumonia"]["auc"]["value"] == 1.0
    assert rows["data_set", "pneumonia"]["flagged"] is True


@pytest.mark.requirement("SRS-TRN-205")
def test_pictures_with_the_same_bytes_are_named(pictured):
    """The same picture under two names, in two parts, is a leak."""
    found = described(pictured)["duplicates"]["bytes"]
    assert (found["groups"], found["images"], found["over_patients"], found["over_parts"]) == (1, 2, 1, 0)
    assert found["named"] == [["case-2", "case-4"]]


@pytest.mark.requirement("SRS-TRN-205")
def test_patients_that_are_used_for_nothing_and_also_elsewhere_are_counted():
    """A cohort refuses a patient in train and test; one set apart may still be in a test."""
    made = cohort([case(0, patient="a"), case(1, patient="a", part="apart"), case(2, patient="b", part="test")])
    found = described(made, 0)["overlap"]["patients"]
    assert found["train and apart"] == 1
    assert found["train and test"] == 0


@pytest.mark.requirement("SRS-TRN-206")
def test_gray_values_are_told_by_finding_and_view_and_a_broken_picture_is_counted(pictured):
    """One broken file must not end an exploration of a hundred thousand."""
    record = described(pictured)
    assert record["sampled"]["read"] == 40
    assert len(record["sampled"]["unreadable"]) == 1
    groups = {(group["kind"], group["name"]): group for group in record["intensity"]}
    assert groups["finding", "pneumonia"]["pixel_sd"] > 0.28 > groups["health", "healthy"]["pixel_sd"]
    assert groups["finding", "pneumonia"]["images"] == 20
    assert sum(groups["view", "AP"]["histogram"]) == pytest.approx(1, abs=1e-3)
    flat = [item for item in measured(pictured.cases)[0] if item.case.identifier == "case-10"]
    assert flat[0].mean == pytest.approx(100 / 255, abs=1e-6)
    assert flat[0].deviation == pytest.approx(0, abs=1e-6)


@pytest.mark.requirement("SRS-TRN-206")
def test_a_black_border_is_measured_as_its_share():
    """Collimation differs between wards, and a model can read it."""
    gray = np.zeros((100, 100), np.float32)
    gray[10:90, 20:80] = 0.5
    assert border(gray) == pytest.approx(1 - 0.8 * 0.6)
    assert border(np.full((5, 5), 0.4, np.float32)) == 0
    assert border(np.zeros((5, 5), np.float32)) == 1


@pytest.mark.requirement("SRS-TRN-207")
def test_a_sample_is_the_same_for_the_same_seed_and_shows_a_rare_finding():
    """Of 1 in 100, a plain sample of 40 has none or one."""
    cases = [case(n, labels={"pneumonia": float(n % 100 == 0)}) for n in range(2000)]
    first, says = sample(cases, 40, 7, "pneumonia")
    assert first == sample(cases, 40, 7, "pneumonia")[0]
    assert first != sample(cases, 40, 8, "pneumonia")[0]
    assert len({item.identifier for item in first}) == 40
    assert sum(item.labels["pneumonia"] for item in first) >= 10
    assert says.startswith("40 of 2000 pictures, drawn by seed 7")
    assert sample(cases[:5], 40, 7, "pneumonia")[0] == tuple(cases[:5])


@pytest.mark.requirement("SRS-TRN-208")
def test_without_pictures_their_sections_say_so_in_the_json_and_the_page(tmp_path):
    """An empty section could be read as: nothing was found."""
    record = explore(cohort(absent=[case(n) for n in range(60)]), tmp_path)
    assert record["intensity"] == NO_PICTURES
    assert record["duplicates"]["bytes"] == NO_PICTURES
    page = (tmp_path / "eda.html").read_text("utf-8")
    assert page.count(NO_PICTURES) >= 3
    assert record["counts"]["without_picture"] == 60
    assert any("intensity" in line for line in record["not_run"])


@pytest.mark.requirement("SRS-TRN-208")
def test_an_empty_cohort_and_a_cohort_without_labels_are_described(tmp_path):
    """A folder where nothing was found is explored first of all."""
    assert explore(cohort(), tmp_path / "empty")["not_run"] == ["not run: the cohort has no rows"]
    bare = [Case(f"c{n}", Path("nowhere"), {}, f"p{n}", "train") for n in range(12)]
    record = explore(cohort(absent=bare, findings=()), tmp_path / "bare")
    assert record["counts"]["images"] == 12
    assert (tmp_path / "bare" / "eda.html").is_file()


@pytest.mark.requirement("SRS-TRN-209")
def test_the_page_holds_everything_and_escapes_what_a_table_calls_its_cases(pictured, tmp_path):
    """A page is opened in a browser, and sent on without its folder."""
    hostile = "<script>alert(1)</script>"
    made = cohort([case(90, path=pictured.cases[1].path, identifier=hostile), *pictured.cases], title=hostile)
    record = explore(made, tmp_path)
    page = (tmp_path / "eda.html").read_text("utf-8")
    assert hostile not in page
    assert "&lt;script&gt;" in page
    assert 'src="http' not in page
    assert page.count("data:image/png;base64,") >= 8
    assert json.loads((tmp_path / "eda.json").read_text("utf-8")) == json.loads(json.dumps(record))
    assert (tmp_path / "figures" / "sample-present.png").is_file()
    assert "cleared for clinical use" in page


@pytest.mark.requirement("SRS-TRN-209")
def test_the_same_cohort_gives_the_same_json_and_figures(pictured, tmp_path):
    """A figure that changes by itself cannot be reviewed."""
    for name in ("a", "b"):
        explore(pictured, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) >= 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.requirement("SRS-TRN-210")
@pytest.mark.real_data
def test_the_whole_table_of_nih_is_described_in_seconds_and_agrees_with_what_is_published(shared_data):
    """Its counts are known: 112,120 images, 30,805 patients, 1,431 with pneumonia, 322 of them with nothing else."""
    made = nih(shared_data / "metadata")
    began = time.process_time()
    record = described(made, 0)
    assert time.process_time() - began < 20
    assert (record["counts"]["images"], record["counts"]["patients"]) == (112_120, 30_805)
    assert record["prevalence"]["pneumonia"]["present"] == 1431
    assert record["comorbidity"]["alone"] == 322
    assert record["comorbidity"]["with"]["infiltration"]["images"] == 605
    assert (record["view"]["PA"]["images"], record["view"]["AP"]["images"]) == (67_310, 44_810)
    assert record["age"]["under_18"] == 5402
    against = {(row["label"], row["reader"]): row for row in record["agreement"]}
    assert against["pneumonia", "rsna"]["ppv"]["value"] == pytest.approx(0.454, abs=0.005)
    audit = {(row["feature"], row["label"]): row for row in record["shortcuts"]}
    assert audit["view", "rsna (reader)"]["flagged"] is True
    assert audit["view", "rsna (reader)"]["auc"]["value"] == pytest.approx(0.707, abs=0.005)
    assert record["intensity"] == NO_PICTURES
    assert record["overlap"]["patients"]["train and test"] == 0


@pytest.mark.requirement("SRS-TRN-210")
@pytest.mark.real_data
def test_the_file_size_of_kermany_is_found_to_tell_pneumonia(shared_data):
    """The known trap of this set: the size of the file alone has an AUC of more than 0.8."""
    record = described(kermany(shared_data), 400)
    row = next(row for row in record["shortcuts"] if row["feature"] == "file_size")
    assert row["flagged"] is True
    assert row["auc"]["value"] > 0.8
