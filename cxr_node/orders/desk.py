"""The desk where HL7 orders are handed in: what one says is durable before it is acknowledged, and its study raised."""

import re
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from cxr_node import metrics
from cxr_node.findings.priority import rank_of
from cxr_node.log import get_logger
from cxr_node.orders.hl7_acknowledgement import ACCEPTED, ERROR, REJECTED, TRY_LATER, acknowledge
from cxr_node.orders.hl7_message import Header, Rejection, decode, read_orders
from storage import Database, Doorbell, audit, messages, orders, studies
from storage.errors import StorageError
from storage.faults import fault_point
from storage.orders import Order

log = get_logger("orders")

# HL7 v2.5.1 table 0076, of departments around a RIS.
_KINDS = re.compile("ACK|ADT|BAR|DFT|MDM|MFN|OMG|OMI|OML|ORM|ORR|ORU|QBP|QRY|RAS|RDE|RSP|SIU|SRM|SRR|VXU")
_TRIGGER = re.compile(r"(?:[A-Z]\d\d)?")


class OrderDesk:
    """Takes messages and returns acknowledgements."""

    def __init__(self, database: Database, doorbell: Doorbell, *, now: Callable[[], datetime]) -> None:
        self._database = database
        self._doorbell = doorbell
        self._now = now

    def take(self, body: bytes, peer: str) -> bytes:
        """Keep and apply a message; the same one again changes nothing and is answered as it was.

        Returns
        -------
        bytes
            AA once everything is durable, AE where storage cannot take it now, AR where it cannot be read.
        """
        now = self._now()
        decoded = decode(body)
        if isinstance(decoded, Rejection):
            acknowledgement = acknowledge(Header(), REJECTED, now=now, why=decoded)
            return self._answered(peer, Header(), REJECTED, acknowledgement, decoded)
        header, text = decoded
        found = read_orders(header, text)
        try:
            with self._database.begin() as connection:
                before = orders.answered(connection, peer, header.control_id, text) if header.control_id else None
                if before is not None:
                    log.info("message_known", peer_address=peer, message_type=_named(header.message_type))
                    return before.encode(header.encoding, "replace")
                refusal = found if isinstance(found, Rejection) else None
                code = REJECTED if refusal is not None else ACCEPTED
                acknowledgement = acknowledge(header, code, now=now, why=refusal)
                raised = 0 if isinstance(found, Rejection) else self._apply(connection, found, peer, now)
                messages.add(
                    connection,
                    direction=messages.IN,
                    peer=peer,
                    control_id=header.control_id,
                    message_type="^".join(part for part in (header.message_type, header.trigger) if part),
                    body=text,
                    acknowledgement=acknowledgement.decode(header.encoding),
                    code=code,
                    now=now,
                )
        except (StorageError, SQLAlchemyError) as error:
            log.error("message_not_kept", peer_address=peer, error_type=type(error).__name__)
            return self._answered(peer, header, ERROR, acknowledge(header, ERROR, now=now, why=TRY_LATER), TRY_LATER)
        fault_point("orders.kept")
        if raised:
            for topic in ("worklist", "analyze", "deliver"):
                self._doorbell.ring(topic)
        number = 0 if isinstance(found, Rejection) else len(found)
        return self._answered(peer, header, code, acknowledgement, refusal, orders=number, raised=raised)

    def _apply(self, connection: Connection, found: tuple[Order, ...], peer: str, now: datetime) -> int:
        """Write the orders down and raise the studies that are here; return how many rose."""
        raised = 0
        for order in found:
            known = orders.put(connection, order, now=now)
            detail = {"source": order.source, "peer": peer, "priority": known.priority, "status": known.status}
            audit.record(connection, "order_received", actor="orders", now=now, detail=detail)
            for study in orders.studies_of(connection, known):
                raised += orders.apply(connection, study.study_instance_uid, rank=rank_of, now=now)
            self._tell_of_strangers(connection, known, now)
        return raised

    def _tell_of_strangers(self, connection: Connection, order: Order, now: datetime) -> None:
        """A study of the same accession number or UID that names another patient is left alone, and that is told."""
        of_uid = studies.get(connection, order.study_instance_uid) if order.study_instance_uid else None
        found = [*studies.by_accession_number(connection, order.accession_number), *([of_uid] if of_uid else [])]
        for uid in {study.study_instance_uid for study in found if not orders.matches(order, study)}:
            log.warning("order_of_another_patient", study_instance_uid=uid)
            audit.record(
                connection,
                "order_of_another_patient",
                actor="orders",
                now=now,
                study_instance_uid=uid,
                detail={"source": order.source, "priority": order.priority},
            )

    def _answered(
        self, peer: str, header: Header, code: str, acknowledgement: bytes, why: Rejection | None, **numbers: int
    ) -> bytes:
        metrics.MESSAGES_IN.labels(code).inc()
        reason = {} if why is None else {"reason": why.message}
        level = log.info if why is None else log.warning
        kind = "^".join(part for part in (header.message_type, header.trigger) if part)
        level("message_answered", peer_address=peer, message_type=_named(kind), code=code, **numbers, **reason)
        return acknowledgement


def _named(message_type: str) -> str:
    """The message type for the log, where it is one that an interface engine may send here: another text could be
    anything, and three capitals are a name too."""
    kind, _, trigger = message_type.partition("^")
    return message_type if _KINDS.fullmatch(kind) and _TRIGGER.fullmatch(trigger) else "(other)"
