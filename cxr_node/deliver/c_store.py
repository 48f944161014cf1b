"""Destination `c-store`: a DICOM Storage SCU that sends the stored bytes as they are and understands the answer."""

import contextlib
import errno
import socket
import ssl
import time
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.status import code_to_category

from cxr_node.deliver.objects import Sent, Shelf, StoredObject
from cxr_node.errors import (
    AssociationRefused,
    Disposition,
    NotNegotiated,
    Refused,
    StorageUnavailable,
    Unreachable,
)
from cxr_node.settings import Destination, Settings, Tls

# A path given to send_c_store is then read and sent as it is; otherwise pynetdicom decodes and encodes it again.
_config.STORE_SEND_CHUNKED_DATASET = True

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
RESOURCE_LIMITATION = 0x0213

# PS3.4 B.2.3 and PS3.7 C: what each failure says, by the bits that count.
_FAMILIES = {0xA700: "out of resources", 0xA900: "dataset does not match SOP class"}
_CODES = {
    PROCESSING_FAILURE: "processing failure",
    0x0117: "invalid SOP Instance",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0124: "not authorised",
    RESOURCE_LIMITATION: "resource limitation",
}

# PS3.8 table 9-21: source and reason of an A-ASSOCIATE-RJ.
_CALLING_UNKNOWN = (1, 3)
_CALLED_UNKNOWN = (1, 7)
_PERMANENT = 1

RELEASE_WITHIN_S = 5.0  # the object is there already; a peer that hangs up rudely costs no more


class RejectedPermanent(AssociationRefused):
    """The peer rejects us for good: a person has to change a setting here or there. Tried again, but slowly."""


