"""The result as a Comprehensive 3D SR, TID 1500, in the style of the IHE AI Results profile.

A report states what was looked at, with what, and what crossed its operating point. It never states absence: a study
that is not flagged has a number and a threshold for each image, and no presence statement at all
(regulatory/decisions/0001). UNVERIFIED and PRELIMINARY always: verifying takes a person.

Sources: DICOM PS3.16 TID 1500, 1501, 1600, 4019, CID 6047; PS3.3 A.35.13, C.17.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from cxr_node.findings import FINDINGS, Code, ImageAnalysis, ImageReference, Score, StudyOutcome
from cxr_node.findings.concepts import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
from cxr_node.reporting import items
from cxr_node.reporting.context import requests, text_of
from cxr_node.reporting.document import begin, evidence, image_evidence, local_of, reference_to
from cxr_node.reporting.items import HAS_ACQ_CONTEXT, HAS_CONCEPT_MOD, HAS_OBS_CONTEXT, INFERRED_FROM, dcm
from cxr_node.reporting.listed import exclusion_groups, images_referred_to
from cxr_node.reporting.material import Material
from cxr_node.reporting.observers import device_observer
from cxr_node.reporting.regions import outlines
from cxr_node.reporting.secondary_capture import shows_heat_map
from cxr_node.reporting.uids import analysis_key, derived_uid

NOTICE = (
    "Preliminary automated result, not reviewed by a physician. "
    "Research prototype, not cleared for clinical use. A study that is not flagged may still be abnormal."
)
SUSPECTED = Code("415684004", "SCT", "Suspected")
NOT_ANALYSED = Code("NOT-ANALYSED", PRIVATE_SCHEME, "Image not analysed")
IMAGE_ANALYSIS = Code("IMAGE-ANALYSIS", PRIVATE_SCHEME, "Analysis of an image")
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
    outcome, headers = material.outcome, material.headers
    referred = images_referred_to(outcome)
    report = begin(material, "sr", Comprehensive3DSRStorage)
    local = local_of(material)
    add_document(report, local)
    report.PreliminaryFlag = "PRELIMINARY"
    report.CodingSchemeIdentificationSequence = [
        coding_scheme(PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, material.device.manufacturer)
    ]
    asked = requests(headers, outcome.study_instance_uid)
    if asked:
        report.ReferencedRequestSequence = asked
    card = _explaining_card(material)
    made = [] if card is None else [(str(card.SeriesInstanceUID), str(card.SOPClassUID), str(card.SOPInstanceUID))]
    report.CurrentRequestedProcedureEvidenceSequence = evidence(
        outcome.study_instance_uid, [*image_evidence(referred), *made]
    )
    predecessor = material.predecessors.get("sr")
    if predecessor is not None:
        report.PredecessorDocumentsSequence = reference_to(predecessor)
    root = items.container(
        dcm("126000", "Imaging Measurement Report"), _content(material, local, card), template="1500"
    )
    del root.RelationshipType
    report.update(root)
    return report


def add_document(report: Dataset, local: datetime) -> None:
    """Write what every Structured Report of the node states of itself. Source: PS3.3 C.17.1, C.17.2."""
    report.ContentDate, report.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    report.ReferencedPerformedProcedureStepSequence = []
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    report.PerformedProcedureCodeSequence = []


def coding_scheme(designator: str, name: str, organization: str) -> Dataset:
    """Return the item that tells whose codes these are. Source: PS3.3 C.12.1.1.1."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = designator
    scheme.CodingSchemeName = name
    scheme.CodingSchemeResponsibleOrganization = organization
    return scheme


def _explaining_card(material: Material) -> Dataset | None:
    card = material.made.get("sc")
    return card if card is not None and shows_heat_map(card) else None


def _content(material: Material, local: datetime, card: Dataset | None) -> list[Dataset]:
    outcome = material.outcome
    content = [
        items.code(
            dcm("121049", "Language of Content Item and Descendants"),
            Code("en", "RFC5646", "English"),
            HAS_CONCEPT_MOD,
        ),
        *device_observer(material.device),
        items.code(dcm("121058", "Procedure reported"), Code("363679005", "SCT", "Imaging procedure"), HAS_CONCEPT_MOD),
        _image_library(images_referred_to(outcome), material.headers),
    ]
    measured: list[Dataset] = []
    told: list[Dataset] = []
    for number, item in enumerate(outcome.images, start=1):
        regions = _regions(material, item)
        for score in item.scores:
            if regions and score.flagged:
                measured.append(_measurement_group(item, score, f"Image {number}", regions[0], card))
            else:
                told.append(_analysis_of_image(item, score, f"Image {number}"))
    # Also where it is empty: OHIF up to 3.9 looks into it unasked.
    content.append(items.container(dcm("126010", "Imaging Measurements"), measured))
    content.append(_evaluations(outcome, local, told))
    return content


