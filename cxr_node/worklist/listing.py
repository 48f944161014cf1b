"""What the worklist shows, read from storage: page, API and DICOM worklists all start here."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import parse_ordered
from cxr_node.settings import Worklist
from cxr_node.worklist.order import bounds, waited
from storage import Database, deliveries, jobs, results, studies, work_items, worklist_query
from storage.deliveries import SUPERSEDED, Delivery
from storage.results import Result
from storage.studies import Study
from storage.work_items import WorkItem
from storage.worklist_query import Bounds, Filter, Sort

_AT_ONCE = 500  # studies of one transaction of a walk


@dataclass(frozen=True)
class Entry:
    """A study with what is known of it.

    `deliveries` are those of the current revision; `failure` is why analysis was given up, empty unless it was.
    """

    study: Study
    result: Result | None
    deliveries: tuple[Delivery, ...]
    failure: str
    waited: timedelta
    left: timedelta  # until the maximum wait; negative past it
    reading: WorkItem | None = None  # the reading task, once it is a row

    @property
    def ordered(self) -> OrderedPriority:
        """The priority of the order; ROUTINE where it has none."""
        return parse_ordered(self.study.ordered_priority)

    @property
    def effective(self) -> OrderedPriority:
        """The priority it is read with."""
        return parse_ordered(self.study.effective_priority)

    @property
    def ai(self) -> OrderedPriority | None:
        """The priority that the AI proposes, if it does."""
        return parse_ordered(self.study.ai_priority) if self.study.ai_priority else None

    @property
    def overdue(self) -> bool:
        """Whether it has waited for the maximum."""
        return self.left <= timedelta(0)

    def of_outcome(self, part: str) -> list[Any]:
        """Return "notes", "findings", "exclusions" or "images" of the current result; nothing without one."""
        return list(self.result.outcome.get(part) or []) if self.result is not None else []


@dataclass(frozen=True)
class Page:
    """A page of the list. `total` counts what the filter leaves, `counts` each AI state under all other filters."""

    entries: list[Entry]
    total: int
    counts: dict[str, int]


class Listing:
    """Reads the list.

    Parameters
    ----------
    now : the clock; waiting times and the end of a study's stay on the list are counted from it
    """

    def __init__(self, database: Database, settings: Worklist, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._now = now

    def page(self, wanted: Filter, *, sort: Sort = "order", limit: int, offset: int = 0) -> Page:
        """Return a page; its cost does not grow with what stands behind it."""
        now = self._now()
        with self._database.read() as connection:
            found = worklist_query.page(connection, wanted, self._bounds(now), sort=sort, limit=limit, offset=offset)
            known = studies.of_uids(connection, found.study_instance_uids)
            chosen = [known[uid] for uid in found.study_instance_uids]
            return Page(self._entries(connection, chosen, now), found.total, found.counts)

    def walk(self) -> Iterator[Study]:
        """Yield every study on the list, in the reading order of the moment the walk began; one that leaves the list
        meanwhile is left out. No transaction is held between two of them."""
        bounds = self._bounds(self._now())
        with self._database.read() as connection:
            uids = worklist_query.everything(connection, bounds)
        for start in range(0, len(uids), _AT_ONCE):
            part = uids[start : start + _AT_ONCE]
            with self._database.read() as connection:
                known = studies.of_uids(connection, part)
            yield from (known[uid] for uid in part if uid in known and studies.is_listed(known[uid], bounds.since))

    def entry(self, study_instance_uid: str) -> Entry | None:
        """Return one study, on the list or gone from it; None when it was never received."""
        with self._database.read() as connection:
            study = studies.get(connection, study_instance_uid)
            return None if study is None else self._entries(connection, [study], self._now())[0]

    def revisions(self, study_instance_uid: str) -> tuple[list[Result], list[Delivery]]:
        """Return all results of the study and all deliveries, oldest first."""
        with self._database.read() as connection:
            return results.revisions(connection, study_instance_uid), deliveries.of_study(
                connection, study_instance_uid
            )

    def _bounds(self, now: datetime) -> Bounds:
        return bounds(now, retain_h=self._settings.retain_h, max_wait_min=self._settings.max_wait_min)

    def _entries(self, connection: Connection, chosen: Sequence[Study], now: datetime) -> list[Entry]:
        """Return what is known of each, in as many queries for a page as for one."""
        with_result = [study.study_instance_uid for study in chosen if study.revision]
        failed = [study.study_instance_uid for study in chosen if study.status == studies.FAILED]
        current = results.current_of(connection, with_result)
        readings = work_items.readings(connection, [study.study_instance_uid for study in chosen])
        failures = jobs.reasons(connection, "analyze", failed) if failed else {}
        sent: dict[str, list[Delivery]] = defaultdict(list)
        for item in deliveries.of_studies(connection, with_result):
            sent[item.study_instance_uid].append(item)
        made = []
        for study in chosen:
            uid, waiting = study.study_instance_uid, waited(study, now)
            made.append(
                Entry(
                    study=study,
                    result=current.get(uid),
                    deliveries=tuple(item for item in sent[uid] if _is_of_now(item, study)),
                    failure=failures.get(uid, ""),
                    waited=waiting,
                    left=timedelta(minutes=self._settings.max_wait_min) - waiting,
                    reading=_of_now(readings.get(uid), study),
                )
            )
        return made


def _of_now(reading: WorkItem | None, study: Study) -> WorkItem | None:
    """Return the reading task; none of a study that was reopened and whose new one is not a row yet."""
    was_read_before = reading is not None and reading.state == work_items.COMPLETED and study.read_at is None
    return None if was_read_before else reading


def _is_of_now(item: Delivery, study: Study) -> bool:
    """Whether a delivery is of the current revision; where that is a failed analysis, of an earlier one that stands."""
    if study.status == studies.FAILED and item.revision < study.revision:
        return item.state != SUPERSEDED
    return item.revision == study.revision
