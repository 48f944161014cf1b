"""Finding work items wherever they are: derived from a study, on a row, or both. Reads only."""

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from datetime import tzinfo as TimeZone

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
from storage.work_items import AI, EXTERNAL, READING, SCHEDULED, STATES, WorkItem

log = get_logger("worklist")

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

        Reading tasks come first, in reading order, then all others, oldest first. A query by SOP Instance UID or Study
        Instance UID looks these up and walks nothing.

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
        since = self.since(now)
        with self._database.read() as connection:
            # Reading tasks of every state: one that is claimed must not appear as a scheduled one.
            claimed = work_items.acted_on(connection, since=since, kinds=[READING])
            others = work_items.acted_on(connection, since=since, kinds=[AI, EXTERNAL], states=states)
        readings = {row.sop_instance_uid: row for row in claimed}
        if SCHEDULED in states:
            for study in self._listing.walk():
                uid = ups.work_item_uid(study.study_instance_uid, study.reopened)
                row = readings.pop(uid, None)
                if (row.state if row is not None else SCHEDULED) in states:
                    yield Task(uid, READING, row, study)
        left = [row for row in readings.values() if row.state in states]
        known = self._known({row.study_instance_uid for row in left} | {row.study_instance_uid for row in others})
        yield from self._claimed(left, known, now)
        for row in others:
            yield self._with_study(row, known.get(row.study_instance_uid) if row.kind == AI else None)

    def _claimed(self, rows: Sequence[WorkItem], known: Mapping[str, Study], now: datetime) -> Iterator[Task]:
        """Yield reading tasks that somebody acted on: first the present ones of studies on the list, then those of
        studies that were read, also where an image that came later put the study on the list again."""
        since, max_wait_min = self.since(now), self._settings.worklist.max_wait_min
        present: dict[str, list[WorkItem]] = {}
        past: dict[str, list[WorkItem]] = {}
        for row in rows:
            study = known.get(row.study_instance_uid)
            if study is None:
                continue
            is_present = row.sop_instance_uid == ups.work_item_uid(study.study_instance_uid, study.reopened)
            where = present if is_present and studies.is_listed(study, since) else past
            where.setdefault(row.study_instance_uid, []).append(row)
        for part in (present, past):
            for study in arrange([known[uid] for uid in part], now, max_wait_min):
                yield from (self._with_study(row, study) for row in part[study.study_instance_uid])

    def _known(self, study_instance_uids: Collection[str]) -> dict[str, Study]:
        uids, found = sorted(study_instance_uids), dict[str, Study]()
        for start in range(0, len(uids), MOST_UIDS):
            with self._database.read() as connection:
                found |= studies.of_uids(connection, uids[start : start + MOST_UIDS])
        return found

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
