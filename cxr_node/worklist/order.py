"""In which order studies are read: priority first, then waiting time, and nobody waits for ever."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import rank
from storage.studies import Study
from storage.worklist_query import Bounds, in_turn

URGENT_RANK = rank(OrderedPriority.HIGH)  # that of a flagged study, and of what was ordered HIGH or STAT


def arrange(
    studies: Iterable[Study], now: datetime, max_wait_min: float, *, overdue_first: bool = False
) -> list[Study]:
    """Return the studies in the order in which they should be read; `storage.worklist_query` gives pages of the same.

    1. Two queues stand at the top. *Urgent*: effective priority HIGH or STAT, so every flagged study; by priority, then
       by waiting time. *Overdue*: every study that has waited `max_wait_min`; by waiting time alone. They are served in
       turn, urgent first, or overdue first where `overdue_first` says that it is theirs; a study that stands in both
       comes at the better of its places.
    2. All others follow by priority, then by waiting time.

    Waiting counts from the first image. Equal ones are told apart by UID, so the order is total.

    Why in turn: put behind the urgent ones, an overdue study could wait for ever; put before them, the studies of a
    backlog would bury the one that was flagged a minute ago. In turn, an overdue study is preceded by at most two for
    each that has waited longer, whatever else arrives, and the n-th urgent study by at most n overdue ones. Whose turn
    it is is remembered (`storage.worklist_query.is_turn_of_overdue`): a list that is made anew after each reading would
    else begin with an urgent study as long as one waits, and who always takes the first line would never reach others.
    Priority never lowers a study: a higher one moves it up or leaves it where it is.

    Source of the maximum wait: prioritisation alone raised the longest wait from 890 to 1293 min in simulation, a
    maximum brought it to 979 (Baltruschat et al., Eur Radiol 2021, PMC8128725).
    """
    known = {study.study_instance_uid: study for study in studies}
    by_priority = [study.study_instance_uid for study in sorted(known.values(), key=_by_priority)]
    by_waiting = [study.study_instance_uid for study in sorted(known.values(), key=_by_waiting)]
    top = in_turn(
        [uid for uid in by_priority if known[uid].priority_rank >= URGENT_RANK],
        [uid for uid in by_waiting if is_overdue(known[uid], now, max_wait_min)],
        overdue_first=overdue_first,
    )
    placed = set(top)
    return [known[uid] for uid in (*top, *(uid for uid in by_priority if uid not in placed))]


def bounds(now: datetime, *, retain_h: float, max_wait_min: float) -> Bounds:
    """Return where the list ends and what stands at its top, for a query."""
    max_wait = timedelta(minutes=max_wait_min)
    return Bounds(now - timedelta(hours=retain_h), now - max_wait, URGENT_RANK, max_wait)


def is_overdue(study: Study, now: datetime, max_wait_min: float) -> bool:
    """Whether the study has waited for the maximum or longer."""
    return study.first_received_at <= now - timedelta(minutes=max_wait_min)


def waited(study: Study, now: datetime) -> timedelta:
    """Return the time since the study's first image; never negative, clocks may differ between hosts."""
    return max(timedelta(0), now - study.first_received_at)


def _by_priority(study: Study) -> tuple[int, datetime, str]:
    return -study.priority_rank, study.first_received_at, study.study_instance_uid


def _by_waiting(study: Study) -> tuple[datetime, str]:
    return study.first_received_at, study.study_instance_uid
