"""The contexts of listeners, which follow their files."""

import ssl
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cxr_node.errors import SettingsError
from cxr_node.tls.files import ServerFiles
from cxr_node.tls.policy import Minimum, harden

Tell = Callable[[str], None]  # hears why renewed files cannot be used, or nothing ("") once they are in use

LOOK_AFTER_S = 1.0  # at the files, when somebody connects


class Section(Protocol):
    """What `settings.Tls` and `settings.ServerTls` have in common."""

    @property
    def certificate(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def enabled(self) -> bool: ...


def server_context(files: ServerFiles, *, now: datetime | None = None) -> ssl.SSLContext:
    """Return a listener's context, its files checked.

    Where `ca` is given a caller is asked for a certificate; one that shows none is let in only if
    `require_client_certificate` is false.

    Raises
    ------
    SettingsError
        Names the file and what is wrong with it.
    """
    # Loaded here: an acceptor without TLS needs no such library.
    from cxr_node.tls.pem import check

    check(files, datetime.now(UTC) if now is None else now)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context, files.minimum)
    context.num_tickets = 0
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
        if files.ca is not None:
            context.load_verify_locations(files.ca)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", "") or error.strerror or type(error).__name__
        raise SettingsError(f"{files.where}: {files.certificate} and {files.key} cannot be used: {reason}") from error
    if files.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if files.require_client_certificate else ssl.CERT_OPTIONAL
    return context


class LiveContext(ssl.SSLContext):
    """A listener's context that follows its files: each connection gets the newest that can be used.

    A certificate and its key are replaced one after the other, and what cannot be used must not close the port: until
    the files are right again the last that were stay in use, and `tell` hears why, once for each change.

    Parameters
    ----------
    most : connections of an asyncio server that may be open or in their handshake; more are closed at once
    """

    def __new__(cls, *_: Any, **__: Any) -> "LiveContext":
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(
        self,
        files: ServerFiles,
        tell: Tell,
        *,
        most: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._tell, self._most, self._clock = files, tell, most, clock
        self._swap = threading.Lock()
        self._seen = files.stamp
        self._newest_context = server_context(files)
        self._looked_at = clock()
        self._open: weakref.WeakSet[ssl.SSLObject] = weakref.WeakSet()

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        return self.newest().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`; what asyncio's servers call for each connection.

        Raises
        ------
        ssl.SSLError
            `most` are open.
        """
        if self._most is not None and len(self._open) >= self._most:
            raise ssl.SSLError(f"more than {self._most} connections")
        made = self.newest().wrap_bio(*arguments, **options)
        self._open.add(made)
        return made

    def newest(self) -> ssl.SSLContext:
        """Return the context in use now, after a look at the files where the last is more than a second ago."""
        with self._swap:
            if self._clock() - self._looked_at >= LOOK_AFTER_S:
                self._looked_at = self._clock()
                self._follow()
            return self._newest_context

    def _follow(self) -> None:
        stamp = self._files.stamp
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._newest_context = server_context(self._files)
        except SettingsError as error:
            self._tell(str(error))
        else:
            self._tell("")


def listener(
    where: str,
    section: Section,
    resolve: Callable[[str], Path],
    *,
    minimum: Minimum,
    tell: Tell,
    most: int | None = None,
) -> LiveContext | None:
    """Return the context of a listener as its section of node.toml says; None where that asks for no TLS.

    Raises
    ------
    SettingsError
        A file is missing, or not what it must be.
    """
    if not section.enabled:
        return None
    if not (section.certificate and section.key):
        raise SettingsError(f"{where}: certificate and key are both needed")
    ca = str(getattr(section, "ca", ""))
    required = bool(getattr(section, "require_client_certificate", False))
    if required and not ca:
        raise SettingsError(
            f"{where}: ca is needed to check the certificates of callers, or require_client_certificate = false"
        )
    files = ServerFiles(
        where,
        resolve(section.certificate),
        resolve(section.key),
        resolve(ca) if ca else None,
        required,
        minimum,
    )
    return LiveContext(files, tell, most=most)
