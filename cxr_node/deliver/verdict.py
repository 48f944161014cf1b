"""What was found out about an object that a destination took: a value, decided apart from the asking."""

from dataclasses import dataclass
from enum import Enum

from cxr_node.deliver.statuses import (
    CLASS_INSTANCE_CONFLICT,
    DUPLICATE_TRANSACTION,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SOP_CLASS_NOT_SUPPORTED,
    meaning,
)

COMMITMENT = "storage-commitment"
QUERY = "query"


class Found(Enum):
    """What a look at the destination found, and with it what happens next."""

    HELD = "held"  # proved
    LOST = "lost"  # it has no such object: the same bytes go again
    ANOTHER = "another"  # it holds something else under this UID: a person has to look
    LATER = "later"  # it cannot tell now: ask again
    DENIED = "denied"  # it does not commit, for a reason that will not pass; a query may still find the object
    NO_WAY = "no_way"  # it cannot tell at all, by this method


@dataclass(frozen=True)
class Verdict:
    """What was found, and the sentence that says so; `by` is the method."""

    found: Found
    by: str
    reason: str = ""


_BY_REASON = {
    NO_SUCH_INSTANCE: Found.LOST,
    CLASS_INSTANCE_CONFLICT: Found.ANOTHER,
    PROCESSING_FAILURE: Found.LATER,
    RESOURCE_LIMITATION: Found.LATER,
    DUPLICATE_TRANSACTION: Found.LATER,  # asked again, it is another transaction
    SOP_CLASS_NOT_SUPPORTED: Found.NO_WAY,
}


def of_commitment(where: str, failure_reason: int | None) -> Verdict:
    """Return what a report of storage commitment says; None is the report that the peer keeps the object.

    Source: DICOM PS3.4 J.3.3, PS3.3 C.14.1.1.
    """
    if failure_reason is None:
        return Verdict(Found.HELD, COMMITMENT)
    found = _BY_REASON.get(failure_reason, Found.DENIED)
    said = f"{where} does not commit to the object: 0x{failure_reason:04X}, {meaning(failure_reason)}"
    if found is Found.ANOTHER:
        said += "; it answered Success and kept something else: remove that there, then have the object sent again"
    return Verdict(found, COMMITMENT, said)


@dataclass(frozen=True)
class Held:
    """An instance that a query found; an empty UID is one that the peer does not tell."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class Sought:
    """The instance that a query looks for."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str


def of_query(where: str, sought: Sought, held: Held | None) -> Verdict:
    """Return what a query says that found `held`, or nothing, under the UID sought."""
    if held is None:
        return Verdict(Found.LOST, QUERY, f"{where} answered Success and does not find the object")
    if held.study_instance_uid not in ("", sought.study_instance_uid):
        return Verdict(Found.ANOTHER, QUERY, f"{where} keeps an object of this UID in another study; {_REMOVE}")
    if not held.sop_class_uid:
        return Verdict(Found.NO_WAY, QUERY, f"{where} does not tell the SOP class of what it holds")
    if held.sop_class_uid != sought.sop_class_uid:
        return Verdict(Found.ANOTHER, QUERY, f"{where} keeps an object of another SOP class under this UID; {_REMOVE}")
    return Verdict(Found.HELD, QUERY)


_REMOVE = "it answered Success and dropped what was sent: remove the other there, then have the object sent again"
