"""From a received file to a status: bytes durable, then row and job in one transaction, then Success.

Nothing here decodes pixels. The header is read once, for the UIDs that the row needs and the context that the worklist
shows; what is wrong beyond that is the analysis' business.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRBigEndian
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
from storage import Database, Doorbell, InstanceFiles, audit, backfills, instances, jobs, manifests, studies
from storage.errors import DuplicateInstance, StorageError
from storage.instances import Instance
from storage.studies import PatientContext

log = get_logger("receive")

IN_THE_IMAGES = "request in the images"  # where an ordered priority comes from
BACKFILL_RANK = -1  # of the jobs of a back-catalogue run: below every order's

# PS3.5 9.1: digits and dots, 64 at most. Leading zeros in a component are against the rule and common: they are kept.
UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")
# What compression changes in a header (PS3.5 8.2): not a difference when an object comes in another transfer syntax.
_OF_ENCODING = frozenset({0x00080005, 0x00280006, 0x00282110, 0x00282112, 0x00282114})
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_TRIES = 5
_LONGEST_TEXT = 1024  # sixteen times what any text of the context may hold
_CHUNK = 1 << 20


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
        asks_for_orders: bool = False,
    ) -> None:
        self._database = database
        self._files = files
        self._doorbell = doorbell
        self._quiet_period_s = quiet_period_s
        self._min_free_bytes = min_free_bytes
        self._asks_for_orders = asks_for_orders

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
            header = read_header(path)
        except UnreadableDataset:
            return Accepted(Answer(CANNOT_UNDERSTAND, "the dataset does not read"))
        refusal = _check(header, requested)
        if refusal is not None:
            status = f"0x{refusal.status:04X}"
            log.warning("instance_refused", status=status, reason=refusal.comment, **_bound(requested))
            return Accepted(refusal)
        uid = _uid(header, "SOPInstanceUID")
        for _ in range(_TRIES):
            with self._database.read() as connection:
                known = instances.by_sop_instance_uid(connection, uid)
            if any(self._is_same(header, path, item, requested) for item in known):
                study = _uid(header, "StudyInstanceUID")
                log.info("instance_known", sop_instance_uid=uid, study_instance_uid=study)
                return Accepted(Answer(SUCCESS), study)
            variant = known[-1].variant + 1 if known else 0
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
        sop_instance_uid, study = _uid(header, "SOPInstanceUID"), _uid(header, "StudyInstanceUID")
        size = path.stat().st_size
        location = self._files.keep(path, sop_instance_uid, variant)
        at = now()
        context = patient_context(header)
        ordered = rank(parse_ordered(context.ordered_priority))
        is_committing = False
        try:
            with self._database.begin() as connection:
                instances.add(
                    connection,
                    sop_instance_uid=sop_instance_uid,
                    series_instance_uid=_uid(header, "SeriesInstanceUID"),
                    study_instance_uid=study,
                    sop_class_uid=_uid(header, "SOPClassUID"),
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
                touched = studies.touch(
                    connection,
                    study,
                    context,
                    ordered_rank=ordered,
                    calling_ae_title=sender.calling_ae_title,
                    now=at,
                    ordered_reason=IN_THE_IMAGES if _names_priority(header) else "",
                )
                is_backfill = touched.origin == studies.BACKFILL
                if touched.is_new and backfills.is_backfill(connection, study):
                    is_backfill = True
                    studies.set_origin(connection, study, studies.BACKFILL)
                elif is_backfill and backfills.is_over(connection, study):
                    is_backfill = False
                    studies.set_origin(connection, study, "")
                if touched.is_new and self._asks_for_orders:
                    jobs.schedule(connection, "order", study, run_at=at, now=at, priority=ordered)
                # Everything announced is here: nothing to be quiet for.
                is_complete = manifests.awaited(connection, study).is_complete
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
                    run_at=at if is_complete else at + timedelta(seconds=self._quiet_period_s),
                    now=at,
                    priority=BACKFILL_RANK if is_backfill else ordered,
                )
                is_committing = True
        except DuplicateInstance:
            os.rename(self._files.path(location), path)
            raise
        except BaseException:
            if not is_committing or self._is_not_recorded(sop_instance_uid, location):
                self._files.delete(location)
            raise
        if variant:
            metrics.CONFLICTS.inc()
            log.warning("conflicting_instance", sop_instance_uid=sop_instance_uid, study_instance_uid=study)
        metrics.INSTANCE_BYTES.inc(size)
        self._doorbell.ring("worklist")
        if touched.is_new and self._asks_for_orders:
            self._doorbell.ring("orders")
        if is_complete:
            self._doorbell.ring("analyze")
        return Accepted(Answer(SUCCESS), study)

    def _is_not_recorded(self, sop_instance_uid: str, location: str) -> bool:
        """After a commit that failed: a server that was lost during it may have done it all the same."""
        try:
            with self._database.read() as connection:
                known = instances.by_sop_instance_uid(connection, sop_instance_uid)
        except (StorageError, SQLAlchemyError):
            return False  # nobody knows: upkeep removes files that no row names
        return all(item.location != location for item in known)

    def _is_same(self, header: Dataset, path: Path, known: Instance, requested: Requested) -> bool:
        """Whether a stored instance is this object: the same dataset, or an equal one in another encoding."""
        stored_path = self._files.path(known.location)
        has_same_syntax = known.transfer_syntax_uid == requested.transfer_syntax_uid
        try:
            if has_same_syntax and _have_same_bytes(path, stored_path):
                return True
            if not _are_equal(header, read_header(stored_path), is_reencoded=not has_same_syntax):
                return False
            return _may_have_same_pixels(path, stored_path)
        except (UnreadableDataset, OSError):
            return False

    def hasten(self, study_instance_uids: Collection[str], *, now: Callable[[], datetime]) -> None:
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
    return {"sop_instance_uid": uid if len(uid) <= 64 and UID_FORM.fullmatch(uid) else "(no UID)"}


def _check(header: Dataset, requested: Requested) -> Answer | None:
    """Return the failure for a dataset that no row can be made of."""
    for keyword, name in (
        ("SOPInstanceUID", "SOP Instance UID"),
        ("StudyInstanceUID", "Study Instance UID"),
        ("SeriesInstanceUID", "Series Instance UID"),
        ("SOPClassUID", "SOP Class UID"),
    ):
        value = _uid(header, keyword)
        if not value:
            return Answer(MISSING_UID, f"{name} is absent from the dataset")
        if len(value) > 64 or not UID_FORM.fullmatch(value):
            return Answer(INVALID_UID, f"{name} is not a UID of digits and dots, 64 at most")
    if _uid(header, "SOPInstanceUID") != requested.sop_instance_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Instance UID differs between command and dataset")
    if _uid(header, "SOPClassUID") != requested.sop_class_uid:
        return Answer(DATASET_DOES_NOT_MATCH, "SOP Class UID differs between command and dataset")
    return None


def _uid(header: Dataset, keyword: str) -> str:
    """Return the UID without the padding that some senders take a space for."""
    return _text(header, keyword).strip()


def _text(dataset: Dataset, keyword: str) -> str:
    """Return the value as text that any database takes: no NUL, no lone surrogate, of bounded length."""
    try:
        value = dataset.get(keyword)
        parts = value if isinstance(value, MultiValue) else [value]
        text = "\\".join("" if part is None else str(part) for part in parts)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return ""  # a person name that its character set does not decode
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:_LONGEST_TEXT]


def _names_priority(header: Dataset) -> bool:
    """Whether the images say which priority was ordered; where they do not, the default of every order counts."""
    return any(text.strip() for text in _priorities(header))


def _priorities(header: Dataset) -> list[str]:
    requests = header.get("RequestAttributesSequence")
    items = requests if isinstance(requests, pydicom.Sequence) else ()
    return [_text(item, "RequestedProcedurePriority") for item in (header, *items)]


def patient_context(header: Dataset) -> PatientContext:
    """Return what the worklist shows of a study, decoded with the dataset's character set, broken bytes replaced."""
    named = [text for text in _priorities(header) if text]
    ordered = max(named, key=lambda text: rank(parse_ordered(text)), default="")
    return PatientContext(
        patient_name=_text(header, "PatientName"),
        patient_id=_text(header, "PatientID"),
        issuer_of_patient_id=_text(header, "IssuerOfPatientID"),
        birth_date=_text(header, "PatientBirthDate"),
        sex=_text(header, "PatientSex"),
        age=_text(header, "PatientAge"),
        accession_number=_text(header, "AccessionNumber"),
        study_id=_text(header, "StudyID"),
        study_date=_text(header, "StudyDate"),
        study_time=_text(header, "StudyTime"),
        study_description=_text(header, "StudyDescription"),
        referring_physician_name=_text(header, "ReferringPhysicianName"),
        modality=_text(header, "Modality"),
        body_part=_text(header, "BodyPartExamined"),
        view=_text(header, "ViewPosition"),
        ordered_priority=str(parse_ordered(ordered)),
    )


