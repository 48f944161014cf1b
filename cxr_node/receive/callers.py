"""Who may send: calling AE title, address and certificate against the list of node.toml, and against what admins added.

Nobody else is accepted.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy.exc import SQLAlchemyError

from cxr_node.access import CallerRow, refusal_of
from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.settings import Caller
from cxr_node.tls import Shown
from storage import Database, callers
from storage.errors import StorageError

log = get_logger("receive")

OBEYED_WITHIN_S = 1.0  # what an admin allows or revokes, by every process on every host


class Refusal(Enum):
    """Why an association is refused: result, source and reason of A-ASSOCIATE-RJ. Source: DICOM PS3.8 table 9-21."""

    CALLED_AE_TITLE = (1, 1, 7)
    CALLING_AE_TITLE = (1, 1, 3)
    LOCAL_LIMIT = (2, 3, 2)


@dataclass(frozen=True)
class CallerList:
    """The `[[caller]]` sections, parsed."""

    rows: tuple[CallerRow, ...]

    @classmethod
    def of(cls, callers: Sequence[Caller]) -> "CallerList":
        """Parse them.

        Raises
        ------
        SettingsError
            A host is neither an address nor a network, or a certificate can be none.
        """
        return cls(tuple(_row(caller.ae_title, caller.hosts, caller.certificate) for caller in callers))

    def refusal(self, calling_ae_title: str, address: str, shown: Shown | None = None) -> str:
        """Return why a caller may not send, see `access.refusal_of`; "" where it may."""
        return refusal_of(self.rows, calling_ae_title, address, None if shown is None else shown.identities)

    def allows(self, calling_ae_title: str, address: str, shown: Shown | None = None) -> bool:
        """Whether an entry names all three."""
        return not self.refusal(calling_ae_title, address, shown)


class Callers:
    """Both lists as one. That of the admins is read when somebody asks, once a second at most.

    Raises
    ------
    SettingsError
        An address or certificate of node.toml is not what it must be.
    """

    def __init__(
        self, listed: Sequence[Caller], database: Database, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._listed = CallerList.of(listed)
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._added: CallerList | None = None
        self._read_at = float("-inf")

    def allows(self, calling_ae_title: str, address: str, shown: Shown | None = None) -> bool:
        """Whether an entry of either list names all three."""
        return not self.refusal(calling_ae_title, address, shown)

    def refusal(self, calling_ae_title: str, address: str, shown: Shown | None = None) -> str:
        """Return why a caller may not send, see `access.refusal_of`; "" where it may.

        A section of node.toml that names the title decides alone. One for everybody (``*``) does not: an admin may have
        bound the title to a certificate.
        """
        own = CallerList(tuple(row for row in self._listed.rows if row.ae_title == calling_ae_title.strip()))
        if own.allows(calling_ae_title, address, shown):
            return ""
        both = CallerList((*self._listed.rows, *self._of_admins().rows))
        return both.refusal(calling_ae_title, address, shown)

    def _of_admins(self) -> CallerList:
        known = self._added
        # While one asks a database that does not answer, the others go by what was known.
        if not self._lock.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            if self._added is not None and self._clock() - self._read_at < OBEYED_WITHIN_S:
                return self._added
            try:
                with self._database.read() as connection:
                    rows = callers.allowed(connection)
                self._added = CallerList(tuple(_row(row.ae_title, (row.host,), row.certificate) for row in rows))
            except (StorageError, SQLAlchemyError, SettingsError) as error:  # what was known goes on to hold
                log.warning("allowed_callers_not_read", error_type=type(error).__name__)
                self._added = self._added or CallerList(())
            self._read_at = self._clock()
            return self._added
        finally:
            self._lock.release()


def _row(ae_title: str, hosts: Sequence[str], certificate: str) -> CallerRow:
    try:
        CallerRow.of(ae_title, hosts)
    except ValueError as error:
        raise SettingsError(f"caller.hosts of {ae_title}: expected addresses or networks: {error}") from error
    try:
        return CallerRow.of(ae_title, hosts, certificate)
    except ValueError as error:
        raise SettingsError(f"caller.certificate of {ae_title}: {error}") from error
