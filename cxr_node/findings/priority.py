"""Priority: ordered, proposed by the AI, effective.

The AI raises or leaves alone; it never lowers (in the manner of 21 CFR 892.2080).
"""

from enum import StrEnum


class OrderedPriority(StrEnum):
    """Defined terms of (0040,1003) Requested Procedure Priority."""

    STAT = "STAT"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    ROUTINE = "ROUTINE"
    LOW = "LOW"


class UpsPriority(StrEnum):
    """Enumerated values of (0074,1200) Scheduled Procedure Step Priority. Source: PS3.3 C.30.2."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


_RANK = {
    OrderedPriority.STAT: 4,
    OrderedPriority.HIGH: 3,
    OrderedPriority.MEDIUM: 2,
    OrderedPriority.ROUTINE: 1,
    OrderedPriority.LOW: 0,
}


def parse_ordered(value: str | None) -> OrderedPriority:
    """Read an ordered priority as a sender wrote it; absent or unknown is ROUTINE, the default of every order."""
    try:
        return OrderedPriority((value or "").strip().upper())
    except ValueError:
        return OrderedPriority.ROUTINE


def effective_priority(ordered: OrderedPriority, ai: OrderedPriority | None) -> OrderedPriority:
    """Return the higher of both; without an AI priority, the ordered one unchanged."""
    if ai is None or _RANK[ai] <= _RANK[ordered]:
        return ordered
    return ai


def ups_priority(priority: OrderedPriority) -> UpsPriority:
    """Map to UPS: STAT and HIGH are HIGH ("urgent or emergent"), ROUTINE and LOW are LOW ("routine or non-urgent")."""
    if _RANK[priority] >= _RANK[OrderedPriority.HIGH]:
        return UpsPriority.HIGH
    return UpsPriority.MEDIUM if priority is OrderedPriority.MEDIUM else UpsPriority.LOW


def rank(priority: OrderedPriority) -> int:
    """Return 0 (LOW) to 4 (STAT), for sorting."""
    return _RANK[priority]


def rank_of(value: str) -> int:
    """Return the rank of an ordered priority as a sender wrote it; see `parse_ordered`."""
    return rank(parse_ordered(value))
