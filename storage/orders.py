"""Orders: what the RIS asked for and how urgently, whether its study is here yet or not.

One row for each order of a source, as it was last heard. A study takes the priority of its orders when the later of the
two arrives; what an order says afterwards, or that it was canceled, lowers nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.engine import Connection

from storage import jobs, studies
from storage.messages import IN
from storage.studies import Study
from storage.tables import insert, messages, orders

HL7 = "hl7"
MWL = "mwl"
REASONS = {HL7: "HL7 order from the RIS", MWL: "worklist of the RIS"}

ACTIVE = "ACTIVE"
CANCELED = "CANCELED"


@dataclass(frozen=True)
class Order:
    """One order; empty where the source said nothing.

    `order_key` is what the source calls it by; `priority` is a term of Requested Procedure Priority (0040,1003), made
    of `priority_text` as it was sent; `status` is ACTIVE or CANCELED.
    """

    source: str
    order_key: str
    accession_number: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    study_instance_uid: str = ""
    placer_order_number: str = ""
    filler_order_number: str = ""
    requested_procedure_id: str = ""
    priority: str = ""
    priority_text: str = ""
    status: str = ACTIVE


_COLUMNS = [orders.c[field.name] for field in fields(Order)]
_KEY = ("source", "order_key")


def put(connection: Connection, order: Order, *, now: datetime) -> Order:
    """Write an order down, or bring the one there is up to date: what the message leaves empty is kept.

    Returns
    -------
    Order
        As it is kept, without spaces around its values.
    """
    order = replace(order, **{field.name: getattr(order, field.name).strip() for field in fields(Order)})
    known = get(connection, order.source, order.order_key)
    if known is not None:
        order = replace(
            order,
            **{
                field.name: getattr(known, field.name)
                for field in fields(Order)
                if field.name not in _KEY and not getattr(order, field.name)
            },
        )
    values = {field.name: getattr(order, field.name) for field in fields(Order)}
    connection.execute(
        insert(connection.dialect.name, orders)
        .values(**values, created_at=now, updated_at=now)
        .on_conflict_do_update(
            index_elements=[orders.c.source, orders.c.order_key],
            set_={**{name: value for name, value in values.items() if name not in _KEY}, "updated_at": now},
        )
    )
    return order


def get(connection: Connection, source: str, order_key: str) -> Order | None:
    """Return the order, or None."""
    row = connection.execute(
        select(*_COLUMNS).where(orders.c.source == source, orders.c.order_key == order_key)
    ).one_or_none()
    return None if row is None else Order(**row._mapping)


def matches(order: Order, study: Study) -> bool:
    """Whether an order is of this study: never another patient's.

    They share the Study Instance UID or the accession number; and patient ID and its issuer, each where both name one.
    Letter case counts, spaces around a value do not.
    """
    context = study.context
    shared = _same(order.study_instance_uid, study.study_instance_uid) or _same(
        order.accession_number, context.accession_number
    )
    return (
        shared
        and not _differ(order.patient_id, context.patient_id)
        and not _differ(order.issuer_of_patient_id, context.issuer_of_patient_id)
    )


def of_study(connection: Connection, study: Study) -> list[Order]:
    """Return the orders of the study, canceled ones too."""
    accession_number = study.context.accession_number.strip()
    shared = [orders.c.study_instance_uid == study.study_instance_uid]
    if accession_number:
        shared.append(orders.c.accession_number == accession_number)
    rows = connection.execute(select(*_COLUMNS).where(or_(*shared)).order_by(orders.c.id))
    return [order for order in (Order(**row._mapping) for row in rows) if matches(order, study)]


def studies_of(connection: Connection, order: Order) -> list[Study]:
    """Return the studies here that the order is of."""
    found = {
        study.study_instance_uid: study for study in studies.by_accession_number(connection, order.accession_number)
    }
    of_uid = studies.get(connection, order.study_instance_uid) if order.study_instance_uid else None
    if of_uid is not None:
        found[of_uid.study_instance_uid] = of_uid
    return [study for study in found.values() if matches(order, study)]


def ordered(connection: Connection, study: Study, rank: Callable[[str], int]) -> Order | None:
    """Return the order that would raise the study's ordered priority; None where none would."""
    if study.read_at is not None:
        return None
    urgent = [order for order in of_study(connection, study) if order.status == ACTIVE and order.priority]
    best = max(urgent, key=lambda order: rank(order.priority), default=None)
    return best if best is not None and rank(best.priority) > rank(study.ordered_priority) else None


def apply(connection: Connection, study_instance_uid: str, *, rank: Callable[[str], int], now: datetime) -> bool:
    """Raise the study to the most urgent of its orders, and its analysis with it; return whether anything changed."""
    study = studies.get(connection, study_instance_uid)
    order = ordered(connection, study, rank) if study is not None else None
    if order is None:
        return False
    urgency = rank(order.priority)
    changed = studies.raise_ordered(connection, study_instance_uid, order.priority, urgency, REASONS[order.source], now)
    if changed:
        jobs.raise_priority(connection, "analyze", study_instance_uid, priority=urgency)
    return changed


def answered(connection: Connection, peer: str, control_id: str, body: str) -> str | None:
    """Return what this very message was answered when it came before, or None."""
    rows = connection.execute(
        select(messages.c.body, messages.c.acknowledgement)
        .where(messages.c.peer == peer, messages.c.control_id == control_id, messages.c.direction == IN)
        .order_by(messages.c.id.desc())
    )
    return next((str(row.acknowledgement) for row in rows if row.body == body), None)


def forget(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` orders that nothing was heard of since; return how many."""
    old = select(orders.c.id).where(orders.c.updated_at < before).order_by(orders.c.id).limit(limit)
    ids = list(connection.execute(old).scalars())
    return connection.execute(delete(orders).where(orders.c.id.in_(ids))).rowcount if ids else 0


def _same(one: str, other: str) -> bool:
    return bool(one.strip()) and one.strip() == other.strip()


def _differ(one: str, other: str) -> bool:
    return bool(one.strip()) and bool(other.strip()) and one.strip() != other.strip()
