"""What the worklist shows, read from storage: page, API and DICOM worklists all start here."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.clock import utc_now
from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import parse_ordered
from cxr_node.settings import Worklist
from cxr_node.worklist.order import arrange, is_overdue, waited
from storage import Database, deliveries, jobs, results, studies, work_items
from storage.deliveries import SUPERSEDED, Delivery
from storage.results import Result
from storage.studies import Study
from storage.work_items import WorkItem

MOST_STUDIES = 20_000  # the newest; the order of all of them is made anew for every reader


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

    def studies(self) -> list[Study]:
        """Return every study on the list, in reading order."""
        now = self._now()
        since = now - timedelta(hours=self._settings.retain_h)
        with self._database.read() as connection:
            found = studies.listed(connection, since=since, limit=MOST_STUDIES)
        return arrange(found, now, self._settings.max_wait_min)

    def entries(self, chosen: list[Study]) -> list[Entry]:
        """Return what is known of each."""
        now = self._now()
        with self._database.read() as connection:
            return [self._entry(connection, study, now) for study in chosen]

    def entry(self, study_instance_uid: str) -> Entry | None:
        """Return one study, on the list or gone from it; None when it was never received."""
        with self._database.read() as connection:
            study = studies.get(connection, study_instance_uid)
            return None if study is None else self._entry(connection, study, self._now())

    def revisions(self, study_instance_uid: str) -> tuple[list[Result], list[Delivery]]:
        """Return all results of the study and all deliveries, oldest first."""
        with self._database.read() as connection:
            return results.revisions(connection, study_instance_uid), deliveries.of_study(
                connection, study_instance_uid
            )

    def is_overdue(self, study: Study) -> bool:
        """Whether the study has waited for the maximum."""
        return is_overdue(study, self._now(), self._settings.max_wait_min)

    def _entry(self, connection: Connection, study: Study, now: datetime) -> Entry:
        uid = study.study_instance_uid
        result = results.current(connection, uid) if study.revision else None
        sent = deliveries.of_study(connection, uid) if study.revision else []
        job = jobs.get(connection, "analyze", uid) if study.status == studies.FAILED else None
        waiting = waited(study, now)
        return Entry(
            study=study,
            result=result,
            deliveries=tuple(item for item in sent if _is_of_now(item, study)),
            failure=job.reason if job is not None else "",
            waited=waiting,
            left=timedelta(minutes=self._settings.max_wait_min) - waiting,
            reading=_reading(connection, study),
        )


def _reading(connection: Connection, study: Study) -> WorkItem | None:
    """Return the reading task; none of a study that was reopened and whose new one is not a row yet."""
    found = work_items.reading(connection, study.study_instance_uid)
    was_read_before = found is not None and found.state == work_items.COMPLETED and study.read_at is None
    return None if was_read_before else found


def _is_of_now(item: Delivery, study: Study) -> bool:
    """Whether a delivery is of the current revision; where that is a failed analysis, of an earlier one that stands."""
    if study.status == studies.FAILED and item.revision < study.revision:
        return item.state != SUPERSEDED
    return item.revision == study.revision
