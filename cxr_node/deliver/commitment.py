"""Storage Commitment Push Model over associations that the node asks for: requests of its own, and the reports that it
owes to others.

A request is answered twice: N-ACTION at once, and N-EVENT-REPORT when the peer has made up its mind, over the same
association if that still stands, or over one of the peer's own to the node's listener (see `receive.commitment`).
Source: DICOM PS3.4 J.3.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.clock import utc_now
from cxr_node.deliver.association import Line, contexts_of
from cxr_node.deliver.statuses import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    meaning,
    storage_failure,
)
from cxr_node.deliver.verdict import COMMITMENT, Found, Verdict
from cxr_node.errors import DeliveryError, Disposition, Refused
from cxr_node.imaging.references import references_in, uid_in
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.work import Outcome
from storage import Database, InstanceFiles, audit, commitments, instances, jobs
from storage.commitments import CommitmentRequest
from storage.errors import StorageBusy, StorageError
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("deliver")

PUSH_MODEL = StorageCommitmentPushModel
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_ACTION = 1
COMPLETE, FAILURES_EXIST = 1, 2
REPORT_KIND = "commitment-report"
_INVALID_ARGUMENT = 0x0115
_MAY_PASS = (PROCESSING_FAILURE, RESOURCE_LIMITATION)
_FORGET_AFTER = timedelta(days=90)


def ask(
    association: Association, line: Line, transaction_uid: str, sop_class_uid: str, sop_instance_uid: str
) -> Verdict | None:
    """Ask the peer to commit to one object; None where it took the request and owes a report.

    Raises
    ------
    NoAnswer, Refused
        The peer may take it later.
    """
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(sop_class_uid, sop_instance_uid)]
    line.check(association, "N-ACTION")
    started = time.monotonic()
    answer, _ = association.send_n_action(request, REQUEST_ACTION, PUSH_MODEL, WELL_KNOWN_INSTANCE)
    if "Status" not in answer:
        raise line.no_answer("N-ACTION", time.monotonic() - started)
    status = int(answer.Status)
    if status == SUCCESS or status & 0xF000 == 0xB000:
        return None
    said = f"{line.where} answered the request for storage commitment with 0x{status:04X}, {meaning(status)}"
    if status in _MAY_PASS or status & 0xFF00 == OUT_OF_RESOURCES:
        error = Refused(said, status)
        error.disposition = Disposition.RETRY
        raise error
    return Verdict(Found.NO_WAY, COMMITMENT, said)


def report_handler(database: Database) -> tuple[evt.EventType, Callable[[evt.Event], tuple[int, None]]]:
    """Return the handler for reports that come over the association of their request."""

    def keep(event: evt.Event) -> tuple[int, None]:
        told = event.event_information
        transaction_uid = uid_in(told, "TransactionUID")
        succeeded = references_in(told, "ReferencedSOPSequence")
        failed = references_in(told, "FailedSOPSequence")
        if not transaction_uid or succeeded is None or failed is None:
            return _INVALID_ARGUMENT, None
        try:
            with database.begin() as connection:
                commitments.report(
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
            log.warning("report_not_kept", error_type=type(error).__name__)
            return PROCESSING_FAILURE, None
        fault_point("deliver.report-kept")
        return SUCCESS, None

    return evt.EVT_N_EVENT_REPORT, keep


class Reporter:
    """Answers those that asked the node for storage commitment: job "commitment-report", key the request's id."""

    def __init__(self, settings: Settings, database: Database, files: InstanceFiles) -> None:
        self._lines = {peer.ae_title.strip(): Line.to(peer, settings) for peer in settings.peer}
        self._database = database
        self._files = files

    def resume(self) -> None:
        """Schedule the reports that waited for a `[[peer]]` section which is there now."""
        now = utc_now()
        with self._database.begin() as connection:
            for request in commitments.unreported(connection, self._lines):
                jobs.schedule(connection, REPORT_KIND, str(request.id), run_at=now, now=now)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job.

        A request of an AE that no `[[peer]]` section names is kept and shown: no second try would find its address.
        """
        for job in claimed:
            with self._database.read() as connection:
                request = commitments.get_request(connection, int(job.key))
            if request is None or request.reported_at is not None:
                yield job, lambda connection: None
                continue
            line = self._lines.get(request.calling_ae_title)
            if line is None:
                reason = (
                    f"no [[peer]] section names {request.calling_ae_title}: add one with its host and port, "
                    "so that the node can report to it"
                )
                log.warning("commitment_unreportable", calling_ae_title=request.calling_ae_title, reason=reason)
                yield job, _Unreportable(request, reason)
                continue
            held, missing = self._look(request)
            try:
                self._send(line, request.transaction_uid, held, missing)
            except DeliveryError as error:
                yield job, error
            else:
                fault_point("deliver.commitment-reported")
                yield job, _Reported(request, len(held), len(missing))

    def give_up(self, connection: Connection, job: Job, reason: str) -> None:
        """Keep why the report did not get out."""
        commitments.set_report(connection, int(job.key), reported_at=None, reason=reason)

    def _look(self, request: CommitmentRequest) -> tuple[list[tuple[str, str]], dict[tuple[str, str], int]]:
        """Return what the node holds, and what it does not with the reason. A row without its bytes holds nothing."""
        held: list[tuple[str, str]] = []
        missing: dict[tuple[str, str], int] = {}
        for sop_class_uid, sop_instance_uid in request.items:
            with self._database.read() as connection:
                known = instances.by_sop_instance_uid(connection, sop_instance_uid)
            there = [item for item in known if self._has_bytes(item.location, item.size)]
            if any(item.sop_class_uid == sop_class_uid for item in there):
                held.append((sop_class_uid, sop_instance_uid))
            else:
                missing[sop_class_uid, sop_instance_uid] = CLASS_INSTANCE_CONFLICT if there else NO_SUCH_INSTANCE
        return held, missing

    def _has_bytes(self, location: str, size: int) -> bool:
        try:
            return self._files.size(location) == size
        except StorageBusy:
            raise  # asked again later: "no such instance" would have the sender send what is here
        except StorageError:
            return False

    def _send(
        self,
        line: Line,
        transaction_uid: str,
        held: Collection[tuple[str, str]],
        missing: dict[tuple[str, str], int],
    ) -> None:
        """Report over an association of the node's own, in the role of the SCP.

        Raises
        ------
        DeliveryError
        """
        told = Dataset()
        told.TransactionUID = transaction_uid
        if held:
            told.ReferencedSOPSequence = [_reference(*item) for item in held]
        if missing:
            told.FailedSOPSequence = [_reference(*item, reason) for item, reason in missing.items()]
        role = build_role(PUSH_MODEL, scu_role=False, scp_role=True)
        with line.association(contexts_of([PUSH_MODEL]), wanted=[PUSH_MODEL], roles=[role]) as association:
            line.check(association, "N-EVENT-REPORT")
            started = time.monotonic()
            answer, _ = association.send_n_event_report(
                told, FAILURES_EXIST if missing else COMPLETE, PUSH_MODEL, WELL_KNOWN_INSTANCE
            )
            waited_s = time.monotonic() - started
        if "Status" not in answer:
            raise line.no_answer("N-EVENT-REPORT", waited_s)
        if answer.Status != SUCCESS:
            raise storage_failure(f"{line.where} answered the report of a storage commitment", int(answer.Status))


class _Unreportable:
    def __init__(self, request: CommitmentRequest, reason: str) -> None:
        self._request, self._reason = request, reason

    def __call__(self, connection: Connection) -> None:
        commitments.set_report(connection, self._request.id, reported_at=None, reason=self._reason)
        _record(connection, "commitment_unreportable", self._request, {"reason": self._reason}, utc_now())


class _Reported:
    def __init__(self, request: CommitmentRequest, held: int, missing: int) -> None:
        self._request, self._held, self._missing = request, held, missing

    def __call__(self, connection: Connection) -> None:
        now = utc_now()
        commitments.set_report(connection, self._request.id, reported_at=now, reason="")
        counts = {"committed": self._held, "refused": self._missing}
        _record(connection, "commitment_reported", self._request, counts, now)
        commitments.forget_requests(connection, before=now - _FORGET_AFTER, limit=10)


def _record(
    connection: Connection, event: str, request: CommitmentRequest, detail: Mapping[str, object], now: datetime
) -> None:
    about = {"calling_ae_title": request.calling_ae_title, "transaction_uid": request.transaction_uid}
    audit.record(connection, event, actor="deliver", now=now, detail={**about, **detail})


def _reference(sop_class_uid: str, sop_instance_uid: str, failure_reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    if failure_reason is not None:
        item.FailureReason = failure_reason
    return item
