"""The reading of a study as an item of the Modality Worklist, for whoever can query nothing else.

Requested Procedure Priority is the effective one. Beside the attributes of the information model stand those of the
study's Unified Procedure Step as optional keys (Standard Extended SOP Class), so that a client without UPS, such as
DCMTK's findscu, may ask for Scheduled Procedure Step Priority too.

Source: DICOM PS3.4 table K.6-1.
"""

from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag

from cxr_node.findings.priority import parse_ordered
from cxr_node.worklist import ups
from cxr_node.worklist.items import (
    SH_LENGTH,
    Work,
    dicom_date,
    dicom_time,
    empty,
    item,
    name,
    no_items,
    nothing,
    sequence,
    table,
    text,
)
from storage.work_items import IN_PROGRESS


def _age(work: Work) -> str:
    age = work.study.context.age
    return age if len(age) == 4 and age[:3].isdigit() and age[3] in "DWMY" else ""


def _step(work: Work) -> DicomSequence:
    study, context = work.study, work.study.context
    return sequence(
        item(
            ScheduledStationAETitle=work.station_ae_title,
            ScheduledProcedureStepStartDate=dicom_date(study.first_received_at, work.zone),
            ScheduledProcedureStepStartTime=dicom_time(study.first_received_at, work.zone),
            Modality=text(context.modality, 16),
            ScheduledPerformingPhysicianName="",
            ScheduledProcedureStepDescription=ups.procedure_step_label(work),
            ScheduledStationName="",
            ScheduledProcedureStepLocation="",
            ScheduledProtocolCodeSequence=sequence(),
            PreMedication="",
            ScheduledProcedureStepID=text(context.accession_number, SH_LENGTH),
            RequestedContrastAgent="",
            ScheduledProcedureStepStatus="STARTED" if work.state == IN_PROGRESS else "SCHEDULED",
        )
    )


_OF_THE_WORK_ITEM = {tag: value for tag, value in ups.ATTRIBUTES.items() if tag != Tag("SOPClassUID")}

ATTRIBUTES = _OF_THE_WORK_ITEM | table(
    ScheduledProcedureStepSequence=_step,
    RequestedProcedurePriority=lambda work: str(parse_ordered(work.study.effective_priority)),
    RequestedProcedureID=lambda work: text(work.study.context.study_id, SH_LENGTH),
    RequestedProcedureDescription=lambda work: text(work.study.context.study_description),
    RequestedProcedureComments=lambda work: ups.comment(work.study),
    RequestedProcedureCodeSequence=no_items,
    AccessionNumber=lambda work: text(work.study.context.accession_number, SH_LENGTH),
    ReferringPhysicianName=lambda work: name(work.study.context.referring_physician_name),
    RequestingPhysician=empty,
    StudyID=lambda work: text(work.study.context.study_id, SH_LENGTH),
    StudyDate=lambda work: text(work.study.context.study_date, 8),
    StudyTime=lambda work: text(work.study.context.study_time, 16),
    ReferencedStudySequence=no_items,
    ReferencedPatientSequence=no_items,
    PatientAge=_age,
    PatientWeight=nothing,
    PregnancyStatus=nothing,
    PatientTransportArrangements=empty,
    CurrentPatientLocation=empty,
    ConfidentialityConstraintOnPatientDataDescription=empty,
    PatientState=empty,
    MedicalAlerts=empty,
    Allergies=empty,
    SpecialNeeds=empty,
    PlacerOrderNumberImagingServiceRequest=empty,
    FillerOrderNumberImagingServiceRequest=empty,
)
