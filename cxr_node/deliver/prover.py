"""Asks a destination whether it holds what it took, and settles what that leads to. Rules: `proof_rules`."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from sqlalchemy.engine import Connection
from structlog.contextvars import bound_contextvars

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.deliver.association import Line, accepted_syntaxes, contexts_of
from cxr_node.deliver.commitment import PUSH_MODEL, ask, report_handler
from cxr_node.deliver.http import Web
from cxr_node.deliver.objects import Shelf
from cxr_node.deliver.proof_rules import (
    Consequence,
    Judged,
    Look,
    Nothing,
    Wait,
    ask_again_after_s,
    consequence,
    is_too_early,
    next_step,
    prove_kind,
    resend_after_s,
)
from cxr_node.deliver.read_back import FIND, by_c_find, by_qido_rs
from cxr_node.deliver.rest import Rest
from cxr_node.deliver.verdict import COMMITMENT, QUERY, Found, Sought, Verdict
from cxr_node.errors import DeliveryError, NotNegotiated, StorageUnavailable
from cxr_node.log import get_logger
from cxr_node.requestor import stands
from cxr_node.settings import Destination, Settings
from cxr_node.work import Outcome
from storage import Database, audit, commitments, deliveries, jobs
from storage.deliveries import Delivery
from storage.errors import StorageError
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("deliver")

LINGER_S = 2.0  # for a report over the association of its request
_POLL_S = 0.05


class NotYetKnown(DeliveryError):
    """The destination does not show the object, and took it so lately that it may still be filing it."""


@dataclass
class Prover:
    """Proves the deliveries of one destination; `handle` serves its jobs.

    Parameters
    ----------
    new_uid : makes Transaction UIDs; a random one, for it is all that a report is known by
    """

    destination: Destination
    settings: Settings
    database: Database
    shelf: Shelf
    new_uid: Callable[[], str] = lambda: str(generate_uid(prefix=None))
    now: Callable[[], datetime] = utc_now
    linger_s: float = LINGER_S
    rest: Rest = field(default_factory=Rest)

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each job; those that need the destination share one association."""
        looks: list[_Open] = []
        for job in claimed:
            with self.database.read() as connection:
                delivery = deliveries.get(connection, int(job.key))
                known = commitments.of_delivery(connection, int(job.key)) if delivery is not None else []
            if delivery is None:
                yield job, _nothing
                continue
            since = delivery.proof_at
            item = _Open(job, delivery, asks=sum(since is None or one.asked_at >= since for one in known))
            step = next_step(delivery, known, self.destination, self.now())
            if isinstance(step, Nothing):
                yield job, _nothing
            elif isinstance(step, Wait):
                yield job, _Again(prove_kind(self.destination.name), job, step.until)
            elif isinstance(step, Judged):
                yield job, self._conclude(item, step.verdict)
            else:
                looks.append(self._begin(item, step))
        if looks:
            yield from self._look(looks)

    def give_up(self, connection: Connection, job: Job, reason: str) -> None:
        """Say on a delivery that it could not be found out; it stays delivered."""
        reason = f"not found out after {job.attempts} tries: {reason}"
        settle_unavailable(connection, int(job.key), reason, now=self.now())

    def _begin(self, item: "_Open", look: Look) -> "_Open":
        """Write down what is given up and what comes instead, before anything is asked."""
        if look.expired or look.method != item.delivery.proof_method:
            with self.database.begin() as connection:
                for transaction_uid in look.expired:
                    commitments.set_unanswered(connection, transaction_uid, commitments.EXPIRED)
                deliveries.note_proof(connection, item.delivery.id, method=look.method, reason=look.reason)
        return replace(item, method=look.method)

    def _look(self, looks: Sequence["_Open"]) -> Iterator[tuple[Job, Outcome]]:
        if self.destination.kind == "stow-rs":
            web = Web.to(self.destination, self.settings)
            for item in looks:
                yield item.job, self._outcome(item, partial(by_qido_rs, web))
            return
        line = Line.to(self.destination, self.settings)
        may_query = self.destination.proof == "auto" or any(item.method == QUERY for item in looks)
        wanted = [PUSH_MODEL] if any(item.method == COMMITMENT for item in looks) else []
        wanted += [FIND] if may_query else []
        try:
            association = line.associate(contexts_of(wanted), wanted=wanted, handlers=[report_handler(self.database)])
        except NotNegotiated as error:
            for item in looks:
                yield item.job, self._no_way(item, error)
            return
        except DeliveryError as error:
            self.rest = self.rest.after(error, time.monotonic())
            for item in looks:
                yield item.job, error
            return
        try:
            outcomes = [(item.job, self._ask(association, line, item)) for item in looks]
            self._linger(association, [outcome for _, outcome in outcomes if isinstance(outcome, _Asked)])
        finally:
            line.release(association)
        yield from outcomes

    def _ask(self, association: Association, line: Line, item: "_Open") -> Outcome:
        accepted = accepted_syntaxes(association)
        if item.method == COMMITMENT and PUSH_MODEL in accepted:
            return self._request(association, line, item)
        if FIND in accepted:
            return self._outcome(replace(item, method=QUERY), partial(by_c_find, association, line))
        return self._no_way(item, line.not_negotiated([PUSH_MODEL if item.method == COMMITMENT else FIND]))

    def _no_way(self, item: "_Open", error: NotNegotiated) -> Outcome:
        """Conclude for a peer that takes nothing of what it was offered: every way that node.toml allows."""
        last_way = COMMITMENT if self.destination.proof == COMMITMENT else QUERY
        return self._conclude(item, Verdict(Found.NO_WAY, last_way, str(error)))

    def _request(self, association: Association, line: Line, item: "_Open") -> Outcome:
        """Ask for commitment under a transaction that is durable first: its report may come before the answer."""
        transaction_uid, delivery = self.new_uid(), item.delivery
        with self.database.begin() as connection:
            commitments.begin(
                connection,
                transaction_uid,
                delivery_id=delivery.id,
                destination=self.destination.name,
                now=self.now(),
            )
        fault_point("deliver.commitment-begun")
        until = self.now() + timedelta(seconds=self.destination.commit_timeout_s)
        try:
            declined = ask(association, line, transaction_uid, delivery.sop_class_uid, delivery.sop_instance_uid)
        except DeliveryError as error:
            return self._failed(error)
        fault_point("deliver.commitment-asked")
        self.rest = self.rest.after(None, time.monotonic())
        if declined is None:
            return _Asked(prove_kind(self.destination.name), item.job, delivery, transaction_uid, until)
        with self.database.begin() as connection:
            commitments.set_unanswered(connection, transaction_uid, commitments.CLOSED)
        return self._conclude(item, declined)

    def _outcome(self, item: "_Open", look: Callable[[Sought], Verdict]) -> Outcome:
        """Look, and say what follows; a miss soon after the delivery is no miss yet."""
        try:
            verdict = look(self._sought(item.delivery))
        except DeliveryError as error:
            return self._failed(error)
        except StorageUnavailable as error:
            return error
        self.rest = self.rest.after(None, time.monotonic())
        if is_too_early(verdict, item.delivery, self.now()):
            return NotYetKnown(verdict.reason)
        return self._conclude(item, verdict)

    def _failed(self, error: DeliveryError) -> DeliveryError:
        self.rest = self.rest.after(error, time.monotonic())
        return error

    def _linger(self, association: Association, asked: Sequence["_Asked"]) -> None:
        """Keep the association for reports over it, as long as one is owed; they may as well come to the listener."""
        deadline = time.monotonic() + self.linger_s
        owed = {item.transaction_uid for item in asked}
        while owed and stands(association) and time.monotonic() < deadline:
            with self.database.read() as connection:
                found = [commitments.get(connection, uid) for uid in owed]
            owed = {item.transaction_uid for item in found if item is not None and item.state == commitments.ASKING}
            if owed:
                time.sleep(_POLL_S)

    def _sought(self, delivery: Delivery) -> Sought:
        """Return what was sent, with its series, which stands in the object alone.

        Raises
        ------
        StorageUnavailable
        """
        with self.database.read() as connection:
            stored = self.shelf.load(connection, delivery)
        try:
            with stored.lent() as path:
                series = dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
        except (OSError, StorageError, InvalidDicomError) as error:
            reason = f"result object {stored.sop_instance_uid} cannot be read: {type(error).__name__}"
            raise StorageUnavailable(reason) from error
        return Sought(
            delivery.sop_instance_uid,
            delivery.sop_class_uid,
            delivery.study_instance_uid,
            str(series.get("SeriesInstanceUID", "")),
        )

    def _conclude(self, item: "_Open", verdict: Verdict) -> Outcome:
        what = consequence(verdict, item.delivery, self.destination, asks=item.asks)
        metrics.PROOFS.labels(self.destination.name, verdict.by, what.value).inc()
        told: dict[str, Any] = {
            "destination": self.destination.name,
            "study_instance_uid": item.delivery.study_instance_uid,
            "sop_instance_uid": item.delivery.sop_instance_uid,
            "method": verdict.by,
            "reason": verdict.reason,
        }
        with bound_contextvars(**told):
            if what is Consequence.FAILED:
                log.error("delivery_not_held", resends=item.delivery.resends)
            elif what in (Consequence.RESEND, Consequence.UNAVAILABLE):
                log.warning(f"proof_{what.value}")
        kind = prove_kind(self.destination.name)
        return _Concluded(kind, item.job, item.delivery, verdict, what, item.asks, self.now)


