"""Sends UPS events: to each receiver in order, over an association of the node's own, as the SCP of UPS Event.

Source: DICOM PS3.4 CC.2.4, CC.4; PS3.7 D.3.3.4 (role selection).
"""

import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.association import Association
from pynetdicom.sop_class import UnifiedProcedureStepEvent, UnifiedProcedureStepPush  # type: ignore[attr-defined]
from sqlalchemy.engine import Connection

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.errors import AssociationRefused, NotNegotiated, Unreachable
from cxr_node.log import get_logger
from cxr_node.requestor import associate
from cxr_node.settings import Peer, Settings
from cxr_node.tls import client_context
from cxr_node.work import Outcome, Settlement, Worker
from cxr_node.worklist.matching import UTF_8
from cxr_node.worklist.ups_events import GLOBAL, JOB, SCP_STATUS_CHANGE, TOPIC, scp_status
from storage import Database, Doorbell, audit, jobs, subscriptions
from storage.faults import fault_point
from storage.jobs import Job
from storage.subscriptions import Event

log = get_logger("worklist")

MAX_ATTEMPTS = 10  # with the queue's backoff about ten minutes; then what waits is dropped, and said so
AT_ONCE = 100  # events of one association
TIMEOUT_S = 10.0
LEASE_S = 60.0
MOST_THREADS = 8


class EventSender:
    """Takes a receiver's turn: one association, everything that waits for it, in order."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        now: Callable[[], datetime] = utc_now,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._database = database
        self._now = now
        self._timeout_s = timeout_s
        self._peers = {peer.ae_title.strip(): peer for peer in settings.peer}

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Send for each job; its key is the receiver."""
        for job in claimed:
            yield job, self._send(job.key)

    def give_up(self, connection: Connection, job: Job, reason: str) -> None:
        """Drop what waits for a receiver that cannot be reached: its list is out of date by now anyway."""
        dropped = subscriptions.give_up(connection, job.key)
        audit.record(
            connection,
            "ups_events_dropped",
            actor="worklist",
            now=self._now(),
            detail={"receiver": job.key, "events": dropped, "reason": reason},
        )
        log.error("ups_events_dropped", receiver=job.key, events=dropped, reason=reason)

    def going_down(self, within_s: float = 1.0) -> None:
        """Tell whoever subscribed that the SCP stops. Best effort: the restart is told for certain."""
        with self._database.read() as connection:
            receivers = [title for title in subscriptions.receivers(connection) if title in self._peers]
        quick = EventSender(self._settings, self._database, self._now, within_s)
        for receiver in receivers:
            told = scp_status("GOING DOWN").to_json_dict()
            event = Event(0, receiver, SCP_STATUS_CHANGE, GLOBAL, told, self._now())
            try:
                association = quick._associate(self._peers[receiver])
            except (Unreachable, AssociationRefused, NotNegotiated):
                continue
            try:
                quick._report(association, self._peers[receiver], event)
            except Unreachable:
                continue
            finally:
                _release(association, within_s)

    def _send(self, receiver: str) -> Settlement | Exception:
        with self._database.read() as connection:
            events = subscriptions.pending(connection, receiver, limit=AT_ONCE)
        peer = self._peers.get(receiver)
        if peer is None:
            log.warning("ups_receiver_unknown", receiver=receiver, events=len(events))
            return lambda connection: subscriptions.forget(connection, [event.id for event in events])
        if not events:
            return lambda connection: None
        sent: list[int] = []
        try:
            association = self._associate(peer)
            try:
                for event in events:
                    self._report(association, peer, event)
                    fault_point("worklist.event-sent")
                    sent.append(event.id)
            finally:
                _release(association, self._timeout_s)
        except (Unreachable, AssociationRefused, NotNegotiated) as error:
            if sent:  # told once is told: what follows is tried again without these
                with self._database.begin() as connection:
                    subscriptions.forget(connection, sent)
            return error

        def settle(connection: Connection) -> None:
            subscriptions.forget(connection, sent)
            if subscriptions.count_pending(connection, receiver):
                now = self._now()
                jobs.schedule(connection, JOB, receiver, run_at=now, now=now)

        return settle

    def _report(self, association: Association, peer: Peer, event: Event) -> None:
        if not association.is_established:
            raise Unreachable(f"{_where(peer)} closed the association before an event was sent")
        information = Dataset.from_json(event.information)
        information.SpecificCharacterSet = UTF_8
        answer, _ = association.send_n_event_report(
            information,
            event.event_type,
            UnifiedProcedureStepPush,
            event.sop_instance_uid,
            meta_uid=UnifiedProcedureStepEvent,
        )
        if "Status" not in answer:
            raise Unreachable(f"{_where(peer)} did not answer N-EVENT-REPORT")
        metrics.QUERIES.labels("ups-event", f"{answer.Status:04X}").inc()
        if answer.Status != 0:
            # It heard the event and would not have it; the standard asks for no second try.
            log.warning("ups_event_refused", receiver=peer.ae_title, status=f"{answer.Status:04X}")

    def _associate(self, peer: Peer) -> Association:
        ae = AE(ae_title=self._settings.worklist.dicom_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._timeout_s
        ae.add_requested_context(UnifiedProcedureStepEvent)
        try:
            association = associate(
                ae,
                peer.host,
                peer.port,
                ae_title=peer.ae_title,
                ext_neg=[build_role(UnifiedProcedureStepEvent, scp_role=True)],
                tls_args=(self._tls(peer), peer.host) if peer.tls.enabled else None,
            )
        except OSError as error:
            raise Unreachable(f"{_where(peer)}: {type(error).__name__}") from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise AssociationRefused(f"{_where(peer)} rejects the association")
        if association.rejected_contexts:
            raise NotNegotiated(f"{_where(peer)} takes no UPS events")
        raise Unreachable(f"{_where(peer)}: no association")

    def _tls(self, peer: Peer) -> ssl.SSLContext:
        files = {"certificate": peer.tls.certificate, "key": peer.tls.key, "ca": peer.tls.ca}
        return client_context(
            {name: self._settings.path(value) for name, value in files.items() if value},
            minimum=self._settings.node.tls_minimum,
        )


def make_workers(
    settings: Settings, database: Database, doorbell: Doorbell, owner: str, now: Callable[[], datetime] = utc_now
) -> list[Worker]:
    """Return a worker for each receiver that there may be, up to MOST_THREADS: a dead one holds up nobody else."""
    sender = EventSender(settings, database, now)
    return [
        Worker(
            database,
            doorbell,
            kinds=(JOB,),
            topic=TOPIC,
            handle=sender.handle,
            owner=f"{owner}:ups-event-{number}",
            lease_s=LEASE_S,
            max_attempts=lambda _: MAX_ATTEMPTS,
            on_failed=sender.give_up,
            now=now,
        )
        for number in range(min(MOST_THREADS, len(settings.peer)))
    ]


def _where(peer: Peer) -> str:
    return f"{peer.ae_title} at {peer.host}:{peer.port}"


def _release(association: Association, within_s: float) -> None:
    if association.is_established:
        association.acse_timeout = within_s
        association.release()
