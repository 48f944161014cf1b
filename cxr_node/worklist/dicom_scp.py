"""The DICOM side: one AE that answers Verification, Unified Procedure Step and Modality Worklist to listed callers."""

import threading
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPush,
    Verification,
)

from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.worklist.callers import is_allowed
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


class WorklistScp:
    """Listens, refuses who is no caller, and hands each service to its module."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._find = FindScp(settings, services)
        self._ups = UpsScp(services)
        self._ae = AE(ae_title=settings.worklist.dicom_ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MAXIMUM_ASSOCIATIONS
        self._ae.network_timeout = IDLE_TIMEOUT_S
        for sop_class in (Verification, ModalityWorklistInformationFind, UnifiedProcedureStepPush, *MODELS):
            self._ae.add_supported_context(sop_class)
        self.port = 0

    def start(self) -> None:
        """Listen; raises OSError when the address is taken."""
        worklist = self._settings.worklist
        server = self._ae.start_server(
            (worklist.dicom_host, worklist.dicom_port),
            block=False,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._check_caller),
                (evt.EVT_C_FIND, self._find.find),
                (evt.EVT_N_CREATE, self._ups.create),
                (evt.EVT_N_GET, self._ups.get),
                (evt.EVT_N_SET, self._ups.set),
                (evt.EVT_N_ACTION, self._ups.act),
            ],
        )
        assert server is not None  # only block=True returns nothing
        self.port = int(server.server_address[1])

    def stop(self, within_s: float = 2.0) -> None:
        """Stop listening and end open associations; one that hangs is left to the end of the process."""
        thread = threading.Thread(target=self._ae.shutdown, name="worklist-scp-shutdown", daemon=True)
        thread.start()
        thread.join(within_s)

    def _check_caller(self, event: Any) -> None:
        association = event.assoc
        ae_title, address = str(association.requestor.primitive.calling_ae_title), str(association.requestor.address)
        if not is_allowed(self._settings.caller, ae_title, address):
            log.warning("caller_refused", address=address)
            association.acse.send_reject(*_CALLER_UNKNOWN)
            association.kill()
