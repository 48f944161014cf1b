"""How the node stands, as one value; what of it needs an eye is decided in `troubles`."""

import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from cxr_node.settings import Settings
from cxr_node.work.files import spool_dir
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.admin import trail
from cxr_node.worklist.web.admin.certificates import Certificate, certificates
from cxr_node.worklist.web.admin.trail import Trail
from storage import Database, audit, callers, heartbeats, monitoring, senders, vitals
from storage.heartbeats import Heartbeat
from storage.monitoring import Monitor
from storage.senders import Silence
from storage.vitals import Growth, Latency, Queue

STALE_AFTER = timedelta(seconds=30)  # six signs of life that did not come
STARTS_WITHIN = timedelta(seconds=60)
LATELY = timedelta(hours=24)

READY = "ready"
STARTING = "starting"
MISSING = "missing"


@dataclass(frozen=True)
class Stage:
    """A stage of the node: `processes` give signs of life, the oldest since `up_since`; `lost` ended without a word."""

    name: str
    state: str
    processes: int
    lost: int
    up_since: datetime | None
    seen_at: datetime | None


@dataclass(frozen=True)
class Model:
    """A model package that analyze has loaded. `self_test` is empty where it passed, None before the first.

    `trouble` says why it is computed otherwise than it was meant to be, on the CPU instead of a GPU say.
    """

    name: str
    version: str
    digest: str
    role: str
    device: str
    self_test: str | None
    engine: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU of an analyze process; memory in MiB."""

    name: str
    used_mib: int
    total_mib: int


@dataclass(frozen=True)
class Disk:
    """Space for instances, bytes. `growth` is None where too little came to tell."""

    free: int
    total: int
    minimum: int
    growth: Growth | None

    @property
    def days_left(self) -> float | None:
        """Days until images are refused at the present rate, if nothing were deleted."""
        if self.growth is None or self.growth.bytes == 0:
            return None
        per_day = self.growth.bytes / self.growth.seconds * 86400
        return max(0.0, (self.free - self.minimum) / per_day)


@dataclass(frozen=True)
class Backup:
    """Backups that the node makes itself: whether they are set up, and what came of the last."""

    every: timedelta | None = None  # None: not set up
    made_at: datetime | None = None
    failed_at: datetime | None = None  # later than `made_at`
    reason: str = ""


@dataclass(frozen=True)
class ClockSet:
    """The clock was set by so many seconds, ahead where positive, not long ago."""

    at: datetime
    ahead_s: float
    while_down: bool


@dataclass(frozen=True)
class Condition:
    """The node at one moment."""

    at: datetime
    stages: tuple[Stage, ...]
    queues: tuple[Queue, ...]
    failed_jobs: int
    failed_deliveries: int
    oldest_pending_at: datetime | None
    hour: Latency
    day: Latency
    disk: Disk | None
    database: str
    database_bytes: int
    models: tuple[Model, ...]
    gpus: tuple[Gpu, ...]
    self_test_at: datetime | None
    certificates: tuple[Certificate, ...]
    open_associations: int
    paused: tuple[str, ...]
    resting: tuple[str, ...]
    silences: tuple[Silence, ...]
    unknown_callers: int  # different ones that were turned away in the last day
    backup: Backup = field(default_factory=Backup)
    trail: Trail = field(default_factory=Trail)
    clock_set: ClockSet | None = None
    monitors: tuple[Monitor, ...] = ()


def gather(services: Services) -> Condition:
    """Look at everything once."""
    return look(services.settings, services.database, services.now())


def look(settings: Settings, database: Database, now: datetime) -> Condition:
    """Look at everything once."""
    with database.read() as connection:
        beats = heartbeats.listed(connection)
        paused, resting = vitals.destinations(connection, now=now)
        configured = {destination.name for destination in settings.destination}
        alive = [beat for beat in beats if now - beat.seen_at < STALE_AFTER]
        tested = next((beat.detail.get("self_test") for beat in alive if beat.stage == "upkeep"), None)
        return Condition(
            at=now,
            stages=_stages(settings, beats, now),
            queues=tuple(vitals.queues(connection, now=now)),
            failed_jobs=vitals.failed_jobs(connection),
            failed_deliveries=vitals.failed_deliveries(connection),
            oldest_pending_at=vitals.oldest_pending(connection),
            hour=vitals.latency(connection, since=now - timedelta(hours=1), now=now),
            day=vitals.latency(connection, since=now - LATELY, now=now),
            disk=_disk(settings, connection, now),
            database=database.dialect,
            database_bytes=vitals.database_bytes(connection),
            models=_models(alive, tested),
            gpus=_gpus(alive),
            self_test_at=datetime.fromisoformat(tested["at"]) if tested else None,
            certificates=tuple(certificates(settings)),
            open_associations=sum(int(beat.detail.get("open_associations", 0)) for beat in alive),
            paused=tuple(sorted(paused & configured)),
            resting=tuple(sorted(resting & configured)),
            silences=tuple(_silences(connection)),
            unknown_callers=_unknown_callers(connection, now),
            backup=_backup(settings, connection),
            trail=trail.look(connection, settings),
            clock_set=_clock_set(connection, now),
            monitors=tuple(monitoring.listed(connection)),
        )


def _stages(settings: Settings, beats: list[Heartbeat], now: datetime) -> tuple[Stage, ...]:
    names = ["receive", "analyze", "deliver", "worklist", *(["orders"] if settings.orders.enabled else []), "upkeep"]
    is_young = any(beat.stage == "worklist" and now - beat.started_at < STARTS_WITHIN for beat in beats)
    found = []
    for name in names:
        mine = [beat for beat in beats if beat.stage == name]
        alive = [beat for beat in mine if now - beat.seen_at < STALE_AFTER]
        if not alive:
            state = STARTING if is_young else MISSING
        else:
            state = READY if any(beat.detail.get("state", READY) == READY for beat in alive) else STARTING
        found.append(
            Stage(
                name,
                state,
                processes=len(alive),
                lost=len(mine) - len(alive),
                up_since=min((beat.started_at for beat in alive), default=None),
                seen_at=max((beat.seen_at for beat in mine), default=None),
            )
        )
    return tuple(found)


def _models(alive: list[Heartbeat], tested: dict[str, Any] | None) -> tuple[Model, ...]:
    packages = tested["packages"] if tested else {}
    told = [item for beat in alive for item in beat.detail.get("models", ())]
    # Of several workers the one with a trouble counts: a single GPU that failed must not hide behind the others.
    told.sort(key=lambda item: bool(item.get("trouble")))
    loaded = {(item["name"], item["digest"]): Model(**item, self_test=packages.get(item["name"])) for item in told}
    return tuple(loaded[key] for key in sorted(loaded))


def _gpus(alive: list[Heartbeat]) -> tuple[Gpu, ...]:
    # Every analyze process tells of all GPUs of its host.
    of_host = {
        (beat.process.rpartition(":")[0], place): Gpu(**item)
        for beat in alive
        for place, item in enumerate(beat.detail.get("gpus", ()))
    }
    return tuple(of_host[key] for key in sorted(of_host))


def _disk(settings: Settings, connection: Connection, now: datetime) -> Disk | None:
    try:
        usage = shutil.disk_usage(spool_dir(settings))
    except OSError:
        return None
    minimum = int(settings.receive.min_free_gb * 1e9)
    return Disk(usage.free, usage.total, minimum, vitals.growth(connection, now=now))


def _backup(settings: Settings, connection: Connection) -> Backup:
    upkeep = settings.upkeep
    made, failed = (audit.newest(connection, event) for event in ("backup_made", "backup_failed"))
    made_at = made[0].created_at if made else None
    is_failing = bool(failed) and (made_at is None or failed[0].created_at > made_at)
    return Backup(
        timedelta(hours=upkeep.backup_every_h) if upkeep.backup_dir else None,
        made_at,
        failed[0].created_at if is_failing else None,
        str(failed[0].detail.get("reason", "")) if is_failing else "",
    )


def _clock_set(connection: Connection, now: datetime) -> ClockSet | None:
    found = audit.newest(connection, "clock_set")
    if not found or abs(now - found[0].created_at) > LATELY:
        return None
    detail = found[0].detail
    return ClockSet(found[0].created_at, float(detail["ahead_s"]), bool(detail.get("while_down")))


def _silences(connection: Connection) -> list[Silence]:
    """Return silences that last: upkeep notes the end of one within a minute, the image itself says so at once."""
    last = senders.last_images(connection)
    return [item for item in senders.silent(connection) if last.get(item.sender, item.last_at) <= item.last_at]


def _unknown_callers(connection: Connection, now: datetime) -> int:
    return sum(
        item.reason.removeprefix(callers.WORKLIST) in ("calling_ae_title", "certificate", "tls")
        and now - item.last_at < LATELY
        for item in callers.rejected(connection)
    )
