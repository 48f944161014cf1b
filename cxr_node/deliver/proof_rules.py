"""The rules of proof: what to do next for a delivery, and what a verdict leads to. Values in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from cxr_node.deliver.verdict import COMMITMENT, QUERY, Found, Verdict, of_commitment
from cxr_node.settings import Destination
from storage import commitments, deliveries
from storage.commitments import Commitment
from storage.deliveries import Delivery

KIND = "prove"
PROVABLE = ("c-store", "stow-rs")  # kinds of destination

RESENDS = 3  # of an object that the destination has lost
ASKS = 12  # of a destination that cannot tell now
UNREPORTED_ASKS = 3  # of one that takes requests for commitment and never reports
FILED_WITHIN_S = 60.0  # what is not found for longer than this after its delivery is not there


def prove_kind(destination: str) -> str:
    """Return the job kind of a destination's proofs; `storage.commitments.report` schedules it too."""
    return f"{KIND}:{destination}"


@dataclass(frozen=True)
class Nothing:
    """It is settled, or on its way again."""


@dataclass(frozen=True)
class Wait:
    """The peer owes a report."""

    until: datetime


@dataclass(frozen=True)
class Judged:
    """What is known already tells."""

    verdict: Verdict


@dataclass(frozen=True)
class Look:
    """Ask the destination by this method; `expired` are transactions that nobody reported in time."""

    method: str
    expired: tuple[str, ...] = ()
    reason: str = ""


class Consequence(Enum):
    """What a verdict leads to."""

    PROVED = "proved"
    RESEND = "resent"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    AGAIN = "again"
    QUERY = "query"


def next_step(
    delivery: Delivery, known: Sequence[Commitment], destination: Destination, now: datetime
) -> Nothing | Wait | Judged | Look:
    """Return what to do for a delivery whose transactions, oldest first, are `known`.

    A report counts whenever it comes; without one, commitment is asked for, and where nobody reports in time the
    object is looked for by a query if node.toml allows both.
    """
    if delivery.state != deliveries.DELIVERED or delivery.proof not in (
        deliveries.PROOF_ASKED,
        deliveries.PROOF_UNAVAILABLE,
    ):
        return Nothing()
    reported = [item for item in known if item.state in (commitments.COMMITTED, commitments.FAILED)]
    if any(item.state == commitments.COMMITTED for item in reported):
        return Judged(of_commitment(destination.name, None))
    if reported:
        return Judged(of_commitment(destination.name, reported[-1].failure_reason))
    if delivery.proof == deliveries.PROOF_UNAVAILABLE:
        return Nothing()
    if destination.kind == "stow-rs":
        if destination.proof == COMMITMENT:
            reason = f"{destination.name}: a stow-rs destination has no storage commitment; set proof to query or auto"
            return Judged(Verdict(Found.NO_WAY, QUERY, reason))
        return Look(QUERY)
    if QUERY in (destination.proof, delivery.proof_method):
        return Look(QUERY)
    return _next_commitment(known, destination, now)


def _next_commitment(known: Sequence[Commitment], destination: Destination, now: datetime) -> Wait | Judged | Look:
    patience = timedelta(seconds=destination.commit_timeout_s)
    asked = [item for item in known if item.state == commitments.ASKED]
    if asked and now < asked[-1].asked_at + patience:
        return Wait(asked[-1].asked_at + patience)
    # One that is still ASKING was left by a process that died: whether the peer heard of it nobody knows.
    left = tuple(item.transaction_uid for item in known if item.state in (commitments.ASKED, commitments.ASKING))
    unreported = len(asked) + sum(item.state == commitments.EXPIRED for item in known)
    if not asked:
        return Look(COMMITMENT, left)
    reason = (
        f"{destination.name} took the request for storage commitment and did not report within "
        f"{destination.commit_timeout_s:g} s: it must know the node's AE title, host and port, and node.toml must list "
        "it under [[caller]]"
    )
    if destination.proof == "auto":
        return Look(QUERY, left, reason)
    if unreported >= UNREPORTED_ASKS:
        return Judged(Verdict(Found.NO_WAY, COMMITMENT, f"{reason} (asked {unreported} times)"))
    return Look(COMMITMENT, left, reason)


def consequence(verdict: Verdict, delivery: Delivery, destination: Destination, *, asks: int) -> Consequence:
    """Return what a verdict leads to; `asks` is how often commitment was asked for since the object was delivered."""
    if verdict.found is Found.HELD:
        return Consequence.PROVED
    if verdict.found is Found.ANOTHER:
        return Consequence.FAILED
    if verdict.found is Found.LOST:
        return Consequence.RESEND if delivery.resends < RESENDS else Consequence.FAILED
    if verdict.found is Found.LATER and asks < ASKS:
        return Consequence.AGAIN
    if verdict.by == COMMITMENT and destination.proof == "auto":
        return Consequence.QUERY
    return Consequence.UNAVAILABLE if verdict.found is Found.NO_WAY else Consequence.FAILED


def is_too_early(verdict: Verdict, delivery: Delivery, now: datetime) -> bool:
    """Whether a query's miss may only say that the peer has not filed the object yet, or cannot look for it now."""
    if verdict.by != QUERY or verdict.found not in (Found.LOST, Found.NO_WAY) or delivery.proof_at is None:
        return False
    return now < delivery.proof_at + timedelta(seconds=FILED_WITHIN_S)


def resend_after_s(resends: int) -> float:
    """Return how long to wait before the object goes again; what lost it may need time to heal."""
    return 10.0 * 4.0 ** min(resends, 4)


def ask_again_after_s(asks: int) -> float:
    """Return how long to wait before commitment is asked for again."""
    return min(3600.0, 30.0 * 2.0 ** min(asks, 8))
