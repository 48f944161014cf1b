"""From a received file to a status: bytes durable, then row and job in one transaction, then Success.

Nothing here decodes pixels. The header is read once, for the UIDs that the row needs and the context that the worklist
shows; what is wrong beyond that is the analysis' business.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.errors import UnreadableDataset
from cxr_node.findings.priority import parse_ordered, rank
from cxr_node.imaging import read_header
from cxr_node.log import get_logger
from cxr_node.receive.statuses import (
    CANNOT_UNDERSTAND,
    DATASET_DOES_NOT_MATCH,
    INVALID_UID,
    MISSING_UID,
    OUT_OF_RESOURCES,
    SUCCESS,
    Answer,
)
from storage import Database, Doorbell, InstanceFiles, audit, instances, jobs, studies
from storage.errors import DuplicateInstance, StorageError
from storage.instances import Instance
from storage.studies import PatientContext

log = get_logger("receive")

# PS3.5 9.1: digits and dots, 64 at most. Leading zeros in a component are against the rule and common: they are kept.
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
# Attributes that a PACS may add or change when it sends one object again in another transfer syntax.
_OF_ENCODING = ("00020000", "00282110", "00282112", "00282114", "00280004", "00280006", "00080005")
_TRIES = 5


@dataclass(frozen=True)
class Sender:
    """Whom an instance came from."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    association_id: str


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
    ) -> None:
        self._database = database
        self._files = files
        self._doorbell = doorbell
        self._quiet_period_s = quiet_period_s
        self._min_free_bytes = min_free_bytes

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
            log.error("instance_not_kept", error_type=type(error).__name__, reason=str(error), **_bound(requested))
            return Accepted(Answer(OUT_OF_RESOURCES, "storage cannot take the instance now"))
        finally:
            path.unlink(missing_ok=True)

    def _accept(self, path: Path, requested: Requested, sender: Sender, now: Callable[[], datetime]) -> Accepted:
        if not self.has_room():
            return Accepted(Answer(OUT_OF_RESOURCES, "less free space than min_free_gb"))
        try:
            header = read_header(path)
        except UnreadableDataset:
            return Accepted(Answer(CANNOT_UNDERSTAND, "the dataset does not read"))
        refusal = _check(header, requested)
        if refusal is not None:
            status = f"0x{refusal.status:04X}"
            log.warning("instance_refused", status=status, reason=refusal.comment, **_bound(requested))
            return Accepted(refusal)
        uid = str(header.SOPInstanceUID)
        for _ in range(_TRIES):
            with self._database.read() as connection:
                known = instances.by_sop_instance_uid(connection, uid)
            if any(self._is_same(header, path, item, requested) for item in known):
                log.info("instance_known", sop_instance_uid=uid, study_instance_uid=str(header.StudyInstanceUID))
                return Accepted(Answer(SUCCESS), str(header.StudyInstanceUID))
            variant = len(known)
            try:
                return self._keep(path, header, requested, sender, variant, now)
            except DuplicateInstance:
                continue  # another association stored the same UID meanwhile: look again
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
        sop_instance_uid, study = str(header.SOPInstanceUID), str(header.StudyInstanceUID)
        size = path.stat().st_size
        # A hard link keeps `path` for another try, should the row turn out to be taken.
        linked = self._files.new_temporary()
        linked.hardlink_to(path)
        location = self._files.keep(linked, sop_instance_uid, variant)
        at = now()
        context = patient_context(header)
        ordered = rank(parse_ordered(context.ordered_priority))
        try:
            with self._database.begin() as connection:
                instances.add(
                    connection,
                    sop_instance_uid=sop_instance_uid,
                    series_instance_uid=str(header.SeriesInstanceUID),
                    study_instance_uid=study,
                    sop_class_uid=str(header.SOPClassUID),
                    transfer_syntax_uid=requested.transfer_syntax_uid,
                    variant=variant,
                    size=size,
                    location=location,
                    calling_ae_title=sender.calling_ae_title,
                    called_ae_title=sender.called_ae_title,
                    peer_address=sender.peer_address,
                    association_id=sender.association_id,
                    received_at=at,
                )
                studies.touch(
                    connection,
                    study,
                    context,
                    ordered_rank=ordered,
                    calling_ae_title=sender.calling_ae_title,
                    now=at,
                )
                if variant:
                    studies.add_conflict(connection, study)
                    audit.record(
                        connection,
                        "conflicting_instance",
                        actor=sender.calling_ae_title,
                        now=at,
                        study_instance_uid=study,
                        detail={"sop_instance_uid": sop_instance_uid, "variant": variant},
                    )
                jobs.schedule(
                    connection,
                    "analyze",
                    study,
                    run_at=at + timedelta(seconds=self._quiet_period_s),
                    now=at,
                    priority=ordered,
                )
        except BaseException:
            self._files.delete(location)
            raise
        if variant:
            metrics.CONFLICTS.inc()
            log.warning("conflicting_instance", sop_instance_uid=sop_instance_uid, study_instance_uid=study)
        metrics.INSTANCE_BYTES.inc(size)
        self._doorbell.ring("worklist")
        return Accepted(Answer(SUCCESS), study)

    def _is_same(self, header: Dataset, path: Path, known: Instance, requested: Requested) -> bool:
        """Whether a stored instance is this object: the same dataset, or the same header in another encoding."""
        stored_path = self._files.path(known.location)
        try:
            stored = read_header(stored_path)
        except (UnreadableDataset, OSError):
            return False
        if known.transfer_syntax_uid != requested.transfer_syntax_uid:
            return _without_encoding(header) == _without_encoding(stored)
        return _dataset_bytes(path) == _dataset_bytes(stored_path)

    def hasten(self, study_instance_uids: set[str], *, now: Callable[[], datetime]) -> None:
        """The association ended: its studies need not wait for the quiet period."""
        if not study_instance_uids:
            return
        try:
            with self._database.begin() as connection:
                jobs.hasten(connection, "analyze", study_instance_uids, run_at=now())
        except (StorageError, SQLAlchemyError) as error:
            log.warning("studies_not_hastened", error_type=type(error).__name__)  # the quiet period ends anyway
        self._doorbell.ring("analyze")


