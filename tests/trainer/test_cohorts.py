"""What every cohort keeps, whatever it is read from: a patient whose images are on both sides of a split makes every
figure of it too good."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import radiograph_from_dicom_file, radiograph_from_picture
from trainer.cohorts import COHORTS, PARTS, Case, Cohort, CohortError, check_split, decoded, without_broken

from .cohort_builders import FORMS


@pytest.fixture(scope="module", params=list(FORMS), ids=lambda form: "-".join(form).replace(" ", "_"))
def drawn(request, tmp_path_factory) -> tuple[str, Path]:
    """The name of a cohort, and a folder with one of its forms."""
    data = tmp_path_factory.mktemp("cohort")
    FORMS[request.param](data)
    return request.param[0], data


@pytest.fixture(scope="module")
def cohort(drawn) -> Cohort:
    name, data = drawn
    return COHORTS[name](data)


@pytest.mark.requirement("SRS-TRN-100")
def test_the_contract_runs_over_every_cohort():
    """A cohort that is added to the table without a drawn form would be tested by nothing."""
    assert {name for name, _ in FORMS} == set(COHORTS)


@pytest.mark.requirement("SRS-TRN-101")
def test_no_patient_and_no_picture_stands_in_two_parts(cohort):
    """Counted anew here, without the code that splits."""
    for key in ("patient", "duplicate_group", "identifier"):
        parts: dict[str, set[str]] = {}
        for case in cohort.rows:
            if case.part != "apart" and getattr(case, key):
                parts.setdefault(getattr(case, key), set()).add(case.part)
        assert [name for name, found in parts.items() if len(found) > 1] == []
    assert {case.part for case in cohort.rows} <= set(PARTS)
    assert all(case.patient for case in cohort.rows if case.part != "apart")


@pytest.mark.requirement("SRS-TRN-100")
def test_every_label_is_present_absent_or_unknown(cohort):
    """A label of 0.5 or a finding without a name would go through training unseen."""
    assert cohort.findings
    for case in cohort.rows:
        assert set(case.labels) == set(cohort.findings)
        for label in (*case.labels.values(), *case.references.values()):
            assert label in (0.0, 1.0) or math.isnan(label)
        assert case.sex in ("F", "M", "")
        assert case.view in ("PA", "AP", "")
    assert len({case.identifier for case in cohort.rows}) == len(cohort.rows)
    assert cohort.split_rule


@pytest.mark.requirement("SRS-TRN-102")
def test_reading_a_cohort_decodes_no_picture(drawn, monkeypatch):
    """A cohort may be larger than memory, and its table is asked for far more often than its pictures."""
    name, data = drawn

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("cv2.imdecode", decode)
    monkeypatch.setattr("cv2.imread", decode)
    monkeypatch.setattr("cxr_node.imaging.reader.stored_values", decode)
    cohort = COHORTS[name](data)
    with pytest.raises(AssertionError, match="was decoded"):
        cohort.cases[0].radiograph()


@pytest.mark.requirement("SRS-TRN-102")
def test_what_is_read_as_bytes_and_what_is_decoded_are_the_same_picture(cohort, tmp_path):
    """Duplicates and hashes are made of the bytes, figures of the pixels."""
    for case in cohort.cases:
        radiograph = case.radiograph()
        data = case.content()
        if data[128:132] == b"DICM":
            path = tmp_path / "same.dcm"
            path.write_bytes(data)
            again = radiograph_from_dicom_file(path)
        else:
            again = radiograph_from_picture(data)
        assert np.array_equal(radiograph.grayscale, again.grayscale)
        assert 0 <= radiograph.grayscale.min() < radiograph.grayscale.max() <= 1


@pytest.mark.requirement("SRS-TRN-103")
def test_a_broken_picture_is_counted_and_the_others_are_read(drawn):
    """One file of 112,120 that did not download must not stop a night of training."""
    name, data = drawn
    cases = COHORTS[name](data).cases[:5]
    broken = cases[2]
    offset, length = broken.span or (0, broken.path.stat().st_size)
    before = broken.path.read_bytes()
    try:
        broken.path.write_bytes(before[:offset] + b"\0" * length + before[offset + length :])
        good, problems = without_broken(cases)
    finally:
        broken.path.write_bytes(before)
    assert good == (*cases[:2], *cases[3:])
    assert len(problems) == 1
    assert problems[0].startswith(f"{broken.identifier}: ")


@pytest.mark.requirement("SRS-TRN-101")
def test_a_cohort_with_a_patient_in_two_parts_cannot_be_made(cohort):
    case = next(case for case in cohort.cases if case.part == "test")
    other = replace(case, identifier="again", part="train", duplicate_group="")
    with pytest.raises(CohortError, match=r"stands in two parts: .* in test, again in train"):
        replace(cohort, cases=(*cohort.cases, other))
    with pytest.raises(CohortError, match="stands in two parts"):
        replace(cohort, absent=(*cohort.absent, other))


@pytest.mark.requirement("SRS-TRN-104")
def test_reading_a_cohort_again_gives_the_same_parts(drawn, cohort):
    """A split that moves with the order of a table or a folder would leak between two runs."""
    name, data = drawn
    again = COHORTS[name](data)
    assert [(case.identifier, case.patient, case.part) for case in again.rows] == [
        (case.identifier, case.patient, case.part) for case in cohort.rows
    ]


@pytest.mark.requirement("SRS-TRN-100")
def test_a_cohort_that_is_not_there_is_an_error_that_says_what_was_expected(tmp_path):
    for read in COHORTS.values():
        with pytest.raises(CohortError, match=r"expected .*found none"):
            read(tmp_path)
        with pytest.raises(CohortError, match=r"expected .*found none"):
            read(tmp_path / "nowhere")


@pytest.mark.requirement("SRS-TRN-101")
def test_a_patient_or_a_picture_in_two_parts_is_an_error_and_apart_is_no_part():
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


@pytest.mark.requirement("SRS-TRN-102")
def test_pictures_are_decoded_one_at_a_time():
    """From a generator without end, the first is there before the second is asked for."""
    asked = []

    def cases():
        for number in range(10**9):
            asked.append(number)
            yield Case(f"c{number}", Path(os.devnull), {}, f"p{number}", "train")

    class Enough(Exception):
        pass

    class Problems(list):
        def append(self, problem):
            super().append(problem)
            if len(self) == 3:
                raise Enough

    problems = Problems()
    with pytest.raises(Enough):
        next(decoded(cases(), problems))
    assert asked == [0, 1, 2]
    assert problems[0].startswith("c0: expected a PNG or JPEG picture")


@pytest.mark.requirement("SRS-TRN-103")
def test_a_file_that_went_away_or_is_empty_is_counted(tmp_path):
    """A disk that drops out, a download that made a name only."""
    (tmp_path / "empty.png").touch()
    cases = [Case(name, tmp_path / name, {}, "p", "train") for name in ("gone.png", "gone.dcm", "empty.png")]
    good, problems = without_broken(cases)
    assert good == ()
    assert [problem.split(":")[0] for problem in problems] == ["gone.png", "gone.dcm", "empty.png"]


@pytest.mark.requirement("SRS-TRN-103")
def test_a_record_that_ends_early_is_unreadable_and_says_where(tmp_path):
    path = tmp_path / "short.tfrec"
    path.write_bytes(b"12345")
    case = Case("a", path, {}, "p", "train", span=(3, 4))
    with pytest.raises(UnreadablePixels, match="expected a record of 4 bytes at byte 3, found 2"):
        case.content()
    with pytest.raises(UnreadablePixels):
        case.radiograph()
    assert replace(case, span=(1, 3)).content() == b"234"
