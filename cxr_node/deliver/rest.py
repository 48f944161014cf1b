"""How long a destination is left alone after it failed: one attempt in a while asks whether it is back.

Without it every waiting job would spend its attempts, and a connection time-out each, on a PACS that is down.
"""

from dataclasses import dataclass

from cxr_node.deliver.http import Busy
from cxr_node.deliver.policy import LONGEST_S, SLOW_S, SLOWEST_S, policy_of
from cxr_node.errors import DeliveryError

__all__ = ["FIRST_PERMANENT_S", "LONGEST_PERMANENT_S", "LONGEST_S", "Rest"]

FIRST_PERMANENT_S, LONGEST_PERMANENT_S = SLOW_S, SLOWEST_S


@dataclass(frozen=True)
class Rest:
    """State of one destination; `until` is in seconds of whatever clock `after` is given."""

    failures: int = 0
    until: float = 0.0

    def after(self, error: Exception | None, now: float) -> "Rest":
        """Return the state after an attempt: a success, and a failure of the object alone, end the rest.

        A server that says how long it wants to be left alone is believed, up to the hour that `Busy` allows.
        """
        policy = policy_of(error) if isinstance(error, DeliveryError) else None
        if policy is None or not policy.is_of_destination:
            return Rest()
        wait_s = min(policy.longest_s, policy.first_s * 2.0 ** min(self.failures, 16))
        if isinstance(error, Busy) and error.retry_after_s is not None:
            wait_s = max(wait_s, error.retry_after_s)
        return Rest(self.failures + 1, now + wait_s)