@dataclass(frozen=True)
class _Open:
    """A delivery whose proof is sought. `asks` counts the transactions since it was delivered."""

    job: Job
    delivery: Delivery
    asks: int
    method: str = ""


def _nothing(connection: Connection) -> None:
    """Settle a job with nothing to write."""


@dataclass(frozen=True)
class _Again:
    """Look again later: the job, wanted while it runs, is SCHEDULED when it is settled."""

    kind: str
    job: Job
    at: datetime

    def __call__(self, connection: Connection) -> None:
        jobs.schedule(connection, self.kind, self.job.key, run_at=self.at, now=self.at, priority=self.job.priority)


@dataclass(frozen=True)
class _Asked:
    """The peer took the request. A report that came meanwhile must not wait for the time-out."""

    kind: str
    job: Job
    delivery: Delivery
    transaction_uid: str
    until: datetime

    def __call__(self, connection: Connection) -> None:
        # First, for it holds the row against a report that is just being kept: whichever is second sees the other.
        is_owed = commitments.set_unanswered(connection, self.transaction_uid, commitments.ASKED)
        reason = "storage commitment is asked for, its report not here yet"
        deliveries.note_proof(connection, self.delivery.id, method=COMMITMENT, reason=reason)
        now = utc_now()
        at = self.until if is_owed else now
        jobs.schedule(connection, self.kind, self.job.key, run_at=at, now=now, priority=self.job.priority)


