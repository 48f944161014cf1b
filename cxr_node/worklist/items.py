"""What both DICOM worklists say of a study in the same words: patient, order, dates, coded concepts."""

import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset

from storage.studies import PatientContext

LO_LENGTH, SH_LENGTH = 64, 16


def patient(context: PatientContext) -> Dataset:
    """Return the patient's attributes, all of them, empty where the sender wrote nothing."""
    dataset = Dataset()
    dataset.PatientName = text(context.patient_name)
    dataset.PatientID = text(context.patient_id)
    dataset.IssuerOfPatientID = text(context.issuer_of_patient_id)
    dataset.PatientBirthDate = context.birth_date
    dataset.PatientSex = context.sex
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return an item of a code sequence."""
    dataset = Dataset()
    dataset.CodeValue = value
    dataset.CodingSchemeDesignator = scheme
    dataset.CodeMeaning = meaning
    return dataset


def text(value: str, length: int = LO_LENGTH) -> str:
    r"""Return the text as one value: a ``\`` would make it two, a control character is not allowed in it.

    Source: PS3.5 6.2.
    """
    cleaned = "".join(" " if unicodedata.category(sign) == "Cc" else sign for sign in value)
    return cleaned.replace("\\", "/")[:length]


def dicom_date(at: datetime, zone: ZoneInfo) -> str:
    """Return a DA value in the site's time zone."""
    return at.astimezone(zone).strftime("%Y%m%d")


def dicom_time(at: datetime, zone: ZoneInfo) -> str:
    """Return a TM value in the site's time zone."""
    return at.astimezone(zone).strftime("%H%M%S")


def dicom_date_time(at: datetime, zone: ZoneInfo) -> str:
    """Return a DT value in the site's time zone, without an offset: with one, clients compare it as text and fail."""
    return at.astimezone(zone).strftime("%Y%m%d%H%M%S")
