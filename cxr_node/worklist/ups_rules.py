"""Which attributes of a work item may be created and set, and what a final state needs. Datasets in, findings out.

Source: DICOM PS3.4 table CC.2.5-3, CC.2.5.1.1 (final state), PS3.4 5.4.2.1 (what a missing attribute is answered with).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from datetime import tzinfo as TimeZone

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import RE_VALID_UID

from cxr_node.worklist.items import dicom_date_time, item, sequence
from cxr_node.worklist.ups_states import (
    FINAL_STATE_NOT_MET,
    INVALID_ATTRIBUTE_VALUE,
    MISSING_ATTRIBUTE,
    MISSING_ATTRIBUTE_VALUE,
    NO_SUCH_ATTRIBUTE,
    NOT_SCHEDULED,
    SUCCESS,
)
from storage.work_items import COMPLETED, SCHEDULED


@dataclass(frozen=True)
class Finding:
    """What a check found: SUCCESS, or a status with the attributes that it is about."""

    status: int = SUCCESS
    tags: tuple[BaseTag, ...] = ()


def _tags(*keywords: str) -> frozenset[BaseTag]:
    return frozenset(Tag(keyword) for keyword in keywords)


TRANSACTION_UID = Tag("TransactionUID")
STATE = Tag("ProcedureStepState")
PRIORITY = Tag("ScheduledProcedureStepPriority")
PROGRESS = Tag("ProcedureStepProgressInformationSequence")
PERFORMED = Tag("UnifiedProcedureStepPerformedProcedureSequence")

CREATE_TYPE_1 = _tags(
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
    "ProcedureStepState",
)
CREATE_TYPE_2 = _tags(
    "TransactionUID",
    "WorklistLabel",
    "ScheduledProcessingParametersSequence",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledWorkitemCodeSequence",
    "CommentsOnTheScheduledProcedureStep",
    "InputInformationSequence",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ProcedureStepProgressInformationSequence",
    "UnifiedProcedureStepPerformedProcedureSequence",
)
CREATED_EMPTY = frozenset({TRANSACTION_UID, PROGRESS, PERFORMED})
_NOT_CREATED = _tags("ScheduledProcedureStepModificationDateTime")

NOT_SET = _tags(
    "SOPClassUID",
    "SOPInstanceUID",
    "ProcedureStepState",
    "ScheduledProcedureStepModificationDateTime",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ReplacedProcedureStepSequence",
)
# Type 3/1 of N-SET: may be left out, not be emptied.
_SET_WITH_VALUE = _tags(
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "WorklistLabel",
    "ScheduledProcedureStepStartDateTime",
    "ExpectedCompletionDateTime",
    "InputReadinessState",
)
_DEFINED = {
    PRIORITY: ("HIGH", "MEDIUM", "LOW"),
    Tag("InputReadinessState"): ("INCOMPLETE", "UNAVAILABLE", "READY"),
}
_PERFORMED_WITH_VALUE = (
    "PerformedStationNameCodeSequence",
    "PerformedProcedureStepStartDateTime",
    "PerformedWorkitemCodeSequence",
    "PerformedProcedureStepEndDateTime",
)
UNSPECIFIED_REASON = ("110513", "Discontinued for unspecified reason")  # CID 9300


def check_create(given: Dataset) -> Finding:
    """Check the attributes of N-CREATE."""
    state = str(given.get("ProcedureStepState") or "").strip()
    if state and state != SCHEDULED:
        return Finding(NOT_SCHEDULED, (STATE,))
    missing = _sorted(tag for tag in CREATE_TYPE_1 | CREATE_TYPE_2 if tag not in given)
    if missing:
        return Finding(MISSING_ATTRIBUTE, missing)
    empty = _sorted(tag for tag in CREATE_TYPE_1 if given[tag].is_empty)
    if empty:
        return Finding(MISSING_ATTRIBUTE_VALUE, empty)
    wrong = _sorted(tag for tag in given.keys() & (CREATED_EMPTY | _NOT_CREATED) if not _is_empty(given, tag))
    return Finding(INVALID_ATTRIBUTE_VALUE, wrong) if wrong else _check_values(given)


def check_set(given: Dataset) -> Finding:
    """Check the attributes of N-SET; the Transaction UID is the key of the request and no attribute of it."""
    refused = _sorted(tag for tag in given.keys() if tag in NOT_SET)  # noqa: SIM118  # iterating decodes all values
    if refused:
        return Finding(NO_SUCH_ATTRIBUTE, refused)
    emptied = _sorted(tag for tag in given.keys() & _SET_WITH_VALUE if _is_empty(given, tag))
    return Finding(MISSING_ATTRIBUTE_VALUE, emptied) if emptied else _check_values(given)


def check_final(found: Dataset, state: str) -> Finding:
    """Check what the final state needs.

    To be COMPLETED a work item says who did what from when to when, and with which output, of which there may be none.
    To be CANCELED it needs nothing that the SCP may not add, see `with_reason`.
    """
    if state != COMPLETED:
        return Finding()
    performed = found.get(PERFORMED)
    if performed is None or performed.is_empty or not len(performed.value):
        return Finding(FINAL_STATE_NOT_MET, (PERFORMED,))
    for one in performed.value:
        lacking = _sorted(Tag(keyword) for keyword in _PERFORMED_WITH_VALUE if _is_empty(one, Tag(keyword)))
        if "OutputInformationSequence" not in one:
            lacking += (Tag("OutputInformationSequence"),)
        if lacking:
            return Finding(FINAL_STATE_NOT_MET, lacking)
    return Finding()


def with_reason(progress: Dataset | None, given: Dataset | None, now: datetime, zone: TimeZone) -> Dataset:
    """Return the progress information of a work item that becomes CANCELED: what is there, with the time and the reason
    of cancellation filled in where they are missing.

    Parameters
    ----------
    progress : what the performer set, if it did
    given : the action information of a request to cancel, if that is the cause

    Source: PS3.4 table CC.2.5-3, Procedure Step Cancellation DateTime: the SCP shall fill it.
    """
    found = Dataset() if progress is None else progress
    if _is_empty(found, Tag("ProcedureStepCancellationDateTime")):
        found.ProcedureStepCancellationDateTime = dicom_date_time(now, zone)
    reasons = Tag("ProcedureStepDiscontinuationReasonCodeSequence")
    if given is not None:
        for tag in (Tag("ReasonForCancellation"), reasons):
            if _is_empty(found, tag) and not _is_empty(given, tag):
                found[tag] = given[tag]
    if _is_empty(found, reasons):
        value, meaning = UNSPECIFIED_REASON
        found.ProcedureStepDiscontinuationReasonCodeSequence = sequence(
            item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)
        )
    return found


def is_uid(value: str) -> bool:
    """Whether the text is a UID. Source: PS3.5 9.1."""
    return bool(value) and len(value) <= 64 and re.fullmatch(RE_VALID_UID, value) is not None


def _check_values(given: Dataset) -> Finding:
    wrong = _sorted(
        tag
        for tag, defined in _DEFINED.items()
        if tag in given and str(given[tag].value or "").strip() not in (*defined, "")
    )
    wrong += tuple(element.tag for element in given if not _has_shape(element))
    return Finding(INVALID_ATTRIBUTE_VALUE, wrong) if wrong else Finding()


def _has_shape(element: DataElement) -> bool:
    """Whether the element is a sequence where the standard has one, and none where it has none, all the way down."""
    if dictionary_has_tag(element.tag) and (dictionary_VR(element.tag) == "SQ") != (element.VR == "SQ"):
        return False
    return element.VR != "SQ" or all(_has_shape(inner) for part in element.value for inner in part)


def _is_empty(dataset: Dataset, tag: BaseTag) -> bool:
    if tag not in dataset:
        return True
    element = dataset[tag]
    return element.is_empty or (element.VR == "SQ" and not len(element.value))


def _sorted(tags: Iterable[BaseTag]) -> tuple[BaseTag, ...]:
    return tuple(sorted(tags))
