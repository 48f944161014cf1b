"""What a reader says of a result, as a Structured Report in the style of IHE AI Result Assessment (AIRA).

It refers to the Observation UID of the finding that it is about, and to the report that states it. A finding that was
missed has no Observation UID: there it rejects the report as a whole. UNVERIFIED: the node knows a reader by a login
and by nothing else, and says so.

The codes of scheme 99IHE are those of the profile's public reference implementation (mohannadhussain/ihe-airai,
main.py): AIRAI_01 to _06 name the items, AIRAI_12, _14 and _16 are the statuses.
Sources: DICOM PS3.3 A.35.13, C.17.2, C.18; PS3.16 TID 1003.
"""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from cxr_node.findings import FINDINGS, Code, ImageReference
from cxr_node.findings.concepts import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
from cxr_node.reporting import items
from cxr_node.reporting.document import begin_object, evidence, instance_reference, local_time, reference_to
from cxr_node.reporting.items import CONTAINS, HAS_CONCEPT_MOD, dcm
from cxr_node.reporting.material import Device
from cxr_node.reporting.observers import person_observer
from cxr_node.reporting.sr import add_document, coding_scheme

Verdict = Literal["agree", "disagree", "unsure"]

IHE_SCHEME, IHE_SCHEME_NAME = "99IHE", "IHE Radiology, private codes"
STATUS: dict[Verdict, Code] = {
    "agree": Code("AIRAI_12", IHE_SCHEME, "Accepted"),
    "disagree": Code("AIRAI_16", IHE_SCHEME, "Rejected"),
    "unsure": Code("AIRAI_14", IHE_SCHEME, "Unknown"),
}
ORIGINAL = Code("AIRAI_21", IHE_SCHEME, "Original AI Result Object")
HOW_IDENTIFIED = Code("IDENTIFIED-BY", PRIVATE_SCHEME, "Observer identified by")
_LONGEST_NAME = 64  # of a component group of PN, PS3.5 6.2


@dataclass(frozen=True)
class Assessment:
    """What a reader says of a report.

    Parameters
    ----------
    finding : a key of FINDINGS, or empty for the result as a whole
    reader : login of the node
    """

    verdict: Verdict
    finding: str
    comment: str
    reader: str


def findings_of(report: Dataset) -> dict[str, str]:
    """Return the findings that a report states, each with its Observation UID, the first of several models first."""
    by_code = {(finding.code.value, finding.code.scheme): name for name, finding in FINDINGS.items()}
    found: dict[str, str] = {}
    for container in report.get("ContentSequence") or []:
        for item in container.get("ContentSequence") or []:
            names = item.get("ConceptNameCodeSequence")
            if names and "ObservationUID" in item:
                name = by_code.get((str(names[0].CodeValue), str(names[0].CodingSchemeDesignator)))
                if name is not None:
                    found.setdefault(name, str(item.ObservationUID))
    return found


def build_feedback(
    assessment: Assessment,
    report: Dataset,
    *,
    device: Device,
    content_time: datetime,
    predecessor: Dataset | None = None,
    time_zone: tzinfo | None = None,
) -> Dataset:
    """Return the assessment as a Comprehensive 3D SR.

    Parameters
    ----------
    report : the SR that is assessed, as a destination has it; patient and study are taken from it
    content_time : aware; written in `time_zone`, the system's where None
    predecessor : an earlier assessment by the same reader, which this one replaces
    """
    local = local_time(content_time, report, time_zone)
    study_instance_uid = str(report.StudyInstanceUID)
    key = "\n".join(
        [
            str(report.SOPInstanceUID),
            assessment.reader,
            assessment.verdict,
            assessment.finding,
            assessment.comment,
            content_time.isoformat(),
        ]
    )
    made = begin_object("feedback", Comprehensive3DSRStorage, report, device, study_instance_uid, key=key, local=local)
    made.InstanceNumber = 1
    add_document(made, local)
    made.CodingSchemeIdentificationSequence = [
        coding_scheme(IHE_SCHEME, IHE_SCHEME_NAME, "IHE International"),
        coding_scheme(PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, device.manufacturer),
    ]
    if report.get("ReferencedRequestSequence"):
        made.ReferencedRequestSequence = report.ReferencedRequestSequence
    reference = instance_reference(str(report.SOPClassUID), str(report.SOPInstanceUID))
    reference.PurposeOfReferenceCodeSequence = [items.code_item(ORIGINAL)]
    made.ReferencedInstanceSequence = [reference]
    made.CurrentRequestedProcedureEvidenceSequence = evidence(
        study_instance_uid,
        [(str(report.SeriesInstanceUID), str(report.SOPClassUID), str(report.SOPInstanceUID))],
    )
    if predecessor is not None:
        made.PredecessorDocumentsSequence = reference_to(predecessor)
    root = items.container(
        Code("AIRAI_01", IHE_SCHEME, "Approval Status Object"),
        [
            items.code(
                dcm("121049", "Language of Content Item and Descendants"),
                Code("en", "RFC5646", "English"),
                HAS_CONCEPT_MOD,
            ),
            *person_observer(
                _person_name(assessment.reader),
                HOW_IDENTIFIED,
                f"login '{assessment.reader}' of {device.model}, {device.name}; not verified in any other way",
            ),
            _assessed(assessment, report),
        ],
    )
    del root.RelationshipType
    made.update(root)
    return made


def _assessed(assessment: Assessment, report: Dataset) -> Dataset:
    reference = ImageReference(str(report.SOPInstanceUID), str(report.SOPClassUID), str(report.SeriesInstanceUID))
    observation_uid = findings_of(report).get(assessment.finding, "")
    children = []
    if observation_uid:
        referenced = Code("AIR004", IHE_SCHEME, "Referenced Observation")
        children.append(items.code(Code("AIRAI_03", IHE_SCHEME, "Result Type"), referenced))
    children.append(items.composite(reference, Code("AIRAI_04", IHE_SCHEME, "Referenced Instance"), CONTAINS))
    if observation_uid:
        name = Code("AIR005", IHE_SCHEME, "Referenced Observation UID")
        children.append(items.uid_reference(name, observation_uid))
    status = Code("AIRAI_06", IHE_SCHEME, "Result Assessment Status")
    children.append(items.code(status, STATUS[assessment.verdict]))
    if assessment.finding and not observation_uid:
        children.append(items.text(dcm("121106", "Comment"), _about_unstated(assessment)))
    if assessment.comment:
        children.append(items.text(dcm("121106", "Comment"), assessment.comment))
    return items.container(Code("AIRAI_02", IHE_SCHEME, "Result Assessment"), children)


def _about_unstated(assessment: Assessment) -> str:
    """Return the verdict on a finding that the report does not state."""
    said = {
        "agree": "The reader agrees that {} was not flagged.",
        "disagree": "The reader sees {}, which the result did not flag.",
        "unsure": "The reader is unsure about {}, which the result did not flag.",
    }
    return said[assessment.verdict].format(assessment.finding)


def _person_name(login: str) -> str:
    """Return the login as a family name: nothing in it may end a component, a group or a value."""
    return (
        "".join(" " if character in "^=\\" or not character.isprintable() else character for character in login)[
            :_LONGEST_NAME
        ].strip()
        or "unknown"
    )
