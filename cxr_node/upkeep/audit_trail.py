"""Keeps the chain of the audit trail: seals what is new, verifies it daily, tells its head outside the database."""

import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from cxr_node import __version__, metrics
from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from storage import Database, audit, audit_chain, audit_standings, audit_verification
from storage.audit_chain import AlreadySealed, ChainMissing, Seal
from storage.audit_standings import VERIFIED
from storage.audit_verification import Verification
from storage.errors import StorageError

log = get_logger("upkeep")

VERIFY_EVERY = timedelta(hours=24)
TELL_EVERY = timedelta(minutes=1)  # the head, in the log
RECORD_EVERY = timedelta(hours=1)  # the head, as an entry that leaves as an audit message
BREATH_S = 0.05  # between links that follow at once: after an upgrade a long trail must not keep others from writing
_SHOWN = 20  # breaks that are kept for the page


class Keeper:
    """The tasks of the chain; every host may run them."""

    def __init__(
        self,
        database: Database,
        *,
        records_head: bool,
        now: Callable[[], datetime] = utc_now,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database, self._records_head, self._now, self._is_stopping = database, records_head, now, is_stopping
        self._told_at: datetime | None = None
        self._recorded_at: datetime | None = None

    def seal(self) -> int:
        """Seal what is new; return how many entries that was. Writes nothing where nothing is new."""
        sealed, last = 0, None
        while not self._is_stopping():
            with self._database.read() as connection:
                if not audit_chain.has_unsealed(connection):
                    break
            try:
                link = self._link()
            except ChainMissing as error:
                metrics.AUDIT_CHAIN.set(0)
                log.error("audit_chain_missing", reason=str(error))
                break
            if link is None:
                break
            sealed, last = sealed + link.entries, link
            if link.entries == audit_chain.SEAL_AT_MOST:
                time.sleep(BREATH_S)
        if last is not None:
            self._tell(last)
        return sealed

    def _link(self) -> Seal | None:
        with self._database.read() as connection:
            found = audit_chain.unsealed(connection)
        try:
            with self._database.begin() as connection:
                return audit_chain.seal(connection, now=self._now(), found=found) if found is not None else None
        except AlreadySealed:
            return None  # by another host, which goes on with what is left

    def note_start(self) -> None:
        """Write the start of this host's node to the trail."""
        self._note("node_started")

    def note_end(self) -> None:
        """Write its end, sealed at once: the next start may be long after."""
        self._note("node_stopped")

    def _note(self, event: str) -> None:
        # What cannot be written is logged: a full disk must not keep the stage from starting or ending.
        detail = {"version": __version__, "host": socket.gethostname()}
        try:
            with self._database.begin() as connection:
                audit.record(connection, event, actor="upkeep", now=self._now(), detail=detail)
            with self._database.begin() as connection:
                audit_chain.seal(connection, now=self._now())
        except (StorageError, SQLAlchemyError) as error:
            log.warning("audit_not_written", audit_event=event, error_type=type(error).__name__)

    def _tell(self, link: Seal) -> None:
        """The head leaves the database: whoever keeps the log sees later whether the chain still holds it."""
        now = self._now()
        if _is_over(self._told_at, TELL_EVERY, now):
            self._told_at = now
            log.info("audit_chain_head", seal=link.number, digest=link.digest)
        if self._records_head and _is_over(self._recorded_at, RECORD_EVERY, now):
            self._recorded_at = now
            with self._database.begin() as connection:
                detail = {"seal": link.number, "digest": link.digest}
                audit.record(connection, "audit_chain_head", actor="upkeep", now=now, detail=detail)

    def verify(self, *, even_if_fresh: bool = False) -> Verification | None:
        """Verify the chain where the last time is a day ago; None where it is not, or the stage ends.

        What was found is kept for the page, told in the log, and told in the trail itself, so that it leaves the node.
        """
        now = self._now()
        with self._database.read() as connection:
            last = audit_standings.get(connection, VERIFIED)
        if last is not None and not even_if_fresh and not _is_over(last.updated_at, VERIFY_EVERY, now):
            return None
        found = audit_verification.verify(self._database, is_stopping=self._is_stopping)
        if found is None:
            return None
        detail = told(found)
        with self._database.begin() as connection:
            audit_standings.put(connection, VERIFIED, seal=max(0, found.head_number), detail=detail, now=now)
            if found.is_whole:
                about = {"seal": found.head_number, "digest": found.head, "entries": found.entries}
                audit.record(connection, "audit_chain_verified", actor="upkeep", now=now, detail=about)
            elif last is None or last.detail.get("breaks") != detail["breaks"]:
                about = {"reason": str(found.breaks[0]), "broken": found.broken}
                audit.record(connection, "audit_chain_broken", actor="upkeep", now=now, detail=about)
        metrics.AUDIT_CHAIN.set(1 if found.is_whole else 0)
        if found.is_whole:
            log.info(
                "audit_chain_verified",
                seals=found.seals,
                entries=found.entries,
                seal=found.head_number,
                digest=found.head,
                late=found.late,
            )
        else:
            log.error("audit_chain_broken", broken=found.broken, first=str(found.breaks[0]))
        return found


def _is_over(since: datetime | None, span: timedelta, now: datetime) -> bool:
    """Whether that long has passed; a time to come is from before the clock was set back, and counts for nothing."""
    return since is None or since > now or now - since >= span


def told(found: Verification) -> dict[str, Any]:
    """Return a verification as the page keeps it."""
    return {
        "is_whole": found.is_whole,
        "seals": found.seals,
        "entries": found.entries,
        "inherited": found.inherited,
        "head_number": found.head_number,
        "head": found.head,
        "good_to": None if found.good_to is None else found.good_to.isoformat(),
        "broken": found.broken,
        "breaks": [str(item) for item in found.breaks[:_SHOWN]],
        "late": found.late,
        "cut_before": found.cut_before,
    }
