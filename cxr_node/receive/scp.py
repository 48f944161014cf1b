"""The Storage SCP: associations in, answers out. See `transport` for how bytes get from the socket to the disk."""

import socketserver
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ

from cxr_node import metrics
from cxr_node.accepting import cut
from cxr_node.clock import utc_now
from cxr_node.log import get_logger, told_by
from cxr_node.receive.callers import Callers, Refusal
from cxr_node.receive.commitment import Commitment
from cxr_node.receive.contexts import STORAGE_CLASSES, TRANSFER_SYNTAXES, VERIFICATION
from cxr_node.receive.intake import Intake, Requested
from cxr_node.receive.manifests import MANIFEST_CLASSES, ManifestScp
from cxr_node.receive.messages import StoreEvent
from cxr_node.receive.open_association import OpenAssociation
from cxr_node.receive.records import Sender
from cxr_node.receive.server import make_server
from cxr_node.receive.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, UNEXPECTED, Answer
from cxr_node.receive.transport import (
    discard_unfinished,
    discard_unserved,
    seldom,
    wait_until_served,
    write_failed,
)
from cxr_node.settings import Settings
from cxr_node.strangers import guards
from cxr_node.tls import Shown, listener, shown_by
from cxr_node.work.recorder import Recorder
from storage import Database, Doorbell
from storage.associations import ABORTED, RELEASED

log = get_logger("receive")

MAXIMUM_PDU = 131072
ENDS_WITHIN_S = 3.0  # an instance whose last byte is here may still be answered when the node stops
_SAYS_WHO_IT_IS_WITHIN_S = 30.0  # as DCMTK and others have it
_POLL_S = 0.1


