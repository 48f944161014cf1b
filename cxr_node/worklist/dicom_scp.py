"""The DICOM side: Verification, Unified Procedure Step (C-FIND, N-GET) and Modality Worklist (C-FIND) in one AE."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityWorklistInformationFind,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
    Verification,
)
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.worklist import mwl, ups
from cxr_node.worklist.audit import AuditTrail
from cxr_node.worklist.callers import is_allowed
from cxr_node.worklist.items import Work, build
from cxr_node.worklist.listing import Listing
from cxr_node.worklist.matching import UTF_8, answer, has_unsupported_keys, matches, repair_text
from storage import Database, instances
from storage.errors import StorageError
from storage.studies import Study

log = get_logger("worklist")

# They hold patients, and writing them line by line, even to a log that drops them, takes as long as the query.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False

# PS3.4 C.4.1.1.4 and CC.2.8.4, CC.2.7.4
SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_WITHOUT_OPTIONAL_KEYS = 0xFF01
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
IDENTIFIER_DOES_NOT_MATCH = 0xA900
PROCESSING_FAILURE = 0x0110
NO_SUCH_WORK_ITEM = 0xC307

# PS3.8 9.3.4: rejected permanent, by the service user, calling AE title not recognized
_CALLER_UNKNOWN = (0x01, 0x01, 0x03)

IDLE_TIMEOUT_S = 60.0
MAXIMUM_ASSOCIATIONS = 32

_UNREADABLE = (
    BytesLengthException,
    EOFError,
    ValueError,
    NotImplementedError,
    KeyError,
    AttributeError,
    TypeError,
    LookupError,
)
_MODELS = (UnifiedProcedureStepPull, UnifiedProcedureStepWatch, UnifiedProcedureStepQuery)


class WorklistScp:
    """Answers queries with the list as it is at that moment, in reading order."""

    def __init__(
        self, settings: Settings, database: Database, listing: Listing, audit: AuditTrail, zone: ZoneInfo
    ) -> None:
        self._settings = settings
        self._database = database
        self._listing = listing
        self._audit = audit
        self._zone = zone
        self._ae = AE(ae_title=settings.worklist.dicom_ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MAXIMUM_ASSOCIATIONS
        self._ae.network_timeout = IDLE_TIMEOUT_S
        for sop_class in (Verification, ModalityWorklistInformationFind, UnifiedProcedureStepPush, *_MODELS):
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
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_N_GET, self._get),
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

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        is_mwl = event.request.AffectedSOPClassUID == ModalityWorklistInformationFind
        service = "mwl" if is_mwl else "ups"
        count = 0
        try:
            identifier = event.identifier
            repair_text(identifier)
            for status, found in self._answers(identifier, is_mwl):
                if event.is_cancelled:
                    metrics.QUERIES.labels(service, f"{CANCELLED:04X}").inc()
                    yield CANCELLED, None
                    return
                count += 1
                yield status, found
        except (StorageError, SQLAlchemyError) as error:
            yield self._failed(service, OUT_OF_RESOURCES, error), None
            return
        except _UNREADABLE as error:
            yield self._failed(service, IDENTIFIER_DOES_NOT_MATCH, error), None
            return
        metrics.QUERIES.labels(service, f"{SUCCESS:04X}").inc()
        self._audit.record(f"{service}_queried", actor=_actor(event), matches=count)
        log.info("worklist_queried", service=service, matches=count)

    def _answers(self, identifier: Dataset, is_mwl: bool) -> Iterator[tuple[int, Dataset]]:
        attributes = mwl.ATTRIBUTES if is_mwl else ups.ATTRIBUTES
        wanted = set(identifier.keys())
        status = PENDING_WITHOUT_OPTIONAL_KEYS if has_unsupported_keys(identifier, attributes) else PENDING
        for study in self._listing.studies():
            item = build(attributes, self._work(study), wanted)
            if not matches(identifier, item, self._zone):
                continue
            if "InputInformationSequence" in identifier:
                item = build(attributes, self._with_images(study), wanted)
            yield status, answer(identifier, item, self._zone)

    def _work(self, study: Study) -> Work:
        worklist = self._settings.worklist
        return Work(study, worklist.max_wait_min, self._zone, worklist.dicom_ae_title)

    def _with_images(self, study: Study) -> Work:
        with self._database.read() as connection:
            images = instances.of_study(connection, study.study_instance_uid)
        return replace(self._work(study), images=images)

    def _get(self, event: Any) -> tuple[int, Dataset | None]:
        try:
            uid = str(event.request.RequestedSOPInstanceUID)
            study = next(
                (study for study in self._listing.studies() if ups.work_item_uid(study.study_instance_uid) == uid), None
            )
            if study is None:
                metrics.QUERIES.labels("ups-get", f"{NO_SUCH_WORK_ITEM:04X}").inc()
                return NO_SUCH_WORK_ITEM, None
            found = ups.work_item(self._with_images(study), set(event.attribute_identifiers) or None)
            found.SpecificCharacterSet = UTF_8
        except (StorageError, SQLAlchemyError) as error:
            return self._failed("ups-get", PROCESSING_FAILURE, error), None
        except _UNREADABLE as error:
            return self._failed("ups-get", PROCESSING_FAILURE, error), None
        metrics.QUERIES.labels("ups-get", f"{SUCCESS:04X}").inc()
        self._audit.record("ups_read", actor=_actor(event), study_instance_uid=study.study_instance_uid)
        return SUCCESS, found

    @staticmethod
    def _failed(service: str, status: int, error: Exception) -> int:
        metrics.QUERIES.labels(service, f"{status:04X}").inc()
        log.error("worklist_query_failed", service=service, status=f"{status:04X}", error_type=type(error).__name__)
        return status


def _actor(event: Any) -> str:
    requestor = event.assoc.requestor
    return f"{requestor.ae_title.strip()}@{requestor.address}"
