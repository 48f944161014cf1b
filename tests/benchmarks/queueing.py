"""Waiting in a queue with several workers: the formulas, and a simulation that they are held against.

M/G/c: studies come at random (Poisson) at a rate, wait in one line, and are served by c equal workers; a service takes
a time of some mean and some squared coefficient of variation (variance over squared mean). Exact only for exponential
service (scv 1); Allen and Cunneen's approximation scales the mean wait by (1 + scv) / 2. Of those who wait, the wait is
taken as exponential, which is exact for M/M/c and holds asymptotically for high load.

Sources: A. K. Erlang 1917; A. O. Allen, Probability, Statistics, and Queueing Theory, 2nd ed. 1990, 5.2; W. Whitt,
Approximations for the GI/G/m queue, Production and Operations Management 2 (1993).
"""

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Service:
    """How long one job takes: mean in seconds, and squared coefficient of variation."""

    mean_s: float
    scv: float


@dataclass(frozen=True)
class Queue:
    """Jobs per second, how long each takes, and by how many it is done."""

    rate: float
    service: Service
    workers: int

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that is work; at 1 and above the line grows for ever."""
        return self.rate * self.service.mean_s / self.workers


def share_that_waits(queue: Queue) -> float:
    """Return Erlang's C: the probability that all workers are busy when a job comes. Exact for scv 1."""
    load = queue.rate * queue.service.mean_s
    if load >= queue.workers:
        return 1.0
    blocked = 1.0  # Erlang's B by its recursion, which does not overflow as the factorials would
    for number in range(1, queue.workers + 1):
        blocked = load * blocked / (number + load * blocked)
    share = queue.utilisation
    return blocked / (1.0 - share + share * blocked)


def mean_wait_s(queue: Queue) -> float:
    """Return the mean time from due to begun, by Allen and Cunneen; infinite where the line grows for ever."""
    if queue.utilisation >= 1.0:
        return math.inf
    exponential = share_that_waits(queue) * queue.service.mean_s / (queue.workers * (1.0 - queue.utilisation))
    return exponential * (1.0 + queue.service.scv) / 2.0


def wait_quantile_s(queue: Queue, quantile: float) -> float:
    """Return the time within which that share of the jobs is begun."""
    if queue.utilisation >= 1.0:
        return math.inf
    waits = share_that_waits(queue)
    if waits <= 1.0 - quantile:
        return 0.0
    return mean_wait_s(queue) / waits * math.log(waits / (1.0 - quantile))


def workers_needed(rate: float, service: Service, *, quantile: float, within_s: float) -> int:
    """Return the fewest workers with which that share of the jobs is begun in time."""
    workers = max(1, math.ceil(rate * service.mean_s))
    while wait_quantile_s(Queue(rate, service, workers), quantile) > within_s:
        workers += 1
    return workers


def lognormal(service: Service, rng: random.Random) -> Iterator[float]:
    """Draw service times of that mean and variation."""
    variance = math.log1p(service.scv)
    location = math.log(service.mean_s) - variance / 2.0
    while True:
        yield rng.lognormvariate(location, math.sqrt(variance))


def simulated_waits_s(
    queue: Queue,
    jobs: int,
    rng: random.Random,
    services: Callable[[Service, random.Random], Iterator[float]] = lognormal,
) -> list[float]:
    """Return the wait of each of so many jobs, first come first served, after a tenth that fills the system."""
    times = services(queue.service, rng)
    free = [0.0] * queue.workers
    heapq.heapify(free)
    now, waits = 0.0, []
    for _ in range(jobs + jobs // 10):
        now += rng.expovariate(queue.rate)
        begun = max(now, heapq.heappop(free))
        heapq.heappush(free, begun + next(times))
        waits.append(begun - now)
    return waits[jobs // 10 :]


def quantile_of(values: list[float], quantile: float) -> float:
    """Return the value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]


def service_of(seconds: list[float]) -> Service:
    """Return mean and variation of measured times.

    Raises
    ------
    ValueError
        Fewer than two were measured.
    """
    if len(seconds) < 2:
        raise ValueError(f"expected at least two measured times, found {len(seconds)}")
    mean = sum(seconds) / len(seconds)
    variance = sum((value - mean) ** 2 for value in seconds) / (len(seconds) - 1)
    return Service(mean, variance / mean**2)
