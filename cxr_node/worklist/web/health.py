"""For monitoring: is the process up, can it serve, and how is the node doing."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from cxr_node.errors import PackageError
from cxr_node.inference.package import find_package, package_folders
from cxr_node.settings import Settings
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Monitor
from cxr_node.worklist.web.admin.condition import READY, STALE_AFTER, STARTING
from cxr_node.worklist.web.admin.gauges import NodeGauges
from storage import Database, InstanceFiles, audit, heartbeats, jobs, model_changes
from storage.errors import StorageError

VERIFY_AGAIN_AFTER_S = 60.0  # the SHA-256 of some ten megabytes is not for every probe

router = APIRouter(tags=["monitoring"])


class HealthBody(BaseModel):
    """The process answers."""

    status: str = Field(examples=["ok"])


class ReadyBody(BaseModel):
    """Whether the node can serve; `reasons` is empty when it can."""

    status: str = Field(examples=["ready", "not ready"])
    reasons: list[str]


@router.get("/healthz", summary="The process is up")
def healthz() -> HealthBody:
    """Needs no token and touches nothing else."""
    return HealthBody(status="ok")


@router.get(
    "/readyz",
    summary="Database and models are there, intake and analysis have started",
    responses={503: {"model": ReadyBody}},
)
def readyz(request: Request, response: Response) -> ReadyBody:
    """Needs no token."""
    services: Services = request.app.state.services
    reasons = [
        *_database_reasons(services.database),
        *request.app.state.models.reasons(),
        *_stage_reasons(services.database, services.now()),
    ]
    if reasons:
        response.status_code = 503
    return ReadyBody(status="not ready" if reasons else "ready", reasons=reasons)


@router.get(
    "/metrics",
    summary="Prometheus metrics of all stages",
    response_class=PlainTextResponse,
)
def metrics(request: Request, _: Monitor) -> Response:
    """The counters of every process of the node, and gauges of the queue and the disk taken now."""
    services: Services = request.app.state.services
    registry = CollectorRegistry()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(_Own())
    registry.register(QueueAndDisk(services.database, services.files, services.now()))
    registry.register(NodeGauges(services.settings, services.database, services.now()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class ModelCheck:
    """Looks whether the packages that are to run are there, unaltered, and those that were confirmed."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._reasons: list[str] = []

    def reasons(self) -> list[str]:
        """Return what is wrong; verified anew once a minute, and at every call while something is."""
        with self._lock:
            if self._reasons or time.monotonic() - self._checked_at > VERIFY_AGAIN_AFTER_S:
                self._reasons = list(self._check())
                self._checked_at = time.monotonic()
            return list(self._reasons)

    def _check(self) -> Iterator[str]:
        folders = package_folders(self._settings.data_dir)
        analyze = self._settings.analyze
        try:
            with self._database.read() as connection:
                wanted = model_changes.effective(connection, analyze.models, analyze.shadow)
        except (StorageError, SQLAlchemyError):
            return  # the database has a reason of its own
        for chosen in (*wanted.active, *wanted.shadow):
            try:
                package = find_package(chosen.name, folders)
            except PackageError as error:
                yield f"model {chosen.name}: {error}"
                continue
            if chosen.digest and package.digest != chosen.digest:
                yield f"model {chosen.name}: {package.digest[:12]} found, {chosen.digest[:12]} was confirmed"


class QueueAndDisk(Collector):
    """Gauges that are computed when they are asked for."""

    def __init__(self, database: Database, files: InstanceFiles, now: datetime) -> None:
        self._database = database
        self._files = files
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Read the queue and the disk; what cannot be read is left out, and `cxr_database_up` says so."""
        number = GaugeMetricFamily("cxr_jobs", "Jobs by kind and state", labels=["kind", "state"])
        age = GaugeMetricFamily(
            "cxr_oldest_due_job_seconds", "How long the oldest due job has waited, s", labels=["kind"]
        )
        up = GaugeMetricFamily("cxr_database_up", "1 while the database answers")
        try:
            with self._database.read() as connection:
                counts = jobs.counts(connection)
                due = {kind: jobs.oldest_due(connection, kind, now=self._now) for kind, _ in counts}
            for (kind, state), count in sorted(counts.items()):
                number.add_metric([kind, state], count)
            for kind, since in sorted(due.items()):
                age.add_metric([kind], (self._now - since).total_seconds() if since is not None else 0.0)
            up.add_metric([], 1)
        except (StorageError, SQLAlchemyError):
            up.add_metric([], 0)
        yield from (number, age, up)
        try:
            yield GaugeMetricFamily("cxr_free_bytes", "Free space for instances, bytes", value=self._files.free_bytes())
        except (StorageError, OSError):
            return


class _Own(Collector):
    """The metrics of this process alone, where no folder is shared with the other stages."""

    def collect(self) -> Iterable[Metric]:
        return REGISTRY.collect()


def _stage_reasons(database: Database, now: datetime) -> list[str]:
    """Return what intake and analysis still do before they serve, and why analysis refuses to, where it does.

    Of several processes one that is ready is enough.
    """
    try:
        with database.read() as connection:
            beats = [beat for beat in heartbeats.listed(connection) if now - beat.seen_at < STALE_AFTER]
            refused, loaded = audit.newest(connection, "models_not_loaded"), audit.newest(connection, "models_loaded")
    except (StorageError, SQLAlchemyError):
        return []  # the database has a reason of its own
    reasons = []
    for stage in ("receive", "analyze"):
        states = [str(beat.detail.get("state", READY)) for beat in beats if beat.stage == stage]
        if not states or READY in states:
            continue
        # Most telling last: "converting …" says more than "starting".
        told = max(states, key=lambda state: state != STARTING)
        if stage == "analyze" and refused and not (loaded and loaded[0].id > refused[0].id):
            detail = refused[0].detail
            told = told if detail.get("serving") else f"refuses to serve: {detail.get('reason', '')}"
        reasons.append(f"{stage}: {told}")
    return reasons


def _database_reasons(database: Database) -> list[str]:
    try:
        return [] if database.is_current() else ["database: its tables are not those of this release; `serve` migrates"]
    except (StorageError, SQLAlchemyError) as error:
        return [f"database: not reachable ({type(error).__name__})"]
