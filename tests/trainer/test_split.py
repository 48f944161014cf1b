"""The split that everything else is measured on: by patient, even over strata, the same on every machine, unchanged."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.cohorts import COHORTS, Case, Cohort, CohortError
from trainer.split import freeze, frozen, record_of, split

from .cohort_builders import FORMS, nih_shipped

FRACTIONS = (0.7, 0.1, 0.2)


def make(patients: int = 200, images: int = 2, part: str = "train") -> Cohort:
    """Every fourth patient has the finding, every third image is AP, and there are two sources."""
    cases = tuple(
        Case(
            identifier=f"{patient}-{image}",
            path=Path("none.png"),
            labels={"pneumonia": float(patient % 4 == 0), "effusion": math.nan},
            patient=f"p{patient}",
            part=part,
            view="AP" if patient % 3 == 0 else "PA",
            source="ab"[patient % 2],
        )
        for patient in range(patients)
        for image in range(1 + patient % images)
    )
    return Cohort("drawn", "Drawn", cases, "as drawn", findings=("pneumonia", "effusion"))


def parts_of(cohort: Cohort) -> dict[str, str]:
    return {case.identifier: case.part for case in cohort.rows}


def patients(cohort: Cohort, part: str) -> set[str]:
    return {case.patient for case in cohort.rows if case.part == part}


@pytest.mark.requirement("SRS-TRN-125")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 4))
def test_no_patient_is_in_two_parts_and_no_case_is_lost(seed, count, images):
    cohort = make(count, images)
    found = split(cohort, "pneumonia", seed=seed, fractions=FRACTIONS, keep_official=False)
    assert [case.identifier for case in found.cases] == [case.identifier for case in cohort.cases]
    of: dict[str, set[str]] = {}
    for case in found.cases:
        of.setdefault(case.patient, set()).add(case.part)
    assert all(len(parts) == 1 for parts in of.values())


@pytest.mark.requirement("SRS-TRN-125")
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_every_stratum_gets_its_share_of_every_part(seed):
    """By label, view and source: otherwise a part could be all portable images, and its figure the view's."""
    found = split(make(), "pneumonia", seed=seed, fractions=FRACTIONS, keep_official=False)
    of = {case.patient: (case.labels["pneumonia"], case.view, case.source, case.part) for case in found.cases}
    strata = Counter(stratum[:3] for stratum in of.values())
    dealt = Counter(of.values())
    for stratum, count in strata.items():
        for part, share in zip(("train", "tune", "test"), FRACTIONS, strict=True):
            assert abs(dealt[*stratum, part] - share * count) <= 2
    for part, share in zip(("train", "tune", "test"), FRACTIONS, strict=True):
        assert abs(len(patients(found, part)) - share * 200) <= 1


@pytest.mark.requirement("SRS-TRN-126")
def test_the_same_seed_makes_the_same_split_in_any_order_of_rows_and_another_makes_another():
    cohort = make()
    first = split(cohort, "pneumonia", seed=7, fractions=FRACTIONS, keep_official=False)
    turned = replace(cohort, cases=tuple(reversed(cohort.cases)))
    assert parts_of(split(turned, "pneumonia", seed=7, fractions=FRACTIONS, keep_official=False)) == parts_of(first)
    other = parts_of(split(cohort, "pneumonia", seed=8, fractions=FRACTIONS, keep_official=False))
    assert sum(other[name] != part for name, part in parts_of(first).items()) > 50


@pytest.mark.requirement("SRS-TRN-127")
def test_the_official_test_part_is_untouched(tmp_path):
    """Another test part makes figures that nobody can compare."""
    nih_shipped(tmp_path)
    cohort = COHORTS["nih"](tmp_path)
    found = split(cohort, "pneumonia", seed=3, fractions=(0.5, 0.5, 0.0))
    before, after = parts_of(cohort), parts_of(found)
    assert {name for name, part in after.items() if part == "test"} == {
        name for name, part in before.items() if part == "test"
    }
    assert {name for name, part in after.items() if part == "apart"} == {
        name for name, part in before.items() if part == "apart"
    }
    learned = len(patients(found, "train")), len(patients(found, "tune"))
    assert abs(learned[0] - learned[1]) <= 1
    assert "The test part is the cohort's own, untouched" in found.split_rule
    assert cohort.split_rule in found.split_rule


