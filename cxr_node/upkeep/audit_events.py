"""Which DICOM Audit Message each event of the audit trail becomes, or why it becomes none.

A test finds every event that the code can write and asks for its row. Source of the messages: DICOM PS3.15 A.5.3; of
the codes: PS3.16, CID 400, 401, 402.
"""

from dataclasses import dataclass

# Codes of the message families (CID 400).
APPLICATION_ACTIVITY = ("110100", "Application Activity")
AUDIT_LOG_USED = ("110101", "Audit Log Used")
INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
STUDY_DELETED = ("110105", "DICOM Study Deleted")
EXPORT = ("110106", "Export")
IMPORT = ("110107", "Import")
ORDER_RECORD = ("110109", "Order Record")
PROCEDURE_RECORD = ("110111", "Procedure Record")
QUERY = ("110112", "Query")
SECURITY_ALERT = ("110113", "Security Alert")
USER_AUTHENTICATION = ("110114", "User Authentication")

# Codes of what happened within a family (CID 401).
START = ("110120", "Application Start")
STOP = ("110121", "Application Stop")
LOGIN = ("110122", "Login")
LOGOUT = ("110123", "Logout")
NODE_AUTHENTICATION = ("110126", "Node Authentication")
NETWORK_CONFIGURATION = ("110128", "Network Configuration")
SECURITY_CONFIGURATION = ("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = ("110131", "Software Configuration")
RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")
ATTRIBUTES_CHANGED = ("110135", "Object Security Attributes Changed")
ROLES_CHANGED = ("110136", "Security Roles Changed")
USER_CHANGED = ("110137", "User Security Attributes Changed")

CREATE, READ, UPDATE, DELETE, EXECUTE = "C", "R", "U", "D", "E"
SUCCESS, MINOR, SERIOUS = "0", "4", "8"

# Which way it goes: who acts on the node, who sends to it, where the node sends to.
BY_ACTOR, INTO_NODE, OUT_OF_NODE = "by actor", "into node", "out of node"


@dataclass(frozen=True)
class Row:
    """One message. `family` and `kind` are (code, meaning); `action` and `outcome` are those of A.5.1."""

    family: tuple[str, str]
    action: str
    kind: tuple[str, str] | None = None
    outcome: str = SUCCESS
    way: str = BY_ACTOR


def _alert(kind: tuple[str, str], outcome: str = SUCCESS, way: str = BY_ACTOR) -> Row:
    return Row(SECURITY_ALERT, EXECUTE, kind, outcome, way)


def _accessed(action: str = READ, outcome: str = SUCCESS) -> Row:
    return Row(INSTANCES_ACCESSED, action, None, outcome)


def _procedure(action: str = UPDATE) -> Row:
    return Row(PROCEDURE_RECORD, action)


_QUERY = Row(QUERY, EXECUTE, way=INTO_NODE)
_NO_COMMITMENT = "A.5.3 has no message for storage commitment; the transfer that it is about is told of"
_NO_SUBSCRIPTION = "A.5.3 has no message for subscriptions; what a subscriber reads is told of"

# What came into a study before it was analysed or failed: told of from the rows of its instances, before the entry.
ARRIVAL = Row(INSTANCES_TRANSFERRED, CREATE, way=INTO_NODE)
TELLS_OF_ARRIVALS = ("study_analysed", "study_failed")

EVENTS: dict[str, Row | str] = {
    # the node itself
    "node_started": Row(APPLICATION_ACTIVITY, EXECUTE, START),
    "node_stopped": Row(APPLICATION_ACTIVITY, EXECUTE, STOP),
    "models_loaded": _alert(SOFTWARE_CONFIGURATION),
    "models_not_loaded": _alert(SOFTWARE_CONFIGURATION, SERIOUS),
    "model_changed": _alert(SOFTWARE_CONFIGURATION),
    "monitor_alarm": "A.5.3 has no message for a statistic over many studies; log, metrics and Health tell of it",
    "monitor_reset": "A.5.3 has no message for a statistic over many studies; the entry names who and why",
    "self_test_failed": _alert(SOFTWARE_CONFIGURATION, SERIOUS),
    "clock_set": _alert(SECURITY_CONFIGURATION, MINOR),
    # the trail
    "audit_read": Row(AUDIT_LOG_USED, READ),
    "audit_exported": Row(AUDIT_LOG_USED, READ),
    "audit_chain_head": Row(AUDIT_LOG_USED, READ),
    "audit_chain_verified": Row(AUDIT_LOG_USED, READ),
    "audit_chain_broken": _alert(ATTRIBUTES_CHANGED, SERIOUS),
    "audit_trail_cut": _alert(SECURITY_CONFIGURATION),
    # backups: the whole database goes into a folder, and comes from one
    "backup_made": Row(EXPORT, READ),
    "backup_failed": Row(EXPORT, READ, None, SERIOUS),
    "backup_restored": Row(IMPORT, CREATE),
    # keys of encryption at rest
    "key_made": _alert(SECURITY_CONFIGURATION),
    "key_removed": _alert(SECURITY_CONFIGURATION),
    "key_rotation_begun": _alert(SECURITY_CONFIGURATION),
    "key_rotation_ended": _alert(SECURITY_CONFIGURATION),
    # people
    "signed_in": Row(USER_AUTHENTICATION, EXECUTE, LOGIN),
    "signed_out": Row(USER_AUTHENTICATION, EXECUTE, LOGOUT),
    "sessions_ended": Row(USER_AUTHENTICATION, EXECUTE, LOGOUT),
    "sign_in_failed": Row(USER_AUTHENTICATION, EXECUTE, LOGIN, MINOR),
    "sign_in_refused": _alert(RESTRICTED_FUNCTION, SERIOUS),
    "password_changed": _alert(USER_CHANGED),
    "password_reset": _alert(USER_CHANGED),
    "token_created": _alert(USER_CHANGED),
    "token_revoked": _alert(USER_CHANGED),
    "user_added": _alert(USER_CHANGED),
    "user_disabled": _alert(USER_CHANGED),
    "user_enabled": _alert(USER_CHANGED),
    "user_role_changed": _alert(ROLES_CHANGED),
    # callers
    "association_refused": _alert(NODE_AUTHENTICATION, MINOR, INTO_NODE),
    "associations_refused": _alert(NODE_AUTHENTICATION, MINOR, INTO_NODE),
    "stow_refused": _alert(NODE_AUTHENTICATION, MINOR, INTO_NODE),
    "caller_allowed": _alert(NETWORK_CONFIGURATION),
    "caller_revoked": _alert(NETWORK_CONFIGURATION),
    "destination_paused": _alert(NETWORK_CONFIGURATION),
    "destination_resumed": _alert(NETWORK_CONFIGURATION),
    "destination_tested": "a test sends no patient's data and changes nothing",
    "silence_muted": "it changes what is shown as an alarm, no access and no data",
    # studies that come
    "conflicting_instance": Row(INSTANCES_TRANSFERRED, CREATE, None, MINOR, INTO_NODE),
    "manifest_received": Row(PROCEDURE_RECORD, UPDATE, way=INTO_NODE),
    "images_tried": Row(IMPORT, CREATE),
    "image_sent_to_worklist": Row(IMPORT, CREATE),
    "backfill_planned": Row(QUERY, EXECUTE, way=OUT_OF_NODE),
    "backfill_completed": "each study that was fetched is told of when it arrives",
    "commitment_requested": _NO_COMMITMENT,
    "commitment_reported": _NO_COMMITMENT,
    "commitment_unreportable": _NO_COMMITMENT,
    # orders
    "order_received": Row(ORDER_RECORD, CREATE, way=INTO_NODE),
    "priority_ordered": Row(ORDER_RECORD, UPDATE),
    "order_of_another_patient": Row(ORDER_RECORD, READ, None, MINOR),
    "orders_differ": Row(ORDER_RECORD, READ, None, MINOR),
    # studies in the node
    "study_analysed": _accessed(),
    "study_failed": _accessed(READ, SERIOUS),
    "two_patients": _accessed(READ, MINOR),
    "study_read": _accessed(),
    "image_previewed": _accessed(),
    "heat_map_asked": _accessed(),
    "heat_map_read": _accessed(),
    "feedback_read": _accessed(),
    "feedback_given": _accessed(UPDATE),
    "tried_images_read": _accessed(),
    "study_marked_read": _procedure(),
    "study_reopened": _procedure(),
    "job_retried": _procedure(),
    "job_dismissed": _procedure(),
    "instances_deleted": Row(STUDY_DELETED, DELETE),
    # lists
    "worklist_read": _QUERY,
    "worklist_searched": _QUERY,
    "mwl_queried": _QUERY,
    "ups_queried": _QUERY,
    "ups_searched": _QUERY,
    "ups_read": _procedure(READ),
    "ups_created": _procedure(CREATE),
    "ups_set": _procedure(),
    "ups_claimed": _procedure(),
    "ups_completed": _procedure(),
    "ups_canceled": _procedure(),
    "ups_cancel_requested": _procedure(),
    "ups_subscribed": _NO_SUBSCRIPTION,
    "ups_unsubscribed": _NO_SUBSCRIPTION,
    "ups_subscription_suspended": _NO_SUBSCRIPTION,
    "ups_events_dropped": "nothing left the node",
    # results that leave
    "object_delivered": Row(INSTANCES_TRANSFERRED, READ, way=OUT_OF_NODE),
    "delivery_failed": Row(INSTANCES_TRANSFERRED, READ, None, SERIOUS, OUT_OF_NODE),
    "delivery_lost": Row(INSTANCES_TRANSFERRED, READ, None, SERIOUS, OUT_OF_NODE),
    "delivery_skipped": "nothing left the node",
    "delivery_resent": "what is sent again is told of when it goes",
    "delivery_proof_unavailable": "the transfer is told of; proof moves nothing",
    "delivery_proof_failed": "the transfer is told of; proof moves nothing",
    "result_object_downloaded": Row(EXPORT, READ),
    "feedback_exported": Row(EXPORT, READ),
    "deidentified_export": Row(EXPORT, READ),
}
