"""What a report takes over from its images: patient, study, request; normalised in form, never in identity."""

import re
from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
OPTIONAL = ("IssuerOfPatientID", "StudyDescription", "PatientAge", "TimezoneOffsetFromUTC")
SEQUENCES = ("IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence", "IssuerOfAccessionNumberSequence")

# What objects and notice tell of an image that was not analysed, by keyword.
TOLD_OF_EXCLUDED = (*TYPE_2, *OPTIONAL, *SEQUENCES, "Modality", "RequestAttributesSequence")

_FORMS = {
    "PatientBirthDate": re.compile(r"\d{8}"),
    "StudyDate": re.compile(r"\d{8}"),
    "PatientSex": re.compile(r"[FMO]"),
    "StudyTime": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    "PatientAge": re.compile(r"\d{3}[DWMY]"),
    "TimezoneOffsetFromUTC": re.compile(r"[+-]\d{4}"),
}


def text_of(header: Dataset, keyword: str) -> Any:
    """Return an attribute's value, empty where it is absent or not of the form the standard asks for.

    Dates and times of the old ACR-NEMA form (``1995.07.20``, ``10:15:30``) are brought to today's.
    """
    value = header.get(keyword)
    if value is None:
        return ""
    text = str(value).strip(" \0")
    if keyword.endswith("Date"):
        text = text.replace(".", "")
    if keyword.endswith("Time"):
        text = text.replace(":", "")
    form = _FORMS.get(keyword)
    if form is not None and not form.fullmatch(text):
        return ""
    return value if keyword.endswith("Name") else text


def copy_context(target: Dataset, source: Dataset) -> None:
    """Copy patient and study of the images."""
    for keyword in TYPE_2:
        setattr(target, keyword, text_of(source, keyword))
    for keyword in OPTIONAL:
        if text_of(source, keyword):
            setattr(target, keyword, text_of(source, keyword))
    for keyword in SEQUENCES:
        if source.get(keyword):
            setattr(target, keyword, source.get(keyword))


def requests(headers: Mapping[str, Dataset], study_instance_uid: str) -> list[Dataset]:
    """Return the items of the Referenced Request Sequence: one for each request that the images name."""
    found: dict[tuple[str, str], Dataset] = {}
    for header in headers.values():
        for attributes in header.get("RequestAttributesSequence") or []:
            item = Dataset()
            item.StudyInstanceUID = study_instance_uid
            item.ReferencedStudySequence = []
            accession = text_of(attributes, "AccessionNumber") or text_of(header, "AccessionNumber")
            item.AccessionNumber = accession
            item.PlacerOrderNumberImagingServiceRequest = text_of(attributes, "PlacerOrderNumberImagingServiceRequest")
            item.FillerOrderNumberImagingServiceRequest = text_of(attributes, "FillerOrderNumberImagingServiceRequest")
            item.RequestedProcedureID = text_of(attributes, "RequestedProcedureID")
            item.RequestedProcedureDescription = text_of(attributes, "RequestedProcedureDescription")
            item.RequestedProcedureCodeSequence = attributes.get("RequestedProcedureCodeSequence") or []
            found.setdefault((accession, item.RequestedProcedureID), item)
    return list(found.values())
