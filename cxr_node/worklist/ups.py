"""The reading of a study as a Unified Procedure Step: a work item that a RIS or PACS may query (Pull, Watch, Query).

Source: DICOM PS3.4 CC.2.8 and table CC.2.5-3, PS3.3 C.30; facts on priority: PS3.3 C.30.2.
"""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]

from cxr_node.findings import ups_priority
from cxr_node.findings.priority import parse_ordered
from cxr_node.worklist import items
from cxr_node.worklist.matching import UTF_8
from storage.instances import Instance
from storage.studies import ANALYSED, NOT_ANALYSED, PENDING, Study

WORKLIST_LABEL = "Chest radiograph reading"
_NAMESPACE = uuid.UUID("9a3c2a52-6c5c-5bb5-9f0e-3d1f6b6f1f0e")


def work_item_uid(study_instance_uid: str) -> str:
    """Return the SOP Instance UID of the study's work item: the same study has the same one, always.

    Source: PS3.5 B.2 (UUID derived UID).
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, study_instance_uid).int}"


def work_item(study: Study, max_wait_min: float, zone: ZoneInfo, images: Sequence[Instance] = ()) -> Dataset:
    """Return the work item of a study, with every attribute this SCP supports, empty where nothing is known.

    Procedure Step State is SCHEDULED: the node does not know who reads. Input Readiness State is READY from the first
    image on, analysed or not, since a list filtered by it must not hold back a study that waits for the AI. The
    expected completion is the end of the maximum wait.

    Parameters
    ----------
    images : lists the series and instances in Input Information Sequence; without it, the study alone
    """
    context = study.context
    dataset = items.patient(context)
    dataset.SpecificCharacterSet = UTF_8
    dataset.SOPClassUID = UnifiedProcedureStepPush
    dataset.SOPInstanceUID = work_item_uid(study.study_instance_uid)
    dataset.StudyInstanceUID = study.study_instance_uid

    dataset.ScheduledProcedureStepPriority = str(ups_priority(parse_ordered(study.effective_priority)))
    dataset.ProcedureStepState = "SCHEDULED"
    dataset.InputReadinessState = "READY"
    dataset.ProcedureStepLabel = items.text(context.study_description) or "Chest radiograph interpretation"
    dataset.WorklistLabel = WORKLIST_LABEL
    dataset.CommentsOnTheScheduledProcedureStep = comment(study)
    dataset.ScheduledProcedureStepModificationDateTime = items.dicom_date_time(
        study.notified_at or study.last_received_at, zone
    )
    dataset.ScheduledProcedureStepStartDateTime = items.dicom_date_time(study.first_received_at, zone)
    dataset.ExpectedCompletionDateTime = items.dicom_date_time(
        study.first_received_at + timedelta(minutes=max_wait_min), zone
    )
    dataset.ScheduledWorkitemCodeSequence = DicomSequence([items.code("110005", "DCM", "Interpretation")])
    dataset.InputInformationSequence = DicomSequence(_inputs(study, images))
    dataset.ReferencedRequestSequence = DicomSequence([_request(study)])
    dataset.AdmissionID = ""
    dataset.AdmittingDiagnosesDescription = ""
    for keyword in (
        "ScheduledProcessingParametersSequence",
        "ScheduledStationNameCodeSequence",
        "ScheduledStationClassCodeSequence",
        "ScheduledStationGeographicLocationCodeSequence",
        "ScheduledHumanPerformersSequence",
        "IssuerOfAdmissionIDSequence",
        "AdmittingDiagnosesCodeSequence",
        "ProcedureStepProgressInformationSequence",
        "ReplacedProcedureStepSequence",
    ):
        setattr(dataset, keyword, DicomSequence())
    return dataset


def comment(study: Study) -> str:
    """Return in a sentence where the priority comes from. It never says that a disease is absent."""
    if study.status == PENDING and not study.revision:
        return "AI triage pending; priority as ordered"
    if study.flagged:
        raised = parse_ordered(study.effective_priority) != parse_ordered(study.ordered_priority)
        return "Flagged by AI triage; " + ("priority raised" if raised else "priority as ordered")
    if study.status == NOT_ANALYSED:
        return "Not analysed by AI triage; priority as ordered"
    if study.status == ANALYSED:
        return "Not flagged by AI triage; priority as ordered"
    return "AI triage failed; priority as ordered"


def _inputs(study: Study, images: Sequence[Instance]) -> list[Dataset]:
    by_series: dict[str, list[Instance]] = {}
    for instance in images:
        if instance.variant == 0:
            by_series.setdefault(instance.series_instance_uid, []).append(instance)
    if not by_series:
        return [_input(study)]
    found = []
    for series_instance_uid, instances in by_series.items():
        dataset = _input(study)
        dataset.SeriesInstanceUID = series_instance_uid
        references = []
        for instance in instances:
            reference = Dataset()
            reference.ReferencedSOPClassUID = instance.sop_class_uid
            reference.ReferencedSOPInstanceUID = instance.sop_instance_uid
            references.append(reference)
        dataset.ReferencedSOPSequence = DicomSequence(references)
        found.append(dataset)
    return found


def _input(study: Study) -> Dataset:
    retrieval = Dataset()
    retrieval.RetrieveAETitle = study.calling_ae_title  # who sent it has it
    dataset = Dataset()
    dataset.TypeOfInstances = "DICOM"
    dataset.StudyInstanceUID = study.study_instance_uid
    dataset.DICOMRetrievalSequence = DicomSequence([retrieval])
    return dataset


def _request(study: Study) -> Dataset:
    context = study.context
    dataset = Dataset()
    dataset.StudyInstanceUID = study.study_instance_uid
    dataset.AccessionNumber = items.text(context.accession_number, items.SH_LENGTH)
    dataset.IssuerOfAccessionNumberSequence = DicomSequence()
    dataset.PlacerOrderNumberImagingServiceRequest = ""
    dataset.OrderPlacerIdentifierSequence = DicomSequence()
    dataset.FillerOrderNumberImagingServiceRequest = ""
    dataset.OrderFillerIdentifierSequence = DicomSequence()
    dataset.RequestedProcedureID = items.text(context.study_id, items.SH_LENGTH)
    dataset.RequestedProcedureDescription = items.text(context.study_description)
    dataset.RequestedProcedureCodeSequence = DicomSequence()
    dataset.ReferringPhysicianName = items.text(context.referring_physician_name)
    dataset.RequestingService = ""
    return dataset
