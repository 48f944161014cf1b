"""Destination `ups`: a reading task on the site's Unified Procedure Step SCP, whose priority is the study's.

Created once for a study, under a UID that is always the same; a later notice raises its priority and never lowers it,
nor touches a task that somebody is reading or has read.

Source: DICOM PS3.4 CC.2.5 (N-CREATE, table CC.2.5-3), CC.2.6 (N-SET), CC.2.7 (N-GET); PS3.3 C.30; PS3.16 CID 9231.
"""

import time
import unicodedata
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    Verification,
)

from cxr_node.deliver.association import Line, accepted_syntaxes, contexts_of
from cxr_node.deliver.objects import Sent, Shelf, StoredObject, notice_of
from cxr_node.deliver.statuses import DUPLICATE_SOP_INSTANCE, SUCCESS, is_warning, meaning
from cxr_node.errors import DeliveryError, Disposition, Refused, Unreachable
from cxr_node.findings import UpsPriority, ups_priority
from cxr_node.findings.priority import parse_ordered
from cxr_node.reporting import Notice
from cxr_node.reporting.uids import derived_uid
from cxr_node.settings import Destination, Settings

SCHEDULED = "SCHEDULED"
_RANK = {UpsPriority.LOW: 0, UpsPriority.MEDIUM: 1, UpsPriority.HIGH: 2}
_MAY_PASS = (0x0110, 0x0213)
_WORDS = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0107: "attribute list error",
    0x0116: "attribute value out of range",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0xC300: "the task may no longer be changed",
    0xC301: "the task is locked by whoever reads it",
    0xC307: "no such task",
    0xC309: "a task has to begin as SCHEDULED",
    0xC310: "the task is not in progress",
}
_FINAL = (0xC300, 0xC301)


class Ups:
    """Creates reading tasks on one UPS SCP."""

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._line = Line.to(destination, settings)
        # The node gives no images out; who manages a site's tasks is mostly its archive, so there they are asked for.
        self._retrieve_ae_title = destination.ae_title

    def send(self, stored: StoredObject) -> Sent:
        """Create the task, or raise the priority of the one there is.

        Raises
        ------
        Unreachable, AssociationRefused, NotNegotiated, Refused
            0x0110 and 0x0213 may pass; every other failure status is for good.
        StorageUnavailable, NothingToSend
        """
        notice = notice_of(stored)
        uid = task_uid(notice.study_instance_uid)
        classes = (UnifiedProcedureStepPush, UnifiedProcedureStepPull)
        with self._line.association(contexts_of(classes), wanted=classes[:1]) as association:
            accepted = accepted_syntaxes(association)
            if UnifiedProcedureStepPush not in accepted:
                raise self._line.not_negotiated(classes[:1])
            task = make_task(notice, self._retrieve_ae_title)
            status, _ = self._ask(
                association, "N-CREATE", lambda: association.send_n_create(task, UnifiedProcedureStepPush, uid)
            )
            if status == DUPLICATE_SOP_INSTANCE:
                reason = self._raise(association, uid, ups_priority(parse_ordered(notice.effective)), accepted)
                return Sent(stored.sop_class_uid, stored.sop_instance_uid, reason)
            if status != SUCCESS and not is_warning(status):
                raise self._refused("N-CREATE", status)
            reason = "" if status == SUCCESS else f"created with warning, status 0x{status:04X}"
            return Sent(stored.sop_class_uid, stored.sop_instance_uid, reason)

    def test(self) -> str:
        """Return a sentence on what would keep tasks from being created: an association with UPS Push; nothing is
        created over it."""
        wanted = (UnifiedProcedureStepPush,)
        try:
            contexts = contexts_of((*wanted, UnifiedProcedureStepPull, Verification))
            with self._line.association(contexts, wanted=wanted) as association:
                accepted = accepted_syntaxes(association)
                if UnifiedProcedureStepPush not in accepted:
                    return str(self._line.not_negotiated(wanted))
                if UnifiedProcedureStepPull not in accepted:
                    return (
                        f"{self._line.where} takes no Unified Procedure Step - Pull: "
                        "tasks can be created there, and the priority of one that exists cannot be raised"
                    )
        except DeliveryError as error:
            return str(error)
        return ""

    def _raise(self, association: Association, uid: str, wanted: UpsPriority, accepted: dict[str, set[str]]) -> str:
        """Raise the priority of the task there is; return what was found where it is left as it is."""
        meta_uid = UnifiedProcedureStepPull if UnifiedProcedureStepPull in accepted else UnifiedProcedureStepPush
        asked = [Tag("ProcedureStepState"), Tag("ScheduledProcedureStepPriority")]
        status, found = self._ask(
            association,
            "N-GET",
            lambda: association.send_n_get(asked, UnifiedProcedureStepPush, uid, meta_uid=meta_uid),
        )
        if (status != SUCCESS and not is_warning(status)) or found is None:
            raise self._refused("N-GET", status)
        state = str(found.get("ProcedureStepState", "") or "")
        if state != SCHEDULED:
            return f"the task is {state if state.replace(' ', '').isalpha() else 'in another state'}: left as it is"
        if _rank(found.get("ScheduledProcedureStepPriority")) >= _RANK[wanted]:
            return ""
        if UnifiedProcedureStepPull not in accepted:
            raise self._line.not_negotiated((UnifiedProcedureStepPull,))
        change = Dataset()
        change.ScheduledProcedureStepPriority = str(wanted)
        status, _ = self._ask(
            association,
            "N-SET",
            lambda: association.send_n_set(change, UnifiedProcedureStepPush, uid, meta_uid=UnifiedProcedureStepPull),
        )
        if status in _FINAL:  # somebody took it between question and change
            return f"the task was taken meanwhile (status 0x{status:04X}): left as it is"
        if status != SUCCESS and not is_warning(status):
            raise self._refused("N-SET", status)
        return "the task was there; its priority was raised"

    def _ask(self, association: Association, request: str, ask: Any) -> tuple[int, Dataset | None]:
        if not association.is_established:
            raise Unreachable(f"{self._line.where} closed the association before {request}")
        started = time.monotonic()
        answer, found = ask()
        if "Status" not in answer:
            raise self._line.no_answer(request, time.monotonic() - started)
        return int(answer.Status), found

    def _refused(self, request: str, status: int) -> Refused:
        word = _WORDS.get(status) or meaning(status)
        error = Refused(f"{self._line.where} answered {request} with 0x{status:04X}, {word}", status)
        error.disposition = Disposition.RETRY if status in _MAY_PASS else Disposition.FAIL
        return error


