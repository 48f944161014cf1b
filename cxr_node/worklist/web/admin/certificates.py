"""When the certificates of node.toml expire."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from cxr_node.settings import ServerTls, Settings, Tls


@dataclass(frozen=True)
class Certificate:
    """A certificate file. `expires_at` is of the first of its certificates that expires; None with a `problem`."""

    key: str  # of node.toml
    expires_at: datetime | None
    problem: str = ""


def certificates(settings: Settings) -> list[Certificate]:
    """Return those that the node shows or trusts, in the order of node.toml; each file once."""
    found: dict[Path, Certificate] = {}
    for key, value in _named(settings):
        path = settings.path(value)
        if path not in found:
            found[path] = _read(key, path)
    return list(found.values())


def _named(settings: Settings) -> Iterator[tuple[str, str]]:
    sections: list[tuple[str, Tls | ServerTls]] = [
        ("receive", settings.receive.tls),
        ("receive.dicomweb", settings.receive.dicomweb.tls),
        ("worklist", settings.worklist.tls),
        ("worklist.dicom_tls", settings.worklist.dicom_tls),
        ("orders.hl7_tls", settings.orders.hl7_tls),
    ]
    for kind, entries in (("destination", settings.destination), ("source", settings.source)):
        sections += [(f"{kind} {entry.name}", entry.tls) for entry in entries]
    sections += [(f"peer {peer.ae_title.strip()}", peer.tls) for peer in settings.peer]
    sections += [("orders.ris", settings.orders.ris.tls), ("audit", settings.audit.tls)]
    for name, tls in sections:
        for key in ("certificate", "ca"):
            if value := getattr(tls, key, ""):  # HTTPS has no `ca`
                yield f"{name}: {key}", value


def _read(key: str, path: Path) -> Certificate:
    try:
        held = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return Certificate(key, None, f"cannot be read: {error.strerror}")
    except ValueError:
        return Certificate(key, None, "is no certificate in PEM form")
    return Certificate(key, min(certificate.not_valid_after_utc for certificate in held))
