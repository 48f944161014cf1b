"""The change control plan: what counts as inside, whose threshold is trusted, and what an interval says of a limit."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_node.imaging import PreprocessSpec
from cxr_node.inference import IntendedUse, Manifest, OperatingPoint
from tests.trainer.pccp_builders import PLAN_OF_TESTS
from trainer.cohorts import Case
from trainer.pccp import PlanError, load_plan
from trainer.pccp.changes import allowed_by, differences, threshold_faults
from trainer.pccp.measured import Answer, Pair, answer, limits, paired_interval, shift, subgroup_limits
from trainer.pccp.plan import PLAN


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN_OF_TESTS, "utf-8")
    return load_plan(path)


def make_manifest(**changes: object) -> Manifest:
    """A manifest of which the threshold was locked on its own tune part."""
    cohort = {
        "name": "kermany",
        "parts": {"tune": {"images": 40, "patients": 30, "present": 20, "absent": 20, "sha256": "a" * 64}},
    }
    manifest = Manifest(
        name="drawn",
        version="2.0.1",
        title="Drawn",
        findings=("pneumonia",),
        intended_use=IntendedUse((1, 5), ("AP",), ("DX",), ("CHEST",)),
        preprocess=PreprocessSpec((24, 24)),
        operating_points={
            "pneumonia": OperatingPoint(
                "tune",
                0.4,
                0.9,
                0.8,
                "tune part of cohort kermany, 40 images of 30 patients (20 with the finding): the highest",
            )
        },
        calibration={"pneumonia": {"slope": 1.0, "intercept": 0.0}},
        architecture="tiny",
        training={"cohort": cohort, "config": {"findings": ["pneumonia"], "sources": []}},
        figures={
            "tune": {"confusion": {"true_positive": 18, "false_negative": 2, "true_negative": 16, "false_positive": 4}}
        },
        limitations=("None known.",),
        files={"architecture.json": "0" * 64, "weights.npz": "1" * 64},
    )
    return replace(manifest, **changes)  # type: ignore[arg-type]


def point(manifest: Manifest, **changes: object) -> dict[str, OperatingPoint]:
    return {"pneumonia": replace(manifest.operating_points["pneumonia"], **changes)}  # type: ignore[arg-type]


def make_pair(old: np.ndarray, new: np.ndarray, labels: np.ndarray, *, patients: int = 0, sex: str = "") -> Pair:
    """Cases with flags; a flag is the probability too."""
    cases = tuple(
        Case(f"c{i}", Path("x"), {}, f"p{i % patients if patients else i}", "test", sex=sex[i % 2] if sex else "")
        for i in range(len(labels))
    )
    return Pair(cases, labels.astype(float), old.astype(float), new.astype(float), old.astype(bool), new.astype(bool))


@pytest.mark.requirement("SRS-PCP-001")
@pytest.mark.parametrize(
    ("changes", "change", "outside"),
    [
        ({"files": {"architecture.json": "0" * 64, "weights.npz": "2" * 64}}, "retrain", ()),
        ({"title": "Other words"}, "words", ()),
        ({"version": "2.0.2"}, None, ()),
        ({"preprocess": PreprocessSpec((32, 32))}, None, ("preprocess.size",)),
        ({"intended_use": IntendedUse((1, 17), ("AP",), ("DX",), ("CHEST",))}, None, ("intended_use.age_years",)),
        ({"architecture": "vgg"}, None, ("architecture",)),
        ({"title": "Other words", "architecture": "vgg"}, None, ("architecture",)),
    ],
)
def test_what_changed_decides_whether_it_is_inside(plan, changes, change, outside):
    """A wider age range is another device, a better title is not; what stands outside is named."""
    old = make_manifest()
    found, beyond = allowed_by(plan, differences(old.to_json(), replace(old, **changes).to_json()))
    assert (found.id if found else None) == change
    assert beyond == outside


@pytest.mark.requirement("SRS-PCP-001")
def test_two_changes_at_once_are_outside_where_none_covers_both(plan):
    """New weights and a new title are no words, and the plan's retraining does not touch titles."""
    old = make_manifest()
    new = replace(old, title="Better", files={**old.files, "weights.npz": "2" * 64})
    assert allowed_by(plan, differences(old.to_json(), new.to_json())) == (None, ("title",))


@pytest.mark.requirement("SRS-PCP-001")
def test_a_change_that_keeps_something_is_not_allowed_to_touch_it(plan):
    """`training` may change with training again, the cohort's name in it may not."""
    old = make_manifest()
    training = {**old.training, "cohort": {**old.training["cohort"], "name": "rsna"}}
    found, beyond = allowed_by(plan, differences(old.to_json(), replace(old, training=training).to_json()))
    assert (found, beyond) == (None, ("training.cohort.name",))


@pytest.mark.requirement("SRS-PCP-002")
def test_a_threshold_of_its_own_tune_part_is_trusted_and_any_other_is_not():
    """A better model ran worse with the threshold of the version before it."""
    old = make_manifest()
    assert threshold_faults(old, old) == ()
    for new, told in (
        (replace(old, operating_points=point(old, source="a consensus meeting")), "expected 'tune part"),
        (
            replace(
                old,
                operating_points=point(
                    old, source="tune part of cohort kermany, 99 images of 30 patients (20 with the finding)"
                ),
            ),
            "the record of training counts",
        ),
        (replace(old, operating_points=point(old, sensitivity=0.97)), "figures.tune measured 0.9000"),
        (replace(old, figures={}), "figures.tune measured nothing"),
        (replace(old, files={**old.files, "weights.npz": "2" * 64}), "carried over"),
    ):
        faults = threshold_faults(old, new)
        assert len(faults) >= 1, told
        assert told in " ".join(faults)


