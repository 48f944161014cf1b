"""Manifests: Modality Performed Procedure Step and Instance Availability Notification, as SCP of both.

They say what a study consists of. Where the images are all here, its report need not wait for more; where some are
missing, or the step goes on, the report waits for a while. The analysis, and a priority, never wait.

Sources: DICOM PS3.4 F.7.2 (MPPS), R.3.2 and R.4.2 (Instance Availability); PS3.3 C.4.14, C.4.15, C.4.23.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.imaging import is_image
from cxr_node.imaging.references import uid_in
from cxr_node.log import get_logger
from cxr_node.receive.statuses import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_ATTRIBUTE_VALUE,
    INVALID_SOP_INSTANCE,
    MAY_NO_LONGER_BE_UPDATED,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    Answer,
)
from cxr_node.settings import PRIORITY, Settings
from storage import Database, Doorbell, audit, jobs, manifests, studies
from storage.errors import StorageError
from storage.faults import fault_point
from storage.manifests import COMPLETED, IN_PROGRESS, STATES, Awaited, Listed

log = get_logger("receive")

MPPS, IAN = str(ModalityPerformedProcedureStep), str(InstanceAvailabilityNotification)
MANIFEST_CLASSES = (MPPS, IAN)
SOURCES = {MPPS: "mpps", IAN: "ian"}

_LONGEST_TEXT = 64
# What pydicom raises on bytes that are no value of their VR.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, NotImplementedError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Said:
    """What a message says: of which studies, in which state, listing what. None where it says nothing of it."""

    studies: tuple[str, ...] = ()
    state: str | None = None
    instances: tuple[Listed, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def read_step(dataset: Dataset, *, is_new: bool) -> Said | Answer:
    """Read an MPPS N-CREATE (`is_new`) or N-SET; an Answer where it lacks what it must say, or says what it may not.

    Only what the node needs is insisted on: a step that lacks, say, its station name is a manifest all the same.
    """
    state = _text(dataset, "PerformedProcedureStepStatus")
    if is_new and "PerformedProcedureStepStatus" not in dataset:
        return Answer(MISSING_ATTRIBUTE, "(0040,0252) Performed Procedure Step Status is absent")
    if is_new and state != IN_PROGRESS:
        return Answer(INVALID_ATTRIBUTE_VALUE, "(0040,0252): a new step is IN PROGRESS")
    if "PerformedProcedureStepStatus" in dataset and state not in STATES:
        return Answer(INVALID_ATTRIBUTE_VALUE, "(0040,0252): IN PROGRESS, COMPLETED or DISCONTINUED")
    found: list[str] = []
    if is_new:
        scheduled = _items(dataset, "ScheduledStepAttributesSequence")
        if not scheduled:
            absent = "ScheduledStepAttributesSequence" not in dataset
            status = MISSING_ATTRIBUTE if absent else MISSING_ATTRIBUTE_VALUE
            return Answer(status, "(0040,0270) Scheduled Step Attributes Sequence has no item")
        for item in scheduled:
            answer = _check_study(item)
            if answer is not None:
                return answer
            found.append(uid_in(item, "StudyInstanceUID"))
    listed = tuple(_of_step(dataset)) if "PerformedSeriesSequence" in dataset else None
    attributes = {
        "performed_procedure_step_id": _text(dataset, "PerformedProcedureStepID"),
        "modality": _text(dataset, "Modality"),
        "station": _text(dataset, "PerformedStationAETitle"),
    }
    return Said(tuple(dict.fromkeys(found)), state or None, listed, attributes if is_new else {})


def read_notification(dataset: Dataset) -> Said | Answer:
    """Read an Instance Availability Notification; what it calls UNAVAILABLE is listed and not waited for."""
    answer = _check_study(dataset)
    if answer is not None:
        return answer
    series = _items(dataset, "ReferencedSeriesSequence")
    if not series:
        absent = "ReferencedSeriesSequence" not in dataset
        status = MISSING_ATTRIBUTE if absent else MISSING_ATTRIBUTE_VALUE
        return Answer(status, "(0008,1115) Referenced Series Sequence has no item")
    listed = [
        Listed(sop_instance_uid, sop_class_uid, uid_in(one, "SeriesInstanceUID"), is_here and is_image(sop_class_uid))
        for one in series
        for item in _items(one, "ReferencedSOPSequence")
        for sop_instance_uid, sop_class_uid in [_reference(item)]
        for is_here in [_text(item, "InstanceAvailability") != "UNAVAILABLE"]
        if sop_instance_uid
    ]
    return Said((uid_in(dataset, "StudyInstanceUID"),), COMPLETED, tuple(listed))


def _of_step(dataset: Dataset) -> Iterator[Listed]:
    for one in _items(dataset, "PerformedSeriesSequence"):
        series = uid_in(one, "SeriesInstanceUID")
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            for item in _items(one, keyword):
                sop_instance_uid, sop_class_uid = _reference(item)
                if sop_instance_uid:
                    yield Listed(sop_instance_uid, sop_class_uid, series, is_image(sop_class_uid))


def _reference(item: Dataset) -> tuple[str, str]:
    return uid_in(item, "ReferencedSOPInstanceUID"), uid_in(item, "ReferencedSOPClassUID")


def _check_study(dataset: Dataset) -> Answer | None:
    if "StudyInstanceUID" not in dataset:
        return Answer(MISSING_ATTRIBUTE, "(0020,000D) Study Instance UID is absent")
    if not _text(dataset, "StudyInstanceUID"):
        return Answer(MISSING_ATTRIBUTE_VALUE, "(0020,000D) Study Instance UID is empty")
    if not uid_in(dataset, "StudyInstanceUID"):
        return Answer(INVALID_ATTRIBUTE_VALUE, "(0020,000D) Study Instance UID is no UID")
    return None


def _items(dataset: Dataset, keyword: str) -> Iterable[Dataset]:
    try:
        value = dataset.get(keyword)
    except _UNREADABLE:
        return []
    return value if isinstance(value, Sequence) else []


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except _UNREADABLE:
        return ""
    return "" if value is None else str(value).strip(" \0")[:_LONGEST_TEXT]


class ManifestScp:
    """Answers N-CREATE and N-SET of the two services; bind `created` and `updated`."""

    def __init__(self, settings: Settings, database: Database, doorbell: Doorbell) -> None:
        self._wait_s = settings.receive.manifest_wait_s
        self._settle_s = {destination.name: destination.settle_s for destination in settings.destination}
        self._database = database
        self._doorbell = doorbell

    def created(self, event: evt.Event) -> tuple[Dataset, Dataset | None]:
        """Answer N-CREATE."""
        request: Any = event.request
        sop_instance_uid = str(request.AffectedSOPInstanceUID or "")
        given = None
        if not sop_instance_uid:  # PS3.7 10.1.5.1.4: then the SCP names it
            sop_instance_uid = generate_uid()
            given = Dataset()
            given.AffectedSOPInstanceUID = sop_instance_uid
        sop_class_uid = str(request.AffectedSOPClassUID or "")
        answer = self._answer(
            lambda now: self._create(event, sop_class_uid, sop_instance_uid, now), sop_class_uid, event
        )
        return _status(answer), given if answer.status == SUCCESS else None

    def updated(self, event: evt.Event) -> tuple[Dataset, None]:
        """Answer N-SET."""
        request: Any = event.request
        sop_instance_uid = str(request.RequestedSOPInstanceUID or "")
        sop_class_uid = str(request.RequestedSOPClassUID or "")
        answer = self._answer(lambda now: self._update(event, sop_instance_uid, now), sop_class_uid, event)
        return _status(answer), None

    def _answer(self, act: Any, sop_class_uid: str, event: evt.Event) -> Answer:
        try:
            answer: Answer = act(utc_now())
        except (StorageError, SQLAlchemyError) as error:
            log.error("manifest_not_kept", error_type=type(error).__name__)
            answer = Answer(PROCESSING_FAILURE, "storage cannot take the manifest now")
        except Exception as error:  # whatever a dataset does to us, its sender gets an answer
            log.error("manifest_failed", exc_info=error)
            answer = Answer(PROCESSING_FAILURE, "the node failed on this dataset")
        if answer.status == SUCCESS:
            for topic in ("analyze", "deliver", "worklist"):
                self._doorbell.ring(topic)
        else:
            log.warning(
                "manifest_refused",
                source=SOURCES.get(sop_class_uid, ""),
                status=f"0x{answer.status:04X}",
                reason=answer.comment,
                calling_ae_title=event.assoc.requestor.ae_title.strip(),
            )
        return answer

    def _create(self, event: evt.Event, sop_class_uid: str, sop_instance_uid: str, now: datetime) -> Answer:
        dataset = _decoded(event, "attribute_list")
        if dataset is None:
            return Answer(PROCESSING_FAILURE, "the dataset does not read")
        if not _is_uid(sop_instance_uid):
            return Answer(INVALID_SOP_INSTANCE, "Affected SOP Instance UID is no UID")
        said = read_step(dataset, is_new=True) if sop_class_uid == MPPS else read_notification(dataset)
        if isinstance(said, Answer):
            return said
        assert said.state is not None
        calling = event.assoc.requestor.ae_title.strip()
        with self._database.begin() as connection:
            added = manifests.add(
                connection,
                SOURCES[sop_class_uid],
                sop_instance_uid,
                said.studies,
                state=said.state,
                instances=said.instances or (),
                attributes=said.attributes,
                calling_ae_title=calling,
                now=now,
            )
            if not added:
                return Answer(DUPLICATE_SOP_INSTANCE, "this SOP Instance UID is known")
            for study in said.studies:
                self._heard(connection, SOURCES[sop_class_uid], said.state, study, calling, now)
        fault_point("receive.manifest-kept")
        return Answer(SUCCESS)

    def _update(self, event: evt.Event, sop_instance_uid: str, now: datetime) -> Answer:
        dataset = _decoded(event, "modification_list")
        if dataset is None:
            return Answer(PROCESSING_FAILURE, "the dataset does not read")
        said = read_step(dataset, is_new=False)
        source = SOURCES[MPPS]
        with self._database.begin() as connection:
            known = manifests.get(connection, source, sop_instance_uid)
            if not known:
                return Answer(NO_SUCH_INSTANCE, "no step of this SOP Instance UID was created here")
            if any(manifest.state != IN_PROGRESS for manifest in known):
                return _ended()
            if isinstance(said, Answer):
                return said
            state = said.state or IN_PROGRESS
            changed = manifests.set_state(
                connection, source, sop_instance_uid, state=state, instances=said.instances, now=now
            )
            if not changed:  # another association was quicker
                return _ended()
            calling = event.assoc.requestor.ae_title.strip()
            for manifest in known:
                self._heard(connection, source, state, manifest.study_instance_uid, calling, now)
        return Answer(SUCCESS)

    def _heard(
        self, connection: Connection, source: str, state: str, study_instance_uid: str, calling: str, now: datetime
    ) -> None:
        """Let what waits for the study go on, or wait, as the manifests now say."""
        found = manifests.replan(
            connection,
            study_instance_uid,
            settle_s=self._settle_s,
            wait_s=self._wait_s,
            immediate=PRIORITY,
            now=now,
        )
        study = studies.get(connection, study_instance_uid)
        if study is not None:
            self._look_again(connection, study.study_instance_uid, study.last_received_at, found, now)
        audit.record(
            connection,
            "manifest_received",
            actor=calling,
            now=now,
            study_instance_uid=study_instance_uid,
            detail={"source": source, "state": state, "announced": found.announced, "missing": found.missing},
        )

    def _look_again(
        self, connection: Connection, uid: str, last_received_at: datetime, found: Awaited, now: datetime
    ) -> None:
        """Have the study analysed at once where it is complete, and looked at once more when the wait is over."""
        if found.is_complete:
            jobs.hasten(connection, "analyze", [uid], run_at=now)
        until = found.until(last_received_at, self._wait_s)
        if until is not None and until > now:
            jobs.schedule(connection, "analyze", uid, run_at=until, now=now, keep_sooner=True)


def _decoded(event: evt.Event, name: str) -> Dataset | None:
    """Return the request's dataset with every element read; None where it does not read."""
    try:
        dataset: Dataset = getattr(event, name)
        for element in dataset.iterall():
            _ = element.value
    except Exception as error:  # noqa: BLE001  # the library raises whatever the bytes make it raise
        log.warning("manifest_unreadable", error_type=type(error).__name__)
        return None
    return dataset


def _is_uid(value: str) -> bool:
    holder = Dataset()
    holder.SOPInstanceUID = value
    return bool(uid_in(holder, "SOPInstanceUID"))


def _ended() -> Answer:
    return Answer(
        PROCESSING_FAILURE, "the step has ended and may no longer be updated", error_id=MAY_NO_LONGER_BE_UPDATED
    )


def _status(answer: Answer) -> Dataset:
    status = Dataset()
    status.Status = answer.status
    if answer.comment:
        status.ErrorComment = answer.comment
    if answer.error_id is not None:
        status.ErrorID = answer.error_id
    return status
