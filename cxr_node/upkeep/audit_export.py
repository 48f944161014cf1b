"""Sends the audit trail to a repository: sealed entries in order, each at least once, from where the last ones ended.

The place is kept in the database and moves on only once the repository has them. While it does not answer, entries wait
where they are; nothing else of the node waits with them.
"""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.clock import utc_now
from cxr_node.log import get_logger
from cxr_node.settings import Settings
from cxr_node.upkeep.audit_events import ARRIVAL, EVENTS, SUCCESS, TELLS_OF_ARRIVALS, Row
from cxr_node.upkeep.audit_messages import End, Patient, Reporter, Told, message
from cxr_node.upkeep.syslog import NOTICE, WARNING, Repository, RepositoryUnavailable, syslog_message
from storage import Database, audit_arrivals, audit_standings, studies
from storage.audit_standings import SYSLOG, Sealed
from storage.errors import StorageError

log = get_logger("upkeep")

BATCH = 200  # entries of one connection
LEASE_S = 120.0  # more than a batch can take: connection, sending and its end may take `syslog.TIMEOUT_S` each


@dataclass(frozen=True)
class Exported:
    """What a run did. `trouble` is empty where the repository took everything."""

    entries: int = 0
    messages: int = 0
    trouble: str = ""


def repository(settings: Settings) -> Repository | None:
    """Return where audit messages go, None where nowhere."""
    audit = settings.audit
    if not audit.syslog_host:
        return None
    files = {"certificate": audit.tls.certificate, "key": audit.tls.key, "ca": audit.tls.ca}
    return Repository(
        audit.syslog_host,
        audit.syslog_port,
        audit.syslog_transport,
        {name: settings.path(value) for name, value in files.items() if value},
        settings.node.tls_minimum,
    )


def _ends(settings: Settings) -> dict[str, End]:
    """Return the systems that entries name, as node.toml knows them."""
    ends = {item.name: End(item.ae_title.strip(), item.host or _host(item.url)) for item in settings.source}
    return ends | {item.name: End(item.ae_title.strip(), item.host or _host(item.url)) for item in settings.destination}


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


class Exporter:
    """Sends what waits, whenever it is run. One of all hosts does."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        now: Callable[[], datetime] = utc_now,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._database, self._now, self._is_stopping = settings, database, now, is_stopping
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        node = settings.node
        self._reporter = Reporter(
            node.station_name,
            settings.receive.ae_title.strip(),
            socket.gethostname(),
            str(os.getpid()),
            _ends(settings),
        )

    def run(self) -> Exported:
        """Send everything that is sealed, in batches; stop at the first that is not taken."""
        target = repository(self._settings)
        if target is None:
            return Exported()
        entries = sent = 0
        while not self._is_stopping():
            if not self._is_due():
                break
            with self._database.begin() as connection:
                held = audit_standings.hold(connection, SYSLOG, owner=self._owner, now=self._now(), lease_s=LEASE_S)
            if held is None:
                break
            with self._database.read() as connection:
                waiting = audit_standings.after(connection, held, limit=BATCH)
                lines = [line for item in waiting for line in self._lines(connection, item)]
            if not waiting:
                break
            try:
                if lines:
                    target.deliver(lines)
            except RepositoryUnavailable as error:
                self._note(None, str(error), held.detail)
                return Exported(entries, sent, str(error))
            self._note(waiting[-1], "", held.detail)
            entries, sent = entries + len(waiting), sent + len(lines)
        if entries:
            log.info("audit_exported", entries=entries, messages=sent)
        return Exported(entries, sent)

    def release(self) -> None:
        """Let another host go on at once; where that cannot be written, it goes on when the lease is over."""
        if repository(self._settings) is None:
            return
        try:
            with self._database.begin() as connection:
                audit_standings.release(connection, SYSLOG, owner=self._owner)
        except (StorageError, SQLAlchemyError) as error:
            log.warning("audit_export_not_released", error_type=type(error).__name__)

    def _is_due(self) -> bool:
        """Whether anything waits, asked without writing."""
        with self._database.read() as connection:
            at = audit_standings.get(connection, SYSLOG)
            return at is None or bool(audit_standings.after(connection, at, limit=1))

    def _note(self, to: Sealed | None, trouble: str, before: dict[str, Any]) -> None:
        now = self._now()
        since = before.get("since") if before.get("trouble") else now.isoformat()
        detail = {"trouble": trouble, "since": since} if trouble else {}
        with self._database.begin() as connection:
            is_ours = audit_standings.advance(connection, SYSLOG, owner=self._owner, now=now, detail=detail, to=to)
            at = audit_standings.get(connection, SYSLOG)
            metrics.AUDIT_WAITING.set(audit_standings.backlog(connection, at).entries if trouble and at else 0)
        if not is_ours:
            log.warning("audit_export_taken_over", owner=self._owner)
        if trouble and before.get("trouble") != trouble:
            log.warning("audit_not_exported", reason=trouble)
        elif not trouble and before.get("trouble"):
            log.info("audit_exported_again", waited_since=before.get("since"))

    def _lines(self, connection: Connection, item: Sealed) -> Iterator[bytes]:
        """An entry as syslog messages: mostly one; none where the table says so; before a result, what came for it."""
        event = item.event
        row = EVENTS.get(event.event)
        if row is None:
            log.warning("audit_event_not_mapped", audit_event=event.event)
            return
        if isinstance(row, str):
            return
        patient = _patient(connection, event.study_instance_uid)
        if event.event in TELLS_OF_ARRIVALS:
            for came in audit_arrivals.before(connection, event, TELLS_OF_ARRIVALS):
                detail = {
                    "instances": came.instances,
                    "peer_address": came.peer_address,
                    "called_ae_title": came.called_ae_title,
                    "association_id": came.association_id,
                }
                told = Told(
                    event.id, item.seal, came.last_at, "instances_received", came.calling_ae_title,
                    event.study_instance_uid, detail,
                )  # fmt: skip
                yield self._line(told, ARRIVAL, patient)
        told = Told(
            event.id, item.seal, event.created_at, event.event, event.actor, event.study_instance_uid, event.detail
        )
        yield self._line(told, row, patient)

    def _line(self, told: Told, row: Row, patient: Patient | None) -> bytes:
        body = message(told, row, self._reporter, patient)
        severity = NOTICE if row.outcome == SUCCESS else WARNING
        reporter = self._reporter
        return syslog_message(body, at=told.at, host=reporter.host, process=reporter.process, severity=severity)


def _patient(connection: Connection, study_instance_uid: str) -> Patient | None:
    study = studies.get(connection, study_instance_uid) if study_instance_uid else None
    if study is None:
        return Patient() if study_instance_uid else None
    context = study.context
    return Patient(context.patient_id, context.patient_name, context.accession_number)