@pytest.mark.requirement("SRS-PCP-003")
def test_an_interval_on_both_sides_of_the_limit_leaves_it_open():
    """What cannot be told is not passed."""
    assert answer(-0.02, 0.05, 0.03) is Answer.MET
    assert answer(-0.05, 0.05, 0.03) is Answer.OPEN
    assert answer(-0.09, -0.04, 0.03) is Answer.MISSED
    assert answer(math.nan, math.nan, 0.03) is Answer.OPEN


@pytest.mark.requirement("SRS-PCP-003")
def test_the_paired_interval_is_that_of_bonett_and_price_and_never_of_no_width():
    """40 images, 6 lost, 2 gained: (3/42 - 7/42) with sqrt((10/42 - (4/42)^2)/42); nothing changed is no certainty."""
    plan = load_plan()
    old, new = np.ones(40, bool), np.ones(40, bool)
    old[:2], new[2:8] = False, False
    low, high = paired_interval(old, new, [str(i) for i in range(40)], replace(plan, bootstrap=50))
    middle, half = -4 / 42, 1.959964 * math.sqrt((10 / 42 - (4 / 42) ** 2) / 42)
    assert low <= middle - half + 1e-6
    assert high >= middle + half - 1e-6
    assert low == pytest.approx(middle - half, abs=0.03)
    same = paired_interval(old, old, [str(i) for i in range(40)], replace(plan, bootstrap=50))
    assert same[0] < -0.03
    assert same[1] > 0.03


@pytest.mark.requirement("SRS-PCP-003")
def test_many_images_of_few_patients_widen_the_interval():
    """Ten images of a patient are not ten patients."""
    plan = replace(load_plan(), bootstrap=400)
    old = np.ones(200, bool)
    new = np.arange(200) % 10 != 0  # all images of every tenth patient turn
    alone = paired_interval(old, new, [str(i) for i in range(200)], plan)
    clustered = paired_interval(old, new, [str(i % 10) for i in range(200)], plan)
    assert clustered[1] - clustered[0] > 1.5 * (alone[1] - alone[0])


@pytest.mark.requirement("SRS-PCP-003")
def test_a_loss_of_sensitivity_is_missed_and_named_while_a_gain_is_met(plan):
    """And the same figures read the other way round."""
    strict = replace(plan, limits=replace(plan.limits, sensitivity=0.05))
    labels = np.repeat([1, 0], 200)
    old = np.where(labels == 1, np.arange(400) % 10 != 0, False)
    new = np.where(labels == 1, np.arange(400) % 2 == 0, False)
    found = {item.name: item for item in limits(make_pair(old, new, labels), strict)}
    assert found["sensitivity"].answer is Answer.MISSED
    assert found["sensitivity"].difference == pytest.approx(0.5 - 0.9)
    assert found["specificity"].answer is Answer.MET
    back = {item.name: item for item in limits(make_pair(new, old, labels), strict)}
    assert back["sensitivity"].answer is Answer.MET


@pytest.mark.requirement("SRS-PCP-004")
def test_a_group_with_too_few_cases_is_named_and_not_measured(plan):
    """Women may do worse while the mean improves; silence about them must not look like a pass."""
    labels = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    measured, too_few = subgroup_limits(make_pair(labels, labels, labels, sex="FM"), plan)
    assert {item.name for item in measured} == {"sensitivity in sex F"}
    assert any("sensitivity in sex M: 3 images, 4 needed" in item for item in too_few)
    assert any("by view" in item for item in too_few)


@pytest.mark.requirement("SRS-PCP-005")
def test_learning_potential_and_retention_are_those_of_vigilant():
    """S(new|now) - S(old|now), S(old|before) - S(old|now), S(new|before), worked out by hand on AUCs."""
    labels = np.array([1, 1, 0, 0])
    right, half, wrong = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    now, before = make_pair(half, right, labels), make_pair(right, wrong, labels)
    found = shift(now, before)
    assert found.learning.value == pytest.approx(0.5)
    assert found.potential is not None
    assert found.potential.value == pytest.approx(0.5)
    assert found.retention is not None
    assert found.retention.value == pytest.approx(0.0)
    assert shift(now, None).retention is None


@pytest.mark.requirement("SRS-PCP-003")
def test_a_plan_that_reads_wrong_says_where(tmp_path):
    """A margin of 5 that was meant as 5 % would let anything through."""
    for text, told in (
        (PLAN_OF_TESTS.replace("auc = 0.6", "auc = 5", 1), "limits: auc: expected a margin"),
        (PLAN_OF_TESTS.replace('by = ["sex", "view"]', 'by = ["hospital"]'), "subgroups.by"),
        (PLAN_OF_TESTS.replace("fewest_present = 5", ""), "fewest_present"),
        ("[plan", "expected TOML"),
    ):
        path = tmp_path / "plan.toml"
        path.write_text(text, "utf-8")
        with pytest.raises(PlanError, match=told):
            load_plan(path)
    with pytest.raises(PlanError, match="found none"):
        load_plan(tmp_path / "nowhere.toml")
    assert load_plan(PLAN).packages
