"""Associations that the node asks for: TLS, time-outs, no delay, and one sentence for every way in which none comes
about. Used by all that speak DICOM to a destination or a peer."""

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from cxr_node.errors import AssociationRefused, NotNegotiated, Unreachable
from cxr_node.requestor import associate, stands
from cxr_node.settings import Destination, Peer, Settings, Tls
from cxr_node.tls import Minimum, client_context

# PS3.8 table 9-21: source and reason of an A-ASSOCIATE-RJ.
_CALLING_UNKNOWN = (1, 3)
_CALLED_UNKNOWN = (1, 7)
_PERMANENT = 1

RELEASE_WITHIN_S = 5.0  # what was wanted is done already; a peer that hangs up rudely costs no more
_KNOCK_WITHIN_S = 5.0
_NO_TLS = "it does not speak TLS on this port: take tls out of node.toml for it, or turn TLS on there"
_ALERT_WITHIN_S = 0.5  # TLS 1.3 tells after the handshake that it wants another certificate


class RejectedPermanent(AssociationRefused):
    """The peer rejects us for good: a person has to change a setting here or there. Tried again, but slowly."""


class NoAnswer(Unreachable):
    """The association stands and the peer did not answer a request over it, or broke it off meanwhile."""


def contexts_of(sop_classes: Collection[str]) -> list[PresentationContext]:
    """Return two presentation contexts a class, so that a peer which prefers Implicit VR cannot choose it where it
    takes Explicit too."""
    return [
        build_context(sop_class_uid, syntax)
        for sop_class_uid in sop_classes
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ]


def names_of(sop_classes: Collection[str]) -> str:
    """Return the classes as a person knows them: "Comprehensive 3D SR, Comprehensive SR and Enhanced SR"."""
    names = [UID(uid).name.removesuffix(" SOP Class").removesuffix(" Storage") for uid in sop_classes]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def takes_none(where: str, sop_classes: Collection[str]) -> NotNegotiated:
    """Return the error for a peer that takes none of these SOP classes."""
    names = names_of(sop_classes)
    if len(sop_classes) > 1:
        return NotNegotiated(f"{where} takes none of {names}: enable one of these SOP classes there")
    return NotNegotiated(f"{where} takes no {names}: enable this SOP class there")


def accepted_syntaxes(association: Association) -> dict[str, set[str]]:
    """Return the transfer syntaxes accepted for each abstract syntax."""
    accepted: dict[str, set[str]] = {}
    for context in association.accepted_contexts:
        accepted.setdefault(str(context.abstract_syntax), set()).add(str(context.transfer_syntax[0]))
    return accepted


