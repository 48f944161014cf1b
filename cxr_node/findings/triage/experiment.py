"""A scenario many times over, with and without triage on the same arrivals, and what came of it with intervals."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cxr_node.findings.triage.arrivals import Arrivals
from cxr_node.findings.triage.closed_form import Accuracy, Discipline
from cxr_node.findings.triage.queue import Reading, Studies, simulate

FEWEST_REPLICATIONS = 5
WARM_UP = 0.1  # of a steady stream; a day or a log begins with an empty list, and all of it counts
# Means over the studies of a group; the last three are of all studies together.
GROUPS = ("diseased", "missed", "non_diseased", "flagged", "unflagged", "all")
MEASURES = (*GROUPS, "maximum", "over_limit", "diseased_over_limit")


@dataclass(frozen=True)
class Service:
    """How long readings take: exponential or log-normal with that mean, or drawn from `observed` ones (minutes)."""

    kind: Literal["exponential", "lognormal", "observed"]
    mean_min: float
    cv: float = 1.0
    observed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (self.mean_min > 0 and self.cv > 0):
            raise ValueError(f"service: expected a mean and a variation above 0, found {self.mean_min}, {self.cv}")
        if self.kind == "observed" and not self.observed:
            raise ValueError("service: expected observed readings, found none")

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return (count,) reading times in minutes."""
        if self.kind == "observed":
            return rng.choice(np.asarray(self.observed, np.float64), count)
        if self.kind == "exponential":
            return rng.exponential(self.mean_min, count)
        variance = math.log1p(self.cv * self.cv)
        return rng.lognormal(math.log(self.mean_min) - variance / 2, math.sqrt(variance), count)


@dataclass(frozen=True)
class Scenario:
    """All that a simulation assumes. `limit_min` is a wait that is counted when exceeded, not enforced."""

    accuracy: Accuracy
    service: Service
    arrivals: Arrivals
    readers: tuple[int, ...]
    discipline: Discipline = Discipline.NON_PREEMPTIVE
    max_wait_min: float = math.inf
    reading: Reading = Reading.IN_TURN
    limit_min: float = 60.0
    replications: int = 20
    seed: int = 1


@dataclass(frozen=True)
class Estimate:
    """A mean over replications with its 95 % interval (Student's t). NaN where no replication had such a study."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Outcome:
    """Waits in minutes, and shares over the limit, by measure.

    `difference` is triage less FIFO in the same replication, so its interval is narrower than that of either.
    `studies` counts those of all replications, `missed` and `diseased` the ones of that kind; `longest` is the
    longest wait of all replications under each rule.
    """

    fifo: Mapping[str, Estimate]
    triage: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]
    studies: int
    diseased: int
    missed: int
    flagged: int
    longest_fifo: float
    longest_triage: float
    utilisation: float


def run(scenario: Scenario) -> Outcome:
    """Return what triage does in a scenario, against first come, first served with the same studies.

    Each replication has its own stream of chance from the seed (`numpy.random.SeedSequence.spawn`); disease, flag and
    reading time of a study are drawn once and used under both rules.

    Raises
    ------
    ValueError
        Fewer than 5 replications, or no study arrives.
    """
    if scenario.replications < FEWEST_REPLICATIONS:
        raise ValueError(
            f"replications: expected at least {FEWEST_REPLICATIONS} for an interval, found {scenario.replications}"
        )
    fifo: list[dict[str, float]] = []
    triage: list[dict[str, float]] = []
    counts = np.zeros(4, np.int64)
    busy = 0.0
    for sequence in np.random.SeedSequence(scenario.seed).spawn(scenario.replications):
        rng = np.random.default_rng(sequence)
        arrivals = scenario.arrivals.draw(rng)
        if not len(arrivals):
            raise ValueError("arrivals: expected at least one study, found none")
        accuracy = scenario.accuracy
        diseased = rng.random(len(arrivals)) < accuracy.prevalence
        chance = np.where(diseased, accuracy.sensitivity, 1 - accuracy.specificity)
        flagged = rng.random(len(arrivals)) < chance
        studies = Studies(arrivals, flagged, scenario.service.draw(rng, len(arrivals)))
        kept = np.arange(len(arrivals)) >= (int(WARM_UP * len(arrivals)) if scenario.arrivals.is_steady else 0)
        measured = _measures(diseased[kept], flagged[kept], scenario.limit_min)
        fifo.append(measured(simulate(studies, readers=scenario.readers, discipline=Discipline.FIFO)[kept]))
        waits = simulate(
            studies,
            readers=scenario.readers,
            discipline=scenario.discipline,
            max_wait_min=scenario.max_wait_min,
            reading=scenario.reading,
        )
        triage.append(measured(waits[kept]))
        both = diseased & ~flagged
        counts += np.array([kept.sum(), diseased[kept].sum(), both[kept].sum(), flagged[kept].sum()])
        span = max(arrivals[-1] - (arrivals[0] if not scenario.arrivals.is_steady else 0.0), 1e-9)
        busy += float(studies.read_min.sum()) / span / (sum(scenario.readers) / len(scenario.readers))

    def over(values: Callable[[int, str], float]) -> dict[str, Estimate]:
        return {name: interval([values(index, name) for index in range(len(fifo))]) for name in MEASURES}

    return Outcome(
        fifo=over(lambda index, name: fifo[index][name]),
        triage=over(lambda index, name: triage[index][name]),
        difference=over(lambda index, name: triage[index][name] - fifo[index][name]),
        studies=int(counts[0]),
        diseased=int(counts[1]),
        missed=int(counts[2]),
        flagged=int(counts[3]),
        longest_fifo=max(item["maximum"] for item in fifo),
        longest_triage=max(item["maximum"] for item in triage),
        utilisation=busy / scenario.replications,
    )


def _measures(diseased: np.ndarray, flagged: np.ndarray, limit_min: float) -> Callable[[np.ndarray], dict[str, float]]:
    masks = {
        "diseased": diseased,
        "missed": diseased & ~flagged,
        "non_diseased": ~diseased,
        "flagged": flagged,
        "unflagged": ~flagged,
        "all": np.ones(len(diseased), bool),
    }

    def measured(waits: np.ndarray) -> dict[str, float]:
        found = {name: float(waits[mask].mean()) if mask.any() else math.nan for name, mask in masks.items()}
        over = waits > limit_min
        return found | {
            "maximum": float(waits.max()),
            "over_limit": float(over.mean()),
            "diseased_over_limit": float(over[diseased].mean()) if diseased.any() else math.nan,
        }

    return measured


def interval(values: list[float]) -> Estimate:
    """Return the mean of independent values with Student's 95 % interval; NaN ones are left out."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, math.nan, math.nan)
    half = student_975(len(known) - 1) * float(known.std(ddof=1)) / math.sqrt(len(known))
    return Estimate(mean, mean - half, mean + half)


# Exact to the digits shown; from 30 on the expansion is as exact.
_T975 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452,
)  # fmt: skip


def student_975(degrees: int) -> float:
    """Return the 97.5 % point of Student's t. Source: Abramowitz & Stegun, table 26.10 and 26.7.5."""
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z = 1.959963984540054
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
