"""How the node stands, for programs."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Monitor
from cxr_node.worklist.web.admin.condition import Condition, gather
from cxr_node.worklist.web.admin.troubles import Trouble, summary, troubles_of
from cxr_node.worklist.web.permissions import Permission
from storage.vitals import Latency


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TroubleBody(_Body):
    """One thing that needs an eye."""

    sentence: str
    urgent: bool
    href: str = Field(description="the page where something can be done about it")


class StageBody(_Body):
    """A stage of the node."""

    name: str
    state: Literal["ready", "starting", "missing"]
    processes: int = Field(description="that gave a sign of life in the last 30 s")
    up_since: datetime | None
    seen_at: datetime | None = Field(description="last sign of life")


class QueueBody(_Body):
    """Jobs of one kind."""

    kind: str
    due: int
    later: int
    running: int
    oldest_due_at: datetime | None


class LatencyBody(_Body):
    """From a study's last image to its priority; null where there were no studies."""

    studies: int
    p50_s: float | None
    p95_s: float | None
    above_1_s: float | None = Field(description="share of the studies, 0 to 1")


class ModelBody(_Body):
    """A model package that runs."""

    name: str
    version: str
    digest: str
    role: str
    device: str
    self_test: str | None = Field(description="why it failed; empty: passed; null: not run yet")
    engine: str = Field(description="what computes its scores: LiteRT or SavedModel; empty: not told yet")
    trouble: str = Field(description="why it is computed otherwise than it was meant to be; empty: it is not")


class CertificateBody(_Body):
    """A certificate file of node.toml."""

    key: str
    expires_at: datetime | None
    problem: str


class NodeDetailBody(_Body):
    """What only an admin is told."""

    troubles: list[TroubleBody]
    models: list[ModelBody]
    certificates: list[CertificateBody]
    paused_destinations: list[str]
    resting_destinations: list[str]
    unknown_callers: int = Field(description="turned away in the last 24 hours")


class NodeHealthBody(_Body):
    """How the node stands. Nothing in it is of a patient."""

    at: datetime
    status: Literal["well", "needs an eye", "urgent"]
    sentence: str = Field(examples=["All is well."])
    stages: list[StageBody]
    queue: list[QueueBody]
    failed_jobs: int
    failed_deliveries: int
    oldest_pending_at: datetime | None = Field(description="since when the longest waiting study has been here")
    last_hour: LatencyBody
    last_24_hours: LatencyBody
    free_bytes: int | None
    days_until_full: float | None = Field(description="at the rate of today, if nothing is deleted; null: unknown")
    database_bytes: int
    open_associations: int
    silent_senders: int = Field(description="without those that are muted")
    detail: NodeDetailBody | None = Field(description="null for all but admins")


router = APIRouter(prefix="/api", tags=["monitoring"])


@router.get("/health", summary="How the node stands")
def node_health(request: Request, person: Monitor) -> NodeHealthBody:
    """Numbers and states for a monitoring system, and for an admin what is behind them."""
    services: Services = request.app.state.services
    condition = gather(services)
    troubles = troubles_of(condition)
    disk = condition.disk
    return NodeHealthBody(
        at=condition.at,
        status=status_of(troubles),
        sentence=summary(troubles),
        stages=[
            StageBody(
                name=stage.name,
                state=stage.state,  # type: ignore[arg-type]
                processes=stage.processes,
                up_since=stage.up_since,
                seen_at=stage.seen_at,
            )
            for stage in condition.stages
        ],
        queue=[QueueBody(**vars(queue)) for queue in condition.queues],
        failed_jobs=condition.failed_jobs,
        failed_deliveries=condition.failed_deliveries,
        oldest_pending_at=condition.oldest_pending_at,
        last_hour=_latency(condition.hour),
        last_24_hours=_latency(condition.day),
        free_bytes=disk.free if disk is not None else None,
        days_until_full=disk.days_left if disk is not None else None,
        database_bytes=condition.database_bytes,
        open_associations=condition.open_associations,
        silent_senders=sum(item.muted_at is None for item in condition.silences),
        detail=_detail(condition, troubles) if person.may(Permission.ADMINISTER) else None,
    )


def status_of(troubles: tuple[Trouble, ...]) -> Literal["well", "needs an eye", "urgent"]:
    """Return the worst of them in a word."""
    if any(trouble.is_urgent for trouble in troubles):
        return "urgent"
    return "needs an eye" if troubles else "well"


def _latency(latency: Latency) -> LatencyBody:
    return LatencyBody(studies=latency.studies, p50_s=latency.p50_s, p95_s=latency.p95_s, above_1_s=latency.above_1_s)


def _detail(condition: Condition, troubles: tuple[Trouble, ...]) -> NodeDetailBody:
    return NodeDetailBody(
        troubles=[TroubleBody(sentence=item.sentence, urgent=item.is_urgent, href=item.href) for item in troubles],
        models=[ModelBody(**vars(model)) for model in condition.models],
        certificates=[CertificateBody(**vars(item)) for item in condition.certificates],
        paused_destinations=list(condition.paused),
        resting_destinations=list(condition.resting),
        unknown_callers=condition.unknown_callers,
    )
