"""Who may associate: the `[[caller]]` sections of node.toml, by calling AE title and address."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from cxr_node.settings import Caller


def is_allowed(callers: Iterable[Caller], ae_title: str, address: str) -> bool:
    """Whether a caller of that AE title may come from that address.

    An entry of `hosts` is an address, a network (CIDR) or ``*``. An IPv4 address that reached an IPv6 socket
    (``::ffff:10.1.2.3``) is the IPv4 address.
    """
    return any(
        caller.ae_title.strip() in ("*", ae_title.strip()) and any(_is_in(address, host) for host in caller.hosts)
        for caller in callers
    )


def _is_in(address: str, host: str) -> bool:
    if host.strip() == "*":
        return True
    try:
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return found in ip_network(host.strip(), strict=False)
    except ValueError:
        return False
