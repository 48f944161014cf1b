"""The DICOM side: one AE that answers Verification, Unified Procedure Step and Modality Worklist to listed callers."""

import socketserver
import threading
from enum import Enum
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPush,
    Verification,
)

from cxr_node.access import refusal_of
from cxr_node.log import get_logger, told_by
from cxr_node.settings import Settings
from cxr_node.strangers import guards
from cxr_node.tls import Shown, listener, shown_by
from cxr_node.work.recorder import Recorder
from cxr_node.worklist.callers import rows_of
from cxr_node.worklist.dicom_server import MOST_CONNECTIONS, DicomServer
from cxr_node.worklist.find_scp import MODELS, FindScp
from cxr_node.worklist.services import Services
from cxr_node.worklist.ups_scp import UpsScp
from storage.callers import WORKLIST

log = get_logger("worklist")

# They hold patients, and writing them line by line, even to a log that drops them, takes as long as the query.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

# Presentation contexts; the conformance statement states these.
SERVED = (Verification, ModalityWorklistInformationFind, UnifiedProcedureStepPush, *MODELS)
IDLE_TIMEOUT_S = 60.0
MAXIMUM_ASSOCIATIONS = 32
_POLL_S = 0.1


class Refusal(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ. Source: PS3.8 9.3.4."""

    CALLING_AE_TITLE = (0x01, 0x01, 0x03)  # permanent, by the service user, not recognized
    CALLED_AE_TITLE = (0x01, 0x01, 0x07)
    LOCAL_LIMIT = (0x02, 0x03, 0x02)  # transient, by the service provider (presentation)


class WorklistScp:
    """Listens, refuses who is no caller, and hands each service to its module."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._services = services
        self._recorder = Recorder(services.database, actor="worklist", listener=WORKLIST, now=services.now)
        self._find = FindScp(settings, services)
        self._ups = UpsScp(services)
        self._ae = AE(ae_title=settings.worklist.dicom_ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MOST_CONNECTIONS  # our own limit answers first; silent ones count here
        self._ae.network_timeout = IDLE_TIMEOUT_S
        self._callers = rows_of(settings.caller)
        self._server: Any = None
        self._thread: threading.Thread | None = None
        for sop_class in SERVED:
            self._ae.add_supported_context(sop_class)
        self.port = 0

    def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError
            The address is taken.
        SettingsError
            A TLS file is not what it must be.
        """
        worklist = self._settings.worklist
        where = "worklist.dicom_tls"
        self._server = self._ae.make_server(
            (worklist.dicom_host, worklist.dicom_port),
            server_class=DicomServer,  # type: ignore[arg-type]
            ssl_context=listener(
                where,
                worklist.dicom_tls,
                self._settings.path,
                minimum=self._settings.node.tls_minimum,
                tell=told_by(log, where),
            ),
            evt_handlers=[
                *guards(),
                (evt.EVT_REQUESTED, self._check_caller),
                (evt.EVT_C_FIND, self._find.find),
                (evt.EVT_N_CREATE, self._ups.create),
                (evt.EVT_N_GET, self._ups.get),
                (evt.EVT_N_SET, self._ups.set),
                (evt.EVT_N_ACTION, self._ups.act),
            ],
        )
        self._server.tell_stranger = lambda address, reason: self._recorder.rejected("", "", address, "tls", reason)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="worklist-scp", daemon=True
        )
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """Stop listening and end open associations; one that hangs is left to the end of the process."""
        self._recorder.close()
        if self._server is None:
            return
        thread = threading.Thread(target=self._end, name="worklist-scp-shutdown", daemon=True)
        thread.start()
        thread.join(within_s)

    def _end(self) -> None:
        # The library's own shutdown is for servers that `AE.start_server` made.
        socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        for association in self._server.active_associations:
            association.abort()

    def _check_caller(self, event: Any) -> None:
        association = event.assoc
        request = association.requestor.primitive
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        address = str(association.requestor.address)
        link = association.dul.socket
        shown = None if link is None else shown_by(link.socket)
        refused = self._refusal(association, calling, called, address, shown)
        if refused is None:
            return
        refusal, reason = refused
        certificate = "" if shown is None else str(shown)
        told = {"certificate": certificate} if certificate else {}
        self._server.seldom.warning("caller_refused", address=address, reason=reason, **told)
        association.acse.send_reject(*refusal.value)
        association.kill()
        self._recorder.rejected(calling, called, address, reason, certificate)

    def _refusal(
        self, association: Any, calling: str, called: str, address: str, shown: Shown | None
    ) -> tuple[Refusal, str] | None:
        """Decide; with a refusal goes its reason, in a word."""
        if called != self._settings.worklist.dicom_ae_title.strip():
            return Refusal.CALLED_AE_TITLE, "called_ae_title"
        if unknown := refusal_of(self._callers, calling, address, None if shown is None else shown.identities):
            return Refusal.CALLING_AE_TITLE, unknown
        established = sum(item.is_established for item in self._server.active_associations if item is not association)
        if established >= MAXIMUM_ASSOCIATIONS:
            return Refusal.LOCAL_LIMIT, "maximum_associations"
        return None
