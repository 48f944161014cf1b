"""The rows of an instance: its own, that of its study, and the job that looks at it, in one transaction.

Associations that finish an image at the same time share a transaction: on any disk the commit takes longer than the
rows, and SQLite lets one write at a time anyway.
"""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from cxr_node.findings.priority import parse_ordered, rank
from storage import Database, audit, backfills, instances, jobs, manifests, studies
from storage.errors import DuplicateInstance, StorageError
from storage.faults import fault_point
from storage.studies import PatientContext

IN_THE_IMAGES = "request in the images"  # where an ordered priority comes from
BACKFILL_RANK = -1  # of the jobs of a back-catalogue run: below every order's

_MOST_TOGETHER = 64
_SHARE_LET_PASS = 8  # of what a study still misses
_MOST_STUDIES = 1000
_SOON_S = 5.0  # what failed later waited for a lock, and each alone would wait as long again


@dataclass(frozen=True)
class Sender:
    """Whom an instance came from."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    association_id: str


@dataclass(frozen=True)
class Record:
    """An instance whose bytes are durable, and what its header says of the study."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    variant: int
    size: int
    location: str
    sender: Sender
    at: datetime
    context: PatientContext
    names_priority: bool


class Looks:
    """When to look whether all images of a study are here that a manifest announced.

    Each look counts them all. Where many are missing, some of them are let pass before the next: 10,000 images cost
    less than a hundred looks, and the last image still is the last. Where more than eight processes share a study, it
    may be noticed late: the quiet period then ends as if nothing had been announced.
    """

    def __init__(self) -> None:
        self._let_pass: dict[str, int] = {}

    def is_complete(self, connection: Connection, study_instance_uid: str) -> bool:
        """Look if it is time to; called once for each image that came."""
        left = self._let_pass.pop(study_instance_uid, 0)
        if not left:
            awaited = manifests.awaited(connection, study_instance_uid)
            if awaited.is_complete:
                return True
            left = awaited.missing // _SHARE_LET_PASS + 1
        if left > 1:
            if len(self._let_pass) >= _MOST_STUDIES:
                self._let_pass.clear()  # looked at anew
            self._let_pass[study_instance_uid] = left - 1
        return False


def add(connection: Connection, record: Record, *, quiet_period_s: float, asks_for_orders: bool, looks: Looks) -> bool:
    """Write the rows; return whether the study is new.

    Raises
    ------
    DuplicateInstance
        (sop_instance_uid, variant) has a row; nothing was written.
    """
    study, at, sender = record.study_instance_uid, record.at, record.sender
    ordered = rank(parse_ordered(record.context.ordered_priority))
    instances.add(
        connection,
        sop_instance_uid=record.sop_instance_uid,
        series_instance_uid=record.series_instance_uid,
        study_instance_uid=study,
        sop_class_uid=record.sop_class_uid,
        transfer_syntax_uid=record.transfer_syntax_uid,
        variant=record.variant,
        size=record.size,
        location=record.location,
        calling_ae_title=sender.calling_ae_title,
        called_ae_title=sender.called_ae_title,
        peer_address=sender.peer_address,
        association_id=sender.association_id,
        received_at=at,
    )
    touched = studies.touch(
        connection,
        study,
        record.context,
        ordered_rank=ordered,
        calling_ae_title=sender.calling_ae_title,
        now=at,
        ordered_reason=IN_THE_IMAGES if record.names_priority else "",
    )
    is_backfill = touched.origin == studies.BACKFILL
    if touched.is_new and backfills.is_backfill(connection, study):
        is_backfill = True
        studies.set_origin(connection, study, studies.BACKFILL)
    elif is_backfill and backfills.is_over(connection, study):
        is_backfill = False
        studies.set_origin(connection, study, "")
    if touched.is_new and asks_for_orders:
        jobs.schedule(connection, "order", study, run_at=at, now=at, priority=ordered)
    # Everything announced is here: nothing to be quiet for.
    is_complete = looks.is_complete(connection, study)
    if record.variant:
        studies.add_conflict(connection, study)
        audit.record(
            connection,
            "conflicting_instance",
            actor=sender.calling_ae_title,
            now=at,
            study_instance_uid=study,
            detail={"sop_instance_uid": record.sop_instance_uid, "variant": record.variant},
        )
    jobs.schedule(
        connection,
        "analyze",
        study,
        run_at=at if is_complete else at + timedelta(seconds=quiet_period_s),
        now=at,
        priority=BACKFILL_RANK if is_backfill else ordered,
    )
    return touched.is_new