class StorageScp:
    """One acceptor: listens from the moment it is made, answers from `start` until `close`.

    Parameters
    ----------
    incoming : folder of temporary files, on the file system of the instances
    reuse_port : other processes accept on the same port
    port : in place of the one in `settings`

    Raises
    ------
    SettingsError
        A caller's address or a TLS file is not what it must be.
    OSError
        The address is taken, or none of this machine.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        database: Database,
        incoming: Path,
        *,
        reuse_port: bool = False,
        port: int | None = None,
    ) -> None:
        receive = settings.receive
        self._settings = receive
        self._intake = intake
        self._database = database
        self._callers = Callers(settings.caller, database)
        self._recorder = Recorder(database)
        self._is_stopping = False
        self._lock = threading.Lock()
        self._open: dict[Any, OpenAssociation] = {}
        # The library makes its files where this points, for the whole process: a rename needs one file system.
        tempfile.tempdir = str(incoming)
        ae = AE(ae_title=receive.ae_title)
        ae.maximum_pdu_size = MAXIMUM_PDU
        # Our own limit answers first; this one is for connections that have not said who they are.
        ae.maximum_associations = receive.maximum_associations * 2 + 16
        ae.dimse_timeout = ae.network_timeout = receive.idle_timeout_s
        ae.acse_timeout = min(receive.idle_timeout_s, _SAYS_WHO_IT_IS_WITHIN_S)
        ae.add_supported_context(VERIFICATION)
        for sop_class in STORAGE_CLASSES:
            ae.add_supported_context(sop_class, list(TRANSFER_SYNTAXES))
        for sop_class in MANIFEST_CLASSES:
            ae.add_supported_context(sop_class)
        commitment = Commitment(database, Doorbell(settings.data_dir / "run", database))
        commitment.support(ae)
        manifest_scp = ManifestScp(settings, database, Doorbell(settings.data_dir / "run", database))
        self._server = make_server(
            ae,
            (receive.host, receive.port if port is None else port),
            transport=receive.transport,
            ssl_context=_tls_context(settings),
            tell_stranger=self._stranger,
            answer_store=self._answered,
            handlers=[
                *guards(),
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_CREATE, manifest_scp.created),
                (evt.EVT_N_SET, manifest_scp.updated),
                *commitment.handlers,
                (evt.EVT_PDU_RECV, self._heard),
                (evt.EVT_CONN_CLOSE, self._closed),
            ],
            reuse_port=reuse_port,
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="receive-acceptor", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def open_associations(self) -> int:
        """Associations that were let in and have not ended."""
        with self._lock:
            self._forget_dead()
            return len(self._open)

    def close(self) -> None:
        """Stop listening and end what is open; an instance that is half sent is sent again by its sender."""
        self._is_stopping = True
        # The library's own shutdown is for servers that `AE.start_server` made.
        if self._thread.is_alive():
            socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        associations = list(self._server.active_associations)
        for association in associations:
            if association.is_established:
                association.abort(block=False)
            else:
                cut(association)
        deadline = time.monotonic() + ENDS_WITHIN_S
        for association in associations:
            _join(association, max(0.0, deadline - time.monotonic()))
            wait_until_served(association, max(0.0, deadline - time.monotonic()))
        for association in associations:
            cut(association)  # if it is still open: it reads from a peer that sends nothing, or writes to a slow disk
            _join(association, 0.5)
            discard_unserved(association)
            self._end(association)
        if self._thread.ident is not None:
            self._thread.join(5)
        self._recorder.close()

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        request: Any = association.requestor.primitive
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        address = str(association.requestor.address)
        shown = _shown_over(association)
        refused = self._refusal(calling, called, address, shown, association)
        if refused is None:
            return
        refusal, reason = refused
        certificate = "" if shown is None else str(shown)
        metrics.ASSOCIATIONS.labels("refused").inc()
        told = {"certificate": certificate} if certificate else {}
        seldom.warning("association_refused", reason=reason, calling_ae_title=calling, peer_address=address, **told)
        association.acse.send_reject(*refusal.value)
        association.kill()
        self._recorder.rejected(calling, called, address, reason, certificate)

    def _stranger(self, address: str, reason: str) -> None:
        """A connection ended in its TLS handshake because of the certificate: before it could say who it is."""
        self._recorder.rejected("", "", address, "tls", reason)

    def _refusal(
        self, calling: str, called: str, address: str, shown: Shown | None, association: Any
    ) -> tuple[Refusal, str] | None:
        """Decide, and take a place where there is one; with a refusal goes its reason, in a word."""
        if called != self._settings.ae_title.strip():
            return Refusal.CALLED_AE_TITLE, "called_ae_title"
        if unknown := self._callers.refusal(calling, address, shown):
            return Refusal.CALLING_AE_TITLE, unknown
        with self._lock:
            self._forget_dead()
            of_caller = sum(item.calling_ae_title == calling for item in self._open.values())
            if len(self._open) >= self._settings.maximum_associations:
                return Refusal.LOCAL_LIMIT, "maximum_associations"
            if of_caller >= self._settings.per_caller_associations:
                return Refusal.LOCAL_LIMIT, "per_caller_associations"
            self._open[association] = OpenAssociation(calling, called, address, time.monotonic(), utc_now())
        return None

    def _forget_dead(self) -> None:
        """A place must not stay taken by an association whose end brought no event. The lock is held."""
        for association in [item for item in self._open if not item.is_alive()]:
            discard_unfinished(association)
            found = self._open.pop(association)
            if found.is_counted:
                metrics.OPEN_ASSOCIATIONS.dec()
            self._recorder.ended(found.record(association, utc_now(), is_stopping=self._is_stopping))

    def _accepted(self, event: evt.Event) -> None:
        metrics.ASSOCIATIONS.labels("accepted").inc()
        with self._lock:
            found = self._open.get(event.assoc)
            if found is not None and not found.is_counted:
                found.is_counted = True
                metrics.OPEN_ASSOCIATIONS.inc()

    def _heard(self, event: evt.Event) -> None:
        said = {A_RELEASE_RQ: RELEASED, A_ABORT_RQ: ABORTED}.get(type(event.pdu))
        if said is not None and (found := self._open.get(event.assoc)) is not None:
            found.said = said

    def _closed(self, event: evt.Event) -> None:
        if event.assoc.requestor.primitive is None:
            metrics.ASSOCIATIONS.labels("probe").inc()
        discard_unfinished(event.assoc)
        self._end(event.assoc)

    def _end(self, association: Any) -> None:
        with self._lock:
            was = self._open.pop(association, None)
        if was is None:
            return
        if was.is_counted:
            metrics.OPEN_ASSOCIATIONS.dec()
        self._recorder.ended(was.record(association, utc_now(), is_stopping=self._is_stopping))
        if was.answers:
            log.info(
                "association_ended",
                association_id=was.association_id,
                calling_ae_title=was.calling_ae_title,
                peer_address=was.peer_address,
                instances=was.answers[SUCCESS],
                refused=was.answers.total() - was.answers[SUCCESS],
                studies=len(was.studies),
                duration_s=round(time.monotonic() - was.since, 3),
            )
        self._intake.hasten(was.studies, now=utc_now)

    def _answered(self, event: evt.Event | StoreEvent) -> Answer:
        with metrics.INTAKE_SECONDS.time():
            answer = self._answer(event)
        metrics.INSTANCES.labels(f"0x{answer.status:04X}").inc()
        return answer

    def _store(self, event: evt.Event) -> Dataset:
        answer = self._answered(event)
        status = Dataset()
        status.Status = answer.status
        if answer.comment:
            status.ErrorComment = answer.comment
        return status

    def _answer(self, event: evt.Event | StoreEvent) -> Answer:
        association = event.assoc
        with self._lock:
            found = self._open.get(association)
        if found is None:  # the node stops
            return Answer(OUT_OF_RESOURCES, "the node stops")
        study, size = "", 0
        try:
            path, request = event.dataset_path, cast(C_STORE, event.request)
            if path is None:
                answer = Answer(CANNOT_UNDERSTAND, "C-STORE request without a dataset")
            elif write_failed(association, path):
                answer = Answer(OUT_OF_RESOURCES, "storage cannot take the instance now")
            else:
                requested = Requested(
                    str(request.AffectedSOPClassUID or ""),
                    str(request.AffectedSOPInstanceUID or "").strip(),
                    str(event.context.transfer_syntax),
                )
                sender = Sender(
                    found.calling_ae_title,
                    association.acceptor.ae_title.strip(),
                    found.peer_address,
                    found.association_id,
                )
                size = Path(path).stat().st_size
                accepted = self._intake.accept(Path(path), requested, sender, now=utc_now)
                answer, study = accepted.answer, accepted.study_instance_uid
        except Exception as error:  # whatever a dataset does to us, its sender gets an answer
            log.error("intake_failed", exc_info=error)
            answer = Answer(UNEXPECTED, "the node failed on this dataset")
        with self._lock:
            found.answers[answer.status] += 1
            found.bytes += size if answer.status == SUCCESS else 0
            if study:
                found.studies.add(study)
                late = {study} if association not in self._open else set()
            else:
                late = set()
        # Closed while its last instance was being made durable: its end has been told already, without this study.
        self._intake.hasten(late, now=utc_now)
        return answer


def _shown_over(association: Any) -> Shown | None:
    """Return the certificate shown over the connection of an association."""
    link = association.dul.socket
    return None if link is None else shown_by(link.socket)


def _join(thread: threading.Thread, timeout_s: float) -> None:
    if thread.is_alive():  # one that is about to start is listed already, and cannot be joined
        thread.join(timeout_s)


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    tls = settings.receive.tls
    return listener(
        "receive.tls", tls, settings.path, minimum=settings.node.tls_minimum, tell=told_by(log, "receive.tls")
    )
