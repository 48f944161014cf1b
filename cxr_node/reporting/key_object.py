"""Key Object Selection: the flagged images, for displays that lead a reader to key images.

The title is Of Interest: no document title of CID 7010 says "urgent", and 113001, 113037, 113038 and 113039 make a PACS
hide the images. The IOD has no Predecessor Documents Sequence: of several selections the one with the highest instance
number is the newest. Sources: DICOM PS3.3 A.35.4, C.17.6; PS3.16 TID 2010, CID 7010.
"""

from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from cxr_node.findings import Code
from cxr_node.reporting import items
from cxr_node.reporting.context import requests
from cxr_node.reporting.document import begin, evidence, flagged_images, image_evidence, local_of
from cxr_node.reporting.items import CONTAINS, HAS_CONCEPT_MOD, dcm
from cxr_node.reporting.material import Material
from cxr_node.reporting.observers import device_observer

DESCRIPTION = (
    "AI triage: these images crossed an operating point. Preliminary automated result, not reviewed by a physician. "
    "Other images of the study may be abnormal too."
)


def build_kos(material: Material) -> Dataset | None:
    """Return the selection, or None for a study that is not flagged.

    Raises
    ------
    ValueError
        See `begin`.
    """
    chosen = flagged_images(material)
    if not chosen:
        return None
    selection = begin(material, "kos", KeyObjectSelectionDocumentStorage)
    local = local_of(material)
    selection.ContentDate, selection.ContentTime = local.strftime("%Y%m%d"), local.strftime("%H%M%S")
    selection.ReferencedPerformedProcedureStepSequence = []
    study_instance_uid = material.outcome.study_instance_uid
    asked = requests(material.headers, study_instance_uid)
    if asked:
        selection.ReferencedRequestSequence = asked
    selection.CurrentRequestedProcedureEvidenceSequence = evidence(study_instance_uid, image_evidence(chosen))
    root = items.container(
        dcm("113000", "Of Interest"),
        [
            items.code(
                dcm("121049", "Language of Content Item and Descendants"),
                Code("en", "RFC5646", "English"),
                HAS_CONCEPT_MOD,
            ),
            *device_observer(material.device),
            items.text(dcm("113012", "Key Object Description"), DESCRIPTION),
            # TID 2010 row 8: no concept name.
            *(items.image(item.image, CONTAINS) for item in chosen),
        ],
        template="2010",
    )
    del root.RelationshipType
    selection.update(root)
    return selection