def _regions(material: Material, item: ImageAnalysis) -> list[np.ndarray]:
    """Return where the image's heat map is hot; nothing in profile `triage`, which speaks of no place."""
    heat_map = material.heat_maps.get(item.image.sop_instance_uid) if material.profile == "research" else None
    return [] if heat_map is None else outlines(heat_map)


def _image_library(images: Sequence[ImageAnalysis], headers: Mapping[str, Dataset]) -> Dataset:
    by_modality: dict[str, list[Dataset]] = {}
    for item in images:
        modality = str(text_of(headers[item.image.sop_instance_uid], "Modality")) or "OT"
        by_modality.setdefault(modality, []).append(items.image(item.image, items.CONTAINS))
    groups = [
        items.container(
            dcm("126200", "Image Library Group"),
            [
                items.code(dcm("121139", "Modality"), _modality(modality), HAS_ACQ_CONTEXT),
                *library,
            ],
        )
        for modality, library in by_modality.items()
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


def _measurement_group(
    item: ImageAnalysis, score: Score, label: str, region: np.ndarray, card: Dataset | None
) -> Dataset:
    """Return a group of TID 1501: its number is inferred from a region of the image.

    Every number of such a group has coordinates, and one child: OHIF takes the group for something to draw, and fails
    on one that has none (see `_analysis_of_image`).
    """
    children = _identified(item, score, label)
    inferred = items.polygon(region, item.image, INFERRED_FROM)
    children.append(items.number(FINDINGS[score.finding].probability, printed_percent(score), PERCENT, [inferred]))
    if card is not None:
        seen = ImageReference(str(card.SOPInstanceUID), str(card.SOPClassUID), str(card.SeriesInstanceUID))
        children.append(items.image(seen, items.CONTAINS, dcm("130401", "Visual explanation")))
    return items.container(dcm("125007", "Measurement Group"), children, template="1501")


def _analysis_of_image(item: ImageAnalysis, score: Score, label: str) -> Dataset:
    """Return the same content for an image without a region, not as a Measurement Group.

    OHIF 3.8 and 3.9 read coordinates below every number of a group, later ones take the first coordinates of every
    group, with a number or without: a group without coordinates makes one or the other fail. TID 1500 is extensible,
    and nobody looks for groups among the Qualitative Evaluations (regulatory/decisions/0007).
    """
    children = _identified(item, score, label)
    inferred = items.image(item.image, INFERRED_FROM)
    children.append(items.number(FINDINGS[score.finding].probability, printed_percent(score), PERCENT, [inferred]))
    return items.container(IMAGE_ANALYSIS, children)


def _identified(item: ImageAnalysis, score: Score, label: str) -> list[Dataset]:
    """Return what a score is about and what made it. Source: PS3.16 TID 1501, 4019."""
    finding = FINDINGS[score.finding]
    tracking = derived_uid("group", item.image.sop_instance_uid, score.model_digest, score.finding)
    children = [
        items.text(dcm("112039", "Tracking Identifier"), f"{label}, {score.finding}, {score.model}", HAS_OBS_CONTEXT),
        items.uid_reference(dcm("112040", "Tracking Unique Identifier"), tracking, HAS_OBS_CONTEXT),
    ]
    if score.flagged:
        children.append(items.code(dcm("121071", "Finding"), finding.code))
    return [
        *children,
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
    ]


def _evaluations(outcome: StudyOutcome, local: datetime, told: Sequence[Dataset]) -> Dataset:
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
    for group in exclusion_groups(outcome):
        item = group[0]
        assert item.exclusion is not None
        found = f" Found in {item.exclusion.attribute}: '{item.exclusion.value}'." if item.exclusion.value else ""
        number = f" {len(group)} images, of which the first is referred to." if len(group) > 1 else ""
        entry = items.text(NOT_ANALYSED, f"{item.exclusion.message} ({item.exclusion.reason}).{found}{number}")
        entry.ContentSequence = [items.image(item.image, INFERRED_FROM)]
        children.append(entry)
    children.append(items.text(dcm("121073", "Impression"), impression(outcome)))
    return items.container(Code("C0034375", "UMLS", "Qualitative Evaluations"), [*children, *told])


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
    for note in outcome.notes:
        sentence += f" {note}."
    return f"{sentence} {NOTICE}"
