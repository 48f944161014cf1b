"""UPS by DIMSE: N-CREATE, N-GET, N-SET and N-ACTION, each a call of `ups_service` or `ups_watch`.

Source: DICOM PS3.4 CC.2, CC.3.1: whatever was negotiated, messages name UPS Push as the SOP class of the instance.
"""

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.log import get_logger
from cxr_node.worklist import ups_states as states
from cxr_node.worklist.find_scp import UNREADABLE, actor_of, failed
from cxr_node.worklist.matching import UTF_8, repair_text
from cxr_node.worklist.services import Services
from cxr_node.worklist.ups_service import Answer, Requester
from storage.errors import StorageError

log = get_logger("worklist")

CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = 1, 2, 3, 4, 5
_LOCK = {"TRUE": True, "FALSE": False, "": False}


class UpsScp:
    """Handles the DIMSE-N services of Unified Procedure Step."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def create(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """Handle N-CREATE."""

        def run() -> Answer:
            given = event.attribute_list
            repair_text(given)
            uid = str(event.request.AffectedSOPInstanceUID or "")
            answer = self._services.ups.create(uid, given, by=_requester(event))
            if not uid and answer.sop_instance_uid:
                made = Dataset()
                made.AffectedSOPInstanceUID = answer.sop_instance_uid
                return Answer(answer.status, answer.tags, answer.sop_instance_uid, made)
            return answer

        return _answered("ups-create", run)

    def get(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """Handle N-GET."""

        def run() -> Answer:
            uid = str(event.request.RequestedSOPInstanceUID or "")
            answer = self._services.ups.get(uid, set(event.attribute_identifiers) or None)
            if answer.dataset is not None:
                answer.dataset.SpecificCharacterSet = UTF_8
                self._services.audit.record(
                    "ups_read", actor=actor_of(event), study_instance_uid=answer.study_instance_uid
                )
            return answer

        return _answered("ups-get", run)

    def set(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """Handle N-SET."""

        def run() -> Answer:
            given = event.modification_list
            repair_text(given)
            uid = str(event.request.RequestedSOPInstanceUID or "")
            return self._services.ups.set(uid, given, by=_requester(event))

        return _answered("ups-set", run)

    def act(self, event: Any) -> tuple[Dataset, Dataset | None]:
        """Handle N-ACTION."""

        def run() -> Answer:
            given = event.action_information if event.request.ActionInformation is not None else Dataset()
            repair_text(given)
            uid = str(event.request.RequestedSOPInstanceUID or "")
            return self._act(int(event.request.ActionTypeID), uid, given, _requester(event))

        return _answered("ups-action", run)

    def _act(self, action: int, uid: str, given: Dataset, by: Requester) -> Answer:
        receiver = str(given.get("ReceivingAE") or "").strip()
        if action == CHANGE_STATE:
            requested = str(given.get("ProcedureStepState") or "")
            return self._services.ups.change_state(uid, requested, str(given.get("TransactionUID") or ""), by=by)
        if action == REQUEST_CANCEL:
            return self._services.ups.request_cancel(uid, given, by=by)
        if action == SUBSCRIBE:
            lock = _LOCK.get(str(given.get("DeletionLock") or "").strip())
            if lock is None:
                return Answer(states.INVALID_ARGUMENT_VALUE)
            return self._services.watch.subscribe(uid, receiver, deletion_lock=lock, keys=given, by=by)
        if action == UNSUBSCRIBE:
            return self._services.watch.unsubscribe(uid, receiver, by=by)
        if action == SUSPEND:
            return self._services.watch.suspend(uid, receiver, by=by)
        return Answer(states.NO_SUCH_ACTION)


def _requester(event: Any) -> Requester:
    return Requester(actor_of(event), event.assoc.requestor.ae_title.strip())


def _answered(service: str, run: Callable[[], Answer]) -> tuple[Dataset, Dataset | None]:
    """Run a request and return its status with what it is about; whatever happens, there is an answer."""
    try:
        answer = run()
    except (StorageError, SQLAlchemyError) as error:
        return _status(Answer(failed(service, states.RESOURCE_LIMITATION, error))), None
    except UNREADABLE as error:
        return _status(Answer(failed(service, states.PROCESSING_FAILURE, error))), None
    metrics.QUERIES.labels(service, f"{answer.status:04X}").inc()
    log.info("ups_answered", service=service, status=f"{answer.status:04X}")
    return _status(answer), answer.dataset


def _status(answer: Answer) -> Dataset:
    status = Dataset()
    status.Status = answer.status
    if answer.status != states.SUCCESS:
        status.ErrorComment = states.WORDS.get(answer.status, "")[:64]
    return status
