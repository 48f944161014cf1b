"""The figures that a site decides by, each against scikit-learn or a slow reference."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from trainer import metrics
from trainer.calibration import logistic_fit, logit, platt, sigmoid

pytestmark = pytest.mark.requirement("SRS-TRN-003")


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(2)
    labels = (rng.random(300) < 0.4).astype(float)
    scores = np.round(sigmoid(rng.normal(labels * 1.2 - 0.5, 1.0)), 2)  # rounded: ties are there
    return labels, scores


def test_the_auc_is_scikit_learns_ties_included(drawn):
    assert metrics.auc(*drawn) == pytest.approx(roc_auc_score(*drawn), abs=1e-12)
    assert math.isnan(metrics.auc(np.ones(3), np.arange(3.0)))


def test_delongs_variance_is_that_of_its_definition(drawn):
    """DeLong 1988, equations 3 to 6, pair by pair."""
    labels, scores = drawn
    present, absent = scores[labels == 1], scores[labels == 0]
    wins = (present[:, np.newaxis] > absent) + 0.5 * (present[:, np.newaxis] == absent)
    variance = wins.mean(axis=1).var(ddof=1) / len(present) + wins.mean(axis=0).var(ddof=1) / len(absent)
    value = wins.mean()
    half = metrics.Z95 * math.sqrt(variance) / (value * (1 - value))
    center = math.log(value / (1 - value))
    found = metrics.delong(labels, scores)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.low == pytest.approx(1 / (1 + math.exp(half - center)), abs=1e-9)
    assert found.high == pytest.approx(1 / (1 + math.exp(-half - center)), abs=1e-9)


def test_bootstrap_and_delong_agree_where_every_patient_has_one_image(drawn):
    labels, scores = drawn
    boot = metrics.bootstrap_auc(labels, scores, [str(n) for n in range(len(labels))], np.random.default_rng(0), 600)
    delong = metrics.delong(labels, scores)
    assert boot.value == delong.value
    assert boot.low == pytest.approx(delong.low, abs=0.015)
    assert boot.high == pytest.approx(delong.high, abs=0.015)


def test_the_bootstrap_draws_patients_not_images(drawn):
    """Ten copies of every image are no new evidence: the interval must not shrink."""
    labels, scores = drawn
    patients = [str(n) for n in range(len(labels))]
    once = metrics.bootstrap_auc(labels, scores, patients, np.random.default_rng(0), 400)
    copied = metrics.bootstrap_auc(
        np.repeat(labels, 10), np.repeat(scores, 10), np.repeat(patients, 10), np.random.default_rng(0), 400
    )
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.05)


@given(st.integers(1, 500), st.data())
def test_wilsons_limits_are_where_the_score_test_just_does_not_reject(n, data):
    """The interval's definition: |p̂ - p| = z · sqrt(p (1 - p) / n) at both ends."""
    successes = data.draw(st.integers(0, n))
    found = metrics.wilson(successes, n)
    for limit in (found.low, found.high):
        if 0 < limit < 1:
            assert abs(found.value - limit) == pytest.approx(
                metrics.Z95 * math.sqrt(limit * (1 - limit) / n), rel=1e-6, abs=1e-9
            )
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.05, 1))
def test_the_threshold_reaches_the_wanted_sensitivity_and_no_score_above_it_would(values, wanted):
    probabilities = np.array(values)
    labels = np.array([1.0, *(float(index % 3 == 0) for index in range(1, len(values)))])
    threshold = metrics.threshold_for_sensitivity(labels, probabilities, wanted)
    assert metrics.sensitivity(labels, probabilities, threshold).value >= wanted - 1e-12
    higher = probabilities[(labels == 1) & (probabilities >= threshold)].min()
    assert metrics.sensitivity(labels, probabilities, float(np.nextafter(higher, 2))).value < wanted


def test_calibration_error_is_the_mean_gap_of_its_bins():
    labels, probabilities = np.array([0, 1, 1, 1.0]), np.array([0.05, 0.15, 0.15, 1.0])
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx((0.05 + 2 * 0.85 + 0) / 4)
    assert metrics.brier(labels, probabilities) == pytest.approx((0.05**2 + 2 * 0.85**2) / 4)


def test_a_logistic_fit_is_scikit_learns(drawn):
    labels, scores = drawn
    features = np.column_stack([logit(np.clip(scores, 0.01, 0.99)), np.random.default_rng(0).normal(size=len(labels))])
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=10000).fit(features, labels)
    found = logistic_fit(features, labels)
    assert found == pytest.approx([*reference.intercept_, *reference.coef_[0]], abs=1e-4)
    penalised = LogisticRegression(C=0.5, tol=1e-10, max_iter=10000).fit(features, labels)
    assert logistic_fit(features, labels, ridge=2.0) == pytest.approx(
        [*penalised.intercept_, *penalised.coef_[0]], abs=1e-4
    )


def test_platts_line_is_the_weighted_fit_on_soft_targets(drawn):
    """A soft target is a case seen twice, once with each label: so scikit-learn fits it."""
    labels, scores = drawn
    scores = np.clip(scores, 0.01, 0.99)
    present, absent = (labels == 1).sum(), (labels == 0).sum()
    targets = np.where(labels == 1, (present + 1) / (present + 2), 1 / (absent + 2))
    weights = np.where(labels == 1, 0.5 / present, 0.5 / absent) * len(labels)
    doubled = np.tile(logit(scores)[:, np.newaxis], (2, 1))
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=10000).fit(
        doubled,
        np.repeat([1, 0], len(labels)),
        sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
    )
    slope, intercept = platt(labels, scores)
    assert slope == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_a_tune_part_that_is_separated_or_turned_round_still_has_an_answer():
    labels, scores = np.array([0.0] * 20 + [1.0] * 20), np.linspace(0.01, 0.99, 40)
    slope, intercept = platt(labels, scores)
    assert 0 < slope < 50
    assert math.isfinite(intercept)
    with pytest.raises(ValueError, match="rise where the finding is absent"):
        platt(1 - labels, scores)
    with pytest.raises(ValueError, match="needs both classes"):
        platt(np.ones(3), scores[:3])


@pytest.mark.requirement("SRS-TRN-003")
def test_within_strata_a_score_that_only_repeats_the_strata_tells_nothing():
    """Else a model that reads a clue would look as if it read the disease."""
    rng = np.random.default_rng(5)
    strata = rng.integers(0, 5, 2000)
    labels = (rng.random(2000) < 0.1 + 0.18 * strata).astype(float)
    clue = strata + rng.normal(0, 0.01, 2000)
    assert metrics.auc(labels, clue) > 0.75
    assert metrics.within_strata_auc(labels, clue, strata) == pytest.approx(0.5, abs=0.04)
    knows = clue + 3 * labels * (rng.random(2000) < 0.5)
    assert metrics.within_strata_auc(labels, knows, strata) == pytest.approx(0.75, abs=0.04)
    assert np.isnan(metrics.within_strata_auc(labels, clue, np.arange(2000)))
    assert list(metrics.fifths(np.array([1.0, 1.0, 2.0, 3.0, 9.0]))) == [0, 0, 2, 3, 4]