def task_uid(study_instance_uid: str) -> str:
    """Return the SOP Instance UID of the study's reading task, always the same."""
    return derived_uid("reading-task", study_instance_uid)


def make_task(notice: Notice, retrieve_ae_title: str) -> Dataset:
    """Return the N-CREATE request of the reading task; made of the notice alone, so the same each time."""
    task = Dataset()
    task.SpecificCharacterSet = "ISO_IR 192"
    task.TransactionUID = ""
    task.ProcedureStepState = SCHEDULED
    task.ScheduledProcedureStepPriority = str(ups_priority(parse_ordered(notice.effective)))
    task.ProcedureStepLabel = "Read chest radiograph"
    task.WorklistLabel = "Chest radiographs"
    task.ScheduledProcedureStepStartDateTime = (
        notice.created_at[:19].translate({45: None, 58: None, 84: None}) + "+0000"
    )
    task.InputReadinessState = "READY"
    task.CommentsOnTheScheduledProcedureStep = _text(notice.reason, 1024)
    task.ScheduledWorkitemCodeSequence = [_code("110005", "DCM", "Interpretation")]
    for keyword in (
        "ScheduledProcessingParametersSequence",
        "ScheduledStationNameCodeSequence",
        "ScheduledStationClassCodeSequence",
        "ScheduledStationGeographicLocationCodeSequence",
        "UnifiedProcedureStepPerformedProcedureSequence",
        "ProcedureStepProgressInformationSequence",
        "IssuerOfAdmissionIDSequence",
        "AdmittingDiagnosesCodeSequence",
    ):
        setattr(task, keyword, [])
    task.AdmissionID = task.AdmittingDiagnosesDescription = ""
    task.PatientName = "=".join(_text(group) for group in notice.patient_name.split("=")[:3])
    task.PatientID = _text(notice.patient_id)
    task.IssuerOfPatientID = _text(notice.issuer_of_patient_id)
    task.PatientBirthDate = notice.birth_date if notice.birth_date.isdecimal() else ""
    task.PatientSex = notice.sex if notice.sex in ("M", "F", "O") else ""
    task.StudyInstanceUID = notice.study_instance_uid
    task.InputInformationSequence = _inputs(notice, retrieve_ae_title)
    task.ReferencedRequestSequence = _requests(notice)
    return task


def _inputs(notice: Notice, retrieve_ae_title: str) -> list[Dataset]:
    """Return the study's images, an item a series."""
    by_series: dict[str, list[Dataset]] = {}
    for image in notice.images:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.sop_class_uid, image.sop_instance_uid
        by_series.setdefault(image.series_instance_uid, []).append(item)
    found = []
    for series_instance_uid, images in by_series.items():
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID, item.SeriesInstanceUID = notice.study_instance_uid, series_instance_uid
        item.ReferencedSOPSequence = images
        source = Dataset()
        source.RetrieveAETitle = retrieve_ae_title
        item.DICOMRetrievalSequence = [source]
        found.append(item)
    return found


def _requests(notice: Notice) -> list[Dataset]:
    """Return the order where the study names one. Source: PS3.4 table CC.2.5-3, Referenced Request Sequence."""
    orders = (notice.accession_number, notice.placer_order_number, notice.filler_order_number)
    if not any((*orders, notice.requested_procedure_id)):
        return []
    item = Dataset()
    item.StudyInstanceUID = notice.study_instance_uid
    item.AccessionNumber = _text(notice.accession_number, 16)
    item.PlacerOrderNumberImagingServiceRequest = _text(notice.placer_order_number)
    item.FillerOrderNumberImagingServiceRequest = _text(notice.filler_order_number)
    item.RequestedProcedureID = _text(notice.requested_procedure_id, 16)
    item.RequestedProcedureDescription = _text(notice.study_description)
    item.RequestedProcedureCodeSequence = []
    item.IssuerOfAccessionNumberSequence = []
    item.RequestingPhysician = _text(notice.referring_physician_name)
    return [item]


def _rank(value: Any) -> int:
    """Return the rank of a priority as the peer has it; one that is none of the standard's may be raised."""
    try:
        return _RANK[UpsPriority(str(value))]
    except ValueError:
        return -1


def _code(value: str, scheme: str, word: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, word
    return code


def _text(value: str, length: int = 64) -> str:
    r"""Return text as one value: a ``\`` would make it two, a control character is not allowed. Source: PS3.5 6.2."""
    cleaned = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in value)
    return cleaned.replace("\\", "/")[:length]
