"""Runs both packages over labelled cases and gives the verdict that the plan leads to."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference import Engine, ModelPackage
from cxr_node.inference.golden import check_golden
from trainer.cohorts import Cohort, CohortError
from trainer.cohorts.folder import DRAWN_RULE
from trainer.evaluate import evaluation_sets
from trainer.pccp import changes
from trainer.pccp.measured import Answer, Limit, Pair, Shift, auc_limit, limits, shift, subgroup_limits
from trainer.pccp.plan import Change, Plan
from trainer.predictor import Predictor, lock, package_predictor
from trainer.record import cases_sha256
from trainer.targets import used

SCHEMA = "cxr-train pccp 1"


class Verdict(StrEnum):
    """What comes of a verification; the exit status of the command follows from it."""

    INSIDE = "inside the plan"
    NEW_SUBMISSION = "new submission needed"
    NOT_ENOUGH = "not enough cases"
    REFUSED = "refused"


@dataclass(frozen=True)
class Verification:
    """The verdict with everything that led to it. `limits` is empty where the models were not run."""

    verdict: Verdict
    reasons: tuple[str, ...]
    change: Change | None
    differences: tuple[str, ...]
    threshold: str
    images: int
    present: int
    absent: int
    cases_sha256: str
    limits: tuple[Limit, ...]
    too_few: tuple[str, ...]
    shift: Shift | None


def verify(
    plan: Plan, old: ModelPackage, new: ModelPackage, cases: Cohort, previous: Cohort | None = None
) -> Verification:
    """Compare NEW with OLD under the plan.

    1. What identifies the packages: the same package, OLD the version submitted last, NEW a higher one.
    2. What changed: all of it inside one change of the plan.
    3. The threshold of NEW was locked on its own tune part; otherwise the package is refused and not run.
    4. Both still give their golden scores.
    5. Both over the test part of the cases: each limit by its interval, overall and in subgroups; where the weights
       are new also on the previous cases.

    A cohort whose parts the reader drew by itself counts whole: a sealed set has no parts.
    """
    outside = _identity(plan, old, new)
    differing = changes.differences(old.manifest.to_json(), new.manifest.to_json())
    change, beyond = changes.allowed_by(plan, differing)
    outside += [f"{key} differs: no change of the plan touches it" for key in beyond]
    nothing = Verification(Verdict.REFUSED, (), change, differing, "not run", 0, 0, 0, "", (), (), None)
    faults = changes.threshold_faults(old.manifest, new.manifest)
    if faults:
        return replace(nothing, reasons=faults, threshold="not locked on the package's own tune part")
    if outside:
        return replace(nothing, verdict=Verdict.NEW_SUBMISSION, reasons=tuple(outside), threshold="as recorded")
    for package in (old, new):
        try:
            check_golden(package, Engine(package))
        except PackageError as error:
            return replace(nothing, reasons=(str(error),), threshold="as recorded")
    models = (package_predictor(old), package_predictor(new))
    threshold, agrees = _derived_again(plan, models[1], new, cases)
    if not agrees:
        return replace(nothing, reasons=(threshold,), threshold=threshold)
    return _compared(plan, models, nothing, threshold, cases, previous, changes.retrained(old.manifest, new.manifest))


def _identity(plan: Plan, old: ModelPackage, new: ModelPackage) -> list[str]:
    name, found = old.manifest.name, []
    if new.manifest.name != name:
        found.append(f"NEW is {new.manifest.name}, OLD is {name}: expected two versions of one package")
    submitted = plan.packages.get(name)
    if submitted is None:
        found.append(f"{name} is not under the plan; {', '.join(plan.packages)} are")
        return found
    if old.manifest.version != submitted.version:
        found.append(
            f"OLD is {name} {old.manifest.version}: expected {submitted.version}, the version submitted last, "
            "so that small losses cannot add up"
        )
    if changes.release(new.manifest.version) <= changes.release(old.manifest.version) and new.digest != old.digest:
        found.append(f"NEW is version {new.manifest.version}: expected one above {old.manifest.version}")
    trained_on = new.manifest.training.get("cohort", {}).get("name")
    if trained_on != submitted.cohort:
        found.append(f"NEW was trained on cohort {trained_on}: expected {submitted.cohort}, the same population")
    return found


def _derived_again(plan: Plan, model: Predictor, new: ModelPackage, cases: Cohort) -> tuple[str, bool]:
    """Return what came of deriving the threshold again from the tune part, where that is at hand, and if it agrees."""
    finding = model.findings[0]
    cohort = used(model.config, cases) if cases.name == new.manifest.training["cohort"]["name"] else cases
    tune = cohort.part("tune")
    recorded = new.manifest.training["cohort"]["parts"]["tune"].get("sha256", "")
    if not tune or cases_sha256(tune) != recorded:
        return "locked on its own tune part by its record; not derived again: the tune part is not at hand", True
    again = lock(model.score(tune), model.config.operating_point, cohort.name)[finding].point.threshold
    stated = model.locked[finding].point.threshold
    said = f"{stated:.6f} stated, {again:.6f} derived again from the tune part ({len(tune)} images)"
    return said, abs(again - stated) <= plan.threshold_tolerance


def _compared(
    plan: Plan,
    models: tuple[Predictor, Predictor],
    nothing: Verification,
    threshold: str,
    cases: Cohort,
    previous: Cohort | None,
    is_retrained: bool,
) -> Verification:
    pair = paired(models, cases)
    earlier = None if previous is None else paired(models, previous)
    found = limits(pair, plan)
    in_groups, too_few = subgroup_limits(pair, plan)
    found += in_groups
    if earlier is not None:
        found.append(auc_limit("auc on the previous cases", earlier, plan.limits.retention_auc))
    missing = []
    for name, has, wanted in (
        ("with", pair.present, plan.fewest_present),
        ("without", pair.absent, plan.fewest_absent),
    ):
        if has < wanted:
            missing.append(f"{has} images {name} the finding, {wanted} needed")
    if is_retrained and earlier is None:
        missing.append("the weights are new and no previous cases were given: retention is not measured")
    missed = [_sentence(item) for item in found if item.answer is Answer.MISSED]
    still_open = [_sentence(item) for item in found if item.answer is Answer.OPEN]
    # With too few cases a miss is a miss all the same: its interval lies below the margin.
    verdict = Verdict.NEW_SUBMISSION if missed else Verdict.NOT_ENOUGH if missing or still_open else Verdict.INSIDE
    return replace(
        nothing,
        verdict=verdict,
        reasons=tuple(missed or [*missing, *still_open]),
        threshold=threshold,
        images=len(pair.labels),
        present=pair.present,
        absent=pair.absent,
        cases_sha256=cases_sha256(pair.cases),
        limits=tuple(found),
        too_few=tuple(too_few),
        shift=shift(pair, earlier) if min(pair.present, pair.absent) > 1 else None,
    )


def paired(models: Sequence[Predictor], cohort: Cohort) -> Pair:
    """Score the cases to compare on with both packages, each with its own calibration and threshold.

    Raises
    ------
    CohortError
        No case has a label of the finding.
    """
    finding = models[0].findings[0]
    known = used(models[0].config, cohort) if cohort.name == models[0].training["cohort"]["name"] else cohort
    chosen = known.cases if known.split_rule == DRAWN_RULE else known.part("test")
    sets = [evaluation_sets(known, model.score(chosen), finding)[0] for model in models]
    if not len(sets[0].labels):
        raise CohortError(f"{cohort.title}: expected cases with a label of {finding} in its test part, found none")
    values = [
        model.locked[finding].probabilities(item.scored.of(finding)) for model, item in zip(models, sets, strict=True)
    ]
    flags = [
        probabilities >= model.locked[finding].point.threshold
        for model, probabilities in zip(models, values, strict=True)
    ]
    return Pair(sets[0].scored.cases, sets[0].labels, values[0], values[1], flags[0], flags[1])


def _sentence(item: Limit) -> str:
    if math.isnan(item.low):
        return f"{item.name}: not measured, {item.n} images"
    return (
        f"{item.name}: {item.old:.3f} to {item.new:.3f}, difference {item.difference:+.3f} ({item.low:+.3f} to "
        f"{item.high:+.3f}), limit {-item.margin:+.3f}: {item.answer}"
    )


def lines(found: Verification) -> list[str]:
    """Return the verification for a person."""
    told = [f"change: {found.change.title if found.change else 'none of the plan' if found.differences else 'none'}"]
    told.append(f"threshold: {found.threshold}")
    if found.limits:
        told.append(f"cases: {found.images} images, {found.present} with and {found.absent} without the finding")
        told += [_sentence(item) for item in found.limits]
        told += [f"not measured: {item}" for item in found.too_few]
    if found.shift is not None:
        told.append(f"learning {found.shift.learning}")
        told.append(f"potential {found.shift.potential or 'not measured: no previous cases'}")
        told.append(f"retention {found.shift.retention or 'not measured: no previous cases'}")
    told.append(f"verdict: {found.verdict}")
    told += [f"  {reason}" for reason in found.reasons]
    return told


def to_json(found: Verification, plan: Plan, old: ModelPackage, new: ModelPackage) -> dict[str, Any]:
    """Return the record of a verification; what was not measured is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, float | np.floating):
            return None if math.isnan(value) else round(float(value), 4)
        return value

    return {
        "schema": SCHEMA,
        "plan": plan.version,
        "old": {"name": old.manifest.name, "version": old.manifest.version, "digest": old.digest},
        "new": {"name": new.manifest.name, "version": new.manifest.version, "digest": new.digest},
        **plain({**asdict(found), "change": found.change.id if found.change else None}),
    }
