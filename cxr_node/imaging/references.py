"""References to instances, as messages carry them. What is read came from a peer: nothing in it is trusted."""

import re
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

_UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True)
class Reference:
    """One instance. `failure_reason` is None unless the item tells one."""

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int | None = None


def uid_in(dataset: Dataset, keyword: str) -> str:
    """Return the UID, or an empty string where there is none: absent, several, or not made of digits and dots."""
    try:
        value = dataset.get(keyword)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return ""
    if value is None or isinstance(value, MultiValue | Sequence):
        return ""
    text = str(value).strip(" \0")
    return text if len(text) <= 64 and _UID_FORM.fullmatch(text) else ""


def references_in(dataset: Dataset, keyword: str) -> list[Reference] | None:
    """Return what the items of a sequence refer to, by Referenced SOP Class UID and Referenced SOP Instance UID; an
    absent sequence refers to nothing. None where an item refers to no instance.

    Source: DICOM PS3.3 C.14, table 10-11.
    """
    try:
        items = dataset.get(keyword)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return None
    if items is None:
        return []
    if not isinstance(items, Sequence):
        return None
    found = []
    for item in items:
        reference = Reference(
            uid_in(item, "ReferencedSOPClassUID"), uid_in(item, "ReferencedSOPInstanceUID"), _failure_reason(item)
        )
        if not (reference.sop_class_uid and reference.sop_instance_uid):
            return None
        found.append(reference)
    return found


def _failure_reason(item: Dataset) -> int | None:
    try:
        value = item.get("FailureReason")
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return None
    return value if isinstance(value, int) else None
