"""Failed jobs over HTTP, for admins: what was given up and why; done again, or laid aside."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.destinations_api import ProblemBody
from storage import Doorbell, dead_letters
from storage.dead_letters import DeadLetter

Group = Literal["analyze", "deliver", "prove", "other"]
JobId = Annotated[int, Path(ge=1, le=2**31)]
_TOPICS = ("analyze", "deliver", "orders", "upkeep", "side", "worklist")


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobBody(_Body):
    """A job that was given up."""

    id: int
    kind: str
    group: Group = Field(description="what it was about: an analysis, a delivery, the proof of one, or something else")
    key: str
    attempts: int
    reason: str
    created_at: datetime
    failed_at: datetime | None
    study_instance_uid: str = Field(description="empty where the job is of no study")
    destination: str = Field(description="of a delivery or its proof, else empty")


class JobListBody(_Body):
    """Failed jobs, newest first, and how many there are of each group."""

    counts: dict[str, int]
    jobs: list[JobBody]


class DismissBody(_Body):
    """Why nothing more is to be done."""

    reason: str = Field(min_length=1, max_length=500)


class DoneBody(_Body):
    """The job is done again, or laid aside."""

    id: int


router = APIRouter(
    prefix="/api/jobs",
    tags=["jobs"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "only the role admin may"},
        503: {"model": ProblemBody},
    },
)
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ProblemBody, "description": "it is not given up any more, or may not run again, and why"}
}


@router.get("", summary="Jobs that were given up")
def list_jobs(
    request: Request,
    admin: Admin,
    state: Annotated[Literal["failed"], Query(description="the only state that can be asked for")] = "failed",
    group: Annotated[Group | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> JobListBody:
    """Newest first."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        found = dead_letters.page(connection, group=group or "", limit=limit, offset=offset)
        counts = dead_letters.counts(connection)
    return JobListBody(counts=counts, jobs=[_told(item) for item in found])


@router.post("/{job_id}/retry", summary="Do it once more", responses=_CONFLICT)
def retry_job(request: Request, admin: Admin, job_id: JobId) -> DoneBody:
    """At once, with its tries counted anew. A delivery that a newer result took the place of is not sent."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        done = dead_letters.retry(connection, job_id, by=admin.name, now=services.now())
    if not done.is_done:
        raise HTTPException(409, done.reason)
    ring(services)
    return DoneBody(id=job_id)


@router.post("/{job_id}/dismiss", summary="Lay it aside", responses=_CONFLICT)
def dismiss_job(request: Request, admin: Admin, job_id: JobId, body: DismissBody) -> DoneBody:
    """Its row goes; the study or delivery stays failed, and the audit trail keeps the reason."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        done = dead_letters.dismiss(connection, job_id, reason=body.reason, by=admin.name, now=services.now())
    if not done.is_done:
        raise HTTPException(409, done.reason)
    return DoneBody(id=job_id)


def ring(services: Services) -> None:
    """Wake every stage that may have the job."""
    bell = Doorbell(services.settings.data_dir / "run", services.database)
    for topic in _TOPICS:
        bell.ring(topic)


def _told(letter: DeadLetter) -> JobBody:
    return JobBody(
        id=letter.id,
        kind=letter.kind,
        group=letter.group,  # type: ignore[arg-type]
        key=letter.key,
        attempts=letter.attempts,
        reason=letter.reason,
        created_at=letter.created_at,
        failed_at=letter.failed_at,
        study_instance_uid=letter.study_instance_uid,
        destination=letter.delivery.destination if letter.delivery is not None else "",
    )
