"""The queueing model against what is known exactly, and against a simulation."""

import random

import pytest

from tests.benchmarks.queueing import (
    Queue,
    Service,
    lognormal,
    mean_wait_s,
    quantile_of,
    service_of,
    share_that_waits,
    simulated_waits_s,
    wait_quantile_s,
    workers_needed,
)

pytestmark = pytest.mark.requirement("SRS-SCL-020")

JOBS = 100_000


def test_the_formulas_give_what_textbooks_print():
    """M/M/1 and M/M/c are exact: whoever gets these wrong gets nothing right."""
    one = Queue(0.5, Service(1.0, 1.0), 1)
    assert share_that_waits(one) == pytest.approx(0.5)
    assert mean_wait_s(one) == pytest.approx(1.0)
    # Two erlang on three servers: C = 4/9, mean wait C / (c mu - lambda) = 4/9.
    three = Queue(2.0, Service(1.0, 1.0), 3)
    assert share_that_waits(three) == pytest.approx(4 / 9)
    assert mean_wait_s(three) == pytest.approx(4 / 9)
    # M/D/1 by Pollaczek and Khinchine: half of M/M/1.
    assert mean_wait_s(Queue(0.5, Service(1.0, 0.0), 1)) == pytest.approx(0.5)


def test_a_line_that_grows_for_ever_is_said_to():
    """A plan with too few workers must not show a finite wait."""
    full = Queue(2.0, Service(1.0, 0.5), 2)
    assert mean_wait_s(full) == float("inf")
    assert wait_quantile_s(full, 0.95) == float("inf")
    assert share_that_waits(full) == 1.0


@pytest.mark.parametrize("workers", [1, 4, 20])
@pytest.mark.parametrize("utilisation", [0.6, 0.85])
@pytest.mark.parametrize("scv", [0.1, 0.5, 1.5])
def test_the_formulas_agree_with_a_simulation(workers, utilisation, scv):
    """The approximation is used where its error is known: within a fifth and a few hundredths of a service time."""
    service = Service(0.1, scv)
    queue = Queue(utilisation * workers / service.mean_s, service, workers)
    waits = simulated_waits_s(queue, JOBS, random.Random(7))
    allowed_s = 0.05 * service.mean_s
    mean = sum(waits) / len(waits)
    assert mean_wait_s(queue) == pytest.approx(mean, rel=0.2, abs=allowed_s)
    assert wait_quantile_s(queue, 0.95) == pytest.approx(quantile_of(waits, 0.95), rel=0.25, abs=allowed_s)


def test_the_simulation_draws_the_times_that_it_is_told():
    """A simulation of other service times would confirm anything."""
    rng = random.Random(1)
    drawn = lognormal(Service(0.2, 0.5), rng)
    found = service_of([next(drawn) for _ in range(JOBS)])
    assert found.mean_s == pytest.approx(0.2, rel=0.02)
    assert found.scv == pytest.approx(0.5, rel=0.1)


def test_the_workers_needed_are_enough_and_one_fewer_is_not():
    """The table is what somebody buys machines by."""
    service = Service(0.12, 0.4)
    needed = workers_needed(29.0, service, quantile=0.95, within_s=1.0)
    assert wait_quantile_s(Queue(29.0, service, needed), 0.95) <= 1.0
    assert wait_quantile_s(Queue(29.0, service, needed - 1), 0.95) > 1.0
    waits = simulated_waits_s(Queue(29.0, service, needed), JOBS, random.Random(3))
    assert quantile_of(waits, 0.95) <= 1.25


def test_one_measured_time_has_no_variance():
    """A figure from nothing must not enter a plan."""
    with pytest.raises(ValueError, match="at least two"):
        service_of([0.1])
