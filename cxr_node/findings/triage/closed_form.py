"""Mean waits of a queue with two priorities, by formula: what the simulation is held against."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Discipline(StrEnum):
    """How a flagged study gets ahead of one that is not flagged."""

    FIFO = "fifo"  # it does not
    PREEMPTIVE = "preemptive"  # it interrupts a reading, which goes on later where it stopped
    NON_PREEMPTIVE = "non-preemptive"  # it is the next that is read; this is what a worklist does


@dataclass(frozen=True)
class Accuracy:
    """What a model does to the studies of a list: shares in [0, 1]."""

    sensitivity: float
    specificity: float
    prevalence: float

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity", "prevalence"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, found {value}")

    @property
    def flagged(self) -> float:
        """Return the share of studies that are flagged, rightly or not."""
        return self.prevalence * self.sensitivity + (1 - self.prevalence) * (1 - self.specificity)


@dataclass(frozen=True)
class Waits:
    """Mean waits in minutes. A missed diseased study waits as every unflagged one, a false alarm as every flagged."""

    fifo: float
    flagged: float
    unflagged: float
    diseased: float
    non_diseased: float

    @property
    def missed(self) -> float:
        """Return the mean wait of diseased studies that the model did not flag."""
        return self.unflagged


def closed_form(
    accuracy: Accuracy, *, mean_read_min: float, load: float, discipline: Discipline, readers: int = 1, cv: float = 1.0
) -> Waits:
    """Return the mean waits with Poisson arrivals, unlimited waiting and equal readers.

    Parameters
    ----------
    load : arrivals per minute times mean reading time, divided by the readers; below 1
    cv : standard deviation of a reading over its mean; 1 is exponential

    Raises
    ------
    ValueError
        The load is not between 0 and 1, or no formula covers the case: interruption with several readers or with
        readings that are not exponential, and several readers with readings that are not exponential.

    Sources: non-pre-emptive, one reader: A. Cobham, Operations Research 1954, with the mean remaining reading of
    Pollaczek and Khinchine; several readers: Erlang C in its place (O. Kella, U. Yechiali 1985). Pre-emptive resume:
    L. Kleinrock, Queueing Systems II, 1976, section 3.4. The same formulas are in FDA's QuCAD (DIDSR/QuCAD;
    Thompson et al., Queueing Systems 2024, doi 10.1007/s11134-024-09927-w).
    """
    if not 0 < load < 1:
        raise ValueError(f"load: expected more than 0 and less than 1, found {load:g}: the list would grow without end")
    if not mean_read_min > 0:
        raise ValueError(f"mean_read_min: expected more than 0, found {mean_read_min:g}")
    if readers > 1 and cv != 1.0:
        raise ValueError("no closed form for several readers whose readings are not exponential")
    # What an arrival has to wait for until a reader is next free, were nobody else waiting.
    first = erlang_c(readers, load) * mean_read_min / readers * (1 + cv * cv) / 2
    fifo = first / (1 - load)
    load_flagged = load * accuracy.flagged
    if discipline is Discipline.FIFO:
        flagged = unflagged = fifo
    elif discipline is Discipline.NON_PREEMPTIVE:
        flagged = first / (1 - load_flagged)
        unflagged = flagged / (1 - load)
    else:
        if readers > 1 or cv != 1.0:
            raise ValueError("no closed form for interruption with several readers or readings not exponential")
        flagged = mean_read_min / (1 - load_flagged) - mean_read_min
        unflagged = mean_read_min / ((1 - load_flagged) * (1 - load)) - mean_read_min
    caught, alarmed = accuracy.sensitivity, 1 - accuracy.specificity
    return Waits(
        fifo=fifo,
        flagged=flagged,
        unflagged=unflagged,
        diseased=caught * flagged + (1 - caught) * unflagged,
        non_diseased=alarmed * flagged + (1 - alarmed) * unflagged,
    )


def erlang_c(readers: int, load: float) -> float:
    """Return the probability that an arrival has to wait; with one reader it is the load. Source: A. K. Erlang 1917."""
    if readers < 1:
        raise ValueError(f"readers: expected at least 1, found {readers}")
    offered = readers * load
    below = sum(offered**k / math.factorial(k) for k in range(readers))
    all_busy = offered**readers / math.factorial(readers) / (1 - load)
    return all_busy / (below + all_busy)