@pytest.mark.requirement("SRS-TRN-125")
def test_patients_that_share_a_picture_are_dealt_together():
    cohort = make(60, 1)
    cases = tuple(replace(case, duplicate_group=str(int(case.patient[1:]) % 20)) for case in cohort.cases)
    found = split(replace(cohort, cases=cases), "pneumonia", seed=1, fractions=FRACTIONS, keep_official=False)
    of: dict[str, set[str]] = {}
    for case in found.cases:
        of.setdefault(case.duplicate_group, set()).add(case.part)
    assert all(len(parts) == 1 for parts in of.values())
    assert len({part for parts in of.values() for part in parts}) == 3


@pytest.mark.requirement("SRS-TRN-125")
def test_a_split_that_cannot_be_is_refused():
    cohort = make(20)
    kwargs = {"seed": 1, "fractions": FRACTIONS, "keep_official": False}
    with pytest.raises(CohortError, match="expected one of pneumonia, effusion, found 'flu'"):
        split(cohort, "flu", **kwargs)
    for fractions in ((0.5, 0.5, 0.5), (1.2, -0.2, 0.0), (0.7, 0.3), (math.nan, 0.5, 0.5)):
        with pytest.raises(CohortError, match="expected three fractions"):
            split(cohort, "pneumonia", seed=1, fractions=fractions, keep_official=False)
    with pytest.raises(CohortError, match="expected a test part to keep, found none"):
        split(cohort, "pneumonia", seed=1, fractions=FRACTIONS)
    nameless = replace(cohort, cases=(*cohort.cases, replace(cohort.cases[0], identifier="x", patient="")))
    with pytest.raises(CohortError, match="1 cases have no patient, x first"):
        split(nameless, "pneumonia", **kwargs)
    apart = replace(cohort, cases=tuple(replace(case, part="apart") for case in cohort.cases))
    with pytest.raises(CohortError, match="no case may be used"):
        split(apart, "pneumonia", **kwargs)
    official = replace(cohort, cases=(replace(cohort.cases[0], part="test"), *cohort.cases[1:]))
    with pytest.raises(CohortError, match="expected a fraction above 0 of train or tune"):
        split(official, "pneumonia", seed=1, fractions=(0.0, 0.0, 1.0))


