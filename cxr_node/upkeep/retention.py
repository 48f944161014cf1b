"""Retention: takes away the bytes of instances whose study is finished. Rows, reports and the audit trail stay."""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from storage import Database, InstanceFiles, audit, deliveries, heat_maps, instances, results, studies
from storage.deliveries import Delivery
from storage.faults import fault_point
from storage.results import Result
from storage.studies import Study

BATCH = 500
ARRIVED = (deliveries.DELIVERED, deliveries.COMMITTED, deliveries.SUPERSEDED, deliveries.SKIPPED)


@dataclass(frozen=True)
class Retained:
    """What a run did. `kept` counts instances that are old enough but of a study that is not finished."""

    deleted: int = 0
    bytes: int = 0
    kept: int = 0
    orphans: int = 0


def is_finished(study: Study | None, current: Result | None, sent: Sequence[Delivery], before: datetime) -> bool:
    """Whether nobody needs the images any more.

    The study has a result from before that time, nothing arrived since, and no delivery is open or was given up: a
    failed study or delivery waits for a person, and that person may need the images.
    """
    return (
        study is not None
        and study.status in (studies.ANALYSED, studies.NOT_ANALYSED)
        and study.last_received_at < before
        and current is not None
        and current.created_at < before
        and all(delivery.state in ARRIVED for delivery in sent)
    )


def delete_expired(
    database: Database, files: InstanceFiles, *, before: datetime, now: datetime, stop: threading.Event
) -> Retained:
    """Delete instances received before that time, of finished studies, a transaction a study.

    Rows are marked first and files removed after the commit: a row never names a file that is gone. What a crash leaves
    between the two is an orphan, removed by the next run.
    """
    deleted = size = 0
    kept: set[int] = set()
    while not stop.is_set():
        with database.read() as connection:
            # Those kept stand in front for ever, so each look reaches past them.
            found = instances.older_than(connection, before, BATCH + len(kept))
        fresh = [item for item in found if item.id not in kept]
        if not fresh:
            break
        for study_instance_uid in dict.fromkeys(item.study_instance_uid for item in fresh):
            if stop.is_set():
                break
            with database.begin() as connection:
                gone, maps = _mark(connection, study_instance_uid, before=before, now=now)
            fault_point("upkeep.marked")
            if not gone:
                kept.update(item.id for item in fresh if item.study_instance_uid == study_instance_uid)
            for location, length in gone:
                files.delete(location)
                fault_point("upkeep.deleted")
                deleted += 1
                size += length
            for location in maps:
                files.delete(location)
    orphans = delete_orphans(database, files, before=before, now=now, stop=stop)
    return Retained(deleted, size, len(kept), orphans)


def _mark(
    connection: Connection, study_instance_uid: str, *, before: datetime, now: datetime
) -> tuple[list[tuple[str, int]], list[str]]:
    """Mark a finished study's instances and return location and size of each, and the locations of its heat maps;
    nothing where it is not finished."""
    study = studies.get(connection, study_instance_uid)
    current = results.current(connection, study_instance_uid)
    if not is_finished(study, current, deliveries.of_study(connection, study_instance_uid), before):
        return [], []
    held = instances.of_study(connection, study_instance_uid)
    maps = heat_maps.forget(connection, study_instance_uid)  # they show places in the images
    instances.mark_deleted(connection, [item.id for item in held], now=now)
    audit.record(
        connection,
        "instances_deleted",
        actor="upkeep",
        now=now,
        study_instance_uid=study_instance_uid,
        detail={
            "instances": len(held),
            "bytes": sum(item.size for item in held),
            "received_before": before.isoformat(),
        },
    )
    return [(item.location, item.size) for item in held], maps


def delete_orphans(
    database: Database, files: InstanceFiles, *, before: datetime, now: datetime, stop: threading.Event
) -> int:
    """Delete files that no row names and return how many.

    Only as old as retention allows anyway: a node that was pointed at another database must not lose what it received.
    """
    orphans = 0
    locations = files.locations((now - before).total_seconds(), now)
    while not stop.is_set() and (batch := list(itertools.islice(locations, BATCH))):
        with database.read() as connection:
            known = instances.known_locations(connection, batch)
        for location in batch:
            if location not in known:
                files.delete(location)
                orphans += 1
    return orphans
