"""Content items of a Structured Report, written plainly. Source: DICOM PS3.3 C.17.3, C.18."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from cxr_node.findings import Code, ImageReference

CONTAINS, HAS_OBS_CONTEXT = "CONTAINS", "HAS OBS CONTEXT"
HAS_CONCEPT_MOD, HAS_ACQ_CONTEXT, INFERRED_FROM = "HAS CONCEPT MOD", "HAS ACQ CONTEXT", "INFERRED FROM"
SELECTED_FROM = "SELECTED FROM"


def dcm(value: str, meaning: str) -> Code:
    """Return a code of the DICOM Controlled Terminology (PS3.16 annex D)."""
    return Code(value, "DCM", meaning)


def code_item(code: Code) -> Dataset:
    """Return the code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme
    item.CodeMeaning = code.meaning
    return item


def _item(value_type: str, name: Code | None, relationship: str) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    item.ValueType = value_type
    if name is not None:
        item.ConceptNameCodeSequence = [code_item(name)]
    return item


def container(name: Code, children: Sequence[Dataset], *, template: str = "", relationship: str = CONTAINS) -> Dataset:
    """Return a CONTAINER, its parts SEPARATE; `template` is a TID of DCMR."""
    item = _item("CONTAINER", name, relationship)
    item.ContinuityOfContent = "SEPARATE"
    if template:
        identification = Dataset()
        identification.MappingResource = "DCMR"
        identification.TemplateIdentifier = template
        item.ContentTemplateSequence = [identification]
    if children:
        item.ContentSequence = list(children)
    return item


def code(name: Code, value: Code, relationship: str = CONTAINS, children: Sequence[Dataset] = ()) -> Dataset:
    """Return a CODE item."""
    item = _item("CODE", name, relationship)
    item.ConceptCodeSequence = [code_item(value)]
    if children:
        item.ContentSequence = list(children)
    return item


def text(name: Code, value: str, relationship: str = CONTAINS) -> Dataset:
    """Return a TEXT item."""
    item = _item("TEXT", name, relationship)
    item.TextValue = value
    return item


def person_name(name: Code, value: str, relationship: str = CONTAINS) -> Dataset:
    """Return a PNAME item."""
    item = _item("PNAME", name, relationship)
    item.PersonName = value
    return item


def uid_reference(name: Code, value: str, relationship: str = CONTAINS) -> Dataset:
    """Return a UIDREF item."""
    item = _item("UIDREF", name, relationship)
    item.UID = value
    return item


def number(name: Code, value: str, unit: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """Return a NUM item; `value` is a decimal string, decided elsewhere."""
    item = _item("NUM", name, CONTAINS)
    measured = Dataset()
    measured.MeasurementUnitsCodeSequence = [code_item(unit)]
    measured.NumericValue = value
    item.MeasuredValueSequence = [measured]
    if children:
        item.ContentSequence = list(children)
    return item


def image(
    reference: ImageReference, relationship: str, name: Code | None = None, children: Sequence[Dataset] = ()
) -> Dataset:
    """Return an IMAGE item."""
    item = _item("IMAGE", name, relationship)
    referenced = Dataset()
    referenced.ReferencedSOPClassUID = reference.sop_class_uid
    referenced.ReferencedSOPInstanceUID = reference.sop_instance_uid
    item.ReferencedSOPSequence = [referenced]
    if children:
        item.ContentSequence = list(children)
    return item


def polygon(points: np.ndarray, reference: ImageReference, relationship: str) -> Dataset:
    """Return an SCOORD item: a POLYLINE selected from an image.

    Parameters
    ----------
    points : (points, 2) float32, column and row from the top left corner of the image; closed, last as first

    Source: DICOM PS3.3 C.18.6.
    """
    item = _item("SCOORD", None, relationship)
    item.GraphicType = "POLYLINE"
    item.GraphicData = [float(value) for value in points.ravel()]
    item.ContentSequence = [image(reference, SELECTED_FROM)]
    return item


def composite(reference: ImageReference, name: Code, relationship: str = CONTAINS) -> Dataset:
    """Return a COMPOSITE item: a reference to an object that is no image."""
    item = image(reference, relationship, name)
    item.ValueType = "COMPOSITE"
    return item