@dataclass(frozen=True)
class Line:
    """The way to one AE. `name` is what node.toml calls it; `where` opens every sentence about it."""

    name: str
    ae_title: str
    host: str
    port: int
    calling_ae_title: str
    timeout_s: float
    tls: Tls
    tls_files: tuple[tuple[str, Path], ...] = ()
    tls_minimum: Minimum = "1.2"

    @classmethod
    def to(cls, other: Destination | Peer, settings: Settings, *, timeout_s: float = 30.0) -> "Line":
        """Return the way to a destination or peer. Calling AE title is that of the node's own listener: the other side
        has it in its list of known AEs anyway, and what it sends back unasked finds the node by it."""
        files = {"certificate": other.tls.certificate, "key": other.tls.key, "ca": other.tls.ca}
        return cls(
            name=other.name if isinstance(other, Destination) else f"peer {other.ae_title}",
            ae_title=other.ae_title,
            host=other.host,
            port=other.port,
            calling_ae_title=settings.receive.ae_title,
            timeout_s=other.timeout_s if isinstance(other, Destination) else timeout_s,
            tls=other.tls,
            tls_files=tuple((key, settings.path(value)) for key, value in files.items() if value),
            tls_minimum=settings.node.tls_minimum,
        )

    @property
    def where(self) -> str:
        return f"{self.name}: {self.ae_title} at {self.host}:{self.port}"

    def associate(
        self,
        contexts: Sequence[PresentationContext],
        *,
        wanted: Collection[str],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[Any] = (),
    ) -> Association:
        """Return an established association, at least one of its contexts accepted; the caller releases it.

        Parameters
        ----------
        wanted : SOP classes that the sentence names where the peer takes none
        roles : of `pynetdicom.build_role`
        handlers : event handlers beside the node's own

        Raises
        ------
        Unreachable
            No connection, no TLS, no answer: the sentence says which.
        RejectedPermanent, AssociationRefused
            The peer rejects.
        NotNegotiated
            It accepts none of the contexts.
        """
        ae = AE(ae_title=self.calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self.timeout_s
        started = time.monotonic()
        try:
            association = associate(
                ae,
                self.host,
                self.port,
                contexts=list(contexts),
                ae_title=self.ae_title,
                ext_neg=list(roles),
                tls_args=(self.tls_context(), self.host) if self.tls.enabled else None,
                handlers=[(evt.EVT_DATA_SENT, _acknowledge_at_once), *handlers],
            )
        except socket.gaierror as error:
            raise Unreachable(f"{self.name}: the name {self.host} does not resolve to an address") from error
        except OSError as error:
            raise Unreachable(f"{self.where}: {word_of(error)}") from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise self._rejected(association)
        if association.rejected_contexts:
            raise self.not_negotiated(wanted)
        if time.monotonic() - started >= self.timeout_s:
            raise Unreachable(f"{self.where} did not answer within timeout_s = {self.timeout_s:g}")
        raise Unreachable(f"{self.where}: {self._diagnosis()}")

    @contextlib.contextmanager
    def association(
        self,
        contexts: Sequence[PresentationContext],
        *,
        wanted: Collection[str],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Association]:
        """Hold an association for the block and release it after; see `associate`."""
        association = self.associate(contexts, wanted=wanted, roles=roles, handlers=handlers)
        try:
            yield association
        finally:
            self.release(association)

    def release(self, association: Association) -> None:
        """End it; what was wanted is done, so a peer that does not answer costs little."""
        association.acse_timeout = min(self.timeout_s, RELEASE_WITHIN_S)
        association.release()

    def not_negotiated(self, wanted: Collection[str]) -> NotNegotiated:
        """Return the error for a peer that takes none of these SOP classes."""
        return takes_none(self.where, wanted)

    def check(self, association: Association, request: str) -> None:
        """Look whether the association still stands before a request goes over it.

        Raises
        ------
        NoAnswer
        """
        if not stands(association):
            raise NoAnswer(f"{self.where} closed the association before {request}")

    def no_answer(self, request: str, waited_s: float) -> NoAnswer:
        """Return the error for a request over an association that brought no response."""
        if waited_s >= self.timeout_s:
            return NoAnswer(f"{self.where} did not answer {request} within timeout_s = {self.timeout_s:g}")
        return NoAnswer(f"{self.where} broke the association off during {request}")

    def tls_context(self) -> ssl.SSLContext:
        """Made anew each time, so that a renewed certificate needs no restart.

        Raises
        ------
        Unreachable
            A file cannot be used.

        Source: PS3.15 B.12 (BCP 195).
        """
        return tls_context(self.name, dict(self.tls_files), self.tls_minimum)

    def _rejected(self, association: Association) -> AssociationRefused:
        answer: Any = association.acceptor.primitive
        cause = (answer.result_source, answer.diagnostic)
        if cause == _CALLED_UNKNOWN:
            return RejectedPermanent(
                f"{self.name}: the system at {self.host}:{self.port} does not go by the AE title {self.ae_title}: "
                "correct ae_title in node.toml, or the AE title set on that system"
            )
        if cause == _CALLING_UNKNOWN:
            return RejectedPermanent(
                f"{self.where} does not know the calling AE title {self.calling_ae_title}: "
                "add it to that system's list of known AEs"
            )
        how = f"{answer.result_str}, {answer.source_str}, {answer.reason_str}"
        if answer.result == _PERMANENT:
            return RejectedPermanent(f"{self.where} refuses associations from {self.calling_ae_title} ({how})")
        return AssociationRefused(f"{self.where} takes no association now ({how})")

    def _diagnosis(self) -> str:
        """Say why no association came about: pynetdicom does not, so knock once more."""
        try:
            plain = socket.create_connection((self.host, self.port), timeout=min(self.timeout_s, _KNOCK_WITHIN_S))
        except OSError as error:
            return word_of(error)
        with plain:
            if self.tls.enabled:
                trouble = self._tls_diagnosis(plain)
                if trouble:
                    return trouble
            elif _speaks_tls(plain):
                return "it speaks TLS: give the destination a [destination.tls] section, or turn TLS off there"
        return "it closed the connection without an answer to the association request"

    def _tls_diagnosis(self, plain: socket.socket) -> str:
        try:
            with self.tls_context().wrap_socket(plain, server_hostname=self.host) as secured:
                _hear_alert(secured)
        except ssl.SSLCertVerificationError as error:
            return f"its TLS certificate is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            return tls_trouble(error)
        except OSError as error:
            # A peer without TLS takes the greeting for nonsense, and most hang up on it.
            how = "no answer to the greeting" if isinstance(error, TimeoutError) else word_of(error)
            return f"{_NO_TLS} ({how})"
        return ""


def tls_context(name: str, files: dict[str, Path], minimum: Minimum = "1.2") -> ssl.SSLContext:
    """Return a client's context by BCP 195: TLS 1.2 or newer, the other side's certificate verified.

    Parameters
    ----------
    files : any of `certificate`, `key` and `ca`; without `ca` the system's own authorities are trusted

    Raises
    ------
    Unreachable
        A file cannot be used.
    """
    try:
        return client_context(files, minimum=minimum)
    except OSError as error:  # ssl.SSLError is one
        listed = ", ".join(str(path) for path in files.values())
        raise Unreachable(f"{name}: the TLS files {listed} cannot be used: {word_of(error)}") from error


def tls_trouble(error: ssl.SSLError) -> str:
    """Say what a failed handshake, or the alert after it, means."""
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
        return _NO_TLS
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "ACCESS_DENIED" in reason):
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return f"it does not accept the node's TLS certificate ({said}): check tls.certificate and what it trusts"
    return f"TLS failed: {reason or 'handshake broken off'}"


