"""The analysis of a study as a Unified Procedure Step: what the node itself does, for whoever watches its worklist.

It is SCHEDULED while the study waits, IN PROGRESS while its job is leased, COMPLETED with the result objects, CANCELED
with a reason where analysis was given up. A final state stays: a study that a late image opens again has a task more.

Source: DICOM PS3.4 CC.2.8 and table CC.2.5-3; IHE AI Workflow for Imaging.
"""

from collections.abc import Container, Sequence
from datetime import datetime
from datetime import tzinfo as TimeZone

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pynetdicom.sop_class import UnifiedProcedureStepPush  # type: ignore[attr-defined]

from cxr_node.worklist import ups
from cxr_node.worklist.items import SH_LENGTH, Work, build, dicom_date_time, item, sequence, table, text
from storage import jobs
from storage.results import ResultObject
from storage.studies import FAILED, PENDING
from storage.work_items import CANCELED, COMPLETED, IN_PROGRESS, SCHEDULED, WorkItem

WORKLIST_LABEL = "Chest radiograph AI triage"
PROCEDURE_STEP_LABEL = "Chest radiograph AI triage"
EQUIPMENT_FAILURE = ("110501", "Equipment failure")  # CID 9300
_DETECTION = ("110004", "Computer Aided Detection")  # CID 9231


def ai_work_item_uid(study_instance_uid: str, number: int) -> str:
    """Return the UID of the study's `number`-th analysis, 1 for the first."""
    return ups.derived_uid(f"ai:{number}:{study_instance_uid}")


def derived_state(status: str, job_state: str) -> str:
    """Return the state that the study's analysis is in.

    Parameters
    ----------
    status : of the study
    job_state : of its analyze job while that is open, else empty
    """
    if job_state == jobs.IN_PROGRESS:
        return IN_PROGRESS
    if job_state == jobs.SCHEDULED or status == PENDING:
        return SCHEDULED
    return CANCELED if status == FAILED else COMPLETED


def work_item(work: Work, row: WorkItem, wanted: Container[BaseTag] | None = None) -> Dataset:
    """Return the task without what was set on its row."""
    found = build(ATTRIBUTES, work, wanted)
    if wanted is None or Tag("SOPInstanceUID") in wanted:
        found.SOPInstanceUID = row.sop_instance_uid
    return found


def performed(
    station_name: str,
    started_at: datetime,
    zone: TimeZone,
    *,
    ended_at: datetime | None = None,
    study_instance_uid: str = "",
    series: Sequence[tuple[str, ResultObject]] = (),
    retrieve_ae_titles: Sequence[str] = (),
) -> DicomSequence:
    """Return the Performed Procedure Sequence; with `ended_at` it says what came out.

    Parameters
    ----------
    series : Series Instance UID and result object, the DICOM objects only
    retrieve_ae_titles : of the destinations that have them
    """
    done = item(
        PerformedStationNameCodeSequence=sequence(
            item(
                CodeValue=text(station_name, SH_LENGTH) or "cxr-node",
                CodingSchemeDesignator="99CXRNODE",
                CodeMeaning=text(station_name) or "cxr-node",
            )
        ),
        PerformedStationClassCodeSequence=sequence(),
        PerformedStationGeographicLocationCodeSequence=sequence(),
        PerformedProcedureStepDescription=PROCEDURE_STEP_LABEL,
        PerformedProcedureStepStartDateTime=dicom_date_time(started_at, zone),
        PerformedWorkitemCodeSequence=sequence(_code(*_DETECTION)),
        PerformedProcessingParametersSequence=sequence(),
        OutputInformationSequence=sequence(),
    )
    if ended_at is not None:
        done.PerformedProcedureStepEndDateTime = dicom_date_time(ended_at, zone)
        done.OutputInformationSequence = _outputs(study_instance_uid, series, retrieve_ae_titles)
    return sequence(done)


def failed_progress(now: datetime, zone: TimeZone, reason: str) -> DicomSequence:
    """Return the Progress Information Sequence of an analysis that was given up."""
    return sequence(
        item(
            ProcedureStepCancellationDateTime=dicom_date_time(now, zone),
            ReasonForCancellation=text(reason, 1024) or "analysis was given up",
            ProcedureStepDiscontinuationReasonCodeSequence=sequence(_code(*EQUIPMENT_FAILURE)),
        )
    )


def _outputs(
    study_instance_uid: str, series: Sequence[tuple[str, ResultObject]], retrieve_ae_titles: Sequence[str]
) -> DicomSequence:
    by_series: dict[str, list[ResultObject]] = {}
    for series_instance_uid, found in series:
        by_series.setdefault(series_instance_uid, []).append(found)
    return sequence(
        *(
            item(
                TypeOfInstances="DICOM",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=series_instance_uid,
                ReferencedSOPSequence=sequence(
                    *(
                        item(ReferencedSOPClassUID=one.sop_class_uid, ReferencedSOPInstanceUID=one.sop_instance_uid)
                        for one in objects
                    )
                ),
                DICOMRetrievalSequence=sequence(*(item(RetrieveAETitle=title) for title in retrieve_ae_titles)),
            )
            for series_instance_uid, objects in by_series.items()
        )
    )


def _code(value: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


ATTRIBUTES = ups.ATTRIBUTES | table(
    SOPClassUID=lambda _: UnifiedProcedureStepPush,
    ProcedureStepLabel=lambda _: PROCEDURE_STEP_LABEL,
    WorklistLabel=lambda _: WORKLIST_LABEL,
    ScheduledWorkitemCodeSequence=lambda _: sequence(_code(*_DETECTION)),
)
