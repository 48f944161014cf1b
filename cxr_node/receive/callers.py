"""Who may send: calling AE title and address against the list of node.toml, and against what admins added to it.

Nobody else is accepted.
"""

import ipaddress
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy.exc import SQLAlchemyError

from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.settings import Caller
from storage import Database, callers
from storage.errors import StorageError

log = get_logger("receive")

OBEYED_WITHIN_S = 1.0  # what an admin allows or revokes, by every process on every host

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Refusal(Enum):
    """Why an association is refused: result, source and reason of A-ASSOCIATE-RJ. Source: DICOM PS3.8 table 9-21."""

    CALLED_AE_TITLE = (1, 1, 7)
    CALLING_AE_TITLE = (1, 1, 3)
    LOCAL_LIMIT = (2, 3, 2)


@dataclass(frozen=True)
class CallerList:
    """The `[[caller]]` sections, addresses parsed."""

    entries: tuple[tuple[str, tuple[Network, ...] | None], ...]

    @classmethod
    def of(cls, callers: Sequence[Caller]) -> "CallerList":
        """Parse the addresses.

        Raises
        ------
        SettingsError
            One is neither an address nor a network.
        """
        return cls(tuple((caller.ae_title.strip(), _networks(caller)) for caller in callers))

    def allows(self, calling_ae_title: str, address: str) -> bool:
        """Whether an entry names both; an IPv4 address that came over an IPv6 socket counts as itself."""
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(
            ae_title in ("*", calling_ae_title.strip())
            and (networks is None or any(found.version == item.version and found in item for item in networks))
            for ae_title, networks in self.entries
        )


class Callers:
    """Both lists. That of the admins is read when somebody asks who is not on that of node.toml, once a second at most.

    Raises
    ------
    SettingsError
        An address of node.toml is neither an address nor a network.
    """

    def __init__(
        self, listed: Sequence[Caller], database: Database, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._listed = CallerList.of(listed)
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._added = CallerList(())
        self._read_at = float("-inf")

    def allows(self, calling_ae_title: str, address: str) -> bool:
        """Whether an entry of either list names both."""
        return self._listed.allows(calling_ae_title, address) or self._of_admins().allows(calling_ae_title, address)

    def _of_admins(self) -> CallerList:
        with self._lock:
            if self._clock() - self._read_at < OBEYED_WITHIN_S:
                return self._added
            try:
                with self._database.read() as connection:
                    rows = callers.allowed(connection)
                self._added = CallerList.of([Caller(ae_title=row.ae_title, hosts=(row.host,)) for row in rows])
            except (StorageError, SQLAlchemyError) as error:  # what was known goes on to hold
                log.warning("allowed_callers_not_read", error_type=type(error).__name__)
            self._read_at = self._clock()
            return self._added


def _networks(caller: Caller) -> tuple[Network, ...] | None:
    if "*" in caller.hosts:
        return None
    try:
        return tuple(ipaddress.ip_network(host, strict=False) for host in caller.hosts)
    except ValueError as error:
        raise SettingsError(f"caller.hosts of {caller.ae_title}: expected addresses or networks: {error}") from error
