"""What becomes of a job whose handler raised: a value, decided apart from the work."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from cxr_node.errors import CxrNodeError, Disposition
from storage.errors import StorageBusy, StorageFull
from storage.jobs import backoff_s

STORAGE_PAUSE_S = 2.0  # on average, between two looks whether the storage is back


@dataclass(frozen=True)
class Retry:
    """Try again at `run_at`. One that is not `counted` is nothing that the job did, and takes none of its tries."""

    run_at: datetime
    counted: bool = True


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
    alike from here, and the attempts bound both. A disk that is full or a database that is gone is no fault of the
    job: it waits for as long as that lasts, for the bytes that a sender was answered Success for are there.
    """
    if isinstance(error, StorageBusy | StorageFull):
        return Retry(now + timedelta(seconds=STORAGE_PAUSE_S * (0.5 + rng.random())), counted=False)
    disposition = error.disposition if isinstance(error, CxrNodeError) else Disposition.RETRY
    if disposition is Disposition.DROP:
        return Drop()
    if disposition is Disposition.FAIL or attempts >= max_attempts:
        return Fail()
    return Retry(now + timedelta(seconds=backoff_s(attempts, rng)))
