"""The reading of a study as a Unified Procedure Step: a work item that a RIS or PACS may query, claim and complete.

Source: DICOM PS3.4 CC.2.8 and table CC.2.5-3, PS3.3 C.30.2 for the priorities.
"""

import uuid
from collections.abc import Container
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]

from cxr_node.findings import ups_priority
from cxr_node.findings.priority import parse_ordered
from cxr_node.worklist.items import (
    PATIENT,
    SH_LENGTH,
    Work,
    build,
    dicom_date_time,
    empty,
    item,
    name,
    no_items,
    sequence,
    table,
    text,
)
from storage.instances import Instance
from storage.studies import ANALYSED, NOT_ANALYSED, PENDING, Study

WORKLIST_LABEL = "Chest radiograph reading"
PROCEDURE_STEP_LABEL = "Chest radiograph interpretation"
_NAMESPACE = uuid.UUID("9a3c2a52-6c5c-5bb5-9f0e-3d1f6b6f1f0e")


def work_item_uid(study_instance_uid: str, reopened: int = 0) -> str:
    """Return the SOP Instance UID of the study's reading task: the same study has the same one, until it is reopened.

    Parameters
    ----------
    reopened : how often an image came after the study had been read; each time there is a new task, for a completed
        one stays completed (PS3.4 CC.1.1)
    """
    return derived_uid(f"{study_instance_uid} reading {reopened}" if reopened else study_instance_uid)


def derived_uid(name: str) -> str:
    """Return the UID that stands for a name, the same one always. Source: PS3.5 B.2 (UUID derived UID)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, name).int}"


def work_item(work: Work, wanted: Container[BaseTag] | None = None) -> Dataset:
    """Return the reading task of a study, empty where nothing is known.

    Procedure Step State is SCHEDULED until somebody claims the task. Input Readiness State is READY from the first
    image on, analysed or not, since a list filtered by it must not hold back a study that waits for the AI. The
    expected completion is the end of the maximum wait.
    """
    return build(ATTRIBUTES, work, wanted)


def comment(study: Study) -> str:
    """Return in a sentence where the priority comes from. It never says that a disease is absent."""
    raised = parse_ordered(study.effective_priority) != parse_ordered(study.ordered_priority)
    if study.flagged:
        return "Flagged by AI triage; " + ("priority raised" if raised else "priority as ordered")
    priority = "priority kept from an earlier revision" if raised else "priority as ordered"
    if study.status == PENDING:
        return f"AI triage pending; {priority}"
    if study.status == NOT_ANALYSED:
        return f"Not analysed by AI triage; {priority}"
    if study.status == ANALYSED:
        return f"Not flagged by AI triage; {priority}"
    return f"AI triage failed; {priority}"


def modified_at(work: Work) -> datetime:
    """Return when the task last changed: an image, a result, or an act of somebody."""
    known = (work.study.notified_at, work.study.last_received_at, work.changed_at)
    return max(at for at in known if at is not None)


def procedure_step_label(work: Work) -> str:
    """Return what is to be read, in the words of the order where it has some."""
    return text(work.study.context.study_description) or PROCEDURE_STEP_LABEL


def inputs(work: Work) -> DicomSequence:
    """Return the images of the study by series; the study alone where `work` names no images."""
    by_series: dict[str, list[Instance]] = {}
    for instance in work.images:
        if instance.variant == 0:
            by_series.setdefault(instance.series_instance_uid, []).append(instance)
    if not by_series:
        return sequence(_input(work.study))
    found = []
    for series_instance_uid, instances in by_series.items():
        given = _input(work.study)
        given.SeriesInstanceUID = series_instance_uid
        given.ReferencedSOPSequence = sequence(
            *(
                item(ReferencedSOPClassUID=instance.sop_class_uid, ReferencedSOPInstanceUID=instance.sop_instance_uid)
                for instance in instances
            )
        )
        found.append(given)
    return sequence(*found)


def _input(study: Study) -> Dataset:
    # Who sent it has it.
    retrieval = item(RetrieveAETitle=text(study.calling_ae_title, SH_LENGTH))
    return item(
        TypeOfInstances="DICOM",
        StudyInstanceUID=study.study_instance_uid,
        DICOMRetrievalSequence=sequence(retrieval),
    )


def _request(work: Work) -> DicomSequence:
    context = work.study.context
    return sequence(
        item(
            StudyInstanceUID=work.study.study_instance_uid,
            AccessionNumber=text(context.accession_number, SH_LENGTH),
            IssuerOfAccessionNumberSequence=sequence(),
            PlacerOrderNumberImagingServiceRequest="",
            OrderPlacerIdentifierSequence=sequence(),
            FillerOrderNumberImagingServiceRequest="",
            OrderFillerIdentifierSequence=sequence(),
            RequestedProcedureID=text(context.study_id, SH_LENGTH),
            RequestedProcedureDescription=text(context.study_description),
            RequestedProcedureCodeSequence=sequence(),
            ReferringPhysicianName=name(context.referring_physician_name),
            RequestingService="",
        )
    )


def _interpretation(_: Work) -> DicomSequence:
    return sequence(item(CodeValue="110005", CodingSchemeDesignator="DCM", CodeMeaning="Interpretation"))


ATTRIBUTES = PATIENT | table(
    SOPClassUID=lambda _: UnifiedProcedureStepPush,
    SOPInstanceUID=lambda work: work_item_uid(work.study.study_instance_uid, work.study.reopened),
    StudyInstanceUID=lambda work: work.study.study_instance_uid,
    ScheduledProcedureStepPriority=lambda work: str(ups_priority(parse_ordered(work.study.effective_priority))),
    ProcedureStepState=lambda work: work.state,
    InputReadinessState=lambda _: "READY",
    ProcedureStepLabel=procedure_step_label,
    WorklistLabel=lambda _: WORKLIST_LABEL,
    CommentsOnTheScheduledProcedureStep=lambda work: comment(work.study),
    ScheduledProcedureStepModificationDateTime=lambda work: dicom_date_time(modified_at(work), work.zone),
    ScheduledProcedureStepStartDateTime=lambda work: dicom_date_time(work.study.first_received_at, work.zone),
    ExpectedCompletionDateTime=lambda work: dicom_date_time(
        work.study.first_received_at + timedelta(minutes=work.max_wait_min), work.zone
    ),
    ScheduledWorkitemCodeSequence=_interpretation,
    InputInformationSequence=inputs,
    ReferencedRequestSequence=_request,
    ScheduledProcessingParametersSequence=no_items,
    ScheduledStationNameCodeSequence=no_items,
    ScheduledStationClassCodeSequence=no_items,
    ScheduledStationGeographicLocationCodeSequence=no_items,
    ScheduledHumanPerformersSequence=no_items,
    AdmissionID=empty,
    IssuerOfAdmissionIDSequence=no_items,
    AdmittingDiagnosesDescription=empty,
    AdmittingDiagnosesCodeSequence=no_items,
    ProcedureStepProgressInformationSequence=no_items,
    UnifiedProcedureStepPerformedProcedureSequence=no_items,
    ReplacedProcedureStepSequence=no_items,
)
