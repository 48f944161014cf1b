"""The acceptance rules as they stand, and what they say of a file that somebody tries."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from cxr_node.errors import PackageError
from cxr_node.findings import ACCEPTANCE_RULES
from cxr_node.inference.package import ModelPackage, find_package, package_folders
from cxr_node.worklist.services import Services
from cxr_node.worklist.web.access import Admin, Person
from cxr_node.worklist.web.drop.desk import GONE, DropDesk
from cxr_node.worklist.web.drop.words import STATES, Told, told
from cxr_node.worklist.web.present import State, shown
from cxr_node.worklist.web.rendering import render
from storage import model_changes

router = APIRouter(prefix="/admin/rules", include_in_schema=False)

KeyInQuery = Annotated[str, Query(pattern=r"^([A-Za-z0-9_-]{22})?$")]
_NOTHING: dict[str, Any] = {"key": "", "tried": None, "steps": [], "verdict": None}
_ACCEPTED = State("not-flagged", "✓", "Accepted", "")


@dataclass(frozen=True)
class Model:
    """A model that runs, by what it is meant for."""

    name: str
    version: str
    ages: str
    views: str
    findings: str
    role: str


@dataclass(frozen=True)
class Step:
    """A rule's verdict. `decides`: its objection is the reason given."""

    rule: str
    attribute: str
    found: str
    objection: str
    note: str = ""
    decides: bool = False


@dataclass(frozen=True)
class Verdict:
    """What comes of all rules."""

    state: State
    sentence: str


@router.get("")
def rules_page(request: Request, admin: Admin, key: KeyInQuery = "") -> HTMLResponse:
    """The table, and with `key` what came of the file that was tried."""
    services: Services = request.app.state.services
    drop = services.settings.worklist.drop
    try:
        values = _tried(services, admin, key)
    except HTTPException:  # its time is up; the table is still worth a look
        values = _NOTHING
    return render(
        request,
        "admin/rules.html",
        rules=ACCEPTANCE_RULES,
        models=request.app.state.kept.get("rules", lambda: list(_models(services))),
        keep_min=drop.keep_min,
        can_try=drop.enabled,
        **values,
    )


@router.get("/trace")
def rules_trace(request: Request, admin: Admin, key: KeyInQuery) -> HTMLResponse:
    """What came of it, for the page that waits."""
    values = _tried(request.app.state.services, admin, key)
    if values["tried"] is None:
        raise HTTPException(404, GONE)
    return render(request, "admin/rules_trace.html", **values)


def _tried(services: Services, admin: Person, key: str) -> dict[str, Any]:
    if not key:
        return _NOTHING
    desk = DropDesk(services)
    files = desk.files(desk.find(admin, key))
    if not files:
        return _NOTHING
    services.audit.record("tried_images_read", actor=admin.name, role=admin.role, purpose="rules")
    tried, trace = told(files[0], desk.sending(files[0])), files[0].result.get("trace")
    return {"key": key, "tried": tried, "steps": _steps(trace) if trace else [], "verdict": _verdict(tried)}


def _verdict(tried: Told) -> Verdict:
    if tried.outcome == "waiting":
        return Verdict(STATES["waiting"], "The file is looked at.")
    if tried.findings:
        models = " and ".join(sorted({f"{item.model} {item.model_version}" for item in tried.findings}))
        return Verdict(_ACCEPTED, f"It goes to {models}. What the model says of it is not shown here.")
    return Verdict(tried.state, f"{tried.reason}; see {tried.attribute}" if tried.attribute else tried.reason)


def _steps(trace: dict[str, Any]) -> list[Step]:
    """Header rules in their order, routing by age, the look at the pixels."""
    rules = {rule.reason: rule for rule in ACCEPTANCE_RULES}
    routing, pixels = trace["routing"], trace["pixels"]
    steps = [
        Step(item["reason"], rules[item["reason"]].attribute, shown(item["value"]), shown(item["objection"]))
        for item in trace["rules"]
    ]
    steps.append(
        Step(
            "age",
            "(0010,1010) Patient's Age",
            shown(routing["age"]),
            shown(routing["objection"]),
            "; ".join([f"goes to {', '.join(routing['models'])}", *routing["notes"]]),
        )
    )
    looks_like = "may be an upright frontal chest" if not pixels["objection"] else "something else"
    found = looks_like if pixels["looked"] else "does not decode"
    steps.append(Step("pixels", "(7FE0,0010) Pixel Data", found, shown(pixels["objection"])))
    first = next((place for place, step in enumerate(steps) if step.objection), -1)
    return [
        Step(step.rule, step.attribute, step.found, step.objection, step.note, place == first)
        for place, step in enumerate(steps)
    ]


def _models(services: Services) -> Iterator[Model]:
    settings = services.settings
    with services.database.read() as connection:
        chosen = model_changes.effective(connection, settings.analyze.models, settings.analyze.shadow)
    folders = package_folders(settings.data_dir)
    for role, items in (("reported", chosen.active), ("shadow, never reported", chosen.shadow)):
        for item in items:
            try:
                yield _model(find_package(item.name, folders), role)
            except PackageError:
                yield Model(item.name, "", "", "", "", f"{role}; the package is missing or altered")


def _model(package: ModelPackage, role: str) -> Model:
    manifest, use = package.manifest, package.manifest.intended_use
    low, high = use.age_years
    return Model(
        manifest.name,
        manifest.version,
        f"{low:g} years and older" if high >= 120 else f"{low:g} to {high:g} years",
        ", ".join(use.views),
        ", ".join(manifest.findings),
        role,
    )