def word_of(error: OSError) -> str:
    """Say in a few words what the system's error means."""
    if isinstance(error, TimeoutError):
        return "no answer to the connection request"
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    known = {
        errno.ECONNREFUSED: "connection refused, nothing listens there",
        errno.ECONNRESET: "connection reset",
        errno.EHOSTUNREACH: "no route to the host",
        errno.ENETUNREACH: "no route to the network",
    }
    return known.get(error.errno or 0) or error.strerror or type(error).__name__


def _speaks_tls(plain: socket.socket) -> bool:
    """Whether the other side answers a TLS greeting. Nothing is sent over it, so nobody's certificate matters."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_socket(plain).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # a refusal in its language
    except OSError:
        return False
    return True


def _hear_alert(secured: ssl.SSLSocket) -> None:
    """Wait a moment for what TLS 1.3 says after the handshake; a peer that is content says nothing."""
    secured.settimeout(_ALERT_WITHIN_S)
    with contextlib.suppress(TimeoutError):
        secured.recv(1)


def _acknowledge_at_once(event: evt.Event) -> None:
    """Have the kernel acknowledge the answer's first segment as it comes; it forgets this with every exchange.

    A peer with Nagle's algorithm on (DCMTK as it is shipped) holds the second until then: 40 ms an object.
    """
    transport: Any = event.assoc.dul.socket
    if hasattr(socket, "TCP_QUICKACK") and transport.socket is not None:
        with contextlib.suppress(OSError):  # closed meanwhile: whoever reads from it will tell
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