class CStore:
    """Sends to one Storage SCP, one association an object.

    Comprehensive 3D, Comprehensive and Enhanced SR are proposed together; the object goes as the first that the peer
    accepts. Calling AE title is that of the node's own listener, which the peer's list of known AEs has anyway.
    """

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._name = destination.name
        self._ae_title = destination.ae_title
        self._host = destination.host
        self._port = destination.port
        self._timeout_s = destination.timeout_s
        self._tls = destination.tls
        self._tls_files = {key: settings.path(value) for key, value in _files(destination.tls).items() if value}
        self._calling_ae_title = settings.receive.ae_title
        self._shelf = shelf
        self._where = f"{self._name}: {self._ae_title} at {self._host}:{self._port}"

    def send(self, stored: StoredObject) -> Sent:
        """Send and wait for the answer.

        Returns
        -------
        Sent
            Also where the peer answered with a warning (0xBxxx: it has the object), or that it has it already (0x0111):
            a UID of ours stands for one content only.

        Raises
        ------
        Unreachable, AssociationRefused, NotNegotiated, Refused
            See `cxr_node.errors`; 0x0110 and 0x0213 may pass like 0xA7xx, PACS answer so while their database is down.
        StorageUnavailable
            The node's own file cannot be read.

        Source: DICOM PS3.4 B.2.3, PS3.7 9.1.1 and C.
        """
        association = self._associate(stored.classes)
        try:
            return self._store(association, stored)
        finally:
            association.acse_timeout = min(self._timeout_s, RELEASE_WITHIN_S)
            association.release()

    def _store(self, association: Association, stored: StoredObject) -> Sent:
        accepted: dict[str, set[str]] = {}
        for context in association.accepted_contexts:
            accepted.setdefault(str(context.abstract_syntax), set()).add(str(context.transfer_syntax[0]))
        for sop_class_uid in stored.classes:
            if sop_class_uid not in accepted:
                continue
            item = self._shelf.twin(stored, sop_class_uid)
            answer = self._ask(association, item, implicit=ExplicitVRLittleEndian not in accepted[sop_class_uid])
            status = answer.Status
            if status == SOP_CLASS_NOT_SUPPORTED:
                continue
            if status == SUCCESS:
                return Sent(sop_class_uid, item.sop_instance_uid)
            if status == DUPLICATE_SOP_INSTANCE:
                return Sent(sop_class_uid, item.sop_instance_uid, f"status 0x{status:04X}: it has the object already")
            if code_to_category(status) == "Warning":
                return Sent(sop_class_uid, item.sop_instance_uid, f"stored with warning, status 0x{status:04X}")
            raise self._refused(answer)
        raise self._not_negotiated()

    def _ask(self, association: Association, item: StoredObject, *, implicit: bool) -> Dataset:
        """Send one C-STORE request and return the answer's status elements."""
        if not association.is_established:
            raise Unreachable(f"{self._where} closed the association before the object was sent")
        started = time.monotonic()
        try:
            # Implicit VR is for peers that take nothing else; made of the stored bytes alone, it is the same each time.
            answer = association.send_c_store(dcmread(item.path) if implicit else item.path)
        except (OSError, InvalidDicomError, AttributeError) as error:
            raise StorageUnavailable(
                f"result object {item.sop_instance_uid} cannot be read: {type(error).__name__}"
            ) from error
        if "Status" in answer:
            return answer
        waited_s = time.monotonic() - started
        if waited_s >= self._timeout_s:
            raise Unreachable(f"{self._where} did not answer C-STORE within timeout_s = {self._timeout_s:g}")
        raise Unreachable(f"{self._where} broke the association off while an object was sent")

    def _associate(self, classes: tuple[str, ...]) -> Association:
        ae = AE(ae_title=self._calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._timeout_s
        # Two contexts a class, so that a peer which prefers Implicit VR cannot choose it where it takes Explicit too.
        contexts = [
            build_context(sop_class_uid, syntax)
            for sop_class_uid in classes
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
        ]
        tls_args = (self._tls_context(), self._host) if self._tls.enabled else None
        started = time.monotonic()
        try:
            association = ae.associate(
                self._host,
                self._port,
                contexts=contexts,
                ae_title=self._ae_title,
                tls_args=tls_args,
                evt_handlers=[(evt.EVT_CONN_OPEN, _tune, [self._timeout_s]), (evt.EVT_DATA_SENT, _acknowledge_at_once)],
            )
        except socket.gaierror as error:
            raise Unreachable(f"{self._name}: the name {self._host} does not resolve to an address") from error
        except OSError as error:
            raise Unreachable(f"{self._where}: {_word(error)}") from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise self._rejected(association)
        if association.rejected_contexts:
            raise self._not_negotiated()
        if time.monotonic() - started >= self._timeout_s:
            raise Unreachable(f"{self._where} did not answer within timeout_s = {self._timeout_s:g}")
        raise Unreachable(f"{self._where}: {self._diagnosis()}")

    def _rejected(self, association: Association) -> AssociationRefused:
        answer: Any = association.acceptor.primitive
        cause = (answer.result_source, answer.diagnostic)
        if cause == _CALLED_UNKNOWN:
            return RejectedPermanent(
                f"{self._name}: the system at {self._host}:{self._port} does not go by the AE title {self._ae_title}: "
                "correct ae_title of the destination, or the AE title set on that system"
            )
        if cause == _CALLING_UNKNOWN:
            return RejectedPermanent(
                f"{self._where} does not know the calling AE title {self._calling_ae_title}: "
                "add it to that system's list of known AEs"
            )
        how = f"{answer.result_str}, {answer.source_str}, {answer.reason_str}"
        if answer.result == _PERMANENT:
            return RejectedPermanent(f"{self._where} refuses associations from {self._calling_ae_title} ({how})")
        return AssociationRefused(f"{self._where} takes no association now ({how})")

    def _not_negotiated(self) -> NotNegotiated:
        return NotNegotiated(
            f"{self._where} takes none of Comprehensive 3D SR, Comprehensive SR and Enhanced SR: "
            "enable one of these storage SOP classes there"
        )

    def _refused(self, answer: Dataset) -> Refused:
        status = answer.Status
        meaning = _CODES.get(status) or _FAMILIES.get(status & 0xFF00)
        if meaning is None:
            meaning = "cannot understand the dataset" if status & 0xF000 == 0xC000 else "failure"
        # Error Comment is left out: peers write dataset values into it. Offending Element holds tags only.
        tags = answer.get("OffendingElement") or []
        named = (
            f", offending {', '.join(str(tag) for tag in ([tags] if isinstance(tags, int) else tags))}" if tags else ""
        )
        error = Refused(f"{self._where} answered C-STORE with 0x{status:04X}, {meaning}{named}", status)
        if status in (PROCESSING_FAILURE, RESOURCE_LIMITATION):
            error.disposition = Disposition.RETRY
        return error

    def _diagnosis(self) -> str:
        """Say why no association came about: pynetdicom does not, so knock once more."""
        try:
            with socket.create_connection((self._host, self._port), timeout=min(self._timeout_s, 5.0)) as plain:
                if self._tls.enabled:
                    with self._tls_context().wrap_socket(plain, server_hostname=self._host):
                        pass
        except ssl.SSLCertVerificationError as error:
            return f"its TLS certificate is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            return f"TLS failed: {error.reason or 'handshake broken off'}"
        except OSError as error:
            return _word(error)
        return "it closed the connection without an answer to the association request"

    def _tls_context(self) -> ssl.SSLContext:
        """Made anew each time, so that a renewed certificate needs no restart. Source: PS3.15 B.12 (BCP 195)."""
        files = self._tls_files
        try:
            context = ssl.create_default_context(cafile=files.get("ca"))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if "certificate" in files:
                context.load_cert_chain(files["certificate"], files.get("key"))
        except OSError as error:  # ssl.SSLError is one
            listed = ", ".join(str(path) for path in files.values())
            raise Unreachable(f"{self._name}: the TLS files {listed} cannot be used: {_word(error)}") from error
        return context


def _files(tls: Tls) -> dict[str, str]:
    return {"certificate": tls.certificate, "key": tls.key, "ca": tls.ca}


def _tune(event: evt.Event, timeout_s: float) -> None:
    """Answer at once, and let the kernel end a connection whose peer takes nothing.

    Nagle's algorithm with delayed acknowledgement costs 40 ms an object, and pynetdicom's SCU leaves it on.
    """
    transport: Any = event.assoc.dul.socket
    connection = transport.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))


def _acknowledge_at_once(event: evt.Event) -> None:
    """Have the kernel acknowledge the answer's first segment as it comes; it forgets this with every exchange.

    A peer with Nagle's algorithm on (DCMTK as it is shipped) holds the second until then: 40 ms an object.
    """
    transport: Any = event.assoc.dul.socket
    if hasattr(socket, "TCP_QUICKACK") and transport.socket is not None:
        with contextlib.suppress(OSError):  # closed meanwhile: whoever reads from it will tell
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _word(error: OSError) -> str:
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
