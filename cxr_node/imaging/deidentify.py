"""De-identification: DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile, of one radiograph.

The actions are those of Table E.1-1, as data in ``annex_e.json``. Beyond the profile, what the table does not name is
kept only where it can hold no identity: no private attribute, none that pydicom's dictionary does not know, no free
text but of the equipment, no meaning of a code, no code string but those that describe a radiograph, no date, no bytes
but pixels and lookup tables, no UID that is not the standard's own. The pixels are decoded and written uncompressed: a
compressed image has room for comments, and unused bits and padding have room for text.

Sequences of the actions D, Z/D, X/D and X/Z/D are removed: a radiograph needs none of them. No "Clean" option is
implemented: descriptors are removed, and burned-in annotation is refused by `doubt_about_pixels`, never painted over.
"""

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.decode import stored_values

_TABLE = Path(__file__).with_name("annex_e.json")
_TEXT = frozenset({"AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_TIMES = frozenset({"DA", "DT", "TM"})
# Free text of equipment, of which a whole product line shares each.
_KEPT_TEXT = frozenset(
    {
        0x00080070,  # Manufacturer
        0x00081090,  # Manufacturer's Model Name
        0x00181020,  # Software Versions
    }
)
# Kept where the text has the form of a code.
_CODES = frozenset(
    {
        0x00080100,  # Code Value
        0x00080102,  # Coding Scheme Designator
        0x00080103,  # Coding Scheme Version
        0x00281054,  # Rescale Type
    }
)
# Code strings that describe a radiograph. Any other could be a surname: SMITH is one.
_WORDS = (
    "ORIGINAL DERIVED PRIMARY SECONDARY MONOCHROME1 MONOCHROME2 CR DX DR RG CHEST THORAX LUNG RIB ABDOMEN "
    "PA AP LL RL LLD RLD LLO RLO LAT LATERAL LATERALIS HFS FFS HFP FFP HFDR HFDL ERECT RECUMBENT SUPINE "
    "L R A P H F U B LF RF AF PF LH RH AH PH YES NO NONE LIN LOG DISP IDENTITY INVERSE LINEAR LINEAR_EXACT SIGMOID "
    "DIRECT SCINTILLATOR STORAGE FILM AUTOMATIC MANUAL PULSED CONTINUOUS RECTANGULAR ROUND HEXAGONAL ISOTROPIC "
    "ISO_10918_1 ISO_14495_1 ISO_15444_1 00 01 US OD HU"
)
_CODE_STRINGS = frozenset(_WORDS.split()) | {"FOR PRESENTATION", "FOR PROCESSING"}
_CODE_MEANING = 0x00080104  # anybody's words; the code value says the same
_LUT_DATA = 0x00283006
_CODE_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,15}")
_UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)+")
_OWN = "1.2.840.10008."  # UIDs of the standard
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_CR = "1.2.840.10008.5.1.4.1.1.1"
_DX = ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")
_METHODS = (("113100", "Basic Application Confidentiality Profile"),)
_SHIFTED = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
_SHIFT_DAYS = 3650


