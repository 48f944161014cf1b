"""The DICOM side: one AE that answers Verification, Unified Procedure Step and Modality Worklist to listed callers."""

import socketserver
import threading
import time
from collections import deque
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
from cxr_node.tls import listener, shown_by
from cxr_node.worklist.callers import rows_of
from cxr_node.worklist.dicom_server import DicomServer
from cxr_node.worklist.find_scp import MODELS, FindScp
from cxr_node.worklist.services import Services
from cxr_node.worklist.ups_scp import UpsScp

log = get_logger("worklist")

# They hold patients, and writing them line by line, even to a log that drops them, takes as long as the query.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

# PS3.8 9.3.4: rejected permanent, by the service user, calling AE title not recognized
_CALLER_UNKNOWN = (0x01, 0x01, 0x03)

IDLE_TIMEOUT_S = 60.0
MAXIMUM_ASSOCIATIONS = 32
AUDITED_PER_MINUTE = 30
_POLL_S = 0.1


class WorklistScp:
    """Listens, refuses who is no caller, and hands each service to its module."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._services = services
        self._audited: deque[float] = deque()
        self._audited_lock = threading.Lock()
        self._find = FindScp(settings, services)
        self._ups = UpsScp(services)
        self._ae = AE(ae_title=settings.worklist.dicom_ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MAXIMUM_ASSOCIATIONS
        self._ae.network_timeout = IDLE_TIMEOUT_S
        self._callers = rows_of(settings.caller)
        self._server: Any = None
        self._thread: threading.Thread | None = None
        for sop_class in (Verification, ModalityWorklistInformationFind, UnifiedProcedureStepPush, *MODELS):
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
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S}, name="worklist-scp", daemon=True
        )
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """Stop listening and end open associations; one that hangs is left to the end of the process."""
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
        ae_title, address = str(association.requestor.primitive.calling_ae_title), str(association.requestor.address)
        link = association.dul.socket
        shown = None if link is None else shown_by(link.socket)
        reason = refusal_of(self._callers, ae_title, address, None if shown is None else shown.identities)
        if not reason:
            return
        told = {} if shown is None else {"certificate": str(shown)}
        log.warning("caller_refused", address=address, reason=reason, **told)
        association.acse.send_reject(*_CALLER_UNKNOWN)
        association.kill()
        if reason == "certificate":
            self._audit(ae_title.strip(), {"reason": reason, "peer_address": address, **told})

    def _audit(self, ae_title: str, detail: dict[str, str]) -> None:
        """Tell of a name that was used without its certificate; no more often than a minute may hold."""
        now = time.monotonic()
        with self._audited_lock:
            while self._audited and now - self._audited[0] > 60:
                self._audited.popleft()
            if len(self._audited) >= AUDITED_PER_MINUTE:
                return
            self._audited.append(now)
        self._services.audit.record("association_refused", actor=ae_title, **detail)
