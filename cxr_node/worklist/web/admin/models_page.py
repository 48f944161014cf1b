"""Model packages as pages: what they are, what runs, how a shadow model compares, and a change in two steps."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cxr_node.inference.package import ModelPackage
from cxr_node.worklist.figures import Agreement, agreement
from cxr_node.worklist.services import Services
from cxr_node.worklist.web import present
from cxr_node.worklist.web.access import Admin
from cxr_node.worklist.web.admin import catalogue, model_plan
from cxr_node.worklist.web.admin.catalogue import Found
from cxr_node.worklist.web.admin.model_plan import Instead, NoPlan, Plan, State
from cxr_node.worklist.web.present import Instant
from cxr_node.worklist.web.rendering import render
from storage import Doorbell, audit, model_changes, statistics
from storage.audit import AuditEvent
from storage.model_changes import ACTIVE, OFF, SHADOW, Effective, ModelChange
from storage.statistics import Comparison

TOPIC = "models"  # rung for the stage that analyses
DISAGREEING = 50
MARKS = {ACTIVE: "●", SHADOW: "◐", OFF: "○"}
WORDS = {
    ACTIVE: "its results are reported and raise priorities",
    SHADOW: "it looks at the same images; nothing of it is reported",
    OFF: "it does not run",
}

router = APIRouter(prefix="/admin/models", include_in_schema=False)

Name = Annotated[str, Path(max_length=64)]
Days = Literal["7", "28", "90"]


@dataclass(frozen=True)
class Standing:
    """What runs: as decided, and as the stage that analyses says."""

    wanted: Effective
    states: dict[str, str]
    running: dict[str, str]  # name → digest of what is reported; empty where the stage has not said
    running_at: datetime | None
    problem: str
    is_serving: bool  # although there is a problem: the old models go on
    is_taken_up: bool


@dataclass(frozen=True)
class Row:
    """A package in the list."""

    found: Found
    package: ModelPackage | None
    state: str
    mark: str
    word: str
    origin: str
    population: str
    findings: str
    is_loaded: bool
    is_met: bool | None
    href: str


@dataclass(frozen=True)
class Compared:
    """A shadow model beside the active one for the same finding in the same patients."""

    finding: str
    active: ModelPackage
    shadow: ModelPackage
    counts: Comparison
    agreement: Agreement
    disagreeing: tuple[tuple[str, str, bool], ...] = ()


@dataclass(frozen=True)
class _Change:
    change: ModelChange
    at: Instant


def standing(services: Services) -> Standing:
    """Return what is decided, and what the stage last said of it."""
    analyze = services.settings.analyze
    with services.database.read() as connection:
        wanted = model_changes.effective(connection, analyze.models, analyze.shadow)
        loaded = audit.newest(connection, "models_loaded")
        refused = audit.newest(connection, "models_not_loaded")
        decided = model_changes.history(connection, limit=1)
    running = _running(loaded)
    is_refused = bool(refused) and (not loaded or refused[0].id > loaded[0].id)
    is_answer = bool(decided) and is_refused and refused[0].created_at >= decided[0].created_at
    problem = str(refused[0].detail.get("reason", "")) if is_answer or (is_refused and not decided) else ""
    said = {item.name: running.get(item.name, "") for item in wanted.active}
    is_taken_up = (
        bool(loaded)
        and set(said) == set(running)
        and all(not item.digest or item.digest == running.get(item.name) for item in wanted.active)
    )
    at = loaded[0].created_at if loaded else None
    is_serving = not problem or refused[0].detail.get("serving") is not False
    return Standing(wanted, model_plan.states(wanted), running, at, problem, is_serving, is_taken_up)


def rows(services: Services, stands: Standing, found: dict[str, Found]) -> list[Row]:
    """Return all packages, and those that are to run though their folder is gone."""
    listed = {**{name: Found(name, False, None, "its folder is gone") for name in stands.states}, **found}
    order = {ACTIVE: 0, SHADOW: 1, OFF: 2}
    made = [_row(item, stands) for item in listed.values()]
    return sorted(made, key=lambda row: (order[row.state], row.found.name))


@router.get("")
def models_page(
    request: Request, admin: Admin, days: Days = "28", changed: Annotated[str, Query(max_length=64)] = ""
) -> HTMLResponse:
    """All packages and the comparison of shadow models."""
    services: Services = request.app.state.services
    stands, found = standing(services), catalogue.found_packages(services.settings.data_dir)
    with services.database.read() as connection:
        history = model_changes.history(connection, limit=20)
    now = services.now()
    return render(
        request,
        "admin/models.html",
        stands=stands,
        running_at=present.instant(stands.running_at, services.zone, now) if stands.running_at else None,
        rows=rows(services, stands, found),
        compared=compare(request, stands, found, int(days)),
        days=days,
        history=[_Change(item, present.instant(item.created_at, services.zone, now)) for item in history],
        changed=changed if changed in found or changed in stands.states else "",
    )


@router.get("/{name}")
def model_page(request: Request, admin: Admin, name: Name, days: Days = "28") -> HTMLResponse:
    """The card of a package, and the form that begins a change."""
    services: Services = request.app.state.services
    stands, found = standing(services), catalogue.found_packages(services.settings.data_dir)
    row = next((item for item in rows(services, stands, found) if item.found.name == name), None)
    if row is None:
        raise HTTPException(404, f"there is no model package {present.shown(name)}")
    with services.database.read() as connection:
        history = model_changes.history(connection, name=name)
    now, package = services.now(), row.package
    return render(
        request,
        "admin/model.html",
        row=row,
        package=package,
        measured=catalogue.measured(package) if package else [],
        criteria=catalogue.criteria(package) if package else [],
        baselines=catalogue.baselines(package) if package else [],
        card=catalogue.card(package) if package else "",
        compared=[
            item
            for item in compare(request, stands, found, int(days), name)
            if name in (item.active.manifest.name, item.shadow.manifest.name)
        ],
        days=days,
        history=[_Change(item, present.instant(item.created_at, services.zone, now)) for item in history],
        in_file=model_plan.configured(services.settings, name),
        words=WORDS,
    )


@router.get("/{name}/plan")
def plan_page(request: Request, admin: Admin, name: Name, state: State, instead: Instead = "shadow") -> HTMLResponse:
    """The first step: what the change would mean for patients, and the form that asks to confirm it."""
    services: Services = request.app.state.services
    plan = plan_of(services, name, state, instead)
    return _plan_answer(request, plan, admin.name)


@router.post("/{name}/plan")
def change_model(
    request: Request,
    admin: Admin,
    name: Name,
    state: Annotated[State, Form()],
    token: Annotated[str, Form(max_length=200)] = "",
    instead: Annotated[Instead, Form()] = "shadow",
    typed: Annotated[str, Form(max_length=64)] = "",
    reason: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """The second step: the name typed, a reason given, and nothing changed since the first."""
    services: Services = request.app.state.services
    plan = plan_of(services, name, state, instead)
    problem = why_not(plan, admin.name, services.now(), token=token, typed=typed, reason=reason)
    if problem:
        return _plan_answer(request, plan, admin.name, problem=problem, reason=reason, status=409)
    confirm(services, plan, reason=reason.strip(), by=admin.name)
    return RedirectResponse(f"/admin/models?changed={quote(name, safe='')}", status_code=303)


def plan_of(services: Services, name: str, state: State, instead: Instead) -> Plan:
    """Return the plan; raises HTTPException 409 where the change cannot be made."""
    analyze = services.settings.analyze
    with services.database.read() as connection:
        wanted = model_changes.effective(connection, analyze.models, analyze.shadow)
    found = catalogue.found_packages(services.settings.data_dir)
    try:
        return model_plan.make_plan(name, state, instead, settings=services.settings, found=found, wanted=wanted)
    except NoPlan as error:
        raise HTTPException(409, present.shown(str(error))) from error


def why_not(plan: Plan, person: str, now: datetime, *, token: str, typed: str, reason: str) -> str:
    """Return why the confirmation does not hold, empty where it does."""
    if not model_plan.is_token_of(plan, person, now, token):
        return "what would change is not what was shown, or it was shown too long ago: look at it again and confirm"
    if typed.strip() != plan.name:
        return f"type the name {plan.name} to confirm"
    return "" if len(reason.strip()) >= 3 else "a reason is needed: it is kept with the change"


def confirm(services: Services, plan: Plan, *, reason: str, by: str) -> None:
    """Write the change down and wake the stage that analyses; raises HTTPException 409 where somebody was faster."""
    try:
        with services.database.begin() as connection:
            model_plan.carry_out(connection, plan, reason=reason, by=by, now=services.now())
    except NoPlan as error:
        raise HTTPException(409, str(error)) from error
    bell = Doorbell(services.settings.data_dir / "run", services.database)
    for topic in (TOPIC, "worklist"):
        bell.ring(topic)


def compare(request: Request, stands: Standing, found: dict[str, Found], days: int, of: str = "") -> list[Compared]:
    """Compare each shadow model with the active ones; with `of` the studies that they disagree on, too."""
    services: Services = request.app.state.services
    pairs = [
        (finding, active, shadow)
        for shadow in _packages(stands.wanted.shadow, found)
        for active in _packages(stands.wanted.active, found)
        for finding in catalogue.overlap(active, shadow)
    ]
    made = []
    for finding, active, shadow in pairs:
        wants_list = of in (active.manifest.name, shadow.manifest.name)
        key = ("compare", finding, active.digest, shadow.digest, days, wants_list)
        made.append(
            request.app.state.kept.get(
                key, lambda f=finding, a=active, s=shadow, w=wants_list: _compare(services, f, a, s, days, w)
            )
        )
    return made


def _compare(
    services: Services, finding: str, active: ModelPackage, shadow: ModelPackage, days: int, wants_list: bool
) -> Compared:
    until = services.now()
    since = until - timedelta(days=days)
    first = (active.digest, active.manifest.operating_points[finding].threshold)
    second = (shadow.digest, shadow.manifest.operating_points[finding].threshold)
    with services.database.read() as connection:
        counts = statistics.compare(connection, finding, first, second, since, until)
        listed = (
            statistics.disagreements(connection, finding, first, second, since, until, limit=DISAGREEING)
            if wants_list
            else []
        )
    disagreeing = tuple((present.shown(uid), "/studies/" + quote(uid, safe=""), by_first) for uid, by_first in listed)
    return Compared(finding, active, shadow, counts, agreement(counts), disagreeing)


def _packages(chosen: tuple[model_changes.Chosen, ...], found: dict[str, Found]) -> list[ModelPackage]:
    known = [found.get(item.name) for item in chosen]
    return [item.package for item in known if item is not None and item.package is not None]


def _plan_answer(
    request: Request, plan: Plan, person: str, *, problem: str = "", reason: str = "", status: int = 200
) -> HTMLResponse:
    services: Services = request.app.state.services
    minutes = int(model_plan.CONFIRM_WITHIN.total_seconds() // 60)
    return render(
        request,
        "admin/model_plan.html",
        status,
        plan=plan,
        token=model_plan.token_of(plan, person, services.now()),
        becomes=model_plan.configured(services.settings, plan.name) if plan.state == "file" else plan.state,
        words=WORDS,
        population=catalogue.population,
        measured=catalogue.measured,
        criteria=catalogue.criteria,
        problem=problem,
        reason=reason,
        minutes=minutes,
    )


def _row(item: Found, stands: Standing) -> Row:
    package = item.package
    state = stands.states.get(item.name, OFF)
    held = catalogue.criteria(package) if package is not None else []
    return Row(
        found=item,
        package=package,
        state=state,
        mark=MARKS[state],
        word=WORDS[state],
        origin="released with this node" if item.is_released else "of this site",
        population=catalogue.population(package.manifest.intended_use) if package is not None else "",
        findings=", ".join(package.manifest.findings) if package is not None else "",
        is_loaded=package is not None and stands.running.get(item.name) == package.digest,
        is_met=all(one.is_met for one in held) if held else None,
        href="/admin/models/" + quote(item.name, safe=""),
    )


def _running(loaded: list[AuditEvent]) -> dict[str, str]:
    active = loaded[0].detail.get("active", {}) if loaded else {}
    return {str(name): str(item.get("digest", "")) for name, item in active.items()}
