"""Who may ask: by DICOM the listed callers, over HTTP who shows a token, and which names of this machine count where
none is needed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit, urlunsplit

Network = IPv4Network | IPv6Network

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{32,}|[0-9a-f]{2}(:[0-9a-f]{2})+")


def is_loopback(host: str) -> bool:
    """Whether a listener on that address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def needs_token(require_token: str, host: str) -> bool:
    """Whether a token is asked for by a listener on `host`; `require_token` is always, never or auto."""
    return require_token == "always" or (require_token == "auto" and not is_loopback(host))


def names_listener(hostname: str | None, host: str) -> bool:
    """Whether the Host header of a request names this machine's loopback, or the listener's own address.

    A web page elsewhere that points a name of its own at 127.0.0.1 (DNS rebinding) does not.
    """
    return (hostname or "").lower().strip("[]") in {"localhost", "127.0.0.1", "::1", host.lower()}


def bearer(authorization: str) -> str:
    """Return the secret of an Authorization header, empty where it holds none. Source: RFC 6750 2.1."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def shown_url(url: str) -> str:
    """Return an address as it may be shown: without user, password, query and fragment, which may let somebody in."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no address)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class CallerRow:
    """Who may associate: an AE title or ``*``, networks or None for any, and a certificate or "" for any."""

    ae_title: str
    networks: tuple[Network, ...] | None
    certificate: str = ""

    @classmethod
    def of(cls, ae_title: str, hosts: Sequence[str], certificate: str = "") -> "CallerRow":
        """Parse what a person wrote.

        Raises
        ------
        ValueError
            An entry of `hosts` is neither an address nor a network, or `certificate` can be none.
        """
        networks = None if "*" in hosts else tuple(ip_network(host.strip(), strict=False) for host in hosts)
        return cls(ae_title.strip(), networks, certificate_name(certificate))

    def is_from(self, address: str) -> bool:
        """Whether the address is one of the row; an IPv4 address that came over an IPv6 socket counts as itself."""
        try:
            found = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return self.networks is None or any(found.version == item.version and found in item for item in self.networks)


def certificate_name(written: str) -> str:
    """Return what a person wrote for a certificate as it is compared: hexadecimal digits, or a name in lower case.

    Raises
    ------
    ValueError
        It looks like a fingerprint and is not a SHA-256 one.
    """
    name = written.strip().lower().removeprefix("sha256:").removeprefix("sha256 fingerprint=").strip()
    digits = name.replace(":", "").replace(" ", "")
    if _FINGERPRINT.fullmatch(digits):
        return digits
    if _HEXADECIMAL.fullmatch(name):
        raise ValueError(f"a SHA-256 fingerprint has 64 hexadecimal digits, found {len(digits)}")
    return name


def refusal_of(rows: Iterable[CallerRow], ae_title: str, address: str, identities: frozenset[str] | None) -> str:
    """Return why a caller may not associate, in a word, or "" where it may.

    An AE title that a row names with a certificate is let in by the rows of that title only: one for everybody must
    not open a door beside the one that is locked.

    Parameters
    ----------
    identities : what the certificate that it showed is called, see `tls.Shown`; None where it showed none

    Returns
    -------
    str
        ``calling_ae_title``: no row has title and address; ``certificate``: those that have want another certificate.
    """
    title = ae_title.strip()
    named = [row for row in rows if row.ae_title in ("*", title)]
    own = [row for row in named if row.ae_title == title]
    if any(row.certificate for row in own):
        named = own
    here = [row for row in named if row.is_from(address)]
    if not here:
        return "calling_ae_title"
    if any(not row.certificate or (identities is not None and row.certificate in identities) for row in here):
        return ""
    return "certificate"
