"""Storage commitment at the node's own listener, in both roles.

As SCU it takes the reports (N-EVENT-REPORT) of transactions that the node asked for; as SCP it takes the requests
(N-ACTION) of modalities and reports to them from the deliver stage, over an association of its own. Nothing is answered
Success before it is durable. What is committed to is what the node holds now and keeps for `upkeep.retention_days`.
Source: DICOM PS3.4 J.3, PS3.7 10.1.
"""

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.imaging.references import references_in, uid_in
from cxr_node.log import get_logger
from cxr_node.receive.contexts import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from storage import Database, Doorbell, audit, commitments, jobs
from storage.errors import StorageError
from storage.faults import fault_point

log = get_logger("receive")

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_ACTION = 1
COMPLETE, FAILURES_EXIST = 1, 2
REPORT_KIND = "commitment-report"

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123


class Commitment:
    """The handlers of the service; see the module."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    @property
    def handlers(self) -> list[tuple[evt.EventType, object]]:
        """What to bind to the server."""
        return [(evt.EVT_N_EVENT_REPORT, self._reported), (evt.EVT_N_ACTION, self._requested)]

    @staticmethod
    def support(ae: AE) -> None:
        """Have the AE accept the service, in whichever role a caller proposes for itself."""
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        ae.add_supported_context(StorageCommitmentPushModel, syntaxes, scu_role=True, scp_role=True)

    def _reported(self, event: evt.Event) -> tuple[int, None]:
        """Answer N-EVENT-REPORT. One that nobody waits for is answered Success too: sending it again would not help."""
        calling = str(event.assoc.requestor.ae_title).strip()
        request: N_EVENT_REPORT = event.request  # type: ignore[assignment]
        if str(request.AffectedSOPInstanceUID or "") != WELL_KNOWN_INSTANCE:
            return self._refused("report", NO_SUCH_INSTANCE, calling)
        if request.EventTypeID not in (COMPLETE, FAILURES_EXIST):
            return self._refused("report", NO_SUCH_EVENT, calling)
        told = _dataset(event, "event_information")
        transaction_uid = uid_in(told, "TransactionUID")
        succeeded = references_in(told, "ReferencedSOPSequence")
        failed = references_in(told, "FailedSOPSequence")
        if not transaction_uid or succeeded is None or failed is None or not (succeeded or failed):
            return self._refused("report", INVALID_ARGUMENT, calling)
        try:
            with self._database.begin() as connection:
                kept = commitments.report(
                    connection,
                    transaction_uid,
                    succeeded=[(item.sop_class_uid, item.sop_instance_uid) for item in succeeded],
                    failed={
                        (item.sop_class_uid, item.sop_instance_uid): item.failure_reason or PROCESSING_FAILURE
                        for item in failed
                    },
                    now=utc_now(),
                )
        except (StorageError, SQLAlchemyError) as error:
            log.error("report_not_kept", error_type=type(error).__name__)
            return PROCESSING_FAILURE, None
        fault_point("receive.report-kept")
        told_by = {"calling_ae_title": calling, "transaction_uid": transaction_uid}
        if kept is None:
            log.warning("report_not_awaited", **told_by)
            return SUCCESS, None
        log.info("commitment_reported", destination=kept.destination, state=kept.state, **told_by)
        self._doorbell.ring("deliver")
        return SUCCESS, None

    def _requested(self, event: evt.Event) -> tuple[int, None]:
        """Answer N-ACTION: a request is kept and reported later. The same again, whose answer was lost, is one."""
        association = event.assoc
        calling = str(association.requestor.ae_title).strip()
        request: N_ACTION = event.request  # type: ignore[assignment]
        if str(request.RequestedSOPInstanceUID or "") != WELL_KNOWN_INSTANCE:
            return self._refused("request", NO_SUCH_INSTANCE, calling)
        if request.ActionTypeID != REQUEST_ACTION:
            return self._refused("request", NO_SUCH_ACTION, calling)
        asked = _dataset(event, "action_information")
        transaction_uid = uid_in(asked, "TransactionUID")
        references = references_in(asked, "ReferencedSOPSequence")
        if not transaction_uid or not references:
            return self._refused("request", INVALID_ARGUMENT, calling)
        items = [(item.sop_class_uid, item.sop_instance_uid) for item in references]
        now = utc_now()
        try:
            with self._database.begin() as connection:
                kept = commitments.add_request(
                    connection,
                    transaction_uid,
                    calling_ae_title=calling,
                    called_ae_title=str(association.acceptor.ae_title).strip(),
                    peer_address=str(association.requestor.address),
                    items=items,
                    now=now,
                )
                is_other = kept.items != [list(item) for item in items]
                if not is_other:
                    commitments.set_report(connection, kept.id, reported_at=None, reason="")
                    jobs.schedule(connection, REPORT_KIND, str(kept.id), run_at=now, now=now)
                    audit.record(
                        connection,
                        "commitment_requested",
                        actor=calling,
                        now=now,
                        detail={"transaction_uid": transaction_uid, "instances": len(items)},
                    )
        except (StorageError, SQLAlchemyError) as error:
            log.error("request_not_kept", error_type=type(error).__name__)
            return PROCESSING_FAILURE, None
        fault_point("receive.request-kept")
        if is_other:  # of the statuses of N-ACTION none says "transaction UID in use"
            return self._refused("request", INVALID_ARGUMENT, calling)
        log.info(
            "commitment_requested", calling_ae_title=calling, transaction_uid=transaction_uid, instances=len(items)
        )
        self._doorbell.ring("deliver")
        return SUCCESS, None

    def _refused(self, what: str, status: int, calling_ae_title: str) -> tuple[int, None]:
        log.warning(f"commitment_{what}_refused", status=f"0x{status:04X}", calling_ae_title=calling_ae_title)
        return status, None


def _dataset(event: evt.Event, name: str) -> Dataset:
    """Return what came with the message; an empty one where nothing did, or nothing that decodes."""
    try:
        found = getattr(event, name)
        return found if isinstance(found, Dataset) else Dataset()
    except Exception:  # noqa: BLE001  # whatever a dataset does to the decoder, its sender gets a status
        return Dataset()