def _bound(requested: Requested) -> dict[str, str]:
    """The request's UID for the log, where it is one: another text could be anything, a name too."""
    uid = requested.sop_instance_uid
    return {"sop_instance_uid": uid if len(uid) <= 64 and UID.fullmatch(uid) else "(no UID)"}


def _check(header: Dataset, requested: Requested) -> Answer | None:
    """Return the failure for a dataset that no row can be made of."""
    for keyword, name in (
        ("SOPInstanceUID", "SOP Instance UID"),
        ("StudyInstanceUID", "Study Instance UID"),
        ("SeriesInstanceUID", "Series Instance UID"),
        ("SOPClassUID", "SOP Class UID"),
    ):
        value = _value(header, keyword)
        if not value:
            return Answer(MISSING_UID, f"{name} is absent from the dataset")
        if len(value) > 64 or not UID.fullmatch(value):
            return Answer(INVALID_UID, f"{name} is not a UID of digits and dots, 64 at most")
    if _value(header, "SOPInstanceUID") != requested.sop_instance_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Instance UID differs between command and dataset")
    if _value(header, "SOPClassUID") != requested.sop_class_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Class UID differs between command and dataset")
    return None


def _value(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
    except (ValueError, TypeError, NotImplementedError, KeyError):
        return ""
    return "" if value is None else str(value)


def patient_context(header: Dataset) -> PatientContext:
    """Return what the worklist shows of a study, decoded with the dataset's character set, broken bytes replaced."""
    ordered = _value(header, "RequestedProcedurePriority")
    for item in header.get("RequestAttributesSequence") or []:
        found = _value(item, "RequestedProcedurePriority")
        if found and rank(parse_ordered(found)) >= rank(parse_ordered(ordered)):
            ordered = found
    return PatientContext(
        patient_name=_value(header, "PatientName"),
        patient_id=_value(header, "PatientID"),
        issuer_of_patient_id=_value(header, "IssuerOfPatientID"),
        birth_date=_value(header, "PatientBirthDate"),
        sex=_value(header, "PatientSex"),
        age=_value(header, "PatientAge"),
        accession_number=_value(header, "AccessionNumber"),
        study_id=_value(header, "StudyID"),
        study_date=_value(header, "StudyDate"),
        study_time=_value(header, "StudyTime"),
        study_description=_value(header, "StudyDescription"),
        referring_physician_name=_value(header, "ReferringPhysicianName"),
        modality=_value(header, "Modality"),
        body_part=_value(header, "BodyPartExamined"),
        view=_value(header, "ViewPosition"),
        ordered_priority=str(parse_ordered(ordered)),
    )


def _without_encoding(header: Dataset) -> dict[int, Any]:
    return {
        int(element.tag): element.value
        for element in header
        if element.tag.element != 0 and f"{int(element.tag):08X}" not in _OF_ENCODING
    }


def _dataset_bytes(path: Path) -> bytes:
    """Return the bytes after the file meta information: group 2 differs from sender to sender."""
    data = path.read_bytes()
    if data[128:132] != b"DICM" or data[132:136] != b"\x02\x00\x00\x00":
        return data
    return data[144 + int.from_bytes(data[140:144], "little") :]
