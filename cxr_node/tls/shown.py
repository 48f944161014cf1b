"""Who is at the other end: the certificate that it showed."""

import hashlib
import ssl
from dataclasses import dataclass
from typing import Any

_LONGEST_NAME = 64  # of a subject, as it is told


@dataclass(frozen=True)
class Shown:
    """A certificate that the other side of a connection showed, and that its authority signed.

    `identities` are what a setting may call it: its SHA-256 fingerprint, DNS names and common name, in lower case.
    """

    fingerprint: str
    subject: str
    identities: frozenset[str]

    def __str__(self) -> str:
        """Return how a person is told of it: the fingerprint, with the common name where it has one."""
        return f"{self.fingerprint} ({self.subject})" if self.subject else self.fingerprint


def shown_by(connection: Any) -> Shown | None:
    """Return the certificate shown over a connection; None without TLS, or where none was shown."""
    if not isinstance(connection, ssl.SSLSocket | ssl.SSLObject):
        return None
    data, found = connection.getpeercert(binary_form=True), connection.getpeercert()
    if not data or not found:
        return None
    fingerprint = hashlib.sha256(data).hexdigest()
    subject: Any = found.get("subject", ())
    common = [str(value) for part in subject for kind, value in part if kind == "commonName"]
    alternative: Any = found.get("subjectAltName", ())
    names = [*common, *(str(value) for kind, value in alternative if kind == "DNS")]
    plain = "".join(character for character in (common or [""])[0] if character.isprintable())[:_LONGEST_NAME]
    return Shown(
        fingerprint, plain, frozenset({fingerprint, *(name.strip().lower() for name in names if name.strip())})
    )
