"""What each role may do. The one table that every route asks; a test walks all routes against it."""

from enum import Enum

ROLES = ("reader", "admin", "auditor", "service")


class Permission(Enum):
    """Something a person or a program may do."""

    READ_STUDIES = "see the worklist and studies"
    ASSESS = "assess results"
    WORK_ITEMS = "claim and update work items"
    TRY_IMAGES = "try images"
    MONITOR = "see the node's metrics and health"
    READ_AUDIT = "read the audit trail"
    ADMINISTER = "administer the node"
    OWN_ACCOUNT = "change their own password"


GRANTS: dict[Permission, frozenset[str]] = {
    Permission.READ_STUDIES: frozenset({"reader", "admin", "service"}),
    Permission.ASSESS: frozenset({"reader", "admin"}),
    Permission.WORK_ITEMS: frozenset({"reader", "admin", "service"}),
    Permission.TRY_IMAGES: frozenset({"reader", "admin"}),
    Permission.MONITOR: frozenset({"reader", "admin", "auditor", "service"}),
    Permission.READ_AUDIT: frozenset({"admin", "auditor"}),
    Permission.ADMINISTER: frozenset({"admin"}),
    Permission.OWN_ACCOUNT: frozenset({"reader", "admin", "auditor"}),
}


def may(role: str, permission: Permission) -> bool:
    """Whether a role has a permission."""
    return role in GRANTS[permission]


def who_may(permission: Permission) -> str:
    """Return the roles that have it, for a message."""
    return " and ".join(role for role in ROLES if role in GRANTS[permission])
