"""Failed jobs as a page: look, do again, lay aside."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.worklist.services import Services
from cxr_node.worklist.web import jobs_api, present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.jobs_api import Group
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import render
from storage import dead_letters
from storage.dead_letters import DeadLetter

PAGE_SIZE = 50
AT_ONCE = 5000
GROUPS = (
    ("", "All"),
    (dead_letters.ANALYZE, "Analyses"),
    (dead_letters.DELIVER, "Deliveries"),
    (dead_letters.PROVE, "Proofs of delivery"),
    (dead_letters.OTHER, "Other"),
)
_WORDS = {
    dead_letters.ANALYZE: "Analysis",
    dead_letters.DELIVER: "Delivery",
    dead_letters.PROVE: "Proof of delivery",
}
_OTHER_WORDS = {
    "order": "Question to the RIS",
    "upkeep": "Upkeep",
    "destination-test": "Test of a destination",
    "drop": "Image that was tried",
}

router = APIRouter(prefix="/admin/jobs", include_in_schema=False)


@dataclass(frozen=True)
class _Row:
    id: int
    what: str
    about: str
    study: str
    href: str
    attempts: int
    failed: Instant | None
    reason: str


@router.get("")
def jobs_page(
    request: Request,
    admin: Admin,
    group: Group | Literal[""] = "",
    page: Annotated[int, Query(ge=1, le=20_000)] = 1,
    done: Annotated[int, Query(ge=0, le=2**31)] = 0,
    refused: Annotated[int, Query(ge=0, le=2**31)] = 0,
    dismissed: Annotated[int, Query(ge=0, le=2**31)] = 0,
) -> HTMLResponse:
    """What was given up, newest first."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        counts = dead_letters.counts(connection)
        total = counts[group] if group else sum(counts.values())
        pages = max(1, -(-total // PAGE_SIZE))
        page = min(page, pages)
        found = dead_letters.page(connection, group=group, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
    return render(
        request,
        "admin/jobs.html",
        rows=[_row(services, letter) for letter in found],
        groups=[(key, label, counts[key] if key else sum(counts.values())) for key, label in GROUPS],
        group=group,
        label=dict(GROUPS)[group],
        total=total,
        page=page,
        pages=pages,
        first=(page - 1) * PAGE_SIZE,
        done=done,
        refused=refused,
        dismissed=dismissed,
    )


@router.post("/retry")
def retry_jobs(
    request: Request,
    admin: Admin,
    job: Annotated[list[int] | None, Form(max_length=PAGE_SIZE)] = None,
    every: Annotated[Group | Literal[""], Form()] = "",
    group: Annotated[Group | Literal[""], Form()] = "",
) -> RedirectResponse:
    """Do the chosen ones again, or with `every` all of a group, oldest first."""
    services: Services = request.app.state.services
    chosen = [number for number in job or [] if 0 < number <= 2**31]
    if every:
        with services.database.read() as connection:
            chosen = dead_letters.ids(connection, group=every, limit=AT_ONCE)
    done, refused = dead_letters.retry_many(services.database, chosen, by=admin.name, now=services.now())
    jobs_api.ring(services)
    return RedirectResponse(f"/admin/jobs?group={group}&done={done}&refused={len(refused)}", status_code=303)


@router.get("/{job_id}/dismiss")
def dismiss_page(request: Request, admin: Admin, job_id: Annotated[int, Path(ge=1, le=2**31)]) -> HTMLResponse:
    """Asks for a reason first."""
    services: Services = request.app.state.services
    with services.database.read() as connection:
        letter = dead_letters.get(connection, job_id)
    if letter is None:
        raise HTTPException(404, f"job {job_id} is not given up: it was done again meanwhile, or there is none")
    return render(request, "admin/dismiss.html", row=_row(services, letter))


@router.post("/{job_id}/dismiss")
def dismiss(
    request: Request,
    admin: Admin,
    job_id: Annotated[int, Path(ge=1, le=2**31)],
    reason: Annotated[str, Form(min_length=1, max_length=500)],
) -> RedirectResponse:
    """The study or delivery stays failed; the audit trail keeps the reason."""
    services: Services = request.app.state.services
    with services.database.begin() as connection:
        done = dead_letters.dismiss(connection, job_id, reason=reason, by=admin.name, now=services.now())
    if not done.is_done:
        raise HTTPException(409, done.reason)
    return RedirectResponse("/admin/jobs?dismissed=1", status_code=303)


def _row(services: Services, letter: DeadLetter) -> _Row:
    delivery = letter.delivery
    about = f"{delivery.kind.upper()} to {delivery.destination}" if delivery is not None else ""
    if letter.group == dead_letters.OTHER:
        about = letter.key if not letter.study_instance_uid else ""
    return _Row(
        id=letter.id,
        what=_WORDS.get(letter.group) or _OTHER_WORDS.get(letter.kind.partition(":")[0]) or present.shown(letter.kind),
        about=present.shown(about),
        study=present.shown(letter.study_instance_uid),
        href="/studies/" + quote(letter.study_instance_uid, safe="") if letter.study_instance_uid else "",
        attempts=letter.attempts,
        failed=present.instant(letter.failed_at, services.zone, services.now()) if letter.failed_at else None,
        reason=present.shown(letter.reason) or "no reason was kept",
    )
