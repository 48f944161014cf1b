"""Sample sizes: held against published examples, brute force and random draws."""

import random

import pytest

from regulatory.sample_size import (
    at_least,
    auc_lower,
    auc_standard_error,
    cases_for,
    cases_for_half_width,
    cases_for_observed,
    exact_lower,
    exact_meets,
    fewest_successes,
    power,
    wilson_lower,
    wilson_meets,
    with_losses,
)

pytestmark = pytest.mark.requirement("SRS-REG-079")


def test_limits_are_those_of_published_examples():
    """Newcombe 1998, table I: 81 of 263 Wilson 0.2553, Clopper and Pearson 0.2527; 15 of 148 0.0624 and 0.0578."""
    assert wilson_lower(81, 263) == pytest.approx(0.2553, abs=5e-5)
    assert exact_lower(81, 263) == pytest.approx(0.2527, abs=5e-5)
    assert wilson_lower(15, 148) == pytest.approx(0.0624, abs=5e-5)
    assert exact_lower(15, 148) == pytest.approx(0.0578, abs=5e-5)


def test_the_binomial_tail_is_the_sum_of_its_terms():
    """By hand: of 3 throws of a fair coin 2 or more are heads with a probability of one half."""
    assert at_least(2, 3, 0.5) == pytest.approx(0.5)
    assert at_least(0, 10, 0.3) == pytest.approx(1.0)
    assert at_least(10, 10, 0.9) == pytest.approx(0.9**10)
    assert (at_least(1, 5, 0.0), at_least(5, 5, 1.0)) == (0.0, 1.0)


@pytest.mark.parametrize("n", [20, 57, 90])
def test_the_fewest_successes_are_the_first_whose_limit_is_above_the_goal(n):
    """Bisection against trying all, for both intervals."""
    for meets, lower in ((wilson_meets, wilson_lower), (exact_meets, exact_lower)):
        tried = [k for k in range(n + 1) if lower(k, n) > 0.8]
        assert fewest_successes(n, 0.8, meets) == (tried[0] if tried else None)


def test_no_number_of_successes_is_enough_where_there_are_too_few_cases():
    """Ten of ten have a lower limit of 0.72."""
    assert fewest_successes(10, 0.8) is None
    assert power(10, 0.99, 0.8) == 0.0


def test_the_power_is_what_random_studies_find():
    """Four thousand drawn studies of 237 cases: within three standard errors of the computed power."""
    chance = random.Random(7)
    needed = fewest_successes(237, 0.8)
    met = sum(sum(chance.random() < 0.88 for _ in range(237)) >= needed for _ in range(4000))
    assert met / 4000 == pytest.approx(power(237, 0.88, 0.8), abs=3 * (0.25 / 4000) ** 0.5)


def test_from_the_number_of_cases_on_the_power_stays():
    """Power goes up and down with n; a number that holds by luck is not taken."""
    n = cases_for(0.88, 0.8, 0.9)
    assert all(power(later, 0.88, 0.8) >= 0.9 for later in range(n, n + 40))
    assert power(n - 1, 0.88, 0.8) < 0.9
    assert cases_for(0.88, 0.8, 0.9, exact_meets) >= n


def test_an_expected_share_that_is_not_above_the_goal_needs_no_number():
    """No study makes a device better than it is."""
    with pytest.raises(ValueError, match="above the goal"):
        cases_for(0.8, 0.8, 0.9)


def test_a_study_that_observes_just_what_it_expects_needs_fewer_cases_than_one_with_power():
    """And with one case less its limit is not above the goal."""
    n = cases_for_observed(0.85, 0.8)
    assert n < cases_for(0.85, 0.8, 0.8)
    assert wilson_lower(100 * 85, 100 * 100) > 0.8
    share_short = 1.959963984540054**2 * 0.8 * 0.2 / 0.05**2
    assert n - 1 <= share_short < n


def test_hanley_and_mcneil_give_their_own_example():
    """Radiology 1982: an area of 0.893 over 51 abnormal and 58 normal cases has a standard error of 0.032."""
    assert auc_standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
    assert auc_lower(0.893, 51, 58) == pytest.approx(0.893 - 1.96 * 0.032, abs=2e-3)
    with pytest.raises(ValueError, match="cases with and without"):
        auc_standard_error(0.9, 0, 10)


def test_half_widths_and_losses():
    """One case less is too wide; what is lost is collected on top."""
    n = cases_for_half_width(0.88, 0.1)
    assert n > cases_for_half_width(0.88, 0.15)
    assert (with_losses(90, 0.1), with_losses(91, 0.1), with_losses(7, 0.0)) == (100, 102, 7)
    with pytest.raises(ValueError, match="share"):
        with_losses(10, 1.0)
