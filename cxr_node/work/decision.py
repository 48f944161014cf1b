"""What becomes of a job whose handler raised: a value, decided apart from the work."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxr_node.errors import CxrNodeError, Disposition
from storage.jobs import backoff_s


@dataclass(frozen=True)
class Retry:
    """Try again at `run_at`."""

    run_at: datetime


@dataclass(frozen=True)
class Fail:
    """Give up; a person has to look."""


@dataclass(frozen=True)
class Drop:
    """Leave the row alone: it is not ours any more."""


def decide(
    error: BaseException, *, attempts: int, max_attempts: int, now: datetime, rng: random.Random
) -> Retry | Fail | Drop:
    """Return what happens next.

    An error that is not the node's own is treated as one that may pass: a bug in a library and a passing fault look
    alike from here, and the attempts bound both.
    """
    disposition = error.disposition if isinstance(error, CxrNodeError) else Disposition.RETRY
    if disposition is Disposition.DROP:
        return Drop()
    if disposition is Disposition.FAIL or attempts >= max_attempts:
        return Fail()
    return Retry(now + timedelta(seconds=backoff_s(attempts, rng)))
