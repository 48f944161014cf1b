"""The Storage SCP: associations in, answers out. See `transport` for how bytes get from the socket to the disk."""

import socket
import socketserver
import ssl
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.errors import SettingsError
from cxr_node.log import get_logger
from cxr_node.receive.callers import CallerList, Refusal
from cxr_node.receive.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from cxr_node.receive.intake import Intake, Requested, Sender
from cxr_node.receive.statuses import OUT_OF_RESOURCES, UNEXPECTED, Answer
from cxr_node.receive.transport import StreamHandler
from cxr_node.settings import Settings
from storage import Database, audit
from storage.errors import StorageError

log = get_logger("receive")

MAXIMUM_PDU = 131072
BACKLOG = 128


class StorageScp:
    """One acceptor: listens until `close`.

    Parameters
    ----------
    incoming : folder of temporary files, on the file system of the instances
    """

    def __init__(self, settings: Settings, intake: Intake, database: Database, incoming: Path) -> None:
        receive = settings.receive
        self._settings = receive
        self._intake = intake
        self._database = database
        self._callers = CallerList.of(settings.caller)
        self._lock = threading.Lock()
        self._open: dict[int, str] = {}  # association → calling AE title
        self._studies: dict[int, set[str]] = {}
        tempfile.tempdir = str(incoming)
        _config.STORE_RECV_CHUNKED_DATASET = True
        ae = AE(ae_title=receive.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU
        # Our own limit answers first; pynetdicom's counts associations that are about to be refused too.
        ae.maximum_associations = receive.maximum_associations * 2 + 16
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = receive.idle_timeout_s
        ae.add_supported_context(VERIFICATION)
        for sop_class in STORAGE_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        options: dict[str, Any] = {}
        if receive.transport == "stream":
            options["request_handler"] = StreamHandler
        self._server = ae.make_server(
            (receive.host, receive.port),
            ae_title=receive.ae_title,
            ssl_context=_tls_context(settings),
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._opened),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_CONN_CLOSE, self._closed),
            ],
            **options,
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end what is open; an instance that is half sent is sent again by its sender."""
        # The library's own shutdown is for servers that `AE.start_server` made.
        socketserver.BaseServer.shutdown(self._server)
        for association in list(self._server.active_associations):
            association.abort()
        self._server.server_close()
        self._thread.join(5)

    def _opened(self, event: Any) -> None:
        connection = event.assoc.dul.socket.socket
        # Without it the answer to each object waits 40 ms for an acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(self._settings.idle_timeout_s)

    def _requested(self, event: Any) -> None:
        request = event.assoc.requestor.primitive
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        address = str(event.assoc.requestor.address)
        refusal = self._refusal(calling, called, address, id(event.assoc))
        if refusal is None:
            return
        metrics.ASSOCIATIONS.labels("refused").inc()
        log.warning("association_refused", reason=refusal.name.lower(), calling_ae_title=calling, peer_address=address)
        event.assoc.acse.send_reject(*refusal.value)
        event.assoc.kill()
        if refusal is not Refusal.LOCAL_LIMIT:
            self._audit_refusal(refusal, calling, called, address)

    def _refusal(self, calling: str, called: str, address: str, key: int) -> Refusal | None:
        if called != self._settings.ae_title.strip():
            return Refusal.CALLED_AE_TITLE
        if not self._callers.allows(calling, address):
            return Refusal.CALLING_AE_TITLE
        with self._lock:
            of_caller = Counter(self._open.values())[calling]
            if len(self._open) >= self._settings.maximum_associations:
                return Refusal.LOCAL_LIMIT
            if of_caller >= self._settings.per_caller_associations:
                return Refusal.LOCAL_LIMIT
            self._open[key] = calling
        return None

    def _audit_refusal(self, refusal: Refusal, calling: str, called: str, address: str) -> None:
        try:
            with self._database.begin() as connection:
                audit.record(
                    connection,
                    "association_refused",
                    actor=calling,
                    now=utc_now(),
                    detail={"reason": refusal.name.lower(), "called_ae_title": called, "peer_address": address},
                )
        except StorageError as error:
            log.warning("audit_not_written", error_type=type(error).__name__)

    def _accepted(self, event: Any) -> None:
        metrics.ASSOCIATIONS.labels("accepted").inc()
        metrics.OPEN_ASSOCIATIONS.inc()

    def _closed(self, event: Any) -> None:
        with self._lock:
            was_open = self._open.pop(id(event.assoc), None)
            studies = self._studies.pop(id(event.assoc), set())
        if was_open is not None and event.assoc.acceptor.ae_title:
            metrics.OPEN_ASSOCIATIONS.dec()
        self._intake.hasten(studies, now=utc_now)

    def _store(self, event: Any) -> int | Dataset:
        with metrics.INTAKE_SECONDS.time():
            answer = self._answer(event)
        metrics.INSTANCES.labels(f"0x{answer.status:04X}").inc()
        status = Dataset()
        status.Status = answer.status
        if answer.comment:
            status.ErrorComment = answer.comment
        return status

    def _answer(self, event: Any) -> Answer:
        association = event.assoc
        try:
            path = event.dataset_path
            if getattr(association.dul, "write_failed", False):
                return Answer(OUT_OF_RESOURCES, "storage cannot take the instance now")
            requested = Requested(
                str(event.request.AffectedSOPClassUID or ""),
                str(event.request.AffectedSOPInstanceUID or ""),
                str(event.context.transfer_syntax),
            )
            sender = Sender(
                association.requestor.ae_title.strip(),
                association.acceptor.ae_title.strip(),
                str(association.requestor.address),
                f"{id(association):x}",
            )
            accepted = self._intake.accept(Path(path), requested, sender, now=utc_now)
        except OSError as error:
            log.error("instance_not_kept", error_type=type(error).__name__, reason=str(error))
            return Answer(OUT_OF_RESOURCES, "storage cannot take the instance now")
        except Exception as error:  # whatever a dataset does to us, its sender gets an answer
            log.error("intake_failed", exc_info=error)
            return Answer(UNEXPECTED, "the node failed on this dataset")
        if accepted.study_instance_uid:
            with self._lock:
                self._studies.setdefault(id(association), set()).add(accepted.study_instance_uid)
        return accepted.answer


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the listener's context by BCP 195: TLS 1.2 or newer, client certificate unless node.toml waives it."""
    tls = settings.receive.tls
    if not tls.enabled:
        return None
    if not (tls.certificate and tls.key):
        raise SettingsError("receive.tls: certificate and key are both needed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.path(tls.certificate), settings.path(tls.key))
        if tls.ca:
            context.load_verify_locations(settings.path(tls.ca))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"receive.tls: {error}") from error
    if tls.require_client_certificate:
        if not tls.ca:
            raise SettingsError("receive.tls: ca is needed to check the certificates of callers")
        context.verify_mode = ssl.CERT_REQUIRED
    return context
