"""Heat maps of images: asked for by a reader, made by a job of kind HEAT_MAP whose key is the row's id.

asked   being made
made    the picture lies at `location`; where that is empty, no part of the image lowers the score: nothing to show
failed  given up; `reason` says why. Asking again starts anew
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from storage import jobs
from storage.site_tables import heat_maps
from storage.tables import insert, instances

HEAT_MAP = "heat-map"
ASKED = "asked"
MADE = "made"
FAILED = "failed"
_PRIORITY = -10  # below what decides in which order studies are read


@dataclass(frozen=True)
class HeatMap:
    """The map of one model's finding in one image."""

    id: int
    instance_id: int
    model_digest: str
    finding: str
    state: str
    location: str
    reason: str
    created_at: datetime


_COLUMNS = [heat_maps.c[field.name] for field in fields(HeatMap)]


def ask(connection: Connection, instance_id: int, *, model_digest: str, finding: str, now: datetime) -> HeatMap:
    """Want the map made; one that is asked for or made stays as it is."""
    connection.execute(
        insert(connection.dialect.name, heat_maps)
        .values(instance_id=instance_id, model_digest=model_digest, finding=finding, state=ASKED, created_at=now)
        .on_conflict_do_nothing(index_elements=[heat_maps.c.instance_id, heat_maps.c.model_digest, heat_maps.c.finding])
    )
    is_it = (
        heat_maps.c.instance_id == instance_id,
        heat_maps.c.model_digest == model_digest,
        heat_maps.c.finding == finding,
    )
    row = _heat_map(connection, select(*_COLUMNS).where(*is_it))
    assert row is not None
    if row.state == FAILED:
        connection.execute(update(heat_maps).where(*is_it).values(state=ASKED, reason=""))
    if row.state != MADE:
        job = jobs.get(connection, HEAT_MAP, str(row.id))
        if job is None or job.state in (jobs.COMPLETED, jobs.FAILED):
            jobs.schedule(connection, HEAT_MAP, str(row.id), run_at=now, now=now, priority=_PRIORITY)
    found = get(connection, row.id)
    assert found is not None
    return found


def settle(connection: Connection, heat_map_id: int, *, location: str = "") -> None:
    """The map is made; empty `location` where there is nothing to show."""
    connection.execute(
        update(heat_maps).where(heat_maps.c.id == heat_map_id).values(state=MADE, location=location, reason="")
    )


def fail(connection: Connection, heat_map_id: int, reason: str) -> None:
    """It cannot be made."""
    connection.execute(update(heat_maps).where(heat_maps.c.id == heat_map_id).values(state=FAILED, reason=reason))


def get(connection: Connection, heat_map_id: int) -> HeatMap | None:
    """Return the map, or None."""
    return _heat_map(connection, select(*_COLUMNS).where(heat_maps.c.id == heat_map_id))


def of_study(connection: Connection, study_instance_uid: str) -> list[HeatMap]:
    """Return the maps of a study's images that are still here, oldest first."""
    rows = connection.execute(
        select(*_COLUMNS)
        .join(instances, instances.c.id == heat_maps.c.instance_id)
        .where(instances.c.study_instance_uid == study_instance_uid, instances.c.deleted_at.is_(None))
        .order_by(heat_maps.c.id)
    )
    return [HeatMap(**row._mapping) for row in rows]


def forget(connection: Connection, study_instance_uid: str) -> list[str]:
    """Remove the maps of a study's images; return the locations of their pictures, to be deleted after the commit."""
    of_study = select(instances.c.id).where(instances.c.study_instance_uid == study_instance_uid)
    gone = connection.execute(
        delete(heat_maps).where(heat_maps.c.instance_id.in_(of_study)).returning(heat_maps.c.location)
    )
    return [location for location in gone.scalars() if location]


def image_of(connection: Connection, heat_map: HeatMap) -> str | None:
    """Return the location of the image that the map is of; None once retention took it away."""
    return connection.execute(
        select(instances.c.location).where(instances.c.id == heat_map.instance_id, instances.c.deleted_at.is_(None))
    ).scalar_one_or_none()


def _heat_map(connection: Connection, statement: Any) -> HeatMap | None:
    row = connection.execute(statement).one_or_none()
    return None if row is None else HeatMap(**row._mapping)
