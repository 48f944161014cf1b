"""Who may ask over HTTP: when a token is needed, and which names of this machine count where none is."""

from ipaddress import ip_address


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
