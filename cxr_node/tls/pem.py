"""What may be wrong with the files of a listener."""

import stat
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from cxr_node.errors import SettingsError
from cxr_node.tls.files import ServerFiles


def check(files: ServerFiles, now: datetime) -> None:
    """Raise SettingsError where a file is not what it must be."""
    certificate = _certificates(files.where, "certificate", files.certificate)[0]
    key = _key(files.where, files.key)
    if certificate.not_valid_after_utc <= now:
        expired = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise SettingsError(f"{files.where}: certificate {files.certificate} expired on {expired}")
    if certificate.not_valid_before_utc > now:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        raise SettingsError(f"{files.where}: certificate {files.certificate} is not valid before {begins}")
    if _public(certificate) != _public(key):
        raise SettingsError(f"{files.where}: key {files.key} is not the key of certificate {files.certificate}")
    if files.ca is not None:
        authorities = _certificates(files.where, "ca", files.ca)
        if all(authority.not_valid_after_utc <= now for authority in authorities):
            raise SettingsError(f"{files.where}: every certificate of ca {files.ca} has expired")


def _certificates(where: str, what: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{where}: {what} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{where}: {what} {path} holds no certificate in PEM form") from error


def _key(where: str, path: Path) -> Any:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{where}: key {path} cannot be read: {error.strerror}") from error
    # Its group may read it: that is how a service's user gets at keys that root keeps.
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise SettingsError(
            f"{where}: key {path} can be read or changed by others (mode {mode:04o}): chmod 600, or 640 for its group"
        )
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise SettingsError(
            f"{where}: key {path} is locked with a passphrase, which nobody is there to enter: store it without"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{where}: key {path} holds no private key in PEM form") from error


def _public(holder: Any) -> bytes:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bytes(holder.public_key().public_bytes(*form))
