"""Closed to strangers: what the node keeps is its user's alone, and that user is not root.

The checks are rows of `cxr-node doctor`.
"""

import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_node.access import CallerRow
from cxr_node.cli.privilege import root_trouble
from cxr_node.errors import CxrNodeError, SettingsError
from cxr_node.settings import Settings
from cxr_node.tls import client_context, listener, own_context

OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MOST_TOLD = 5


class TooOpen(CxrNodeError):
    """Others than the node's user could read what it keeps, or pretend to be it."""


def modes(settings: Settings) -> str:
    """Check that nobody else may enter the node's folders, nor read its secrets.

    Raises
    ------
    TooOpen
        Names what is open, with its mode.
    """
    found = [*_open_folders(settings), *_open_secrets(settings)]
    if found:
        more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        raise TooOpen(f"others may read {', '.join(found[:_MOST_TOLD])}{more}: chmod go-rwx")
    # Told and no fault: who looks after a node may well do so as root.
    return "; this command ".join(filter(None, ("folders and secrets are the node's alone", root_trouble())))


def tls(settings: Settings) -> str:
    """Check the TLS files of node.toml: those of listeners as at the start, those of calls as they are used.

    Raises
    ------
    SettingsError, TooOpen
        Names the section or the file, and what is wrong.
    """
    listeners, calls = 0, 0
    for where, section in _listeners(settings):
        made = listener(where, section, settings.path, minimum=settings.node.tls_minimum, tell=lambda _: None)
        listeners += made is not None
    for where, section in _calls(settings):
        if not section.enabled:
            continue
        calls += 1
        named = {name: getattr(section, name) for name in ("certificate", "key", "ca")}
        files = {name: settings.path(value) for name, value in named.items() if value}
        try:
            client_context(files, minimum=settings.node.tls_minimum)
            _check_valid(where, files)
        except OSError as error:
            why = getattr(error, "reason", "") or error.strerror
            listed = ", ".join(str(path) for path in files.values())
            raise SettingsError(f"{where}: {listed} cannot be used: {why}") from error
    bound = [caller.ae_title for caller in settings.caller if caller.certificate]
    for caller in settings.caller:
        try:
            CallerRow.of(caller.ae_title, ("*",), caller.certificate)
        except ValueError as error:
            raise SettingsError(f"caller.certificate of {caller.ae_title}: {error}") from error
    if bound and not settings.receive.tls.enabled:
        raise TooOpen(f"{', '.join(bound)}: bound to a certificate, and [receive.tls] is empty: it is refused")
    return f"{listeners} listeners and {calls} ways out by TLS {settings.node.tls_minimum} or newer"


def web_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context for the node's own page, None where that is plain HTTP."""
    wanted = settings.worklist.tls
    if not wanted.enabled:
        return None
    files = {"certificate": settings.path(wanted.certificate), "key": settings.path(wanted.key)}
    return own_context(files, minimum=settings.node.tls_minimum)


def web_url(settings: Settings, host: str) -> str:
    """Return the address of the page on this machine, without a path."""
    named = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.worklist.tls.enabled else 'http'}://{named}:{settings.worklist.port}"


def _listeners(settings: Settings) -> Iterator[tuple[str, Any]]:
    yield "receive.tls", settings.receive.tls
    yield "receive.dicomweb.tls", settings.receive.dicomweb.tls
    yield "worklist.tls", settings.worklist.tls
    yield "worklist.dicom_tls", settings.worklist.dicom_tls
    yield "orders.hl7_tls", settings.orders.hl7_tls


def _calls(settings: Settings) -> Iterator[tuple[str, Any]]:
    for kind, entries in (("destination", settings.destination), ("source", settings.source)):
        yield from ((f"{kind} {entry.name}: tls", entry.tls) for entry in entries)
    yield from ((f"peer {peer.ae_title.strip()}: tls", peer.tls) for peer in settings.peer)
    yield "orders.ris.tls", settings.orders.ris.tls
    yield "audit.tls", settings.audit.tls


def _check_valid(where: str, files: dict[str, Path]) -> None:
    from cryptography import x509  # here: not every command needs it

    if "certificate" not in files:
        return
    own = x509.load_pem_x509_certificates(files["certificate"].read_bytes())[0]
    if own.not_valid_after_utc <= datetime.now(UTC):
        raise SettingsError(
            f"{where}: certificate {files['certificate']} expired on {own.not_valid_after_utc:%Y-%m-%d}"
        )


def _open_folders(settings: Settings) -> Iterator[str]:
    folders = [settings.data_dir, settings.path(settings.upkeep.backup_dir) if settings.upkeep.backup_dir else None]
    if "://" not in settings.node.instances:
        folders.append(settings.instances_dir)
    for folder in folders:
        if folder is not None and folder.is_dir():
            yield from _open(folder)


def _open_secrets(settings: Settings) -> Iterator[str]:
    """Files that a group may read are left: that is how a service's user gets at what root keeps."""
    named = [destination.secret_file for destination in settings.destination]
    named += [source.secret_file for source in settings.source]
    named += [settings.worklist.oidc.client_secret_file, settings.node.encryption_key_file]
    named += [section.key for _, section in (*_listeners(settings), *_calls(settings))]
    for value in sorted({value for value in named if value}):
        path = settings.path(value)
        if path.is_file():
            yield from _open(path, stat.S_IRWXO | stat.S_IWGRP)


def _open(path: Path, bits: int = OTHERS) -> Iterator[str]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits:
        yield f"{path} (mode {mode:04o})"
