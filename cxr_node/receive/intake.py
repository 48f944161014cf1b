"""From a received file to a status: bytes durable, then row and job in one transaction, then Success.

Nothing here decodes pixels. The header is read once, for the UIDs that the row needs and the context that the worklist
shows; what is wrong beyond that is the analysis' business.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.errors import UnreadableDataset
from cxr_node.imaging import read_header
from cxr_node.imaging.header import leave_out_unconvertible, read_whole_header
from cxr_node.log import get_logger
from cxr_node.receive.context import READ, names_priority, patient_context, uid_of
from cxr_node.receive.records import GroupWriter, Record, Sender
from cxr_node.receive.sameness import is_same
from cxr_node.receive.statuses import (
    CANNOT_UNDERSTAND,
    DATASET_DOES_NOT_MATCH,
    INVALID_UID,
    MISSING_UID,
    OUT_OF_RESOURCES,
    SUCCESS,
    Answer,
)
from storage import Database, Doorbell, InstanceFiles, instances
from storage.errors import BytesAltered, BytesMissing, DuplicateInstance, StorageError
from storage.faults import fault_point
from storage.instances import Instance

log = get_logger("receive")

# PS3.5 9.1: digits and dots, 64 at most. Leading zeros in a component are against the rule and common: they are kept.
UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")
_TRIES = 5
_LOOKS = 100  # who sends one image again sends more


@dataclass(frozen=True)
class Requested:
    """What the C-STORE request and its presentation context say of the dataset."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Accepted:
    """The answer, and the study that now waits for analysis, if one does."""

    answer: Answer
    study_instance_uid: str = ""


class Intake:
    """Makes received files durable; see `accept`."""

    def __init__(
        self,
        database: Database,
        files: InstanceFiles,
        doorbell: Doorbell,
        *,
        quiet_period_s: float,
        min_free_bytes: float,
        asks_for_orders: bool = False,
    ) -> None:
        self._database = database
        self._files = files
        self._doorbell = doorbell
        self._min_free_bytes = min_free_bytes
        self._asks_for_orders = asks_for_orders
        self._look_first = 0  # images more whose UID is looked up before they are kept
        self._writer = GroupWriter(database, quiet_period_s=quiet_period_s, asks_for_orders=asks_for_orders)

    def has_room(self) -> bool:
        """Whether the disk may take another instance."""
        try:
            return self._files.free_bytes() >= self._min_free_bytes
        except StorageError:
            return False

    def accept(self, path: Path, requested: Requested, sender: Sender, *, now: Callable[[], datetime]) -> Accepted:
        """Keep a received file, or say why not. The file is gone from `path` afterwards, whatever came of it.

        Parameters
        ----------
        path : in the folder of temporary files; a Part 10 file
        """
        try:
            return self._accept(path, requested, sender, now)
        except (StorageError, SQLAlchemyError, OSError) as error:
            # The message of a database driver may quote a value.
            reason = str(error) if isinstance(error, StorageError) else ""
            log.error("instance_not_kept", error_type=type(error).__name__, reason=reason, **_bound(requested))
            return Accepted(Answer(OUT_OF_RESOURCES, "storage cannot take the instance now"))
        finally:
            path.unlink(missing_ok=True)

    def _accept(self, path: Path, requested: Requested, sender: Sender, now: Callable[[], datetime]) -> Accepted:
        if not self.has_room():
            return Accepted(Answer(OUT_OF_RESOURCES, "less free space than min_free_gb"))
        try:
            header = _header(path)
        except UnreadableDataset:
            return Accepted(Answer(CANNOT_UNDERSTAND, "the dataset does not read"))
        refusal = _check(header, requested)
        if refusal is not None:
            status = f"0x{refusal.status:04X}"
            log.warning("instance_refused", status=status, reason=refusal.comment, **_bound(requested))
            return Accepted(refusal)
        uid = uid_of(header, "SOPInstanceUID")
        for number in range(_TRIES):
            known = self._known(uid, is_known=number > 0)
            if any(self._is_same(path, item, requested) for item in known):
                study = uid_of(header, "StudyInstanceUID")
                log.info("instance_known", sop_instance_uid=uid, study_instance_uid=study)
                return Accepted(Answer(SUCCESS), study)
            variant = known[-1].variant + 1 if known else 0
            try:
                return self._keep(path, header, requested, sender, variant, now)
            except DuplicateInstance:
                self._look_first = _LOOKS  # it was known, or another association stored the same UID meanwhile
        return Accepted(Answer(OUT_OF_RESOURCES, "too many associations send the same instance"))

    def _keep(
        self,
        path: Path,
        header: Dataset,
        requested: Requested,
        sender: Sender,
        variant: int,
        now: Callable[[], datetime],
    ) -> Accepted:
        sop_instance_uid, study = uid_of(header, "SOPInstanceUID"), uid_of(header, "StudyInstanceUID")
        size = path.stat().st_size
        location = self._files.keep(path, sop_instance_uid, variant)
        fault_point("receive.after-keep")
        record = Record(
            sop_instance_uid=sop_instance_uid,
            series_instance_uid=uid_of(header, "SeriesInstanceUID"),
            study_instance_uid=study,
            sop_class_uid=uid_of(header, "SOPClassUID"),
            transfer_syntax_uid=requested.transfer_syntax_uid,
            variant=variant,
            size=size,
            location=location,
            sender=sender,
            at=now(),
            context=patient_context(header),
            names_priority=names_priority(header),
        )
        outcome = self._writer.write(record)
        if isinstance(outcome.error, DuplicateInstance):
            self._files.take_back(location, path)
            raise outcome.error
        if outcome.error is not None:
            if not outcome.is_of_unknown_end or self._is_not_recorded(sop_instance_uid, location):
                self._files.delete(location)
            raise outcome.error
        fault_point("receive.after-commit")
        if variant:
            metrics.CONFLICTS.inc()
            log.warning("conflicting_instance", sop_instance_uid=sop_instance_uid, study_instance_uid=study)
        metrics.INSTANCE_BYTES.inc(size)
        self._doorbell.ring("worklist")
        if outcome.is_new_study and self._asks_for_orders:
            self._doorbell.ring("orders")
        # Also where the job is due only after the quiet period: who waits for work learns from it when that is.
        self._doorbell.ring("analyze")
        return Accepted(Answer(SUCCESS), study)

    def _known(self, uid: str, *, is_known: bool) -> list[Instance]:
        """Return what is stored under this UID; nothing, without a look, while everything that comes is new.

        A row that is there all the same is found when the new one is written, before anything is answered: the look
        saves the work of it, and costs each new image a transaction.
        """
        if not (is_known or self._look_first):
            return []
        self._look_first = max(0, self._look_first - 1)
        with self._database.read() as connection:
            return instances.by_sop_instance_uid(connection, uid)

    def _is_same(self, path: Path, known: Instance, requested: Requested) -> bool:
        has_same_syntax = known.transfer_syntax_uid == requested.transfer_syntax_uid
        try:
            with self._files.local(known.location) as stored_path:
                return is_same(read_header(path), path, stored_path, has_same_syntax=has_same_syntax)
        except (UnreadableDataset, OSError, BytesMissing, BytesAltered):
            return False

    def _is_not_recorded(self, sop_instance_uid: str, location: str) -> bool:
        """After a commit that failed: a server that was lost during it may have done it all the same."""
        try:
            with self._database.read() as connection:
                known = instances.by_sop_instance_uid(connection, sop_instance_uid)
        except (StorageError, SQLAlchemyError):
            return False  # nobody knows: upkeep removes files that no row names
        return all(item.location != location for item in known)

    def hasten(self, study_instance_uids: Collection[str], *, now: Callable[[], datetime]) -> None:
        """The association ended: its studies need not wait for the quiet period."""
        if not study_instance_uids:
            return
        fault_point("receive.before-hasten")
        error = self._writer.hasten(study_instance_uids, now()).error
        if isinstance(error, (StorageError, SQLAlchemyError)):
            log.warning("studies_not_hastened", error_type=type(error).__name__)  # the quiet period ends anyway
        elif error is not None:
            raise error
        self._doorbell.ring("analyze")


