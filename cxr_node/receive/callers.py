"""Who may send: calling AE title and address against the list of node.toml. Nobody else is accepted."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from cxr_node.errors import SettingsError
from cxr_node.settings import Caller

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


def _networks(caller: Caller) -> tuple[Network, ...] | None:
    if "*" in caller.hosts:
        return None
    try:
        return tuple(ipaddress.ip_network(host, strict=False) for host in caller.hosts)
    except ValueError as error:
        raise SettingsError(f"caller.hosts of {caller.ae_title}: expected addresses or networks: {error}") from error