@dataclass(frozen=True)
class _Concluded:
    kind: str
    job: Job
    delivery: Delivery
    verdict: Verdict
    what: Consequence
    asks: int
    now: Callable[[], datetime]

    def __call__(self, connection: Connection) -> None:
        now, delivery, verdict = self.now(), self.delivery, self.verdict
        key, priority = self.job.key, self.job.priority
        if self.what is Consequence.PROVED:
            _settle(connection, delivery, deliveries.PROVED, verdict.by, "", now)
        elif self.what is Consequence.FAILED:
            _settle(connection, delivery, deliveries.PROOF_FAILED, verdict.by, verdict.reason, now)
        elif self.what is Consequence.UNAVAILABLE:
            _settle(connection, delivery, deliveries.PROOF_UNAVAILABLE, verdict.by, verdict.reason, now)
        elif self.what is Consequence.RESEND:
            if deliveries.send_again(connection, delivery.id, reason=verdict.reason, now=now):
                commitments.close(connection, delivery.id)
                due = now + timedelta(seconds=resend_after_s(delivery.resends))
                jobs.schedule(connection, "deliver", key, run_at=due, now=now, priority=priority)
                _record(connection, "delivery_lost", delivery, verdict.by, verdict.reason, now)
        elif self.what is Consequence.QUERY:
            deliveries.note_proof(connection, delivery.id, method=QUERY, reason=verdict.reason)
            commitments.close(connection, delivery.id)
            jobs.schedule(connection, self.kind, key, run_at=now, now=now, priority=priority)
        else:
            deliveries.note_proof(connection, delivery.id, method=verdict.by, reason=verdict.reason)
            commitments.close(connection, delivery.id)
            due = now + timedelta(seconds=ask_again_after_s(self.asks))
            jobs.schedule(connection, self.kind, key, run_at=due, now=now, priority=priority)


def settle_unavailable(connection: Connection, delivery_id: int, reason: str, *, now: datetime) -> None:
    """Say on a delivery that nobody can tell; it stays delivered."""
    delivery = deliveries.get(connection, delivery_id)
    if delivery is not None and delivery.proof == deliveries.PROOF_ASKED:
        _settle(connection, delivery, deliveries.PROOF_UNAVAILABLE, delivery.proof_method, reason, now)


def _settle(connection: Connection, delivery: Delivery, proof: str, method: str, reason: str, now: datetime) -> None:
    if not deliveries.settle_proof(connection, delivery.id, proof, method=method, reason=reason, now=now):
        return
    if proof != deliveries.PROOF_UNAVAILABLE:  # a report that comes after all would still tell
        commitments.close(connection, delivery.id)
    _record(connection, f"delivery_proof_{proof}", delivery, method, reason, now)


def _record(connection: Connection, event: str, delivery: Delivery, method: str, reason: str, now: datetime) -> None:
    audit.record(
        connection,
        event,
        actor="deliver",
        now=now,
        study_instance_uid=delivery.study_instance_uid,
        detail={
            "destination": delivery.destination,
            "kind": delivery.kind,
            "revision": delivery.revision,
            "sop_instance_uid": delivery.sop_instance_uid,
            "method": method,
            "reason": reason,
        },
    )
