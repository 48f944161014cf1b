"""A report as a person reads it."""

from collections.abc import Iterator

from pydicom.dataset import Dataset

_FLAGS = ("CompletionFlag", "VerificationFlag", "PreliminaryFlag")


def render_text(sr: Dataset) -> str:
    """Return the header's essentials and the content tree, one item a line."""
    lines = [
        f"{sr.SOPClassUID.name}",
        f"Patient     {sr.get('PatientName', '')}  ID {sr.get('PatientID', '')}",
        f"Accession   {sr.get('AccessionNumber', '')}",
        f"Status      {', '.join(str(sr.get(flag)) for flag in _FLAGS if sr.get(flag)) or 'none stated'}",
        f"Content     {sr.ContentDate} {sr.ContentTime}, revision {sr.InstanceNumber}",
        "",
        *_lines(sr, 0),
    ]
    return "\n".join(lines)


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    names = item.get("ConceptNameCodeSequence")
    name = str(names[0].CodeMeaning) if names else ""
    yield f"{'  ' * depth}{_shown(name, _value(item))}"
    for child in item.get("ContentSequence") or []:
        yield from _lines(child, depth + 1)


def _shown(name: str, value: str) -> str:
    return f"{name}: {value}" if name and value else name or value


def _value(item: Dataset) -> str:
    kind = item.ValueType
    if kind == "CODE":
        return str(item.ConceptCodeSequence[0].CodeMeaning)
    if kind == "TEXT":
        return str(item.TextValue)
    if kind == "UIDREF":
        return str(item.UID)
    if kind == "NUM":
        measured = item.MeasuredValueSequence[0]
        return f"{measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    if kind == "PNAME":
        return str(item.PersonName)
    if kind in ("IMAGE", "COMPOSITE"):
        return f"{'image' if kind == 'IMAGE' else 'object'} {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}"
    if kind == "SCOORD":
        points = len(item.GraphicData) // 2
        return f"region of {points} points ({item.GraphicType}, column and row)"
    return ""
