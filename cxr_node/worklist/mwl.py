"""The reading of a study as an item of the Modality Worklist, for whoever can query nothing else.

Source: DICOM PS3.4 table K.6-1.
"""

from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from cxr_node.findings.priority import parse_ordered
from cxr_node.worklist import items
from cxr_node.worklist.ups import comment, work_item
from storage.studies import Study


def worklist_item(study: Study, max_wait_min: float, zone: ZoneInfo, station_ae_title: str) -> Dataset:
    """Return the item of a study, with every attribute this SCP supports, empty where nothing is known.

    Requested Procedure Priority is the effective one. Beside the attributes of the information model stand those of the
    study's Unified Procedure Step as optional keys (Standard Extended SOP Class, PS3.4 4.1), so that a client without
    UPS, such as DCMTK's findscu, may ask for Scheduled Procedure Step Priority too.
    """
    context = study.context
    dataset = work_item(study, max_wait_min, zone)
    del dataset.SOPClassUID
    dataset.PatientAge = context.age if len(context.age) == 4 else ""
    dataset.PatientWeight = None
    dataset.AccessionNumber = items.text(context.accession_number, items.SH_LENGTH)
    dataset.ReferringPhysicianName = items.text(context.referring_physician_name)
    dataset.StudyID = items.text(context.study_id, items.SH_LENGTH)
    dataset.StudyDate = context.study_date
    dataset.StudyTime = context.study_time
    dataset.RequestedProcedureID = items.text(context.study_id, items.SH_LENGTH)
    dataset.RequestedProcedureDescription = items.text(context.study_description)
    dataset.RequestedProcedurePriority = str(parse_ordered(study.effective_priority))
    dataset.RequestedProcedureComments = comment(study)
    for keyword in (
        "RequestingPhysician",
        "PatientTransportArrangements",
        "CurrentPatientLocation",
        "ConfidentialityConstraintOnPatientDataDescription",
        "PatientState",
        "MedicalAlerts",
        "Allergies",
        "SpecialNeeds",
        "PlacerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequest",
    ):
        setattr(dataset, keyword, "")
    dataset.PregnancyStatus = None
    for keyword in ("RequestedProcedureCodeSequence", "ReferencedStudySequence", "ReferencedPatientSequence"):
        setattr(dataset, keyword, DicomSequence())

    step = Dataset()
    step.ScheduledStationAETitle = station_ae_title
    step.ScheduledProcedureStepStartDate = items.dicom_date(study.first_received_at, zone)
    step.ScheduledProcedureStepStartTime = items.dicom_time(study.first_received_at, zone)
    step.Modality = context.modality
    step.ScheduledPerformingPhysicianName = ""
    step.ScheduledProcedureStepDescription = dataset.ProcedureStepLabel
    step.ScheduledStationName = ""
    step.ScheduledProcedureStepLocation = ""
    step.ScheduledProtocolCodeSequence = DicomSequence()
    step.PreMedication = ""
    step.ScheduledProcedureStepID = items.text(context.accession_number, items.SH_LENGTH)
    step.RequestedContrastAgent = ""
    step.ScheduledProcedureStepStatus = "SCHEDULED"
    dataset.ScheduledProcedureStepSequence = DicomSequence([step])
    return dataset
