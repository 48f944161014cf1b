"""Finding work items wherever they are: derived from a study, on a row, or both. Reads only."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from datetime import tzinfo as TimeZone
from itertools import islice
from typing import TypeVar

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]
from sqlalchemy.engine import Connection

from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.worklist import ups, ups_ai
from cxr_node.worklist.items import Work, dicom_date_time
from cxr_node.worklist.listing import Listing
from cxr_node.worklist.matching import has_unsupported_keys, matches, values_of
from cxr_node.worklist.order import arrange
from storage import Database, instances, studies, work_items
from storage.studies import BACKFILL, Study
from storage.work_items import AI, EXTERNAL, READING, SCHEDULED, STATES, Mark, WorkItem

log = get_logger("worklist")

_T = TypeVar("_T")

MOST_UIDS = 200  # looked up one by one; more are matched over the whole list
_MOST_FRESH = 20_000  # studies whose tasks no row holds yet; they are made within a second or two
_ALWAYS_DERIVED = frozenset({Tag("SOPClassUID"), Tag("SOPInstanceUID"), Tag("ProcedureStepState")})
_INPUTS = Tag("InputInformationSequence")


@dataclass(frozen=True)
class Task:
    """A work item. `study` is that of the study's own tasks; `row` is missing while nobody acted or announced it."""

    sop_instance_uid: str
    kind: str
    row: WorkItem | None
    study: Study | None

    @property
    def state(self) -> str:
        """SCHEDULED, IN PROGRESS, COMPLETED or CANCELED."""
        return self.row.state if self.row is not None else SCHEDULED

    @property
    def lock(self) -> str:
        """The Transaction UID of who performs it; empty before. It leaves the node with no answer."""
        return self.row.transaction_uid if self.row is not None else ""

    @property
    def study_instance_uid(self) -> str:
        """The study it is about; empty where it names none."""
        if self.study is not None:
            return self.study.study_instance_uid
        return self.row.study_instance_uid if self.row is not None else ""


