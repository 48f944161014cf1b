"""Dead letters: jobs that were given up, for a person to look at. Done again, or laid aside with a reason; audited.

| group | jobs |
|---|---|
| analyze | analyses of studies |
| deliver | result objects on their way to a destination |
| prove | whether a destination holds what it took |
| other | everything else |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, literal_column, not_, or_, select
from sqlalchemy.engine import Connection

from storage import audit, jobs, lanes, studies
from storage.database import Database
from storage.deliveries import Delivery
from storage.deliveries import get as delivery_of
from storage.tables import jobs as table

ANALYZE = "analyze"
DELIVER = "deliver"
PROVE = "prove"
OTHER = "other"
GROUPS = (ANALYZE, DELIVER, PROVE, OTHER)
_PREFIXED = (DELIVER, PROVE)  # a lane each destination: "deliver:pacs"
_IN_A_TRANSACTION = 50

# Written out, not bound: the partial index serves only a query that is seen to imply its condition.
_FAILED = table.c.state == literal_column("'FAILED'")


@dataclass(frozen=True)
class DeadLetter:
    """A job that was given up.

    `study_instance_uid` is empty where the job is of no study; `delivery` is what a delivery or a proof was about.
    """

    id: int
    kind: str
    key: str
    group: str
    attempts: int
    reason: str
    created_at: datetime
    failed_at: datetime | None
    study_instance_uid: str = ""
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Done:
    """What became of a request; `reason` says why nothing was done."""

    is_done: bool
    reason: str = ""


def group_of(kind: str) -> str:
    """Return the group of a job kind."""
    if kind == ANALYZE:
        return ANALYZE
    return next((group for group in _PREFIXED if kind == group or kind.startswith(f"{group}:")), OTHER)


def counts(connection: Connection) -> dict[str, int]:
    """Return how many dead letters there are in each group."""
    found = dict.fromkeys(GROUPS, 0)
    for kind, number in connection.execute(select(table.c.kind, func.count()).where(_FAILED).group_by(table.c.kind)):
        found[group_of(kind)] += number
    return found


def page(connection: Connection, *, group: str = "", limit: int, offset: int = 0) -> list[DeadLetter]:
    """Return dead letters, newest first; of one group if asked."""
    statement = select(table).where(_FAILED, *([_in(group)] if group else []))
    rows = connection.execute(
        statement.order_by(table.c.settled_at.desc(), table.c.id.desc()).limit(limit).offset(offset)
    )
    return [_letter(connection, row) for row in rows.all()]


def get(connection: Connection, job_id: int) -> DeadLetter | None:
    """Return the dead letter, or None where the job is not given up or does not exist."""
    row = connection.execute(select(table).where(table.c.id == job_id, _FAILED)).one_or_none()
    return None if row is None else _letter(connection, row)


def ids(connection: Connection, *, group: str, limit: int) -> list[int]:
    """Return the ids of a group's dead letters, oldest first."""
    statement = select(table.c.id).where(_FAILED, _in(group)).order_by(table.c.settled_at, table.c.id).limit(limit)
    return list(connection.execute(statement).scalars())


def retry(connection: Connection, job_id: int, *, by: str, now: datetime) -> Done:
    """Let a job run once more, at once and with its tries counted anew.

    A delivery goes the way of `lanes.resend`, which knows what must not be sent again.
    """
    letter = get(connection, job_id)
    if letter is None:
        return Done(False, f"job {job_id} is not given up: it was done again meanwhile, or there is none")
    if letter.group == DELIVER and letter.delivery is not None:
        sent = lanes.resend(connection, letter.delivery.id, by=by, now=now)
        if not sent.is_sent:
            return Done(False, sent.reason)
    elif letter.group == DELIVER:
        return Done(False, f"job {job_id} is of a delivery that is not there any more")
    study = studies.get(connection, letter.study_instance_uid) if letter.study_instance_uid else None
    # The job that was given up starts anew itself: a delivery's lane would else leave its dead letter behind.
    jobs.schedule(
        connection, letter.kind, letter.key, run_at=now, now=now, priority=study.priority_rank if study else 0
    )
    audit.record(
        connection,
        "job_retried",
        actor=by,
        now=now,
        study_instance_uid=letter.study_instance_uid,
        detail={"job": job_id, "kind": letter.kind, "reason": letter.reason},
    )
    return Done(True)


def retry_many(database: Database, job_ids: Sequence[int], *, by: str, now: datetime) -> tuple[int, list[str]]:
    """Let jobs run once more, some in a transaction; return how many, and why the others do not."""
    done, refused = 0, []
    for at in range(0, len(job_ids), _IN_A_TRANSACTION):
        with database.begin() as connection:
            for job_id in job_ids[at : at + _IN_A_TRANSACTION]:
                outcome = retry(connection, job_id, by=by, now=now)
                done += outcome.is_done
                if not outcome.is_done:
                    refused.append(outcome.reason)
    return done, refused


def dismiss(connection: Connection, job_id: int, *, reason: str, by: str, now: datetime) -> Done:
    """Lay a dead letter aside: its row goes, study and delivery stay failed, and the audit trail keeps both reasons."""
    letter = get(connection, job_id)
    if letter is None:
        return Done(False, f"job {job_id} is not given up: it was done again meanwhile, or there is none")
    connection.execute(delete(table).where(table.c.id == job_id, _FAILED))
    audit.record(
        connection,
        "job_dismissed",
        actor=by,
        now=now,
        study_instance_uid=letter.study_instance_uid,
        detail={
            "job": job_id,
            "kind": letter.kind,
            "key": letter.key,
            "failed_because": letter.reason,
            "reason": reason,
        },
    )
    return Done(True)


def _in(group: str) -> ColumnElement[bool]:
    if group == ANALYZE:
        return table.c.kind == ANALYZE
    if group in _PREFIXED:
        return _prefixed(group)
    return and_(table.c.kind != ANALYZE, *(not_(_prefixed(name)) for name in _PREFIXED))


def _prefixed(group: str) -> ColumnElement[bool]:
    return or_(table.c.kind == group, table.c.kind.like(f"{group}:%"))


def _letter(connection: Connection, row: object) -> DeadLetter:
    values = row._mapping  # type: ignore[attr-defined]
    group = group_of(values["kind"])
    delivery = None
    study = values["key"] if values["kind"] in (ANALYZE, "order") else ""
    if group in _PREFIXED and str(values["key"]).isdigit():
        delivery = delivery_of(connection, int(values["key"]))
        study = delivery.study_instance_uid if delivery is not None else ""
    return DeadLetter(
        id=values["id"],
        kind=values["kind"],
        key=values["key"],
        group=group,
        attempts=values["attempts"],
        reason=values["reason"],
        created_at=values["created_at"],
        failed_at=values["settled_at"],
        study_instance_uid=study,
        delivery=delivery,
    )
