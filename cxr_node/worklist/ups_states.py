"""The states of a Unified Procedure Step: which request is answered how in which state. Values in, a status out.

Source: DICOM PS3.4 CC.1.1, table CC.1.1-2; the statuses are those of tables CC.2.1-2, CC.2.2-2, CC.2.3-3, CC.2.5-4 and
CC.2.6-1, the general ones those of PS3.7 annex C.
"""

from types import MappingProxyType

from storage.work_items import CANCELED, COMPLETED, IN_PROGRESS, SCHEDULED, STATES

SUCCESS = 0x0000
UNSUPPORTED_OPTIONAL_ATTRIBUTES = 0x0001
NO_SUCH_ATTRIBUTE = 0x0105
INVALID_ATTRIBUTE_VALUE = 0x0106
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_OBJECT_INSTANCE = 0x0117
MISSING_ATTRIBUTE = 0x0120
MISSING_ATTRIBUTE_VALUE = 0x0121
NO_SUCH_ACTION = 0x0123
NOT_AUTHORIZED = 0x0124
RESOURCE_LIMITATION = 0x0213
ALREADY_CANCELED = 0xB304
COERCED_VALUES = 0xB305
ALREADY_COMPLETED = 0xB306
NO_LONGER_UPDATABLE = 0xC300
WRONG_TRANSACTION_UID = 0xC301
ALREADY_IN_PROGRESS = 0xC302
ONLY_CREATED_AS_SCHEDULED = 0xC303
FINAL_STATE_NOT_MET = 0xC304
NO_SUCH_WORK_ITEM = 0xC307
UNKNOWN_RECEIVER = 0xC308
NOT_SCHEDULED = 0xC309
NOT_IN_PROGRESS = 0xC310
COMPLETED_ALREADY = 0xC311
PERFORMER_UNREACHABLE = 0xC312
PERFORMER_DECLINES = 0xC313
WRONG_INSTANCE_FOR_ACTION = 0xC314
NO_EVENT_REPORTS = 0xC315

WORDS = MappingProxyType(
    {
        UNSUPPORTED_OPTIONAL_ATTRIBUTES: "Requested optional Attributes are not supported",
        NO_SUCH_ATTRIBUTE: "The attribute may not be set by this request",
        INVALID_ATTRIBUTE_VALUE: "The value of an attribute is not valid",
        PROCESSING_FAILURE: "The request could not be processed",
        DUPLICATE_SOP_INSTANCE: "A work item of this UID exists",
        INVALID_ARGUMENT_VALUE: "The action information is not valid",
        INVALID_OBJECT_INSTANCE: "The UID is not valid",
        MISSING_ATTRIBUTE: "A required attribute is missing",
        MISSING_ATTRIBUTE_VALUE: "A required attribute has no value",
        NO_SUCH_ACTION: "The action type is not known",
        NOT_AUTHORIZED: "The node performs this work item itself",
        RESOURCE_LIMITATION: "The database does not answer; try again",
        ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED",
        COERCED_VALUES: "Coerced invalid values to valid values",
        ALREADY_COMPLETED: "The UPS is already in the requested state of COMPLETED",
        NO_LONGER_UPDATABLE: "The UPS may no longer be updated",
        WRONG_TRANSACTION_UID: "The correct Transaction UID was not provided",
        ALREADY_IN_PROGRESS: "The UPS is already IN PROGRESS",
        ONLY_CREATED_AS_SCHEDULED: "The UPS may only become SCHEDULED via N-CREATE",
        FINAL_STATE_NOT_MET: "The UPS has not met final state requirements",
        NO_SUCH_WORK_ITEM: "The UID is of no UPS managed by this SCP",
        UNKNOWN_RECEIVER: "Receiving AE-TITLE is unknown to this SCP",
        NOT_SCHEDULED: "The provided value of UPS State was not SCHEDULED",
        NOT_IN_PROGRESS: "The UPS is not in the IN PROGRESS state",
        COMPLETED_ALREADY: "The UPS is already COMPLETED",
        PERFORMER_UNREACHABLE: "The performer cannot be contacted",
        PERFORMER_DECLINES: "Performer chooses not to cancel",
        WRONG_INSTANCE_FOR_ACTION: "Specified action not appropriate for specified instance",
        NO_EVENT_REPORTS: "SCP does not support Event Reports",
    }
)