@pytest.mark.requirement("SRS-TRN-128")
def test_a_frozen_split_is_the_same_bytes_each_time_and_comes_back_as_it_was(tmp_path):
    drawn = split(make(), "pneumonia", seed=7, fractions=FRACTIONS, keep_official=False)
    digest = freeze(drawn, tmp_path / "a" / "split.csv", seed=7)
    assert freeze(replace(drawn, cases=drawn.cases[::-1]), tmp_path / "b" / "split.csv", seed=7) == digest
    for name in ("split.csv", "split.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    back = frozen(make(), tmp_path / "a" / "split.csv")
    assert parts_of(back) == parts_of(drawn)
    assert back.split_rule == drawn.split_rule
    record = json.loads((tmp_path / "a" / "split.json").read_text())
    assert (record["cohort"], record["seed"], record["sha256"]) == ("drawn", 7, digest)
    for part in ("train", "tune", "test"):
        cases = drawn.part(part)
        said = record["parts"][part]
        assert (said["images"], said["patients"]) == (len(cases), len({case.patient for case in cases}))
        assert said["pneumonia"]["present"] == sum(case.labels["pneumonia"] for case in cases)
        assert said["effusion"] == {"present": 0, "absent": 0, "unknown": len(cases)}


@pytest.mark.requirement("SRS-TRN-128")
@pytest.mark.parametrize("form", list(FORMS), ids=lambda form: "-".join(form).replace(" ", "_"))
def test_the_parts_of_every_cohort_can_be_frozen(tmp_path, form):
    """Names with commas, folders or spaces included."""
    FORMS[form](tmp_path / "data")
    cohort = COHORTS[form[0]](tmp_path / "data")
    freeze(cohort, tmp_path / "split.csv")
    assert frozen(cohort, tmp_path / "split.csv") == cohort


@pytest.fixture
def kept(tmp_path):
    """A frozen split and its cohort."""
    cohort = split(make(30), "pneumonia", seed=7, fractions=FRACTIONS, keep_official=False)
    freeze(cohort, tmp_path / "split.csv")
    return cohort, tmp_path / "split.csv"


def forge(path: Path, text: str) -> None:
    """Change a split and its hash, as one who wants to would."""
    import hashlib

    path.write_text(text, "utf-8")
    record = json.loads(record_of(path).read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record_of(path).write_text(json.dumps(record))


@pytest.mark.requirement("SRS-TRN-129")
def test_a_split_that_was_changed_after_it_was_frozen_is_refused(kept):
    """A case moved from test to train makes a better model, and a worse one of it."""
    cohort, path = kept
    path.write_text(path.read_text().replace(",test\n", ",train\n", 1))
    with pytest.raises(CohortError, match="the split was changed after it was frozen"):
        frozen(cohort, path)


@pytest.mark.requirement("SRS-TRN-129")
def test_a_case_that_is_missing_on_either_side_is_an_error(kept):
    cohort, path = kept
    fewer = replace(cohort, cases=cohort.cases[1:])
    with pytest.raises(CohortError, match="1 cases are missing from the cohort drawn, 0-0 first"):
        frozen(fewer, path)
    more = replace(cohort, cases=(*cohort.cases, replace(cohort.cases[0], identifier="new")))
    with pytest.raises(CohortError, match="expected every case of the cohort drawn, new is missing"):
        frozen(more, path)


@pytest.mark.requirement("SRS-TRN-129")
def test_a_patient_in_two_parts_or_of_another_name_is_an_error(kept):
    cohort, path = kept
    lines = path.read_text().splitlines()
    pair = [line for line in lines if line.startswith("1-")]
    part = pair[0].rpartition(",")[2]
    moved = pair[0].removesuffix(part) + ("tune" if part == "train" else "train")
    forge(path, "\n".join(moved if line == pair[0] else line for line in lines) + "\n")
    with pytest.raises(CohortError, match="patient p1 stands in two parts"):
        frozen(cohort, path)
    forge(path, "\n".join(line.replace(",p1,", ",p999,") for line in lines) + "\n")
    with pytest.raises(CohortError, match="1-0 is of another patient in the cohort"):
        frozen(cohort, path)


@pytest.mark.requirement("SRS-TRN-129")
def test_files_that_are_no_frozen_split_are_refused(kept, tmp_path):
    cohort, path = kept
    with pytest.raises(CohortError, match="expected a split of the cohort other, found one of drawn"):
        frozen(replace(cohort, name="other"), path)
    text = path.read_text()
    forge(path, text.replace(",test\n", ",exam\n", 1))
    with pytest.raises(CohortError, match="column 'part': expected one of train, tune, test, apart, found 'exam'"):
        frozen(cohort, path)
    forge(path, text + text.splitlines()[1] + "\n")
    with pytest.raises(CohortError, match="column 'identifier': expected each case once"):
        frozen(cohort, path)
    forge(path, text)
    record_of(path).write_text("{}")
    with pytest.raises(CohortError, match="expected the schema"):
        frozen(cohort, path)
    record_of(path).write_text("no JSON")
    with pytest.raises(CohortError, match="as JSON"):
        frozen(cohort, path)
    record_of(path).unlink()
    with pytest.raises(CohortError, match=r"split\.json: expected the record of a frozen split, found none"):
        frozen(cohort, path)
    with pytest.raises(CohortError, match="found none"):
        frozen(cohort, tmp_path / "nowhere.csv")


@pytest.mark.requirement("SRS-TRN-128")
def test_two_cases_of_one_name_cannot_be_frozen(tmp_path):
    cohort = make(3)
    twice = replace(cohort, absent=cohort.cases[:1])
    with pytest.raises(CohortError, match="two cases have the identifier 0-0"):
        freeze(twice, tmp_path / "split.csv")


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-127")
def test_the_whole_real_table_is_split_in_seconds_with_its_official_test_part(shared_data, tmp_path):
    cohort = COHORTS["nih"](shared_data / "metadata")
    found = split(cohort, "pneumonia", seed=1, fractions=(0.7, 0.1, 0.2))
    test = {case.identifier for case in found.rows if case.part == "test"}
    assert test == {case.identifier for case in cohort.rows if case.part == "test"}
    rates = {part: [case.labels["pneumonia"] for case in found.rows if case.part == part] for part in ("train", "tune")}
    assert len(rates["tune"]) / len(rates["train"]) == pytest.approx(1 / 7, rel=0.1)
    shares = {part: sum(labels) / len(labels) for part, labels in rates.items()}
    assert shares["tune"] == pytest.approx(shares["train"], rel=0.15)
    freeze(found, tmp_path / "split.csv", seed=1)
    assert parts_of(frozen(cohort, tmp_path / "split.csv")) == parts_of(found)