@dataclass(frozen=True)
class Pseudonyms:
    """Names, UIDs and days that follow from a secret key alone: the same for the same patient in every export.

    Without the key nobody computes them from a list of patients; with it anybody does, so the key is as secret as the
    names.
    """

    key: bytes

    def patient(self, patient_id: str, issuer: str) -> str:
        """Return the pseudonym of a patient; one without an ID has that of all without."""
        return f"P{self._digest('patient', issuer.strip(), patient_id.strip())[:16].upper()}"

    def uid(self, original: str) -> str:
        """Return the UID in the place of another; source: PS3.5 B.2."""
        return f"2.25.{int(self._digest('uid', original)[:32], 16)}"

    def days(self, patient: str) -> timedelta:
        """Return by how much a patient's dates are moved into the past, 1 to 3650 days."""
        return timedelta(days=1 + int(self._digest("days", patient)[:12], 16) % _SHIFT_DAYS)

    def _digest(self, *parts: str) -> str:
        return hmac.new(self.key, "\0".join(parts).encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def doubt_about_pixels(header: Dataset) -> str:
    """Return why the pixels may show text that names the patient, "" where nothing speaks for it.

    Nobody looks at the pixels here: the header's word is taken. Attributes read: SOP Class UID, (0028,0301) Burned In
    Annotation, (0008,0008) Image Type.
    """
    burned_in = str(header.get("BurnedInAnnotation") or "").strip().upper()
    sop_class = str(header.get("SOPClassUID") or "")
    if burned_in == "YES":
        return "(0028,0301) Burned In Annotation is YES"
    if sop_class.startswith(_SECONDARY_CAPTURE):
        return "a Secondary Capture may show a whole screen"
    if burned_in == "NO":
        return ""
    kinds = [str(value).upper() for value in _values(header.get("ImageType"))]
    if sop_class in (_CR, *_DX) and kinds[:2] == ["ORIGINAL", "PRIMARY"]:
        return ""
    return "(0028,0301) Burned In Annotation is not NO, and the image is no original radiograph"


def deidentify(dataset: Dataset, pseudonyms: Pseudonyms, *, shift_dates: bool = False) -> Dataset:
    """Return a new dataset without identity, with its file meta information, Explicit VR Little Endian.

    Parameters
    ----------
    dataset : with pixels of one frame and one sample; left as it is
    shift_dates : keep dates, each moved by the days of its patient; else they are emptied or removed

    Raises
    ------
    UnreadablePixels
        They do not decode, and so cannot be rid of what may lie beside them.
    """
    patient = pseudonyms.patient(str(dataset.get("PatientID") or ""), str(dataset.get("IssuerOfPatientID") or ""))
    moved = pseudonyms.days(patient) if shift_dates else None
    found = _Cleaner(pseudonyms, moved).cleaned(dataset)
    found.PatientName = found.PatientID = patient
    found.PatientIdentityRemoved = "YES"
    found.DeidentificationMethod = "PS3.15 Annex E Basic Profile; cxr-node"
    found.DeidentificationMethodCodeSequence = Sequence(
        _code(*method) for method in (*_METHODS, *([_SHIFTED] if shift_dates else []))
    )
    found.LongitudinalTemporalInformationModified = "MODIFIED" if shift_dates else "REMOVED"
    found.SpecificCharacterSet = "ISO_IR 192"
    _put_pixels(found, dataset)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(dataset.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta = meta
    return found


class _Cleaner:
    def __init__(self, pseudonyms: Pseudonyms, moved: timedelta | None) -> None:
        self._pseudonyms = pseudonyms
        self._moved = moved

    def cleaned(self, dataset: Dataset) -> Dataset:
        """Return a new dataset of what may stay; sequences are looked through at every depth."""
        found = Dataset()
        for tag in dataset.keys():  # noqa: SIM118  # the tags alone: a value that does not read is not touched
            if tag.is_private or tag.group in (0x0002, 0x7FE0) or not dictionary_has_tag(tag):
                continue
            try:
                element = self._element(dataset[tag])
            except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, UnicodeError):
                continue  # what does not read is not known to be harmless
            if element is not None:
                found.add(element)
        _cut_lookup_table(found)
        return found

    def _element(self, element: DataElement) -> DataElement | None:
        tag, vr = element.tag, element.VR
        if vr == "UN" or (vr not in ("OB or OW", "US or SS") and not _is_expected(tag, vr)):
            return None
        action = action_for(tag)
        if vr in ("DA", "DT") and self._moved is not None and action and tag.group != 0x0010:
            return self._shifted(element, self._moved)
        if not action:
            return self._unnamed(element)
        if action == "X":
            return None
        if vr == "SQ":
            return self._sequence(element) if action == "X/Z/U*" else None
        if action == "U" or vr == "UI":
            return self._uids(element)
        if action in ("Z", "X/Z"):
            return DataElement(tag, vr, None if vr not in _BYTES else b"")
        return self._dummy(tag, vr)

    def _unnamed(self, element: DataElement) -> DataElement | None:
        """What Table E.1-1 does not name: kept where it can hold no identity."""
        tag, vr = element.tag, element.VR
        if vr == "SQ":
            return self._sequence(element)
        if vr == "UI":
            return self._uids(element)
        if tag == _LUT_DATA:
            return element
        if vr in _TIMES or vr in _BYTES or vr == "OB or OW":
            return None
        if tag == _CODE_MEANING:
            return DataElement(tag, vr, "removed")
        if tag in _CODES:
            return element if _CODE_FORM.fullmatch(str(element.value)) else None
        if vr in _TEXT:
            return element if tag in _KEPT_TEXT else None
        if vr == "CS":
            return DataElement(tag, vr, [text for text in _texts(element.value) if text in _CODE_STRINGS])
        if vr in ("AS", "DS", "IS"):
            return DataElement(tag, vr, element.value)  # made anew: numbers, whatever bytes stood for them
        return element

    def _sequence(self, element: DataElement) -> DataElement | None:
        items = [self.cleaned(item) for item in element.value]
        items = [item for item in items if len(item)]
        return DataElement(element.tag, "SQ", Sequence(items)) if items else None

    def _uids(self, element: DataElement) -> DataElement:
        uids = [value if _is_standard(value) else self._pseudonyms.uid(value) for value in _texts(element.value)]
        return DataElement(element.tag, "UI", uids[0] if len(uids) == 1 else uids)

    def _dummy(self, tag: BaseTag, vr: str) -> DataElement | None:
        values: dict[str, Any] = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y"}
        if vr in values:
            return DataElement(tag, vr, values[vr])
        if vr in _TEXT or vr == "CS":
            return DataElement(tag, vr, "REMOVED")
        if vr in _BYTES or vr == "OB or OW":
            return None
        return DataElement(tag, vr, 0)

    @staticmethod
    def _shifted(element: DataElement, moved: timedelta) -> DataElement | None:
        shifted = []
        for text in _texts(element.value):
            # Times are removed with all others, so of a date and time the date stays alone.
            day = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - moved
            shifted.append(f"{day:%Y%m%d}")
        return DataElement(element.tag, element.VR, shifted[0] if len(shifted) == 1 else shifted)


def action_for(tag: BaseTag) -> str:
    """Return the table's action for an attribute, "" where it names it not."""
    actions, repeating = _table()
    action = actions.get(int(tag), "")
    if action:
        return action
    return next((word for pattern, mask, word in repeating if int(tag) & mask == pattern & mask), "")


@cache
def _table() -> tuple[dict[int, str], list[tuple[int, int, str]]]:
    told = json.loads(_TABLE.read_text(encoding="utf-8"))
    repeating = []
    for key, action in told["repeating"].items():
        pattern, _, mask = key.partition("/")
        repeating.append((int(pattern, 16), int(mask, 16), action))
    return {int(key, 16): action for key, action in told["actions"].items()}, repeating


def _put_pixels(found: Dataset, original: Dataset) -> None:
    """Write the stored values of the image, nothing but them: unused bits are cleared, padding is left out."""
    allocated, stored = int(original.BitsAllocated), int(original.BitsStored)
    if allocated not in (8, 16):
        raise UnreadablePixels(f"(0028,0100) Bits Allocated is {allocated}, expected 8 or 16")
    values = stored_values(original).astype(np.int64) & ((1 << stored) - 1)
    if int(original.get("PixelRepresentation") or 0):
        values = np.where(values >> (stored - 1), values - (1 << stored), values)
    data = (values & ((1 << allocated) - 1)).astype("<u1" if allocated == 8 else "<u2").tobytes()
    found.HighBit = stored - 1
    found.add_new(0x7FE00010, "OB" if allocated == 8 else "OW", data + b"\0" * (len(data) % 2))


def _cut_lookup_table(item: Dataset) -> None:
    """Leave a lookup table the entries that its descriptor counts, and nothing after them. Source: PS3.3 C.11.1.1.1."""
    if _LUT_DATA not in item:
        return
    descriptor, data = _values(item.get("LUTDescriptor")), item[_LUT_DATA].value
    if len(descriptor) != 3:
        del item[_LUT_DATA]
        return
    entries = int(descriptor[0]) or 65536
    if isinstance(data, bytes):
        item[_LUT_DATA].value = data[: 2 * entries]
    else:
        item[_LUT_DATA].value = _values(data)[:entries]


def _is_standard(uid: str) -> bool:
    return uid.startswith(_OWN) and _UID_FORM.fullmatch(uid) is not None


def _is_expected(tag: BaseTag, vr: str) -> bool:
    """Whether the dictionary gives the attribute that VR: text under another VR would pass for something else."""
    return vr in dictionary_VR(tag).split(" or ")


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _values(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _texts(value: Any) -> list[str]:
    return [str(item) for item in _values(value)]
