"""What follows from each class of error at a destination: one table, read by the lane and by the rest it takes."""

from dataclasses import dataclass

from cxr_node.deliver.association import RejectedPermanent
from cxr_node.deliver.http import Busy
from cxr_node.errors import AssociationRefused, DeliveryError, Disposition, NotNegotiated, Refused, Unreachable


class NotTakenYet(Refused):
    """The destination answered and could not use this one now: an application error, a study that is not there yet."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.disposition = Disposition.RETRY


class NotAcknowledged(NotTakenYet):
    """The receiving application answered with an error of its own (HL7 AE, CE), or about another message."""


@dataclass(frozen=True)
class Policy:
    """What becomes of the object, and of the others that wait for the same destination.

    `result` is the metric's word; `most_tries` bounds the tries that end in this class, None where `max_attempts` of
    the destination alone does; the destination rests from `first_s`, doubled with each failure in a row, up to
    `longest_s`; no rest where `first_s` is 0, for the next object may fare better.
    """

    result: str
    again: bool
    most_tries: int | None = None
    first_s: float = 0.0
    longest_s: float = 0.0

    @property
    def is_of_destination(self) -> bool:
        """Whether the next object would meet the same."""
        return self.first_s > 0


# Somebody has to change a setting first: no hurry, and no flood in the other side's log.
SLOW_S, SLOWEST_S = 30.0, 300.0
QUICK_S, LONGEST_S = 0.5, 60.0
APPLICATION_TRIES = 8  # with the queue's backoff some four minutes: a lock or a restart in the receiver passes in less

# The first row whose class fits holds. Refused stands for two: its status says whether it may pass.
POLICIES: tuple[tuple[type[DeliveryError], Disposition, Policy], ...] = (
    (RejectedPermanent, Disposition.RETRY, Policy("rejected", True, first_s=SLOW_S, longest_s=SLOWEST_S)),
    (AssociationRefused, Disposition.RETRY, Policy("association-refused", True, first_s=QUICK_S, longest_s=LONGEST_S)),
    (Unreachable, Disposition.RETRY, Policy("unreachable", True, first_s=QUICK_S, longest_s=LONGEST_S)),
    (Busy, Disposition.RETRY, Policy("busy", True, first_s=QUICK_S, longest_s=LONGEST_S)),
    (NotAcknowledged, Disposition.RETRY, Policy("application-error", True, most_tries=APPLICATION_TRIES)),
    (NotTakenYet, Disposition.RETRY, Policy("not-yet", True)),
    (Refused, Disposition.RETRY, Policy("refused", True, first_s=QUICK_S, longest_s=LONGEST_S)),
    (Refused, Disposition.FAIL, Policy("refused", False)),
    (NotNegotiated, Disposition.FAIL, Policy("not-negotiated", False)),
)
_OTHER = {
    Disposition.RETRY: Policy("failed", True),
    Disposition.FAIL: Policy("failed", False),
    Disposition.DROP: Policy("failed", False),
}


def policy_of(error: DeliveryError) -> Policy:
    """Return the row of the error."""
    for kind, disposition, policy in POLICIES:
        if isinstance(error, kind) and error.disposition is disposition:
            return policy
    return _OTHER[error.disposition]
