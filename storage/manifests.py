"""Manifests: what a sender says a study consists of, and what that means for when its reports may leave.

IN PROGRESS    more may come
COMPLETED      what it lists is all
DISCONTINUED   it ended early: what it lists is not waited for
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from storage import jobs
from storage.deliveries import FEEDBACK, SCHEDULED
from storage.tables import deliveries, insert, instances, manifests, studies

IN_PROGRESS = "IN PROGRESS"
COMPLETED = "COMPLETED"
DISCONTINUED = "DISCONTINUED"
STATES = (IN_PROGRESS, COMPLETED, DISCONTINUED)

DELIVER = "deliver"  # kind of the jobs that send what a delivery plans
# After the wait the study is looked at once more, and what comes of that supersedes the report that waited.
GRACE_S = 10.0
_BATCH = 500


@dataclass(frozen=True)
class Listed:
    """An instance that a manifest names; `awaited` where the node's reports wait for it."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    awaited: bool


@dataclass(frozen=True)
class Manifest:
    """What one message, or a row of messages, says of one study. `source` is the service: mpps or ian."""

    source: str
    sop_instance_uid: str
    study_instance_uid: str
    state: str
    instances: tuple[Listed, ...]
    attributes: dict[str, Any]
    calling_ae_title: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Awaited:
    """What the manifests of a study, taken together, leave to wait for.

    Parameters
    ----------
    announced : instances that ended manifests list and reports wait for
    missing : of these, those that are not here
    is_open : one manifest at least says that more may come
    since : when the newest manifest was heard; None without one
    """

    announced: int = 0
    missing: int = 0
    is_open: bool = False
    since: datetime | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everything announced is here, and nothing more is to come."""
        return self.announced > 0 and self.missing == 0 and not self.is_open

    def until(self, last_received_at: datetime, wait_s: float) -> datetime | None:
        """Return how long reports wait at most, from the last that was heard of the study; None where they do not."""
        if self.since is None or not (self.is_open or self.missing):
            return None
        return max(self.since, last_received_at) + timedelta(seconds=wait_s)

    def report_at(self, last_received_at: datetime, *, settle_s: float, wait_s: float, now: datetime) -> datetime:
        """Return when a report may leave: at once where all is here, `settle_s` after the last image where no manifest
        says more, and else when the wait is over."""
        if self.is_complete:
            return now
        last_received_at = min(last_received_at, now)  # later: the clock was set back since
        settled = last_received_at + timedelta(seconds=settle_s)
        until = self.until(last_received_at, wait_s)
        if until is None or until <= now:
            return settled
        return max(settled, until + timedelta(seconds=GRACE_S))


_COLUMNS = [manifests.c[field.name] for field in fields(Manifest)]


def add(
    connection: Connection,
    source: str,
    sop_instance_uid: str,
    study_instance_uids: Iterable[str],
    *,
    state: str,
    instances: Sequence[Listed] = (),
    attributes: Mapping[str, Any] | None = None,
    calling_ae_title: str,
    now: datetime,
) -> bool:
    """Keep a new manifest, a row for each study; False where its UID is taken, and then nothing is changed."""
    if get(connection, source, sop_instance_uid):
        return False
    for study_instance_uid in dict.fromkeys(study_instance_uids):
        added = connection.execute(
            insert(connection.dialect.name, manifests)
            .values(
                source=source,
                sop_instance_uid=sop_instance_uid,
                study_instance_uid=study_instance_uid,
                state=state,
                instances=[vars(item) for item in instances],
                attributes=dict(attributes or {}),
                calling_ae_title=calling_ae_title,
                created_at=now,
                updated_at=now,
            )
            .on_conflict_do_nothing(
                index_elements=[
                    manifests.c.source,
                    manifests.c.sop_instance_uid,
                    manifests.c.study_instance_uid,
                ]
            )
        ).rowcount
        if not added:  # another association was quicker
            return False
    return True


def set_state(
    connection: Connection,
    source: str,
    sop_instance_uid: str,
    *,
    state: str,
    instances: Sequence[Listed] | None = None,
    attributes: Mapping[str, Any] | None = None,
    now: datetime,
) -> bool:
    """Bring a manifest that is IN PROGRESS up to date; None leaves a part as it is. False where none is."""
    values: dict[str, Any] = {"state": state, "updated_at": now}
    if instances is not None:
        values["instances"] = [vars(item) for item in instances]
    if attributes is not None:
        values["attributes"] = dict(attributes)
    changed = connection.execute(
        update(manifests)
        .where(
            manifests.c.source == source,
            manifests.c.sop_instance_uid == sop_instance_uid,
            manifests.c.state == IN_PROGRESS,
        )
        .values(**values)
    ).rowcount
    return bool(changed)


def get(connection: Connection, source: str, sop_instance_uid: str) -> list[Manifest]:
    """Return the rows of a manifest, one for each of its studies; none where it is not known."""
    return _manifests(
        connection,
        select(*_COLUMNS)
        .where(manifests.c.source == source, manifests.c.sop_instance_uid == sop_instance_uid)
        .order_by(manifests.c.id),
    )


def of_study(connection: Connection, study_instance_uid: str) -> list[Manifest]:
    """Return what was said of a study, oldest first."""
    return _manifests(connection, _OF_STUDY, {"study": study_instance_uid})


# Put together once: it is asked for every image.
_OF_STUDY = select(*_COLUMNS).where(manifests.c.study_instance_uid == bindparam("study")).order_by(manifests.c.id)


def awaited(connection: Connection, study_instance_uid: str) -> Awaited:
    """Return what the study still waits for."""
    found = of_study(connection, study_instance_uid)
    if not found:
        return Awaited()
    announced = {
        item.sop_instance_uid
        for manifest in found
        if manifest.state == COMPLETED
        for item in manifest.instances
        if item.awaited
    }
    return Awaited(
        announced=len(announced),
        missing=len(announced) - _held(connection, announced),
        is_open=any(manifest.state == IN_PROGRESS for manifest in found),
        since=max(manifest.updated_at for manifest in found),
    )


def replan(
    connection: Connection,
    study_instance_uid: str,
    *,
    settle_s: Mapping[str, float],
    wait_s: float,
    immediate: str,
    now: datetime,
) -> Awaited:
    """Let the study's reports that nobody has tried to send leave when the manifests now say; return what they say.

    Parameters
    ----------
    settle_s : by destination; one that is not named is left alone
    immediate : object kind that never waits; nor does what readers say of a result
    """
    found = awaited(connection, study_instance_uid)
    last_received_at = connection.execute(
        select(studies.c.last_received_at).where(studies.c.study_instance_uid == study_instance_uid)
    ).scalar_one_or_none()
    if last_received_at is None:
        return found
    planned = connection.execute(
        select(deliveries.c.id, deliveries.c.destination)
        .where(
            deliveries.c.study_instance_uid == study_instance_uid,
            deliveries.c.state == SCHEDULED,
            deliveries.c.attempts == 0,
            deliveries.c.kind != immediate,
            deliveries.c.kind.notlike(f"{FEEDBACK}:%"),
            deliveries.c.destination.in_(list(settle_s)),
        )
        .order_by(deliveries.c.id)
    ).all()
    for row in planned:
        run_at = found.report_at(last_received_at, settle_s=settle_s[row.destination], wait_s=wait_s, now=now)
        jobs.move(connection, DELIVER, str(row.id), run_at=max(run_at, now))
    return found


def forget(connection: Connection, *, before: datetime, limit: int) -> int:
    """Remove up to `limit` manifests that nothing was heard of since; return how many."""
    old = select(manifests.c.id).where(manifests.c.updated_at < before).order_by(manifests.c.id).limit(limit)
    ids = list(connection.execute(old).scalars())
    return connection.execute(delete(manifests).where(manifests.c.id.in_(ids))).rowcount if ids else 0


def _held(connection: Connection, sop_instance_uids: Iterable[str]) -> int:
    """Return how many of these came here at some time; retention may have deleted their bytes since."""
    uids = sorted(sop_instance_uids)
    return sum(
        connection.execute(
            select(func.count(instances.c.sop_instance_uid.distinct())).where(
                instances.c.sop_instance_uid.in_(uids[start : start + _BATCH])
            )
        ).scalar_one()
        for start in range(0, len(uids), _BATCH)
    )


def _manifests(connection: Connection, statement: Any, values: dict[str, Any] | None = None) -> list[Manifest]:
    return [
        Manifest(**{**row._mapping, "instances": tuple(Listed(**item) for item in row.instances)})
        for row in connection.execute(statement, values)
    ]
