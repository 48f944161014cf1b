"""A Structured Report as a document to read: its content tree, item by item, from the dataset itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.present import names, shown
from storage import results
from storage.errors import StorageError
from storage.results import Result, ResultObject

_DEEPEST = 32  # the node's own reports have five levels
_ALGORITHM_PARAMETERS = "111002"
_FLAGS = ("CompletionFlag", "VerificationFlag", "PreliminaryFlag")


@dataclass(frozen=True)
class Coded:
    """A code in small print, e.g. ``121071 DCM``; empty where there is none."""

    meaning: str
    code: str = ""


@dataclass(frozen=True)
class Item:
    """A content item: its concept, its value in words, a code or UID of the value, and what stands below it."""

    concept: Coded
    value: str
    value_code: str
    uid: str
    kind: str
    children: tuple["Item", ...]


@dataclass(frozen=True)
class Report:
    """A report with what its header says. `predecessor` is the SOP Instance UID of the one it replaces."""

    title: str
    sop_class: str
    sop_instance_uid: str
    patient: str
    patient_id: str
    accession_number: str
    flags: str
    content: str
    predecessor: str
    items: tuple[Item, ...]


def read_report(services: Services, result: Result | None) -> Report | None:
    """Return the report of a result; None without one, or where it cannot be read.

    In profile `triage` its numbers and thresholds are left out: what a triage device shows is the case and its
    priority.
    """
    if result is None:
        return None
    with services.database.read() as connection:
        stored = next((item for item in results.objects(connection, result.id) if item.kind == "sr"), None)
    dataset = None if stored is None else read_object(services, stored)
    if dataset is None:
        return None
    return _report(dataset, with_numbers=services.settings.node.profile == "research")


def read_object(services: Services, stored: ResultObject) -> Dataset | None:
    """Return a result object as a dataset; None where its bytes are gone or are none."""
    try:
        return pydicom.dcmread(BytesIO(services.files.read(stored.location)))
    except (StorageError, OSError, InvalidDicomError):
        return None


def _report(dataset: Dataset, *, with_numbers: bool) -> Report:
    predecessors = dataset.get("PredecessorDocumentsSequence") or []
    referenced = [
        str(instance.get("ReferencedSOPInstanceUID", ""))
        for study in predecessors
        for series in study.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedSOPSequence") or []
    ]
    return Report(
        title=_coded(dataset, "ConceptNameCodeSequence").meaning or "Structured Report",
        sop_class=dataset.SOPClassUID.name if "SOPClassUID" in dataset else "",
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        patient=" · ".join(names(str(dataset.get("PatientName") or ""))),
        patient_id=_text(dataset, "PatientID"),
        accession_number=_text(dataset, "AccessionNumber"),
        flags=", ".join(_text(dataset, flag) for flag in _FLAGS if dataset.get(flag)),
        content=_moment(dataset),
        predecessor=shown(referenced[0]) if referenced else "",
        items=tuple(_items(dataset, with_numbers=with_numbers, depth=0)),
    )


def _items(item: Dataset, *, with_numbers: bool, depth: int) -> Iterator[Item]:
    for child in item.get("ContentSequence") or []:
        if not with_numbers and _is_number(child):
            continue
        value, value_code, uid = _value(child)
        yield Item(
            concept=_coded(child, "ConceptNameCodeSequence"),
            value=value,
            value_code=value_code,
            uid=uid,
            kind=_text(child, "ValueType"),
            children=tuple(_items(child, with_numbers=with_numbers, depth=depth + 1)) if depth < _DEEPEST else (),
        )


def _is_number(item: Dataset) -> bool:
    if _text(item, "ValueType") == "NUM":
        return True
    name = _coded(item, "ConceptNameCodeSequence")
    return name.code.startswith(_ALGORITHM_PARAMETERS) and _text(item, "TextValue").startswith("decision threshold")


def _value(item: Dataset) -> tuple[str, str, str]:
    """Return the value in words, its code, and the UID that it is or refers to."""
    kind = _text(item, "ValueType")
    if kind == "CODE":
        coded = _coded(item, "ConceptCodeSequence")
        return coded.meaning, coded.code, ""
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [Dataset()])[0]
        unit = (measured.get("MeasurementUnitsCodeSequence") or [Dataset()])[0]
        return f"{_text(measured, 'NumericValue')} {_text(unit, 'CodeValue')}".strip(), "", ""
    if kind == "UIDREF":
        return "", "", _text(item, "UID")
    if kind in ("IMAGE", "COMPOSITE"):
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        sop_class = reference.get("ReferencedSOPClassUID")
        name = shown(sop_class.name) if sop_class else "object"
        return name, "", _text(reference, "ReferencedSOPInstanceUID")
    if kind == "SCOORD":
        points = len(item.get("GraphicData") or []) // 2
        return f"region of {points} points", "", ""
    by_kind = {"TEXT": "TextValue", "PNAME": "PersonName", "DATETIME": "DateTime", "DATE": "Date", "TIME": "Time"}
    return _text(item, by_kind.get(kind, "TextValue")), "", ""


def _coded(item: Dataset, keyword: str) -> Coded:
    codes = item.get(keyword) or []
    if not codes:
        return Coded("")
    code = " ".join(part for part in (_text(codes[0], "CodeValue"), _text(codes[0], "CodingSchemeDesignator")) if part)
    return Coded(_text(codes[0], "CodeMeaning"), code)


def _text(item: Dataset, keyword: str) -> str:
    value = item.get(keyword)
    return "" if value is None else shown(str(value))


def _moment(dataset: Dataset) -> str:
    """Return when the content was made, with the zone that the report names; what is no date is left as it is."""
    date, time = _text(dataset, "ContentDate"), _text(dataset, "ContentTime")
    if not (len(date) == 8 and date.isdigit() and len(time) >= 6 and time[:6].isdigit()):
        return f"{date} {time}".strip()
    offset = _text(dataset, "TimezoneOffsetFromUTC")
    zone = f" (UTC{offset})" if offset else ""
    return f"{date[:4]}-{date[4:6]}-{date[6:]} {time[:2]}:{time[2:4]}:{time[4:6]}{zone}"