def _are_equal(one: Dataset, other: Dataset, *, is_reencoded: bool) -> bool:
    """Whether two headers say the same; of one that was encoded anew, what its encoding must say is left out."""
    for tag in set(one.keys()) | set(other.keys()):
        if tag.element == 0:
            continue  # a group length
        if is_reencoded and tag in _OF_ENCODING:
            continue
        if tag not in one or tag not in other:
            return False
        first, second = one[tag], other[tag]
        if first.VR == second.VR == "SQ":
            if len(first.value) != len(second.value):
                return False
            if not all(
                _are_equal(left, right, is_reencoded=is_reencoded)
                for left, right in zip(first.value, second.value, strict=True)
            ):
                return False
            continue
        if is_reencoded and first.VR != second.VR:
            continue  # Implicit VR tells no VR: a private attribute, or one that depends on another
        if is_reencoded and tag == _PHOTOMETRIC_INTERPRETATION and not _is_monochrome(first.value, second.value):
            continue  # compression turns RGB into YBR; MONOCHROME1 into 2 it does not
        if first.value != second.value:
            return False
    return True


def _is_monochrome(*values: Any) -> bool:
    return any(str(value).startswith("MONOCHROME") for value in values)


def _may_have_same_pixels(path: Path, stored_path: Path) -> bool:
    """Whether the pixels are the same bytes; True where one is compressed otherwise, which only decoding could tell.

    Reads both into memory: only an object whose header is equal and whose bytes are not comes here.
    """
    one, other = pydicom.dcmread(path, force=True), pydicom.dcmread(stored_path, force=True)
    syntaxes = [UID(item.file_meta.get("TransferSyntaxUID", "")) for item in (one, other)]
    if syntaxes[0] != syntaxes[1] and any(syntax.is_encapsulated for syntax in syntaxes):
        return True
    return _little_endian_pixels(one) == _little_endian_pixels(other)


def _little_endian_pixels(dataset: Dataset) -> bytes | None:
    pixels = dataset.get("PixelData")
    if pixels is None or dataset.file_meta.get("TransferSyntaxUID") != ExplicitVRBigEndian:
        return pixels
    swapped = bytearray(pixels)
    if dataset["PixelData"].VR == "OW" and len(swapped) % 2 == 0:
        swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
    return bytes(swapped)


def _have_same_bytes(path: Path, stored_path: Path) -> bool:
    """Whether two files hold the same dataset, group 2 aside: it differs from sender to sender."""
    return all(one == other for one, other in zip_longest(_dataset_chunks(path), _dataset_chunks(stored_path)))


def _dataset_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        head = file.read(144)
        is_part_10 = head[128:136] == b"DICM\x02\x00\x00\x00"
        file.seek(144 + int.from_bytes(head[140:144], "little") if is_part_10 else 0)
        while chunk := file.read(_CHUNK):
            yield chunk
