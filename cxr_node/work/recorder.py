"""Writes down who sent and who was turned away, beside the line: no C-STORE and no query waits for it.

What ended is written together, half a second later; a process that is killed loses at most that. Whoever floods the
port with invented names costs a bounded number of rows.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from storage import Database, associations, audit, callers
from storage.associations import Association
from storage.callers import Rejected
from storage.errors import StorageError

log = get_logger("work")

GATHER_S = 0.5
MOST_WAITING = 10_000  # associations, while the database does not answer
MOST_CALLERS = 100  # different ones turned away within `GATHER_S`
LIMITS = ("maximum_associations", "per_caller_associations")  # keys of node.toml, and why somebody is turned away
AUDITED_PER_MINUTE = 30  # past it attempts are told of together
_CLOSE_WITHIN_S = 2.0


class Recorder:
    """Takes what happened from any thread, and writes it from its own. Its thread starts with the first.

    Parameters
    ----------
    actor : the stage, as the audit trail calls who tells of many attempts at once
    listener : put before each reason, see `storage.callers.WORKLIST`; "" for the ports that take images
    """

    def __init__(
        self,
        database: Database,
        *,
        actor: str = "receive",
        listener: str = "",
        now: Callable[[], datetime] = utc_now,
        gather_s: float = GATHER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._now, self._gather_s, self._clock = database, now, gather_s, clock
        self._actor, self._listener = actor, listener
        self._lock = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ended: deque[Association] = deque(maxlen=MOST_WAITING)
        self._rejected: dict[tuple[str, str, str, str], Rejected] = {}
        self._audited: deque[float] = deque()
        self._uncounted = 0  # attempts of callers past `MOST_CALLERS`
        self._untold = 0

    def ended(self, association: Association) -> None:
        """An association ended."""
        with self._lock:
            self._ended.append(association)
        self._ring()

    def rejected(
        self, calling_ae_title: str, called_ae_title: str, peer_address: str, reason: str, certificate: str = ""
    ) -> None:
        """Somebody was turned away; `certificate` is the one that was shown."""
        at = self._now()
        key = (calling_ae_title, called_ae_title, peer_address, f"{self._listener}{reason}")
        with self._lock:
            known = self._rejected.get(key)
            if known is not None:
                self._rejected[key] = replace(known, attempts=known.attempts + 1, last_at=at, certificate=certificate)
            elif len(self._rejected) < MOST_CALLERS:
                self._rejected[key] = Rejected(*key, attempts=1, first_at=at, last_at=at, certificate=certificate)
            else:
                self._uncounted += 1
        self._ring()

    def close(self) -> None:
        """Write what waits, and end."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_WITHIN_S)

    def _ring(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=f"{self._actor}-recorder", daemon=True)
                    self._thread.start()
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._stop.wait(self._gather_s)
            self._wake.clear()
            is_last = self._stop.is_set()
            if not self._write() and not is_last:
                self._stop.wait(1.0)
                self._wake.set()
            if is_last:
                return

    def _write(self) -> bool:
        """Write what has gathered; False when the database did not take it, and it waits for the next time."""
        with self._lock:
            ended, rejected, uncounted = list(self._ended), self._rejected, self._uncounted
            self._ended.clear()
            self._rejected, self._uncounted = {}, 0
        if not (ended or rejected or uncounted):
            return True
        try:
            with self._database.begin() as connection:
                associations.add(connection, ended)
                callers.note_rejected(connection, list(rejected.values()))
                self._untold = self._audit(connection, list(rejected.values()), self._untold + uncounted)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("associations_not_written", rows=len(ended), error_type=type(error).__name__)
            with self._lock:
                self._ended.extendleft(reversed(ended[: MOST_WAITING - len(self._ended)]))
                self._rejected = rejected | self._rejected
                self._uncounted += uncounted
            return False
        return True

    def _audit(self, connection: Connection, rejected: list[Rejected], untold: int) -> int:
        """Write refusals to the audit trail, no more of them than a minute may hold.

        Returns
        -------
        int
            How many attempts the trail does not tell of yet, `untold` included: it will, as one number.
        """
        moment, at = self._clock(), self._now()
        while self._audited and moment - self._audited[0] > 60:
            self._audited.popleft()
        if untold and len(self._audited) < AUDITED_PER_MINUTE:
            self._audited.append(moment)
            audit.record(connection, "associations_refused", actor=self._actor, now=at, detail={"attempts": untold})
            untold = 0
        for item in rejected:
            if item.reason.removeprefix(self._listener) in LIMITS:  # the node's own state, not the caller's doing
                continue
            if len(self._audited) >= AUDITED_PER_MINUTE:
                untold += item.attempts
                continue
            self._audited.append(moment)
            detail = {
                "reason": item.reason,
                "called_ae_title": item.called_ae_title,
                "peer_address": item.peer_address,
                "attempts": item.attempts,
            }
            if item.certificate:
                detail["certificate"] = item.certificate
            audit.record(connection, "association_refused", actor=item.calling_ae_title, now=at, detail=detail)
        return untold
