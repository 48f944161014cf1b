"""Figures against numbers worked out by hand."""

import math

import pytest

from cxr_node.worklist.figures import agreement, drift, percentile, proportion
from storage.statistics import Comparison

pytestmark = pytest.mark.requirement("SRS-ADM-208")


@pytest.mark.parametrize(
    ("part", "of", "low", "high"),
    [(9, 10, 0.5958, 0.9821), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_proportions_have_wilsons_interval(part, of, low, high):
    """Ten of ten is not certainty."""
    found = proportion(part, of)
    assert found.value == part / of
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_nothing_counted_is_no_zero():
    """A rate of 0 % would say that something was looked at."""
    assert proportion(0, 0).value is None


def test_percentiles_are_values_that_came_up():
    """Nearest rank: of twenty, the nineteenth is the 95th percentile."""
    assert percentile({1: 1, 2: 1, 3: 1, 4: 1}, 0.5) == 2
    assert percentile(dict.fromkeys(range(1, 21), 1), 0.95) == 19
    assert percentile({7: 3}, 0.95) == 7
    assert percentile({}, 0.5) is None


@pytest.mark.requirement("SRS-ADM-205")
def test_kappa_and_its_interval_are_those_of_fleiss_cohen_and_everitt():
    """p_o = 0.7, p_e = 0.5; variance (0.10972 + 0.10188 - 0.01) / (0.25 * 50) = 0.016128."""
    found = agreement(Comparison(both=20, only_first=5, only_second=10, neither=15))
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa_low == pytest.approx(0.4 - 1.959964 * math.sqrt(0.016128), abs=1e-6)
    assert found.kappa_high == pytest.approx(0.4 + 1.959964 * math.sqrt(0.016128), abs=1e-6)
    assert (found.agree.part, found.agree.of) == (35, 50)
    assert (found.flagged_first.part, found.flagged_second.part) == (25, 30)


@pytest.mark.requirement("SRS-ADM-205")
def test_where_both_always_say_the_same_word_kappa_says_nothing():
    """Two models that never flag agree by chance alone."""
    assert agreement(Comparison(neither=10)).kappa is None
    assert agreement(Comparison()).kappa is None
    assert agreement(Comparison(both=5, neither=5)).kappa == 1.0


@pytest.mark.requirement("SRS-ADM-205")
def test_scores_are_correlated_from_their_sums():
    """x = 0, 1, 2 with y = 0, 1, 4: covariance sum 4, spreads 2 and 26/3."""
    sums = {"sum_x": 3.0, "sum_y": 5.0, "sum_xx": 5.0, "sum_yy": 17.0, "sum_xy": 9.0}
    assert agreement(Comparison(neither=3, **sums)).correlation == pytest.approx(4 / math.sqrt(2 * 26 / 3))
    assert agreement(Comparison(neither=3, sum_x=3.0, sum_xx=3.0)).correlation is None


def test_drift_is_the_population_stability_index_over_tenths():
    """Ten bins of 100 before; 20 in the lower five and 40 in the upper five after; half a case in each bin."""
    before = {step * 1000: 100 for step in range(10)}
    after = {step * 1000: 20 if step < 5 else 40 for step in range(10)}
    low, high, was = 20.5 / 305, 40.5 / 305, 100.5 / 1005
    expected = 5 * ((low - was) * math.log(low / was) + (high - was) * math.log(high / was))
    found = drift(before, after)
    assert found.index == pytest.approx(expected)
    assert found.index == pytest.approx(0.1116, abs=1e-4)
    assert found.chance == pytest.approx(16.919 * (1 / 300 + 1 / 1000))
    assert found.word == "moderate shift"
    assert drift(before, {9000: 300}).word == "large shift"
    assert drift(before, {step * 1000: 30 for step in range(10)}).word == "no shift seen"


@pytest.mark.parametrize(("before", "after"), [(499, 1000), (5000, 199), (0, 0)])
def test_few_images_say_nothing_of_drift(before, after):
    """Chance alone moves the index of a hundred images past every limit."""
    found = drift({1: before}, {9999: after})
    assert (found.index, found.word) == (None, "too few images")


def test_scores_that_pile_up_on_one_value_make_fewer_bins():
    """A model that says the same of most images must not divide by an empty bin."""
    assert drift({5: 900, 6: 100}, {5: 180, 6: 20}).index == pytest.approx(0, abs=1e-4)
    assert drift({5: 1000}, {5: 500}).index == pytest.approx(0, abs=1e-3)
    assert drift({5: 1000}, {5: 250, 9: 250}).word == "large shift"
