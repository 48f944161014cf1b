"""In which order studies are read: priority first, then waiting time, and nobody waits for ever."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest

from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import rank
from storage.studies import Study

URGENT_RANK = rank(OrderedPriority.HIGH)  # that of a flagged study, and of what was ordered HIGH or STAT


def arrange(studies: Iterable[Study], now: datetime, max_wait_min: float) -> list[Study]:
    """Return the studies in the order in which they should be read.

    1. Two queues stand at the top. *Urgent*: effective priority HIGH or STAT, so every flagged study; by priority, then
       by waiting time. *Overdue*: every study that has waited `max_wait_min`; by waiting time alone. They are served in
       turn, urgent first; a study that stands in both comes where it is met first.
    2. All others follow by priority, then by waiting time.

    Waiting counts from the first image. Equal ones are told apart by UID, so the order is total.

    Why in turn: put behind the urgent ones, an overdue study could wait for ever; put before them, the studies of a
    backlog would bury the one that was flagged a minute ago. In turn, an overdue study is preceded by at most two for
    each that has waited longer, whatever else arrives, and the n-th urgent study by at most n - 1 overdue ones.
    Priority never lowers a study: a higher one moves it up or leaves it where it is.

    Source of the maximum wait: prioritisation alone raised the longest wait from 890 to 1293 min in simulation, a
    maximum brought it to 979 (Baltruschat et al., Eur Radiol 2021, PMC8128725).
    """
    studies = list(studies)
    urgent = sorted((study for study in studies if study.priority_rank >= URGENT_RANK), key=_by_priority)
    overdue = sorted((study for study in studies if is_overdue(study, now, max_wait_min)), key=_by_waiting)
    top = list(_in_turn(urgent, overdue))
    placed = {study.study_instance_uid for study in top}
    return top + sorted((study for study in studies if study.study_instance_uid not in placed), key=_by_priority)


def is_overdue(study: Study, now: datetime, max_wait_min: float) -> bool:
    """Whether the study has waited for the maximum or longer."""
    return waited(study, now) >= timedelta(minutes=max_wait_min)


def waited(study: Study, now: datetime) -> timedelta:
    """Return the time since the study's first image; never negative, clocks may differ between hosts."""
    return max(timedelta(0), now - study.first_received_at)


def _by_priority(study: Study) -> tuple[int, datetime, str]:
    return -study.priority_rank, study.first_received_at, study.study_instance_uid


def _by_waiting(study: Study) -> tuple[datetime, str]:
    return study.first_received_at, study.study_instance_uid


def _in_turn(first: Sequence[Study], second: Sequence[Study]) -> Iterator[Study]:
    """Merge two queues, one study from each at a time; one that was taken from the other is passed over."""
    taken: set[str] = set()

    def fresh(queue: Sequence[Study]) -> Iterator[Study]:
        for study in queue:
            if study.study_instance_uid not in taken:
                taken.add(study.study_instance_uid)
                yield study

    for pair in zip_longest(fresh(first), fresh(second)):
        yield from (study for study in pair if study is not None)
