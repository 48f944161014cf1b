"""What a peer's statuses mean, by DIMSE or by HTTP: one language for the destinations that store objects."""

from cxr_node.errors import Disposition, Refused

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124
DUPLICATE_TRANSACTION = 0x0131
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700

# PS3.4 B.2.3, PS3.7 C and PS3.3 C.14.1.1: what each failure says, by the bits that count.
_FAMILIES = {0xA700: "out of resources", 0xA900: "dataset does not match SOP class"}
_CODES = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_INSTANCE: "no such SOP Instance",
    0x0117: "invalid SOP Instance",
    CLASS_INSTANCE_CONFLICT: "another SOP class under this UID",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    NOT_AUTHORISED: "not authorised",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
    RESOURCE_LIMITATION: "resource limitation",
}


def meaning(status: int) -> str:
    """Say what a failure status means."""
    known = _CODES.get(status) or _FAMILIES.get(status & 0xFF00)
    if known is None:
        known = "cannot understand the dataset" if status & 0xF000 == 0xC000 else "failure"
    return known


def is_warning(status: int) -> bool:
    """Whether the object is stored all the same. Source: PS3.7 C.2, PS3.4 B.2.3."""
    return status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116)


def storage_failure(who_said: str, status: int, more: str = "") -> Refused:
    """Return the error for an object that was refused; some failures pass, so a second try makes sense.

    Parameters
    ----------
    who_said : "pacs: PACS at 192.0.2.10:104 answered C-STORE"
    """
    error = Refused(f"{who_said} with 0x{status:04X}, {meaning(status)}{more}", status)
    if status in (PROCESSING_FAILURE, RESOURCE_LIMITATION):
        error.disposition = Disposition.RETRY
    return error
