"""The stage: listens for HL7 orders, and asks the RIS about studies that are new.

```
HL7 order → desk: [ order, message, study raised ] → AA
new study → job "order" → orders that were here before it, then the worklist of the RIS: [ order, study raised ]
```
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from cxr_node import tls
from cxr_node.clock import utc_now
from cxr_node.errors import CxrNodeError
from cxr_node.findings.priority import rank_of
from cxr_node.log import get_logger, told_by
from cxr_node.orders.desk import OrderDesk
from cxr_node.orders.hl7_listener import Hl7Listener
from cxr_node.orders.ris import RisWorklist, Told
from cxr_node.settings import Settings
from cxr_node.work import Outcome, Worker
from cxr_node.work.heartbeat import beating
from cxr_node.work.owner import owner
from storage import Database, Doorbell, audit, orders, studies
from storage.faults import fault_point
from storage.jobs import Job

log = get_logger("orders")

KIND = "order"
TOPIC = "orders"
MAX_ATTEMPTS = 20  # an hour or so of a RIS that is down, by the queue's backoff; its worklist is short-lived anyway


class OrderJobs:
    """Handles the jobs of new studies."""

    def __init__(self, database: Database, ris: RisWorklist | None, *, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._ris = ris
        self._now = now

    def handle(self, claimed: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what becomes of each study: first what is known here, for the RIS may be slow or down."""
        for job in claimed:
            with self._database.begin() as connection:
                orders.apply(connection, job.key, rank=rank_of, now=self._now())
                study = studies.get(connection, job.key)
            if study is None or self._ris is None or study.read_at is not None:
                yield job, _nothing
                continue
            try:
                told = self._ris.ask(study)
            except CxrNodeError as error:
                yield job, error
                continue
            fault_point("orders.asked")
            yield job, _Settle(study.study_instance_uid, told, self._now)


def _nothing(connection: Connection) -> None:
    """Settle a job with nothing more to write."""


@dataclass(frozen=True)
class _Settle:
    study_instance_uid: str
    told: Told
    now: Callable[[], datetime]

    def __call__(self, connection: Connection) -> None:
        at, order = self.now(), self.told.order
        if self.told.is_ambiguous:
            log.warning("orders_differ", study_instance_uid=self.study_instance_uid)
            uid = self.study_instance_uid
            audit.record(connection, "orders_differ", actor="orders", now=at, study_instance_uid=uid)
        if order is not None:
            orders.put(connection, order, now=at)
            orders.apply(connection, self.study_instance_uid, rank=rank_of, now=at)


def make_worker(settings: Settings, database: Database) -> Worker:
    """Return the worker of the stage's jobs."""
    ris = settings.orders.ris
    files = {"certificate": ris.tls.certificate, "key": ris.tls.key, "ca": ris.tls.ca}
    worklist = RisWorklist(
        ris,
        calling_ae_title=settings.receive.ae_title,
        tls_files={name: settings.path(value) for name, value in files.items() if value},
        tls_minimum=settings.node.tls_minimum,
    )
    return Worker(
        database=database,
        doorbell=Doorbell(settings.data_dir / "run", database),
        kinds=(KIND,),
        topic=TOPIC,
        handle=OrderJobs(database, worklist if ris.ae_title.strip() else None).handle,
        owner=owner(settings.data_dir, TOPIC, "main"),
        max_attempts=lambda job: MAX_ATTEMPTS,
        ring_after=("worklist", "analyze"),
    )


def run_orders(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    SettingsError
        The address of the listener cannot be listened on, a sender is neither address nor network, or a TLS file is not
        what it must be.
    """
    # Its lines quote what they are about; the line of the job says the same in a sentence.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    database = Database(settings.database_url)
    database.migrate()
    wanted, listener = settings.orders, None
    if wanted.hl7_port:
        desk = OrderDesk(database, Doorbell(settings.data_dir / "run", database), now=utc_now)
        context = tls.listener(
            "orders.hl7_tls",
            wanted.hl7_tls,
            settings.path,
            minimum=settings.node.tls_minimum,
            tell=told_by(log, "orders.hl7_tls"),
        )
        listener = Hl7Listener(wanted.hl7_host, wanted.hl7_port, wanted.hl7_senders, desk.take, context=context)
        listener.start()
    log.info("orders_ready", hl7_port=wanted.hl7_port, ris=wanted.ris.ae_title.strip())
    try:
        with beating(database, TOPIC):
            make_worker(settings, database).run(stop)
    finally:
        if listener is not None:
            listener.close()
        database.dispose()
