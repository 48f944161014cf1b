"""Who may associate: the `[[caller]]` sections of node.toml, by calling AE title, address and certificate."""

from collections.abc import Iterable
from ipaddress import ip_network

from cxr_node.access import CallerRow
from cxr_node.errors import SettingsError
from cxr_node.settings import Caller


def rows_of(callers: Iterable[Caller]) -> tuple[CallerRow, ...]:
    """Return them as `access.refusal_of` takes them, without hosts that are neither address nor network.

    Raises
    ------
    SettingsError
        A certificate can be none.
    """
    return tuple(_row(caller) for caller in callers)


def _row(caller: Caller) -> CallerRow:
    try:
        return CallerRow.of(caller.ae_title, [host for host in caller.hosts if _is_host(host)], caller.certificate)
    except ValueError as error:
        raise SettingsError(f"caller.certificate of {caller.ae_title}: {error}") from error


def _is_host(host: str) -> bool:
    if host.strip() == "*":
        return True
    try:
        ip_network(host.strip(), strict=False)
    except ValueError:
        return False
    return True
