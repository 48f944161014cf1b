"""A reading list as a discrete-event simulation: arrivals, readers by the hour, and who is read next."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cxr_node.findings.triage.arrivals import MINUTES_OF_DAY, changes
from cxr_node.findings.triage.closed_form import Discipline


class Reading(StrEnum):
    """By which list a reader takes studies.

    `IN_TURN` is the node's own: urgent and overdue studies in turn, for who works down it as for who always takes the
    first line, since it remembers whose turn it is. `TOP` is a list elsewhere that sorts by the priority it is told:
    an urgent study stands first as long as one waits, and the maximum wait changes nothing.
    """

    IN_TURN = "in-turn"
    TOP = "top"


@dataclass(frozen=True)
class Studies:
    """Studies in the order of arrival: (n,) arrival minutes, rising; (n,) flags; (n,) reading minutes."""

    arrival_min: np.ndarray
    flagged: np.ndarray
    read_min: np.ndarray


def simulate(
    studies: Studies,
    *,
    readers: Sequence[int],
    discipline: Discipline,
    max_wait_min: float = math.inf,
    reading: Reading = Reading.IN_TURN,
) -> np.ndarray:
    """Return (n,) the wait of each study: end of its reading less arrival less reading time, in minutes.

    `readers` holds a count for each hour of day (24); a reader whose shift ends finishes what is being read. Flagged
    studies go first, each group by arrival. From `max_wait_min` on a study is overdue, and with `Reading.IN_TURN`
    urgent and overdue studies are taken in turn, as `worklist.order.arrange` lays them out; one that stands at the
    head of both takes both turns. With interruption, the reading of a study that was overdue when it began is not
    interrupted.

    Raises
    ------
    ValueError
        There are not 24 counts, or nobody ever reads.
    """
    if len(readers) != 24 or not any(readers):
        raise ValueError(f"readers: expected 24 counts, not all 0, found {list(readers)}")
    desk = _Desk(studies, discipline, max_wait_min if reading is Reading.IN_TURN else math.inf)
    arrivals: list[float] = studies.arrival_min.tolist()
    last = arrivals[-1] if arrivals else 0.0
    # Long enough for the list to empty, with one reader in the emptiest shift; shifts repeat by the day.
    work = float(studies.read_min.sum())
    shifts = changes(readers, last + (work / max(1, min(filter(None, readers))) + MINUTES_OF_DAY) * _share(readers))
    shift, index, count = 0, 0, len(arrivals)
    while desk.finished < count:
        at_shift = shifts[shift][0] if shift < len(shifts) else math.inf
        at_arrival = arrivals[index] if index < count else math.inf
        at_end = desk.next_end()
        if at_shift <= at_arrival and at_shift <= at_end:
            if math.isinf(at_shift):
                raise ValueError("readers: the list does not empty, expected enough readers to finish it")
            desk.set_readers(shifts[shift][1], at_shift)
            shift += 1
        elif at_end <= at_arrival:
            desk.end(at_end)
        else:
            desk.arrive(index, at_arrival)
            index += 1
    return desk.ends - studies.arrival_min - studies.read_min


def _share(readers: Sequence[int]) -> float:
    """Return how many times longer a work takes as nobody reads at some hours."""
    return len(readers) / sum(1 for count in readers if count)


class _Desk:
    """Who waits, who is read, and when each reading ends."""

    def __init__(self, studies: Studies, discipline: Discipline, max_wait_min: float) -> None:
        self._arrival: list[float] = studies.arrival_min.tolist()
        fifo = discipline is Discipline.FIFO
        self._flagged: list[bool] = [False] * len(self._arrival) if fifo else studies.flagged.astype(bool).tolist()
        self._left: list[float] = studies.read_min.tolist()
        self._preempts = discipline is Discipline.PREEMPTIVE
        self._max_wait = math.inf if fifo else max_wait_min
        # Heaps of numbers in order of arrival: what was interrupted goes back to its place.
        self._urgent: list[int] = []
        self._others: list[int] = []
        self._ends: list[tuple[float, int]] = []
        self._reading: dict[int, float] = {}
        self._protected: set[int] = set()
        self._readers = 0
        self._overdue_turn = False
        self.finished = 0
        self.ends = np.zeros(len(self._arrival))

    def next_end(self) -> float:
        while self._ends and self._reading.get(self._ends[0][1]) != self._ends[0][0]:
            heapq.heappop(self._ends)  # was interrupted
        return self._ends[0][0] if self._ends else math.inf

    def set_readers(self, count: int, now: float) -> None:
        self._readers = count
        self._fill(now)

    def arrive(self, number: int, now: float) -> None:
        heapq.heappush(self._urgent if self._flagged[number] else self._others, number)
        if self._preempts and self._flagged[number] and len(self._reading) >= self._readers:
            self._interrupt(now)
        self._fill(now)

    def end(self, now: float) -> None:
        _, number = heapq.heappop(self._ends)
        del self._reading[number]
        self._protected.discard(number)
        self.ends[number] = now
        self.finished += 1
        self._fill(now)

    def _fill(self, now: float) -> None:
        while len(self._reading) < self._readers and (self._urgent or self._others):
            number = self._next(now)
            end = now + self._left[number]
            self._reading[number] = end
            heapq.heappush(self._ends, (end, number))

    def _next(self, now: float) -> int:
        if not self._urgent:
            self._overdue_turn = False
            return self._unflagged(now)
        oldest = self._urgent[0] if not self._others else min(self._urgent[0], self._others[0])
        is_overdue = self._is_overdue(oldest, now)
        if is_overdue and self._overdue_turn:
            self._overdue_turn = False
            return heapq.heappop(self._urgent) if oldest == self._urgent[0] else self._unflagged(now)
        # At the head of both queues it takes both turns, as in `arrange` its better place leaves the other empty.
        self._overdue_turn = is_overdue and oldest != self._urgent[0]
        return heapq.heappop(self._urgent)

    def _unflagged(self, now: float) -> int:
        number = heapq.heappop(self._others)
        if self._is_overdue(number, now):
            self._protected.add(number)
        return number

    def _is_overdue(self, number: int, now: float) -> bool:
        return now - self._arrival[number] >= self._max_wait

    def _interrupt(self, now: float) -> None:
        """Put the reading of the latest unflagged study back on the list, where there is one that may be."""
        found = [number for number in self._reading if not self._flagged[number] and number not in self._protected]
        if not found or len(self._reading) > self._readers:  # somebody stays on after the shift: nothing gets free
            return
        number = max(found)
        self._left[number] = self._reading.pop(number) - now
        heapq.heappush(self._others, number)