def _bound(requested: Requested) -> dict[str, str]:
    """The request's UID for the log, where it is one: another text could be anything, a name too."""
    uid = requested.sop_instance_uid
    return {"sop_instance_uid": uid if len(uid) <= 64 and UID_FORM.fullmatch(uid) else "(no UID)"}


def _header(path: Path) -> Dataset:
    """Return of a header what is read here, see `context.READ`.

    Raises
    ------
    UnreadableDataset
        As `imaging.read_header`.
    """
    header = read_whole_header(path).header
    for tag in [tag for tag in header.keys() if tag not in READ]:  # noqa: SIM118 a dataset iterates over its values
        del header[tag]
    leave_out_unconvertible(header)
    return header if len(header) else read_header(path)  # which tells nonsense from a dataset without these attributes


def _check(header: Dataset, requested: Requested) -> Answer | None:
    """Return the failure for a dataset that no row can be made of."""
    for keyword, name in (
        ("SOPInstanceUID", "SOP Instance UID"),
        ("StudyInstanceUID", "Study Instance UID"),
        ("SeriesInstanceUID", "Series Instance UID"),
        ("SOPClassUID", "SOP Class UID"),
    ):
        value = uid_of(header, keyword)
        if not value:
            return Answer(MISSING_UID, f"{name} is absent from the dataset")
        if len(value) > 64 or not UID_FORM.fullmatch(value):
            return Answer(INVALID_UID, f"{name} is not a UID of digits and dots, 64 at most")
    if uid_of(header, "SOPInstanceUID") != requested.sop_instance_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Instance UID differs between command and dataset")
    if uid_of(header, "SOPClassUID") != requested.sop_class_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Class UID differs between command and dataset")
    return None
