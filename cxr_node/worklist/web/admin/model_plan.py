"""A change of what runs: planned first, with what it means for patients; confirmed second, bound to what was shown."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Literal

from sqlalchemy.engine import Connection

from cxr_node.errors import CxrNodeError
from cxr_node.inference.package import ModelPackage
from cxr_node.settings import Settings
from cxr_node.worklist.web.admin.catalogue import Found, overlap
from storage import audit, model_changes
from storage.model_changes import ACTIVE, FILE, OFF, SHADOW, Effective

State = Literal["active", "shadow", "off", "file"]
Instead = Literal["shadow", "off"]

CONFIRM_WITHIN = timedelta(minutes=10)
_OLDEST = 120
# Of this process: a confirmation is good for a few minutes only, and what it stood for is shown anew after a restart.
_KEY = secrets.token_bytes(32)


class NoPlan(CxrNodeError):
    """The change cannot be made, and why."""


@dataclass(frozen=True)
class Plan:
    """What a change would do.

    `replaced` are active packages that look for the same finding in the same patients: they become `instead`.
    `beside` are active packages for the same patients that look for something else. `lost` and `gained` are the
    patients, in words, whose images are not analysed any more, or from now on.
    """

    name: str
    state: State
    instead: Instead
    before: str
    package: ModelPackage | None
    replaced: tuple[ModelPackage, ...]
    beside: tuple[str, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    after: tuple[str, ...]
    basis: int

    @property
    def digest(self) -> str:
        return self.package.digest if self.package is not None else ""


def states(wanted: Effective) -> dict[str, str]:
    """Return the state of every package that is to run."""
    return {item.name: ACTIVE for item in wanted.active} | {item.name: SHADOW for item in wanted.shadow}


def configured(settings: Settings, name: str) -> str:
    """Return what node.toml says of a package."""
    if name in settings.analyze.models:
        return ACTIVE
    return SHADOW if name in settings.analyze.shadow else OFF


def make_plan(
    name: str, state: State, instead: Instead, *, settings: Settings, found: Mapping[str, Found], wanted: Effective
) -> Plan:
    """Return what the change would do.

    Raises
    ------
    NoPlan
        There is no such package, it does not verify, or nothing would change.
    """
    known = found.get(name)
    package = known.package if known is not None else None
    now = states(wanted)
    before = now.get(name, OFF)
    after = configured(settings, name) if state == FILE else state
    if known is None and name not in now:
        raise NoPlan(f"there is no model package {name}")
    if after in (ACTIVE, SHADOW) and package is None:
        raise NoPlan(f"{name} cannot run: {known.problem if known is not None else 'its folder is gone'}")
    bound = next((item.digest for item in wanted.active if item.name == name), "")
    if state != FILE and before == after and (after != ACTIVE or package is None or bound == package.digest):
        raise NoPlan(f"{name} is {before} already")
    others = [
        other
        for other_name in now
        if now[other_name] == ACTIVE and other_name != name
        if (other := _package(found, other_name))
    ]
    replaced: tuple[ModelPackage, ...] = ()
    beside: tuple[str, ...] = ()
    if after == ACTIVE and package is not None:
        replaced = tuple(other for other in others if overlap(package, other))
        beside = tuple(
            other.manifest.name for other in others if other not in replaced and _same_patients(package, other)
        )
    running = [other for other in others if other not in replaced]
    running += [package] if after == ACTIVE and package is not None else []
    was = [*others, *([package] if before == ACTIVE and package is not None else [])]
    covered, covers = _coverage(was), _coverage(running)
    return Plan(
        name=name,
        state=state,
        instead=instead,
        before=before,
        package=package,
        replaced=replaced,
        beside=beside,
        lost=_sentences(covered - covers),
        gained=_sentences(covers - covered),
        after=tuple(other.manifest.name for other in running),
        basis=wanted.basis,
    )


def token_of(plan: Plan, person: str, now: datetime) -> str:
    """Return what a confirmation has to carry: it stands for the plan, the person and the time."""
    at = str(int(now.timestamp()))
    return f"{at}.{_sign(plan, person, at)}"


def is_token_of(plan: Plan, person: str, now: datetime, token: str) -> bool:
    """Whether the confirmation is of this very plan, shown to this person within `CONFIRM_WITHIN`."""
    at, _, signature = token.partition(".")
    if not (at.isascii() and at.isdigit() and len(at) < 12):
        return False
    is_fresh = 0 <= now.timestamp() - int(at) + 1 <= CONFIRM_WITHIN.total_seconds()
    return is_fresh and hmac.compare_digest(signature.encode(), _sign(plan, person, at).encode())


def carry_out(connection: Connection, plan: Plan, *, reason: str, by: str, now: datetime) -> None:
    """Write the decision down; the stage that analyses takes it up.

    Raises
    ------
    NoPlan
        Somebody decided something else since the plan was shown.
    """
    if model_changes.basis(connection, lock=True) != plan.basis:
        raise NoPlan("somebody changed the models since this was shown: look at what would change now")
    for other in plan.replaced:
        model_changes.add(
            connection,
            other.manifest.name,
            plan.instead,
            version=other.manifest.version,
            digest=other.digest,
            reason=f"replaced by {plan.name}: {reason}",
            changed_by=by,
            now=now,
        )
    version = plan.package.manifest.version if plan.package is not None else ""
    model_changes.add(
        connection,
        plan.name,
        plan.state,
        version=version,
        digest=plan.digest,
        reason=reason,
        changed_by=by,
        now=now,
    )
    audit.record(
        connection,
        "model_changed",
        actor=by,
        now=now,
        detail={
            "model": plan.name,
            "version": version,
            "digest": plan.digest,
            "from": plan.before,
            "to": plan.state,
            "replaced": [other.manifest.name for other in plan.replaced],
            "reason": reason,
        },
    )


def _sign(plan: Plan, person: str, at: str) -> str:
    replaced = ",".join(f"{other.manifest.name}={other.digest}" for other in plan.replaced)
    told = (plan.name, plan.state, plan.instead, plan.digest, replaced, str(plan.basis), person, at)
    return hmac.new(_KEY, "\n".join(told).encode(), hashlib.sha256).hexdigest()


def _package(found: Mapping[str, Found], name: str) -> ModelPackage | None:
    known = found.get(name)
    return known.package if known is not None else None


def _same_patients(one: ModelPackage, other: ModelPackage) -> bool:
    a, b = one.manifest.intended_use, other.manifest.intended_use
    return a.age_years[0] <= b.age_years[1] and b.age_years[0] <= a.age_years[1] and bool(set(a.views) & set(b.views))


def _coverage(packages: Sequence[ModelPackage]) -> set[tuple[str, str, int]]:
    """Return every (finding, view, age in years) that some package is meant for."""
    covered = set()
    for package in packages:
        use = package.manifest.intended_use
        ages = range(int(use.age_years[0]), min(_OLDEST, int(use.age_years[1])) + 1)
        covered |= {(finding, view, age) for finding in package.manifest.findings for view in use.views for age in ages}
    return covered


def _sentences(covered: set[tuple[str, str, int]]) -> tuple[str, ...]:
    """Return the same in words: a sentence for each finding and range of ages, its views together."""
    by_ages: dict[tuple[str, str], list[str]] = {}
    for (finding, view), group in groupby(sorted(covered), key=lambda item: item[:2]):
        ages = ", ".join(_ranges([age for _, _, age in group]))
        by_ages.setdefault((finding, ages), []).append(view)
    return tuple(f"{finding}: {ages} ({', '.join(views)})" for (finding, ages), views in by_ages.items())


def _ranges(ages: Sequence[int]) -> list[str]:
    found: list[str] = []
    start = last = ages[0]
    for age in [*ages[1:], None]:
        if age is not None and age == last + 1:
            last = age
            continue
        found.append(f"{start} years and older" if last >= _OLDEST else f"{start} to {last} years")
        if age is not None:
            start = last = age
    return found