@dataclass(frozen=True)
class Outcome:
    """What came of a record. With an error nothing was written, unless it came while the transaction was committed:
    then nobody knows."""

    is_new_study: bool = False
    error: BaseException | None = None
    is_of_unknown_end: bool = False


class _Waiting:
    """What an association waits for: a record, or studies whose jobs are due from `run_at` on."""

    def __init__(self, record: Record | None, studies: tuple[str, ...] = (), run_at: datetime | None = None) -> None:
        self.record, self.studies, self.run_at = record, studies, run_at
        # By study: two processes that write the same studies would else each hold what the other waits for.
        self.order = (0, record.study_instance_uid, record.sop_instance_uid) if record else (1, min(studies), "")
        self.told = threading.Event()
        self.leads = False  # it writes the next transaction
        self.outcome: Outcome | None = None


class GroupWriter:
    """Writes what all associations of a process have to write; see `write` and `hasten`.

    No thread of its own: who comes while nobody writes does so, and hands over to one of those who came meanwhile.
    """

    def __init__(self, database: Database, *, quiet_period_s: float, asks_for_orders: bool) -> None:
        self._database = database
        self._quiet_period_s = quiet_period_s
        self._asks_for_orders = asks_for_orders
        self._looks = Looks()
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._is_writing = False
        self._is_alone = database.dialect == "sqlite"  # while it writes, nobody else does

    def write(self, record: Record) -> Outcome:
        """Return once the rows are committed, or cannot be.

        The error is a DuplicateInstance where (sop_instance_uid, variant) has a row; else what the database raised.
        """
        return self._settled(_Waiting(record))

    def hasten(self, studies: Collection[str], run_at: datetime) -> Outcome:
        """Let the jobs of these studies run at `run_at` if they would wait for longer; return once that is committed,
        or cannot be."""
        return self._settled(_Waiting(None, tuple(studies), run_at))

    def _settled(self, own: _Waiting) -> Outcome:
        with self._lock:
            self._waiting.append(own)
            own.leads = not self._is_writing
            self._is_writing = True
        if not own.leads:
            own.told.wait()
        if own.leads:
            self._lead()
        return own.outcome or Outcome(error=StorageError("the process ended while the rows were written"))

    def _lead(self) -> None:
        with self._lock:
            batch = self._next_batch()
            self._waiting = [item for item in self._waiting if item not in batch]
        try:
            self._write(sorted(batch, key=lambda item: item.order))
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].told.set()
                else:
                    self._is_writing = False
            for item in batch:
                item.told.set()

    def _next_batch(self) -> list[_Waiting]:
        found = self._waiting
        if not self._is_alone:
            # Two that write records of one study and hasten another, crosswise, would wait for each other.
            found = [item for item in found if (item.record is None) == (found[0].record is None)]
        return found[:_MOST_TOGETHER]

    def _write(self, batch: list[_Waiting]) -> None:
        started, is_committing = time.monotonic(), False
        outcomes: list[Outcome] = []
        try:
            with self._database.begin() as connection:
                outcomes = [self._added(connection, item.record) for item in batch]
                self._hasten(connection, [item for item in batch if item.record is None])
                if any(item.record for item in batch):
                    fault_point("receive.before-commit")
                is_committing = True
        except BaseException as error:  # noqa: BLE001 each association hears of it, and raises it
            if len(batch) > 1 and not is_committing and time.monotonic() - started < _SOON_S:
                for item in batch:  # one that cannot be written must not take the others with it
                    self._write([item])
                return
            failed = Outcome(error=error, is_of_unknown_end=is_committing)
            outcomes = [failed] * len(batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            item.outcome = outcome

    @staticmethod
    def _hasten(connection: Connection, batch: list[_Waiting]) -> None:
        studies = {study for item in batch for study in item.studies}
        if studies:
            run_at = max(item.run_at for item in batch if item.run_at is not None)
            jobs.hasten(connection, "analyze", sorted(studies), run_at=run_at)

    def _added(self, connection: Connection, record: Record | None) -> Outcome:
        if record is None:
            return Outcome()
        try:
            is_new = add(
                connection,
                record,
                quiet_period_s=self._quiet_period_s,
                asks_for_orders=self._asks_for_orders,
                looks=self._looks,
            )
        except DuplicateInstance as error:  # the first statement: nothing of it is written
            return Outcome(error=error)
        return Outcome(is_new_study=is_new)
