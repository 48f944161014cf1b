"""HL7 messages and their acknowledgements, word for word: what was said, and what the other side made of it."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from storage.tables import insert, messages

OUT, IN = "out", "in"
DRY_RUN = "DRY-RUN"  # code of a message that was written down and not sent


@dataclass(frozen=True)
class Message:
    """One message, one row for each time it went out or came in.

    `peer` is a destination's name, or the address that sent it; `code` is that of MSA-1, empty where no acknowledgement
    came.
    """

    id: int
    direction: str
    peer: str
    control_id: str
    message_type: str
    delivery_id: int | None
    body: str
    acknowledgement: str
    code: str
    created_at: datetime


_COLUMNS = [messages.c[field.name] for field in fields(Message)]


def add(
    connection: Connection,
    *,
    direction: str,
    peer: str,
    control_id: str,
    message_type: str,
    body: str,
    now: datetime,
    delivery_id: int | None = None,
    acknowledgement: str = "",
    code: str = "",
) -> int:
    """Keep a message, in both directions before anything is done with it; return its id."""
    return int(
        connection.execute(
            insert(connection.dialect.name, messages)
            .values(
                direction=direction,
                peer=peer,
                control_id=control_id,
                message_type=message_type,
                delivery_id=delivery_id,
                body=body,
                acknowledgement=acknowledgement,
                code=code,
                created_at=now,
            )
            .returning(messages.c.id)
        ).scalar_one()
    )


def acknowledge(connection: Connection, message_id: int, *, acknowledgement: str, code: str) -> None:
    """Keep the answer to a message."""
    connection.execute(
        update(messages).where(messages.c.id == message_id).values(acknowledgement=acknowledgement, code=code)
    )


def of_delivery(connection: Connection, delivery_id: int) -> list[Message]:
    """Return every sending of a delivery, oldest first."""
    rows = connection.execute(select(*_COLUMNS).where(messages.c.delivery_id == delivery_id).order_by(messages.c.id))
    return [Message(**row._mapping) for row in rows]


def of_peer(connection: Connection, peer: str, *, limit: int = 100) -> list[Message]:
    """Return the newest messages to or from a peer, newest first."""
    rows = connection.execute(
        select(*_COLUMNS).where(messages.c.peer == peer).order_by(messages.c.id.desc()).limit(limit)
    )
    return [Message(**row._mapping) for row in rows]


def forget(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` messages from before that time; return how many."""
    old = select(messages.c.id).where(messages.c.created_at < before).order_by(messages.c.created_at).limit(limit)
    ids = list(connection.execute(old).scalars())
    return connection.execute(delete(messages).where(messages.c.id.in_(ids))).rowcount if ids else 0
