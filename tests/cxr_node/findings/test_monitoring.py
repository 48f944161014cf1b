"""Histograms and cumulative sums say what they are said to say: indices, limits, false alarms, delays."""

import json
import math

import numpy as np
import pytest

from cxr_node.findings.monitoring.cusum import Chart, Sums, design, design_share, run_length
from cxr_node.findings.monitoring.histogram import Bins, Histogram, chi_square_95, shift, stability_index
from cxr_node.findings.monitoring.reference import (
    MEASURES,
    Inverted,
    Measures,
    Reference,
    ScoreReference,
    encode_reference,
)
from cxr_node.findings.monitoring.site import cases_needed, reaching, site_study, wilson
from cxr_node.findings.monitoring.watch import Plan, Watch

TENTHS = Bins(edges=tuple(step / 10 for step in range(1, 10)))
SHARE = Plan("share", 200, 2000.0)


def normal(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The standard normal distribution as `number` values that are equally probable, and their weights."""
    at = (np.arange(number) + 0.5) / number
    low, high = np.full(number, -8.0), np.full(number, 8.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in middle]) < at
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low, np.full(number, 1 / number)


@pytest.mark.requirement("SRS-MON-003")
def test_a_value_lies_in_the_bin_that_begins_with_it():
    """A child of 18 years belongs to the adults."""
    bins = Bins(edges=(18.0, 40.0))
    assert [bins.place(value) for value in (0, 17.9, 18, 39.9, 40, 120)] == [0, 0, 1, 1, 2, 2]
    words = Bins(names=("PA", "AP"))
    assert [words.place(value) for value in ("PA", "AP", "LL")] == [0, 1, 2]
    counted = Histogram.of(words, ["PA", "", None, "LL"])
    assert (counted.counts, counted.unknown, counted.total) == ((1, 0, 1), 2, 2)


@pytest.mark.requirement("SRS-MON-003")
def test_the_stability_index_is_the_one_computed_by_hand():
    """30 and 70 of 100 become 60 and 40: (0.6-0.3) ln(0.6/0.3) + (0.4-0.7) ln(0.4/0.7), half a case added to each."""
    by_hand = sum(
        (now - was) * math.log(now / was) for was, now in ((30.5 / 101, 60.5 / 101), (70.5 / 101, 40.5 / 101))
    )
    assert stability_index((30, 70), (60, 40)) == pytest.approx(by_hand)
    assert stability_index((30, 70), (30, 70)) == 0


@pytest.mark.requirement("SRS-MON-003")
def test_the_chance_limit_holds_in_nineteen_of_twenty_comparisons():
    """A limit that chance passes every week teaches people to ignore it. 400 weeks of 200 images, no change."""
    rng = np.random.default_rng(5)
    above = 0
    for _ in range(400):
        before, recent = (Histogram.of(TENTHS, rng.random(number)) for number in (500, 200))
        found = shift(before, recent)
        above += found.index > found.chance
    assert 0.02 <= above / 400 <= 0.08


@pytest.mark.requirement("SRS-MON-003")
@pytest.mark.parametrize(("degrees", "expected"), [(1, 3.841), (2, 5.991), (9, 16.919), (19, 30.144)])
def test_the_chi_square_point_is_that_of_the_tables(degrees, expected):
    """No library of statistics is loaded for one figure."""
    assert chi_square_95(degrees) == pytest.approx(expected, rel=0.03)


@pytest.mark.requirement("SRS-MON-003")
def test_thin_bins_are_joined_and_few_images_give_no_index():
    """A bin of one image would decide alone; fifty images say nothing."""
    before = Histogram(TENTHS, (1, 1, 1, 97, 97, 1, 1, 0, 0, 1))
    recent = Histogram(TENTHS, (5, 0, 0, 95, 95, 0, 0, 0, 0, 5))
    assert shift(before, recent).index < 0.05
    few = Histogram(TENTHS, (0, 0, 0, 25, 25, 0, 0, 0, 0, 0))
    found = shift(before, few)
    assert (found.index, found.word, found.is_large) == (None, "too few images", False)
    with pytest.raises(ValueError, match="same bins"):
        shift(before, Histogram(Bins(edges=(0.5,)), (1, 1)))


@pytest.mark.requirement("SRS-MON-004")
@pytest.mark.parametrize(("h", "expected"), [(4.0, 168.0), (5.0, 465.0)])
def test_the_run_length_of_normal_values_is_that_of_the_textbooks(h, expected):
    """Montgomery, Introduction to Statistical Quality Control: both sides of a tabular CUSUM with k = 1/2."""
    z, weights = normal(2000)
    assert run_length(z, weights, 0.5, h) == pytest.approx(expected, rel=0.02)


@pytest.mark.requirement("SRS-MON-004")
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_false_alarms_come_as_often_as_was_asked_for(share):
    """A thousand runs in control: the mean run length is the one that the limit was computed for, within a fifth."""
    chart = design_share(round(share * 10_000), 10_000, 500.0)
    rng, length = np.random.default_rng(3), 4000
    z = ((rng.random((length, 1000)) < share) - chart.mean) / chart.deviation
    up, down, ended = np.zeros(1000), np.zeros(1000), np.full(1000, length)
    for case in range(length):
        up, down = np.maximum(0, up + z[case] - chart.k), np.maximum(0, down - z[case] - chart.k)
        ended[(np.maximum(up, down) > chart.h) & (ended == length)] = case + 1
    mean = ended.sum() / (ended < length).sum()
    # The chain adds both sides up as if apart: exact where they hardly rise at once, else a little too short.
    assert 400 <= mean <= 700


@pytest.mark.requirement("SRS-MON-004")
def test_the_sums_are_those_computed_by_hand():
    """Mean 10, deviation 2, k 0.25: a value of 13 is 1.5 deviations above, one of 9 half a deviation below."""
    chart = Chart(10.0, 2.0, 0.25, 2.0, 100.0, 50)
    sums = Sums().after(chart, 13.0)
    assert (sums.up, sums.down, sums.side(chart)) == (1.25, 0.0, "")
    sums = sums.after(chart, 9.0)
    assert (sums.up, sums.down) == (0.5, 0.25)
    assert sums.after(chart, 14.0).side(chart) == "up"


@pytest.mark.requirement("SRS-MON-005")
def test_a_chart_learns_then_finds_a_change_and_keeps_the_alarm():
    """An alarm that goes away by itself was never seen."""
    rng = np.random.default_rng(2)
    usual = lambda number, share=0.2: (rng.random(number) < share).astype(float)  # noqa: E731
    watch = Watch().after(usual(199), SHARE)
    assert (watch.chart, watch.level) == (None, 0.0)
    watch = watch.after(usual(101), SHARE)
    assert watch.chart is not None
    assert watch.chart.cases == 200
    assert (watch.alarm, watch.sums.cases) == ("", 100)
    watch = watch.after(usual(200, 0.6), SHARE)
    assert watch.alarm == "up"
    assert 100 < watch.alarm_after <= 150
    assert watch.after(usual(300), SHARE).alarm == "up"
    again = watch.reset(learn_anew=False)
    assert (again.alarm, again.chart, again.sums) == ("", watch.chart, Sums())
    assert watch.reset(learn_anew=True) == Watch()


@pytest.mark.requirement("SRS-MON-005")
def test_a_chart_that_was_written_down_goes_on_as_if_it_had_not_been():
    """A restart in the middle of learning, or of a rise, must not begin anew."""
    rng = np.random.default_rng(4)
    values = (rng.random(400) < 0.3).astype(float)
    whole = Watch().after(values, SHARE)
    parts = Watch()
    for begin in range(0, 400, 37):
        parts = Watch.from_json(json.loads(json.dumps(parts.to_json())))
        parts = parts.after(values[begin : begin + 37], SHARE)
    assert parts == whole


@pytest.mark.requirement("SRS-MON-005")
def test_values_that_are_all_alike_can_be_watched():
    """A site where nothing was ever refused: the first refusals are a change."""
    none = design_share(0, 500, 10_000.0)
    sums, number = Sums(), 0
    while not sums.side(none):
        sums, number = sums.after(none, 1.0), number + 1
    assert 2 <= number <= 5
    assert design([0.4] * 500, 10_000.0).deviation > 0


@pytest.mark.requirement("SRS-MON-001")
def test_a_reference_that_was_written_reads_back_and_a_damaged_one_says_what_is_wrong():
    """It travels with the weights for years."""
    score = ScoreReference(Histogram(TENTHS, (5,) * 10), 0.5, 0.3, 20, 50)
    measures = {name: Histogram.of(bins, []) for name, bins in MEASURES.items()}
    reference = Reference("drawn", "0" * 64, 51, {"blank": 1}, measures, {"pneumonia": score}, Inverted(51, 50, {}))
    told = json.loads(encode_reference(reference))
    assert Reference.from_json(told) == reference
    with pytest.raises(ValueError, match="expected 10 counts"):
        Histogram.from_json({"edges": list(TENTHS.edges), "counts": [1, 2]})
    with pytest.raises(ValueError, match="found height"):
        Reference.from_json({**told, "measures": {"height": told["measures"]["age"]}})
    with pytest.raises(ValueError, match="flagged <= of"):
        ScoreReference.from_json({**score.to_json(), "flagged": 51})


@pytest.mark.requirement("SRS-MON-006")
def test_every_measure_has_its_value():
    """One that is asked for under another name would be unknown for ever, and nobody would notice."""
    measures = Measures(50.0, "F", "PA", "DX", 0.4, 0.2, 0.99)
    found = {name: measures.of(name) for name in MEASURES}
    assert found == {
        "age": 50.0,
        "sex": "F",
        "view": "PA",
        "modality": "DX",
        "mean-gray": 0.4,
        "contrast": 0.2,
        "upright": 0.99,
    }
    assert all(bins.place(found[name]) < len(bins) for name, bins in MEASURES.items())


@pytest.mark.requirement("SRS-MON-011")
def test_the_figures_of_a_site_are_those_counted_by_hand():
    """Forty with the finding, sixty without; at 0.5 thirty and twelve are flagged."""
    labels = np.array([1] * 40 + [0] * 60)
    probabilities = np.array([0.9] * 30 + [0.3] * 10 + [0.6] * 12 + [0.1] * 48)
    study = site_study(labels, probabilities, threshold=0.5, wanted=0.9, prevalence=0.1)
    assert (study.now.sensitivity.part, study.now.sensitivity.of) == (30, 40)
    assert (study.now.specificity.part, study.now.specificity.of) == (48, 60)
    assert study.now.predictive.ppv == pytest.approx(0.1 * 0.75 / (0.1 * 0.75 + 0.9 * 0.2))
    assert study.now.predictive.npv == pytest.approx(0.9 * 0.8 / (0.9 * 0.8 + 0.1 * 0.25))
    assert study.proposed.threshold == 0.3
    assert study.proposed.sensitivity.value == 1.0
    assert study.threshold_low <= 0.3 <= study.threshold_high
    # Wilson's interval of 30 of 40, from the formula's own paper form.
    assert (study.now.sensitivity.low, study.now.sensitivity.high) == pytest.approx((0.5981, 0.8581), abs=1e-4)


@pytest.mark.requirement("SRS-MON-011")
def test_the_proposed_threshold_is_the_highest_that_reaches_the_sensitivity():
    """Any higher one misses too many; any lower one flags without need."""
    present = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert reaching(present, 0.9) == 0.2
    assert reaching(present, 0.85) == 0.2
    assert reaching(present, 0.8) == 0.3
    assert (present >= reaching(present, 0.9)).mean() == 0.9


@pytest.mark.requirement("SRS-MON-011")
def test_too_few_cases_give_no_proposal_and_say_how_many_are_needed():
    """A threshold from eleven patients is a guess with four decimals."""
    labels = np.array([1] * 29 + [0] * 200)
    probabilities = np.linspace(0.9, 0.1, 229)
    study = site_study(labels, probabilities, threshold=0.5, wanted=0.9)
    assert study.is_too_small
    assert (study.proposed, study.line) == (None, None)
    assert study.to_json()["threshold_low"] is None
    needed = study.needed
    assert needed == cases_needed(0.9)
    found = wilson(round(0.9 * needed), needed)
    assert (found.high - found.low) / 2 <= 0.05
    assert 100 < needed < 200


@pytest.mark.requirement("SRS-MON-011")
def test_the_calibration_line_finds_a_slope_and_an_intercept_that_were_put_in():
    """Probabilities that are twice as sure as they may be, and too high by one on the logit."""
    rng = np.random.default_rng(6)
    true = rng.normal(0, 1.5, 4000)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-true))).astype(float)
    told = 1 / (1 + np.exp(-(2 * true + 1)))
    line = site_study(labels, told, threshold=0.5, wanted=0.9).line
    assert line.slope_low < 0.5 < line.slope_high
    assert line.intercept_low < -0.5 < line.intercept_high
    assert line.slope_high - line.slope_low < 0.1


@pytest.mark.requirement("SRS-MON-011")
@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        ([], {}, "labels 1 and 0"),
        ([0, 2], {}, "labels 1 and 0"),
        ([0, 1], {"wanted": 1.0}, "between 0 and 1"),
        ([0, 1], {"prevalence": 0.0}, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(labels, options, says):
    """A study of nothing has no figures."""
    with pytest.raises(ValueError, match=says):
        site_study(np.array(labels, float), np.full(len(labels), 0.5), **{"threshold": 0.5, "wanted": 0.9, **options})
