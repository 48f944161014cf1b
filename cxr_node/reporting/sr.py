"""The result as a Comprehensive 3D SR, TID 1500, in the style of the IHE AI Results profile.

A report states what was looked at, with what, and what crossed its operating point. It never states absence: a study
that is not flagged has a number and a threshold for each image, and no presence statement at all
(regulatory/decisions/0001). UNVERIFIED and PRELIMINARY always: verifying takes a person.

Sources: DICOM PS3.16 TID 1500, 1501, 1600, 4019, CID 6047; PS3.3 A.35.13, C.17.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from cxr_node.findings import FINDINGS, Code, ImageAnalysis, Score, StudyOutcome
from cxr_node.findings.concepts import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
from cxr_node.reporting import items
from cxr_node.reporting.context import copy_context, requests, text_of
from cxr_node.reporting.items import HAS_ACQ_CONTEXT, HAS_CONCEPT_MOD, HAS_OBS_CONTEXT, INFERRED_FROM, dcm
from cxr_node.reporting.material import Device, Material
from cxr_node.reporting.uids import analysis_key, derived_uid

SERIES_NUMBER = 9001
SERIES_DESCRIPTION = "AI triage result, preliminary, not reviewed"
NOTICE = (
    "Preliminary automated result, not reviewed by a physician. "
    "Research prototype, not cleared for clinical use. A study that is not flagged may still be abnormal."
)
SUSPECTED = Code("415684004", "SCT", "Suspected")
NOT_ANALYSED = Code("NOT-ANALYSED", PRIVATE_SCHEME, "Image not analysed")
PERCENT = Code("%", "UCUM", "Percent")
# CID 6047: (any image excluded, any finding) → code.
SUMMARY = {
    (False, False): dcm("111241", "All algorithms succeeded; without findings"),
    (False, True): dcm("111242", "All algorithms succeeded; with findings"),
    (True, False): dcm("111243", "Not all algorithms succeeded; without findings"),
    (True, True): dcm("111244", "Not all algorithms succeeded; with findings"),
}
NONE_SUCCEEDED = dcm("111245", "No algorithms succeeded; without findings")


def build_sr(material: Material) -> Dataset:
    """Return the report; equal material gives an equal dataset.

    Raises
    ------
    ValueError
        No image, images of more than one patient, or an image without its header.
    """
    outcome, headers, device = material.outcome, material.headers, material.device
    check_material(material)
    first = headers[outcome.images[0].image.sop_instance_uid]
    local = material.content_time.astimezone(material.time_zone)
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    copy_context(report, first)
    report.StudyInstanceUID = outcome.study_instance_uid
    _add_document(report, outcome, device, material.revision, local)
    asked = requests(headers, outcome.study_instance_uid)
    if asked:
        report.ReferencedRequestSequence = asked
    report.CurrentRequestedProcedureEvidenceSequence = evidence(
        outcome.study_instance_uid,
        [
            (item.image.series_instance_uid, item.image.sop_class_uid, item.image.sop_instance_uid)
            for item in outcome.images
        ],
    )
    predecessor = material.predecessors.get("sr")
    if predecessor is not None:
        report.PredecessorDocumentsSequence = evidence(
            str(predecessor.StudyInstanceUID),
            [(str(predecessor.SeriesInstanceUID), str(predecessor.SOPClassUID), str(predecessor.SOPInstanceUID))],
        )
    root = items.container(
        dcm("126000", "Imaging Measurement Report"), _content(outcome, headers, device, local), template="1500"
    )
    del root.RelationshipType
    report.update(root)
    return report


def check_material(material: Material) -> None:
    """Raise ValueError where no document can be made: no image, one without its header, more than one patient."""
    outcome, headers = material.outcome, material.headers
    if not outcome.images:
        raise ValueError("a report needs at least one image as evidence")
    missing = [item for item in outcome.images if item.image.sop_instance_uid not in headers]
    if missing:
        raise ValueError(f"{len(missing)} images of the outcome have no header")
    patients = {
        (str(text_of(header, "PatientID")), str(text_of(header, "IssuerOfPatientID"))) for header in headers.values()
    }
    if len(patients) > 1:
        raise ValueError(f"the images are of {len(patients)} patients: a report is about one")


def _add_document(report: Dataset, outcome: StudyOutcome, device: Device, revision: int, local: datetime) -> None:
    report.SOPClassUID = Comprehensive3DSRStorage
    report.SOPInstanceUID = derived_uid("sr", Comprehensive3DSRStorage, analysis_key(outcome, revision))
    report.InstanceCreationDate = report.ContentDate = local.strftime("%Y%m%d")
    report.InstanceCreationTime = report.ContentTime = local.strftime("%H%M%S")
    report.Modality = "SR"
    report.SeriesInstanceUID = derived_uid("sr-series", outcome.study_instance_uid, device.observer_uid)
    report.SeriesNumber = SERIES_NUMBER
    report.SeriesDescription = SERIES_DESCRIPTION
    report.InstanceNumber = revision
    report.ReferencedPerformedProcedureStepSequence = []
    report.Manufacturer = device.manufacturer
    report.ManufacturerModelName = device.model
    report.DeviceSerialNumber = device.serial_number
    report.SoftwareVersions = device.software_version
    report.StationName = device.name[:16]
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PreliminaryFlag = "PRELIMINARY"
    report.PerformedProcedureCodeSequence = []
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = PRIVATE_SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = device.manufacturer
    report.CodingSchemeIdentificationSequence = [scheme]


def evidence(study_instance_uid: str, instances: Sequence[tuple[str, str, str]]) -> list[Dataset]:
    """Return the item of one study; `instances` are (series instance, SOP class, SOP instance) UIDs."""
    by_series: dict[str, list[Dataset]] = {}
    for series_instance_uid, sop_class_uid, sop_instance_uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        by_series.setdefault(series_instance_uid, []).append(item)
    study = Dataset()
    study.StudyInstanceUID = study_instance_uid
    study.ReferencedSeriesSequence = []
    for series_instance_uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_instance_uid
        series.ReferencedSOPSequence = references
        study.ReferencedSeriesSequence.append(series)
    return [study]


def _content(outcome: StudyOutcome, headers: Mapping[str, Dataset], device: Device, local: datetime) -> list[Dataset]:
    content = [
        items.code(
            dcm("121049", "Language of Content Item and Descendants"),
            Code("en", "RFC5646", "English"),
            HAS_CONCEPT_MOD,
        ),
        items.code(dcm("121005", "Observer Type"), dcm("121007", "Device"), HAS_OBS_CONTEXT),
        items.uid_reference(dcm("121012", "Device Observer UID"), device.observer_uid, HAS_OBS_CONTEXT),
        items.text(dcm("121013", "Device Observer Name"), device.name, HAS_OBS_CONTEXT),
        items.text(dcm("121014", "Device Observer Manufacturer"), device.manufacturer, HAS_OBS_CONTEXT),
        items.text(dcm("121015", "Device Observer Model Name"), device.model, HAS_OBS_CONTEXT),
        items.text(dcm("121016", "Device Observer Serial Number"), device.serial_number, HAS_OBS_CONTEXT),
        items.code(dcm("121058", "Procedure reported"), Code("363679005", "SCT", "Imaging procedure"), HAS_CONCEPT_MOD),
        _image_library(outcome, headers),
    ]
    groups = [
        _measurement_group(item, score, f"Image {number}")
        for number, item in enumerate(outcome.images, start=1)
        for score in item.scores
    ]
    if groups:
        content.append(items.container(dcm("126010", "Imaging Measurements"), groups))
    content.append(_evaluations(outcome, local))
    return content


def _image_library(outcome: StudyOutcome, headers: Mapping[str, Dataset]) -> Dataset:
    by_modality: dict[str, list[Dataset]] = {}
    for item in outcome.images:
        modality = str(text_of(headers[item.image.sop_instance_uid], "Modality")) or "OT"
        by_modality.setdefault(modality, []).append(items.image(item.image, items.CONTAINS))
    groups = [
        items.container(
            dcm("126200", "Image Library Group"),
            [
                items.code(dcm("121139", "Modality"), _modality(modality), HAS_ACQ_CONTEXT),
                *images,
            ],
        )
        for modality, images in by_modality.items()
    ]
    return items.container(dcm("111028", "Image Library"), groups, template="1600")


# CID 29, the modalities a chest study carries; others are named by themselves.
_MODALITIES = {
    "CR": "Computed Radiography",
    "DX": "Digital Radiography",
    "CT": "Computed Tomography",
    "RF": "Radiofluoroscopy",
    "XA": "X-Ray Angiography",
    "MG": "Mammography",
    "US": "Ultrasound",
    "MR": "Magnetic Resonance",
    "NM": "Nuclear Medicine",
    "PT": "Positron emission tomography",
    "OT": "Other Modality",
}


def _modality(value: str) -> Code:
    return dcm(value, _MODALITIES[value]) if value in _MODALITIES else dcm("OT", _MODALITIES["OT"])


def printed_percent(score: Score) -> str:
    """Return the probability as a percentage with one decimal that never contradicts the decision.

    Rounded away from the threshold where plain rounding would cross it: 49.96 below a threshold of 50 prints 49.9.
    """
    value = score.probability * 100
    shown = round(value, 1)
    limit = score.threshold * 100
    if score.flagged and shown < limit:
        shown = math.ceil(value * 10) / 10
    elif not score.flagged and shown >= limit:
        shown = math.floor(value * 10) / 10
    return f"{min(100.0, max(0.0, shown)):.1f}"


def _measurement_group(item: ImageAnalysis, score: Score, label: str) -> Dataset:
    finding = FINDINGS[score.finding]
    tracking = derived_uid("group", item.image.sop_instance_uid, score.model_digest, score.finding)
    children = [
        items.text(dcm("112039", "Tracking Identifier"), f"{label}, {score.finding}, {score.model}", HAS_OBS_CONTEXT),
        items.uid_reference(dcm("112040", "Tracking Unique Identifier"), tracking, HAS_OBS_CONTEXT),
    ]
    if score.flagged:
        children.append(items.code(dcm("121071", "Finding"), finding.code))
    children += [
        items.code(Code("363698007", "SCT", "Finding Site"), finding.site, HAS_CONCEPT_MOD),
        items.text(dcm("111001", "Algorithm Name"), score.model, HAS_CONCEPT_MOD),
        items.text(dcm("111003", "Algorithm Version"), score.model_version, HAS_CONCEPT_MOD),
        *(
            items.text(dcm("111002", "Algorithm Parameters"), parameter, HAS_CONCEPT_MOD)
            for parameter in (
                f"decision threshold = {score.threshold:.6g}",
                f"operating point = {score.operating_point}",
                f"package SHA-256 = {score.model_digest}",
                *item.notes,
            )
        ),
        items.number(finding.probability, printed_percent(score), PERCENT, [items.image(item.image, INFERRED_FROM)]),
    ]
    return items.container(dcm("125007", "Measurement Group"), children, template="1501")


def _evaluations(outcome: StudyOutcome, local: datetime) -> Dataset:
    excluded = outcome.exclusions
    analysed = any(item.scores for item in outcome.images)
    summary = SUMMARY[bool(excluded), outcome.flagged] if analysed else NONE_SUCCEEDED
    children = [items.code(dcm("111017", "CAD Processing and Findings Summary"), summary)]
    for score in outcome.findings:
        if score.flagged:
            statement = items.code(FINDINGS[score.finding].code, SUSPECTED)
            statement.ObservationUID = derived_uid("observation", analysis_key(outcome, 0), score.model, score.finding)
            statement.ObservationDateTime = local.strftime("%Y%m%d%H%M%S")
            children.append(statement)
    for item in excluded:
        assert item.exclusion is not None
        found = f" Found in {item.exclusion.attribute}: '{item.exclusion.value}'." if item.exclusion.value else ""
        entry = items.text(NOT_ANALYSED, f"{item.exclusion.message} ({item.exclusion.reason}).{found}")
        entry.ContentSequence = [items.image(item.image, INFERRED_FROM)]
        children.append(entry)
    children.append(items.text(dcm("121073", "Impression"), impression(outcome)))
    return items.container(Code("C0034375", "UMLS", "Qualitative Evaluations"), children)


def impression(outcome: StudyOutcome) -> str:
    """Return the study's result in a sentence, and what kind of result it is."""
    excluded = len(outcome.exclusions)
    total = len(outcome.images)
    if excluded == total:
        reasons = "; ".join(sorted({item.exclusion.message for item in outcome.exclusions if item.exclusion}))
        sentence = f"AI: not analysed: {reasons}."
    elif outcome.flagged:
        named = ", ".join(sorted({score.finding for score in outcome.findings if score.flagged}))
        sentence = f"AI: flagged for prioritised reading ({named} suspected)."
    else:
        sentence = "AI: not flagged. Nothing crossed the operating point; this does not say that disease is absent."
    if 0 < excluded < total:
        sentence += f" {excluded} of {total} images were not analysed."
    return f"{sentence} {NOTICE}"
