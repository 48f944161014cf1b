"""A certificate authority of the test's own, and whatever it is asked to sign."""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key as files."""

    certificate: Path
    key: Path
    fingerprint: str

    @property
    def pair(self) -> tuple[str, str]:
        return str(self.certificate), str(self.key)


@dataclass
class Authority:
    """Signs what it is asked to; `ca` is its own certificate."""

    folder: Path
    name: str = "Test CA"
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(self.own().public_bytes(serialization.Encoding.PEM))

    def own(self, *, not_after: datetime | None = None) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        return (
            self._builder(self.name, now - 10 * _DAY, not_after or now + 10 * _DAY)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        name: str,
        *,
        dns: tuple[str, ...] = (),
        addresses: tuple[str, ...] = ("127.0.0.1",),
        days: float = 5,
        since_days: float = 2,
        kind: str = "ec",
        passphrase: bytes = b"",
        file: str = "",
    ) -> Issued:
        """Write a certificate from `since_days` ago until `days` from now, with a key of `kind` ("ec", "rsa")."""
        now = datetime.now(UTC)
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
            rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
        )
        names = [x509.DNSName(item) for item in dns] + [
            x509.IPAddress(ipaddress.ip_address(item)) for item in addresses
        ]
        builder = (
            self._builder(name, now - since_days * _DAY, now + days * _DAY)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        certificate, path = self.folder / f"{file or name}.pem", self.folder / f"{file or name}.key"
        locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        path.write_bytes(key.private_bytes(*form, locked))
        path.chmod(0o600)
        return Issued(certificate, path, made.fingerprint(hashes.SHA256()).hex())

    def _builder(self, subject: str, since: datetime, until: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )


def self_signed(folder: Path, name: str, *, dns: tuple[str, ...] = ("localhost",)) -> tuple[Path, Path]:
    """Write a certificate that signs itself, for who trusts it by name; return it and its key."""
    authority = Authority(folder / name, name)
    now = datetime.now(UTC)
    names = [*(x509.DNSName(item) for item in dns), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        authority._builder(name, now - _DAY, now + _DAY)
        .public_key(authority._key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority._key, hashes.SHA256())
    )
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.write_bytes(authority._key.private_bytes(*form, serialization.NoEncryption()))
    key.chmod(0o600)
    return certificate, key