class Tasks:
    """All work items of the node."""

    def __init__(self, settings: Settings, database: Database, listing: Listing, zone: TimeZone) -> None:
        self._settings = settings
        self._database = database
        self._listing = listing
        self._zone = zone

    @property
    def zone(self) -> TimeZone:
        """The site's time zone."""
        return self._zone

    def get(self, connection: Connection, sop_instance_uid: str, *, now: datetime, lock: bool = False) -> Task | None:
        """Return the work item of that UID, by index; None when there is none."""
        row = work_items.get(connection, sop_instance_uid, lock=lock)
        if row is not None:
            return self._of_row(connection, row)
        # A study that arrived this moment: its tasks have no rows yet, and few studies are in that state at once.
        fresh = work_items.changed_studies(connection, since=self.since(now), limit=_MOST_FRESH, without_row=True)
        for sign in fresh:
            if ups.work_item_uid(sign.study_instance_uid) == sop_instance_uid:
                study = studies.get(connection, sign.study_instance_uid)
                return None if study is None else Task(sop_instance_uid, READING, None, study)
        return None

    def find(self, keys: Dataset, *, now: datetime, zone: TimeZone | None = None) -> Iterator[tuple[Dataset, bool]]:
        """Yield the attributes asked for of each work item that matches, and whether a key was not supported.

        Reading tasks of studies on the list come first, in reading order, then those of studies that were read, then
        all others, oldest first. A query by SOP Instance UID or Study Instance UID looks these up and walks nothing.

        Parameters
        ----------
        zone : of the dates and times in keys and answer; the site's without it
        """
        zone = zone or self._zone
        wanted: set[BaseTag] = set(keys.keys())
        for task in self._candidates(keys, now):
            found = self.dataset(task, wanted=wanted, zone=zone)
            if not matches(keys, found, zone):
                continue
            if _INPUTS in wanted and task.kind != EXTERNAL:
                found = self.dataset(task, wanted=wanted, zone=zone, with_images=True)
            yield found, has_unsupported_keys(keys, self.supported(task))

    def dataset(
        self,
        task: Task,
        *,
        wanted: Container[BaseTag] | None = None,
        zone: TimeZone | None = None,
        with_images: bool = False,
    ) -> Dataset:
        """Return the work item with the attributes in `wanted`, with all of them where it is None; never its lock."""
        zone = zone or self._zone
        row = task.row
        if task.study is not None and task.kind != EXTERNAL:
            work = self._work(task, task.study, zone, with_images)
            found = (
                ups_ai.work_item(work, row, wanted)
                if task.kind == AI and row is not None
                else ups.work_item(work, wanted)
            )
        else:
            found = Dataset()
        if row is not None:
            _overlay(found, row, wanted, self._zone, zone)
        return found

    def of_row(self, connection: Connection, row: WorkItem) -> Task:
        """Return the work item of a row, which for a study that is gone has only what the row holds."""
        return self._of_row(connection, row)

    def all(self, *, now: datetime) -> Iterator[Task]:
        """Yield every work item on the list, reading tasks first."""
        yield from self._all(list(STATES), now)

    def supported(self, task: Task) -> Container[BaseTag]:
        """Return the attributes that the work item has, empty or not."""
        table = ups_ai.ATTRIBUTES if task.kind == AI else ups.ATTRIBUTES
        if task.row is None or not task.row.attributes:
            return table
        return {Tag(tag) for tag in task.row.attributes} | set(table)

    def since(self, now: datetime) -> datetime:
        """Return how far back the list goes."""
        return now - timedelta(hours=self._settings.worklist.retain_h)

    def _candidates(self, keys: Dataset, now: datetime) -> Iterator[Task]:
        uids = values_of(keys, "SOPInstanceUID")
        if 0 < len(uids) <= MOST_UIDS:
            with self._database.read() as connection:
                named = [self.get(connection, uid, now=now) for uid in dict.fromkeys(uids)]
            yield from (task for task in named if task is not None)
            return
        uids = values_of(keys, "StudyInstanceUID")
        if 0 < len(uids) <= MOST_UIDS:
            with self._database.read() as connection:
                of_studies = [task for uid in dict.fromkeys(uids) for task in self._of_study(connection, uid)]
            yield from of_studies
            return
        yield from self._all(values_of(keys, "ProcedureStepState") or list(STATES), now)

    def _of_study(self, connection: Connection, study_instance_uid: str) -> list[Task]:
        study = studies.get(connection, study_instance_uid)
        rows = work_items.of_study(connection, study_instance_uid)
        found = [self._with_study(row, study) for row in rows]
        if study is not None and study.origin != BACKFILL:
            uid = ups.work_item_uid(study_instance_uid, study.reopened)
            if not any(row.sop_instance_uid == uid for row in rows):
                found.insert(0, Task(uid, READING, None, study))
        return found

    def _all(self, states: Sequence[str], now: datetime) -> Iterator[Task]:
        """Yield in parts that are read when they are asked for: a long list is never held whole."""
        since = self.since(now)
        with self._database.read() as connection:
            # Reading tasks of every state: one that is claimed must not appear as a scheduled one.
            claimed = work_items.acted_on(connection, since=since, kinds=[READING])
            others = work_items.acted_on(connection, since=since, kinds=[AI, EXTERNAL], states=states)
        readings = {mark.sop_instance_uid: mark for mark in claimed}
        if SCHEDULED in states:
            for part in _parts(self._listing.walk()):
                yield from (task for task in self._of_listed(part, readings) if task.state in states)
        yield from self._claimed([mark for mark in readings.values() if mark.state in states], now)
        for marks in _parts(others):
            yield from self._of_marks(marks)

    def _of_listed(self, part: Sequence[Study], readings: dict[str, Mark]) -> Iterator[Task]:
        """Yield the reading tasks of studies on the list; their marks are taken out of `readings`."""
        uids = [ups.work_item_uid(study.study_instance_uid, study.reopened) for study in part]
        rows = {row.sop_instance_uid: row for row in self._rows([readings.pop(uid) for uid in uids if uid in readings])}
        for uid, study in zip(uids, part, strict=True):
            yield Task(uid, READING, rows.get(uid), study)

    def _claimed(self, marks: Sequence[Mark], now: datetime) -> Iterator[Task]:
        """Yield reading tasks that somebody acted on: first the present ones of studies on the list, in reading order,
        then those of studies that were read, also where an image that came later put the study on the list again."""
        since, present, past = self.since(now), dict[str, tuple[Study, Mark]](), list[Mark]()
        for part in _parts(marks):
            known = self._known(part)
            for mark in part:
                study = known.get(mark.study_instance_uid)
                if study is None:
                    continue
                is_present = mark.sop_instance_uid == ups.work_item_uid(study.study_instance_uid, study.reopened)
                if is_present and studies.is_listed(study, since):
                    present[study.study_instance_uid] = study, mark
                else:
                    past.append(mark)
        in_order = arrange([study for study, _ in present.values()], now, self._settings.worklist.max_wait_min)
        for marks in _parts([present[study.study_instance_uid][1] for study in in_order] + past):
            yield from self._of_marks(marks)

    def _of_marks(self, marks: Sequence[Mark]) -> Iterator[Task]:
        """Yield the work items of these marks, in their order."""
        known = self._known(marks)
        yield from (self._with_study(row, known.get(row.study_instance_uid)) for row in self._rows(marks))

    def _rows(self, marks: Sequence[Mark]) -> list[WorkItem]:
        if not marks:
            return []
        with self._database.read() as connection:
            found = work_items.of_ids(connection, [mark.id for mark in marks])
        return [found[mark.id] for mark in marks if mark.id in found]

    def _known(self, marks: Sequence[Mark]) -> dict[str, Study]:
        with self._database.read() as connection:
            return studies.of_uids(connection, {mark.study_instance_uid for mark in marks})

    def _of_row(self, connection: Connection, row: WorkItem) -> Task:
        study = None if row.kind == EXTERNAL else studies.get(connection, row.study_instance_uid)
        return self._with_study(row, study)

    @staticmethod
    def _with_study(row: WorkItem, study: Study | None) -> Task:
        return Task(row.sop_instance_uid, row.kind, row, None if row.kind == EXTERNAL else study)

    def _work(self, task: Task, study: Study, zone: TimeZone, with_images: bool) -> Work:
        worklist = self._settings.worklist
        work = Work(
            study,
            worklist.max_wait_min,
            zone,
            worklist.dicom_ae_title,
            state=task.state,
            changed_at=task.row.acted_at if task.row is not None else None,
        )
        if not with_images:
            return work
        with self._database.read() as connection:
            return replace(work, images=instances.of_study(connection, study.study_instance_uid))