# Requested state, whether the right Transaction UID came with it → state → status. C304 comes on top: a change that
# this table allows is refused as long as the final state requirements are not met.
_CHANGE: dict[tuple[str, bool], dict[str, int]] = {
    (IN_PROGRESS, True): {
        SCHEDULED: SUCCESS,
        IN_PROGRESS: ALREADY_IN_PROGRESS,
        COMPLETED: NO_LONGER_UPDATABLE,
        CANCELED: NO_LONGER_UPDATABLE,
    },
    (COMPLETED, True): {
        SCHEDULED: NOT_IN_PROGRESS,
        IN_PROGRESS: SUCCESS,
        COMPLETED: ALREADY_COMPLETED,
        CANCELED: NO_LONGER_UPDATABLE,
    },
    (CANCELED, True): {
        SCHEDULED: NOT_IN_PROGRESS,
        IN_PROGRESS: SUCCESS,
        COMPLETED: NO_LONGER_UPDATABLE,
        CANCELED: ALREADY_CANCELED,
    },
    (SCHEDULED, True): dict.fromkeys(STATES, ONLY_CREATED_AS_SCHEDULED),
    (SCHEDULED, False): dict.fromkeys(STATES, ONLY_CREATED_AS_SCHEDULED),
    (IN_PROGRESS, False): dict.fromkeys(STATES, WRONG_TRANSACTION_UID),
    (COMPLETED, False): dict.fromkeys(STATES, WRONG_TRANSACTION_UID),
    (CANCELED, False): dict.fromkeys(STATES, WRONG_TRANSACTION_UID),
}

_REQUEST_CANCEL = {
    SCHEDULED: SUCCESS,
    IN_PROGRESS: SUCCESS,
    COMPLETED: COMPLETED_ALREADY,
    CANCELED: ALREADY_CANCELED,
}


def on_change(state: str | None, lock: str, requested: str, transaction_uid: str) -> int:
    """Return the status of N-ACTION Change UPS State.

    Parameters
    ----------
    state : of the work item; None when there is none
    lock : its Transaction UID; any that a SCHEDULED item is asked for with is the right one, for it becomes the lock
    requested : the state asked for
    """
    if state is None:
        return NO_SUCH_WORK_ITEM
    if requested not in STATES:
        return INVALID_ARGUMENT_VALUE
    is_right = bool(transaction_uid) and (state == SCHEDULED or transaction_uid == lock)
    return _CHANGE[requested, is_right][state]


def on_request_cancel(state: str | None) -> int:
    """Return the status of N-ACTION Request UPS Cancel, as far as the state decides it."""
    return NO_SUCH_WORK_ITEM if state is None else _REQUEST_CANCEL[state]


def on_set(state: str | None, lock: str, transaction_uid: str | None) -> int:
    """Return the status of N-SET, as far as the state decides it.

    `transaction_uid` is None where the request has none: to a SCHEDULED item it must have none, to one IN PROGRESS the
    right one. Source: PS3.4 CC.2.6.2, CC.2.6.3.
    """
    if state is None:
        return NO_SUCH_WORK_ITEM
    if state == SCHEDULED:
        return SUCCESS if transaction_uid is None else NOT_IN_PROGRESS
    if state == IN_PROGRESS:
        return SUCCESS if transaction_uid and transaction_uid == lock else WRONG_TRANSACTION_UID
    return NO_LONGER_UPDATABLE


def is_failure(status: int) -> bool:
    """Whether the request was refused; a warning is not."""
    return status not in (SUCCESS, UNSUPPORTED_OPTIONAL_ATTRIBUTES) and status & 0xF000 != 0xB000
