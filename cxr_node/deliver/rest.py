"""How long a destination is left alone after it failed: one attempt in a while asks whether it is back.

Without it every waiting job would spend its attempts, and a connection time-out each, on a PACS that is down.
"""

from dataclasses import dataclass

from cxr_node.deliver.c_store import RejectedPermanent
from cxr_node.errors import AssociationRefused, Disposition, Refused, Unreachable

FIRST_S, LONGEST_S = 0.5, 60.0
# Somebody has to change a setting first: no hurry, and no flood in the other side's log.
FIRST_PERMANENT_S, LONGEST_PERMANENT_S = 30.0, 300.0


def is_of_destination(error: Exception) -> bool:
    """Whether the next object would meet the same: the destination failed, not this object."""
    if isinstance(error, Refused):
        return error.disposition is Disposition.RETRY
    return isinstance(error, Unreachable | AssociationRefused)


@dataclass(frozen=True)
class Rest:
    """State of one destination; `until` is in seconds of the monotonic clock."""

    failures: int = 0
    until: float = 0.0

    def after(self, error: Exception | None, now: float) -> "Rest":
        """Return the state after an attempt: a success, and a failure of the object alone, end the rest."""
        if error is None or not is_of_destination(error):
            return Rest()
        first, longest = FIRST_S, LONGEST_S
        if isinstance(error, RejectedPermanent):
            first, longest = FIRST_PERMANENT_S, LONGEST_PERMANENT_S
        return Rest(self.failures + 1, now + min(longest, first * 2.0 ** min(self.failures, 16)))
