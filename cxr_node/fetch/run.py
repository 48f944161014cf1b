"""A back-catalogue run: study after study, at a rate, each step in the database before the next begins."""

import contextlib
import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cxr_node.errors import CxrNodeError, SourceRefused, SourceUnavailable
from cxr_node.fetch.query import Fetched, Source
from storage import Database, audit, backfills
from storage.backfills import FAILED, FETCHED, FETCHING, PLANNED, SKIPPED, BackfillStudy

ATTEMPTS = 3
PAUSES_S = (2.0, 10.0)  # between the attempts of a study
IN_A_ROW = 3  # studies that a silent source costs before the run stops and waits for a person
ACTOR = "backfill"


@dataclass(frozen=True)
class Progress:
    """What became of a study, and how far the run is."""

    study: BackfillStudy
    state: str
    reason: str
    number: int
    of: int


class Runner:
    """Works through one run.

    Parameters
    ----------
    rate_per_min : most studies asked for in a minute; 0 for no limit
    tell : is given each study's end
    stop : ends the run between two studies, and every wait
    """

    def __init__(
        self,
        database: Database,
        source: Source,
        *,
        rate_per_min: float,
        now: Callable[[], datetime],
        tell: Callable[[Progress], None],
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._database, self._source = database, source
        self._every_s = 60.0 / rate_per_min if rate_per_min else 0.0
        self._now, self._tell, self._stop, self._clock = now, tell, stop, clock
        self._pauses_s = pauses_s

    def run(self, backfill_id: int) -> bool:
        """Fetch what waits; whether the run has come to its end.

        Raises
        ------
        SourceRefused, SourceUnavailable
            Nothing can be fetched until somebody acts. The study at hand waits for the next process, as all after it.
        """
        with self._database.read() as connection:
            waiting = backfills.studies_of(connection, backfill_id, (PLANNED, FETCHING))
        # What failed last time comes last: it must not stand in the way of what nobody has tried.
        waiting.sort(key=lambda study: (study.updated_at, study.study_instance_uid))
        unavailable, next_at = 0, self._clock()
        for number, study in enumerate(waiting, 1):
            self._stop.wait(max(0.0, next_at - self._clock()))
            if self._stop.is_set():
                return False
            next_at = max(next_at, self._clock() - self._every_s) + self._every_s
            with self._database.begin() as connection:
                is_wanted = backfills.begin(connection, backfill_id, study.study_instance_uid, now=self._now())
            if not is_wanted:
                self._tell(Progress(study, SKIPPED, "came by another way meanwhile", number, len(waiting)))
                continue
            state, reason, is_unavailable = self._fetch(backfill_id, study)
            with self._database.begin() as connection:
                backfills.settle(
                    connection, backfill_id, study.study_instance_uid, state, reason=reason, now=self._now()
                )
            if state == PLANNED:
                return False
            self._tell(Progress(study, state, reason, number, len(waiting)))
            unavailable = unavailable + 1 if is_unavailable else 0
            if unavailable >= IN_A_ROW:
                raise SourceUnavailable(f"{reason}; {IN_A_ROW} studies in a row failed so, and the rest waits")
        with self._database.begin() as connection:
            is_over = backfills.complete(connection, backfill_id, now=self._now())
            if is_over:
                counts = backfills.counts(connection, backfill_id)
                detail = {"backfill": backfill_id, **{state.lower(): number for state, number in counts.items()}}
                audit.record(connection, "backfill_completed", actor=ACTOR, now=self._now(), detail=detail)
        return is_over

    def _fetch(self, backfill_id: int, study: BackfillStudy) -> tuple[str, str, bool]:
        """Try a study until it is here; return state, reason and whether the source was silent at the last try."""
        reason, is_unavailable = "", False
        for attempt in range(ATTEMPTS):
            if attempt:
                self._stop.wait(self._pauses_s[min(attempt, len(self._pauses_s)) - 1])
            if self._stop.is_set():
                return PLANNED, "", False
            try:
                fetched = self._source.fetch(study.study_instance_uid)
            except SourceUnavailable as error:
                reason, is_unavailable = str(error), True
                continue
            except CxrNodeError:
                with self._database.begin() as connection:
                    backfills.settle(connection, backfill_id, study.study_instance_uid, PLANNED, now=self._now())
                raise
            is_unavailable = False
            with self._database.read() as connection:
                here = backfills.arrived(connection, study.study_instance_uid)
            reason = missing(study.expected, here, fetched)
            if not reason:
                return FETCHED, "", False
        return FAILED, reason, is_unavailable


def missing(expected: int, here: int, fetched: Fetched) -> str:
    """Say what a fetched study lacks; empty where it is whole.

    Parameters
    ----------
    expected : instances that the source announced, 0 where it did not say
    here : instances of the study in the node's database, which is what counts
    """
    if here >= max(expected, fetched.sent or 0, 1) and not fetched.failed:
        return ""
    wanted = max(expected, (fetched.sent or 0) + fetched.failed)
    told = f": {fetched.reason}" if fetched.reason else ""
    if not wanted:
        return f"no instance arrived{told}"
    return f"{here} of {wanted} instances are here{told}"


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a run for the block; the kernel lets go of it however this process ends.

    Raises
    ------
    SourceRefused
        Another process works on it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceRefused("another process works on this run") from None
        yield