def _parts(found: Iterable[_T]) -> Iterator[list[_T]]:
    """Yield what was found in lists of at most so many as one statement asks for."""
    rest = iter(found)
    while part := list(islice(rest, MOST_UIDS)):
        yield part


def _overlay(
    found: Dataset, row: WorkItem, wanted: Container[BaseTag] | None, stored_zone: TimeZone, zone: TimeZone
) -> None:
    """Put what was set on the row over what was derived."""
    for element in _stored(row, wanted):
        if element.VR == "DT" and zone is not stored_zone:
            element.value = _in_zone(str(element.value or ""), stored_zone, zone)
        found[element.tag] = element
    derived = {
        "SOPClassUID": UnifiedProcedureStepPush,
        "SOPInstanceUID": row.sop_instance_uid,
        "ProcedureStepState": row.state,
        "ScheduledProcedureStepModificationDateTime": dicom_date_time(row.updated_at, zone),
    }
    for keyword, value in derived.items():
        tag = Tag(keyword)
        is_known = tag in found and tag not in _ALWAYS_DERIVED
        if (wanted is None or tag in wanted) and not is_known:
            found.add_new(tag, dictionary_VR(tag), value)
    found.pop("TransactionUID", None)


def _stored(row: WorkItem, wanted: Container[BaseTag] | None) -> list[DataElement]:
    """Return what was set on the row; a value that cannot be read is left out, for it must not hide the whole list."""
    found: list[DataElement] = []
    for tag, value in row.attributes.items():
        if wanted is None or Tag(tag) in wanted:
            try:
                found.extend(Dataset.from_json({tag: value}))
            except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
                log.error("work_item_not_read", work_item=row.sop_instance_uid, error_type=type(error).__name__)
    return found


def _in_zone(value: str, stored_zone: TimeZone, zone: TimeZone) -> str:
    """Return a DT value of the site's zone in another one; one with an offset, or of less than a minute's precision,
    says what it says in any zone and stays.
    """
    digits = value.partition(".")[0]
    if not digits.isdigit() or len(digits) not in (12, 14):
        return value
    try:
        at = datetime.strptime(digits.ljust(14, "0"), "%Y%m%d%H%M%S")  # noqa: DTZ007  # the zone follows
    except ValueError:
        return value
    return dicom_date_time(at.replace(tzinfo=stored_zone), zone)[: len(digits)]
