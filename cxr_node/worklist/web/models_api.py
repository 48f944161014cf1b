"""Model packages over HTTP, for admins: what runs, and a change in two steps as on the page."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin import catalogue, model_plan, models_page
from cxr_node.worklist.web.admin.model_plan import Instead, Plan, State
from cxr_node.worklist.web.destinations_api import ProblemBody

PackageName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelBody(_Body):
    """A package on the disk, and whether it is to run."""

    name: str
    state: Literal["active", "shadow", "off"]
    version: str
    digest: str = Field(description="SHA-256 of the manifest; it names the whole package")
    findings: list[str]
    population: str = Field(description="intended use in words")
    problem: str = Field(description="why it cannot run; empty where it can")
    is_loaded: bool = Field(description="whether the stage that analyses said that it runs this very package")
    criteria_met: bool | None = Field(description="null where the manifest names none")


class ModelListBody(_Body):
    """All packages; `problem` is why the last change was not taken up, empty where it was or is still being loaded."""

    models: list[ModelBody]
    problem: str
    is_taken_up: bool


class PlanAskedBody(_Body):
    """A change to look at first."""

    state: State = Field(description="`file`: as node.toml says")
    instead: Instead = Field("shadow", description="what becomes of the active packages that it takes the place of")


class PlanBody(_Body):
    """What the change would do, and the token that confirms this very change."""

    name: str
    state: State
    instead: Instead
    before: str
    digest: str
    replaced: list[str]
    beside: list[str] = Field(description="active packages for the same patients that look for something else")
    lost: list[str] = Field(description="patients whose images are not analysed any more")
    gained: list[str] = Field(description="patients whose images are analysed from now on")
    active_after: list[str]
    token: str


class ChangeBody(PlanAskedBody):
    """The second step."""

    token: str = Field(max_length=200)
    typed: str = Field(max_length=64, description="the name of the package once more")
    reason: str = Field(min_length=3, max_length=500)


router = APIRouter(
    prefix="/api/models",
    tags=["models"],
    responses={
        401: {"model": ProblemBody, "description": "a token is needed"},
        403: {"model": ProblemBody, "description": "only the role admin may"},
        503: {"model": ProblemBody},
    },
)
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ProblemBody, "description": "the change cannot be made, or is not what was shown, and why"}
}


@router.get("", summary="Model packages, and which of them run")
def list_models(request: Request, admin: Admin) -> ModelListBody:
    """Every package is verified on the way."""
    services: Services = request.app.state.services
    return _listed(services)


@router.post("/{name}/plan", summary="What a change would do", responses=_CONFLICT)
def plan_model(request: Request, admin: Admin, name: PackageName, body: PlanAskedBody) -> PlanBody:
    """Changes nothing."""
    services: Services = request.app.state.services
    plan = models_page.plan_of(services, name, body.state, body.instead)
    return _told(plan, model_plan.token_of(plan, admin.name, services.now()))


@router.post("/{name}/change", summary="Confirm a change", responses=_CONFLICT)
def change_model(request: Request, admin: Admin, name: PackageName, body: ChangeBody) -> ModelListBody:
    """The stage that analyses loads the package beside the old ones and swaps; look at the list for its answer."""
    services: Services = request.app.state.services
    plan = models_page.plan_of(services, name, body.state, body.instead)
    problem = models_page.why_not(
        plan, admin.name, services.now(), token=body.token, typed=body.typed, reason=body.reason
    )
    if problem:
        raise HTTPException(409, problem)
    models_page.confirm(services, plan, reason=body.reason.strip(), by=admin.name)
    return _listed(services)


def _listed(services: Services) -> ModelListBody:
    stands = models_page.standing(services)
    found = catalogue.found_packages(services.settings.data_dir)
    return ModelListBody(
        models=[
            ModelBody(
                name=row.found.name,
                state=row.state,  # type: ignore[arg-type]
                version=row.package.manifest.version if row.package is not None else "",
                digest=row.package.digest if row.package is not None else "",
                findings=list(row.package.manifest.findings) if row.package is not None else [],
                population=row.population,
                problem=row.found.problem,
                is_loaded=row.is_loaded,
                criteria_met=row.is_met,
            )
            for row in models_page.rows(services, stands, found)
        ],
        problem=stands.problem,
        is_taken_up=stands.is_taken_up,
    )


def _told(plan: Plan, token: str) -> PlanBody:
    return PlanBody(
        name=plan.name,
        state=plan.state,
        instead=plan.instead,
        before=plan.before,
        digest=plan.digest,
        replaced=[other.manifest.name for other in plan.replaced],
        beside=list(plan.beside),
        lost=list(plan.lost),
        gained=list(plan.gained),
        active_after=list(plan.after),
        token=token,
    )
