"""A destination whose deliveries are proved, and a PACS that can be asked what it holds."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from cxr_node.clock import utc_now
from cxr_node.deliver import proof
from cxr_node.deliver.commitment import PUSH_MODEL, WELL_KNOWN_INSTANCE
from cxr_node.deliver.proof import ProofWorker
from cxr_node.deliver.proof_rules import prove_kind
from cxr_node.deliver.prover import Prover
from cxr_node.deliver.read_back import FIND
from cxr_node.settings import Destination
from storage import Doorbell, commitments, deliveries, jobs
from storage.commitments import Commitment
from storage.deliveries import Delivery
from tests.cxr_node.deliver.conftest import Node, free_port

BOTH = (PUSH_MODEL, FIND)


def success(*pairs: tuple[str, str], transaction_uid: str) -> Dataset:
    """The information of a report that all is kept."""
    told = Dataset()
    told.TransactionUID = transaction_uid
    told.ReferencedSOPSequence = [_item(*pair) for pair in pairs]
    return told


def failure(pair: tuple[str, str], reason: int, *, transaction_uid: str) -> Dataset:
    """The information of a report that one is not."""
    told = Dataset()
    told.TransactionUID = transaction_uid
    item = _item(*pair)
    item.FailureReason = reason
    told.FailedSOPSequence = [item]
    return told


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


@dataclass
class Archive:
    """A PACS that is asked: `holds` maps SOP Instance UID to (class, study); `report` is the failure reason, None for
    committed, "silent" for no report at all; `request_status` and `find_status` are answered where not 0; at the
    `aborts_at`th request it hangs up."""

    port: int
    holds: dict[str, tuple[str, str]] = field(default_factory=dict)
    report: int | str | None = None
    request_status: int = 0
    find_status: int = 0
    aborts_at: int = 0
    tells_class: bool = True
    requests: list[Dataset] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    queries: list[Dataset] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def destination(self, **changes: object) -> Destination:
        values = {"ae_title": "PACS", "host": "127.0.0.1", "port": self.port, "timeout_s": 5.0, **changes}
        return Destination.model_validate({"name": "pacs", "kind": "c-store", **values})

    @property
    def transactions(self) -> list[str]:
        return [request.TransactionUID for request in self.requests]


@contextlib.contextmanager
def serving_archive(archive: Archive, classes: Sequence[str] = BOTH) -> Iterator[Archive]:
    """Run it; reports go over the association of their request."""
    threads: list[threading.Thread] = []
    turn = threading.Lock()  # an association speaks with one voice

    def requested(event: evt.Event) -> tuple[int, None]:
        archive.requests.append(event.action_information)
        archive.callers.append(event.assoc.requestor.ae_title.strip())
        if len(archive.requests) == archive.aborts_at:
            event.assoc.abort()
        if archive.request_status:
            return archive.request_status, None
        if archive.report != "silent":
            arguments = (event.assoc, event.action_information, len(archive.requests))
            threads.append(threading.Thread(target=tell, args=arguments))
            threads[-1].start()
        return 0x0000, None

    def tell(association, request, number) -> None:
        while True:  # the answer to the request goes first, and other requests that are on their way
            asked = len(archive.requests)
            time.sleep(0.1)
            if asked == len(archive.requests):
                break
        pairs = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence]
        if archive.report is None:
            told, event_type = success(*pairs, transaction_uid=request.TransactionUID), 1
        else:
            told, event_type = failure(pairs[0], archive.report, transaction_uid=request.TransactionUID), 2
        with turn:
            answer, _ = association.send_n_event_report(told, event_type, PUSH_MODEL, WELL_KNOWN_INSTANCE, number)
        archive.answers.append(answer.get("Status", -1))

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        archive.queries.append(keys)
        if archive.find_status:
            yield archive.find_status, None
            return
        found = archive.holds.get(keys.SOPInstanceUID)
        if found is not None and keys.StudyInstanceUID in ("", found[1]):
            match = Dataset()
            match.QueryRetrieveLevel = "IMAGE"
            match.SOPInstanceUID, match.StudyInstanceUID = keys.SOPInstanceUID, found[1]
            match.SeriesInstanceUID = keys.SeriesInstanceUID
            if archive.tells_class:
                match.SOPClassUID = found[0]
            yield 0xFF00, match

    ae = AE(ae_title="PACS")
    for sop_class_uid in classes:
        ae.add_supported_context(sop_class_uid)
    handlers = [(evt.EVT_N_ACTION, requested), (evt.EVT_C_FIND, find)]
    server = ae.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers)
    try:
        yield archive
    finally:
        for thread in threads:
            thread.join(5)
        server.shutdown()


@dataclass
class Proving:
    """One destination's proofs, at a time that the test sets."""

    node: Node
    destination: Destination
    now: datetime = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        settings = self.node.settings(self.destination)
        self.prover = Prover(
            self.destination,
            settings,
            self.node.database,
            self.node.shelf,
            now=lambda: self.now,
            linger_s=20.0,  # it ends when no report is owed; a busy machine has the time it needs
        )
        self.worker = ProofWorker(
            database=self.node.database,
            doorbell=Doorbell(settings.data_dir / "run"),
            kinds=(prove_kind(self.destination.name),),
            topic="deliver",
            handle=self.prover.handle,
            owner="deliver:1:prove:pacs",
            batch=16,
            max_attempts=lambda _: self.destination.max_attempts,
            on_failed=self.prover.give_up,
            now=lambda: self.now,
            prover=self.prover,
        )

    def delivered(self, study_instance_uid: str | None = None) -> int:
        """A report that the destination answered Success for, its proof planned."""
        (delivery_id,) = self.node.plan(self.destination.name, study_instance_uid=study_instance_uid)
        self.deliver(delivery_id)
        return delivery_id

    def deliver(self, delivery_id: int) -> None:
        stored = self.node.stored(delivery_id)
        with self.node.database.begin() as connection:
            deliveries.set_state(
                connection,
                delivery_id,
                deliveries.DELIVERED,
                now=self.now,
                sop_instance_uid=stored.sop_instance_uid,
                sop_class_uid=stored.sop_class_uid,
            )
            proof.plan(connection, delivery_id, self.destination, now=self.now)

    def after(self, seconds: float) -> int:
        """Let time pass, then work off what is due; return how many jobs that was."""
        self.now += timedelta(seconds=seconds)
        self.prover.rest = type(self.prover.rest)()
        done = 0
        while count := self.worker.run_once():
            done += count
        return done

    def delivery(self, delivery_id: int) -> Delivery:
        return self.node.delivery(delivery_id)

    def proof(self, delivery_id: int) -> tuple[str, str, str]:
        """State of the delivery, of its proof, and by which method."""
        found = self.delivery(delivery_id)
        return found.state, found.proof, found.proof_method

    def transactions(self, delivery_id: int) -> list[Commitment]:
        with self.node.database.read() as connection:
            return commitments.of_delivery(connection, delivery_id)

    def job(self, kind: str, delivery_id: int) -> jobs.Job | None:
        with self.node.database.read() as connection:
            return jobs.get(connection, kind, str(delivery_id))

    def report(self, delivery_id: int, transaction_uid: str, reason: int | None = None) -> Commitment | None:
        """What the node's listener does with a report."""
        found = self.delivery(delivery_id)
        pair = (found.sop_class_uid, found.sop_instance_uid)
        with self.node.database.begin() as connection:
            return commitments.report(
                connection,
                transaction_uid,
                succeeded=[pair] if reason is None else [],
                failed={} if reason is None else {pair: reason},
                now=self.now,
            )


def archive_on_free_port(**options: object) -> Archive:
    return Archive(free_port(), **options)  # type: ignore[arg-type]
