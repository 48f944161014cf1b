"""The notice of a study's priority: what a destination that takes no DICOM objects is told, as fixed bytes.

A message (HL7, label, webhook, UPS) is made from these bytes and from nothing else, so one that is sent again says the
same. It speaks of the study as a whole: no probability, no place, never that a disease is absent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset

from cxr_node.findings import ImageReference, OrderedPriority, StudyOutcome
from cxr_node.reporting.context import text_of
from cxr_node.reporting.uids import derived_uid

SCHEMA = 1


@dataclass(frozen=True)
class Notice:
    """One revision's priority of one study; texts as the sender wrote them, decoded, empty where it wrote nothing.

    `ai` is empty where the AI proposes nothing; `effective` is never below `ordered`, nor below that of an earlier
    notice; `report_uid` is of the revision's SR, empty where it has none; `created_at` is UTC, ISO 8601.
    """

    study_instance_uid: str
    revision: int
    created_at: str
    status: str
    flagged: bool
    ordered: str
    ai: str
    effective: str
    reason: str
    findings: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    exclusions: tuple[str, ...] = ()
    report_uid: str = ""
    report_class_uid: str = ""
    report_series_uid: str = ""
    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    birth_date: str = ""
    sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    modality: str = ""
    placer_order_number: str = ""
    filler_order_number: str = ""
    requested_procedure_id: str = ""
    referring_physician_name: str = ""
    station_name: str = ""
    images: tuple[ImageReference, ...] = field(default_factory=tuple)

    @property
    def uid(self) -> str:
        """Name of this notice: the same study and revision have the same one, always."""
        return derived_uid("notice", self.study_instance_uid, str(self.revision))


_OF_HEADER = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "modality": "Modality",
    "referring_physician_name": "ReferringPhysicianName",
}
_OF_REQUEST = {
    "placer_order_number": "PlacerOrderNumberImagingServiceRequest",
    "filler_order_number": "FillerOrderNumberImagingServiceRequest",
    "requested_procedure_id": "RequestedProcedureID",
}


def make_notice(
    outcome: StudyOutcome,
    headers: Sequence[Dataset],
    *,
    revision: int,
    created_at: datetime,
    ordered: OrderedPriority,
    ai: OrderedPriority | None,
    effective: OrderedPriority,
    report: Dataset | None,
    station_name: str,
) -> Notice:
    """Put the notice together; `headers` are those of the study's images that could be read, and may be none."""
    context: dict[str, str] = {}
    for name, keyword in _OF_HEADER.items():
        context[name] = next((str(text_of(header, keyword)) for header in headers if text_of(header, keyword)), "")
    requests = [item for header in headers for item in header.get("RequestAttributesSequence") or []]
    for name, keyword in _OF_REQUEST.items():
        context[name] = next((str(text_of(item, keyword)) for item in requests if text_of(item, keyword)), "")
    found = sorted({score.finding for score in outcome.findings if score.flagged})
    return Notice(
        study_instance_uid=outcome.study_instance_uid,
        revision=revision,
        created_at=created_at.astimezone(UTC).isoformat(),
        status=str(outcome.status),
        flagged=outcome.flagged,
        ordered=str(ordered),
        ai=str(ai or ""),
        effective=str(effective),
        reason=_reason(outcome, ordered, effective, found),
        findings=tuple(found),
        models=tuple(sorted({f"{score.model} {score.model_version}" for score in outcome.findings})),
        exclusions=tuple(sorted({item.exclusion.message for item in outcome.exclusions if item.exclusion})),
        report_uid=str(report.SOPInstanceUID) if report is not None else "",
        report_class_uid=str(report.SOPClassUID) if report is not None else "",
        report_series_uid=str(report.SeriesInstanceUID) if report is not None else "",
        station_name=station_name,
        images=tuple(item.image for item in outcome.images),
        **context,
    )


def make_failure_notice(
    outcome: StudyOutcome,
    context: Mapping[str, str],
    *,
    flagged: bool,
    revision: int,
    created_at: datetime,
    ordered: OrderedPriority,
    ai: OrderedPriority | None,
    effective: OrderedPriority,
    station_name: str,
) -> Notice:
    """Put the notice of an analysis that was given up together; `outcome` is what an earlier one found, if anything.

    `context` is what the worklist knows of patient and study, by the names of the notice.
    """
    known = {item.name for item in fields(Notice)}
    told = make_notice(
        outcome,
        (),
        revision=revision,
        created_at=created_at,
        ordered=ordered,
        ai=ai,
        effective=effective,
        report=None,
        station_name=station_name,
    )
    kept = "priority as ordered" if effective == ordered else "priority kept as raised"
    values: dict[str, Any] = {name: value for name, value in context.items() if name in known}
    return replace(told, status="failed", flagged=flagged, reason=f"AI triage failed; {kept}", **values)


def _reason(
    outcome: StudyOutcome, ordered: OrderedPriority, effective: OrderedPriority, findings: Sequence[str]
) -> str:
    if outcome.flagged:
        raised = f"priority raised from {ordered}" if effective != ordered else "priority as ordered"
        return f"AI triage: flagged ({', '.join(findings)} suspected); {raised}"
    kept = "priority as ordered" if effective == ordered else "priority kept from an earlier revision"
    if outcome.status == "not_analysed":
        reasons = {item.exclusion.message for item in outcome.exclusions if item.exclusion}
        because = f" ({reasons.pop()})" if len(reasons) == 1 else ""
        return f"AI triage: not analysed{because}; {kept}"
    return f"AI triage: not flagged; {kept}"


def encode_notice(notice: Notice) -> bytes:
    """Return the bytes that are stored: JSON with sorted keys, UTF-8."""
    return json.dumps({"schema": SCHEMA, **asdict(notice)}, sort_keys=True, ensure_ascii=False, indent=1).encode()


def read_notice(data: bytes) -> Notice:
    """Return the notice that `encode_notice` wrote; a key that is not known is left out, as a newer node may add some.

    Raises
    ------
    ValueError
        The bytes are no notice.
    """
    found = json.loads(data)
    if not isinstance(found, dict) or "study_instance_uid" not in found:
        raise ValueError("the stored bytes are no notice of a priority")
    known = {item.name for item in fields(Notice)}
    values: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    for name in ("findings", "models", "exclusions"):
        values[name] = tuple(values.get(name, ()))
    values["images"] = tuple(ImageReference(**item) for item in found.get("images", ()))
    return Notice(**values)
