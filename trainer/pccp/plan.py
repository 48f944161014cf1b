"""The plan as it is written in regulatory/pccp.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLAN = Path(__file__).resolve().parents[2] / "regulatory" / "pccp.toml"
SUBGROUPS = ("sex", "view", "age")


class PlanError(Exception):
    """The plan cannot be read; says which key, what was found and what was expected."""


@dataclass(frozen=True)
class Change:
    """A change that the plan allows: which keys of the manifest it touches, and which it keeps as they were."""

    id: str
    title: str
    reason: str
    touches: tuple[str, ...]
    keeps: tuple[str, ...]


@dataclass(frozen=True)
class Submitted:
    """A package under the plan: the version that every update is compared with, and the cohort of its population."""

    version: str
    cohort: str


@dataclass(frozen=True)
class Limits:
    """How much NEW may lose against OLD, as positive margins on shares and AUC."""

    auc: float
    sensitivity: float
    specificity: float
    retention_auc: float
    subgroup_sensitivity: float
    subgroup_specificity: float


@dataclass(frozen=True)
class Plan:
    """The whole plan. Counts are of images."""

    version: str
    packages: Mapping[str, Submitted]
    changes: tuple[Change, ...]
    limits: Limits
    fewest_present: int
    fewest_absent: int
    subgroups: tuple[str, ...]
    subgroup_fewest_present: int
    subgroup_fewest_absent: int
    threshold_tolerance: float
    bootstrap: int
    seed: int


def load_plan(path: Path = PLAN) -> Plan:
    """Read a plan.

    Raises
    ------
    PlanError
        The file is not there, is no TOML, lacks a key, or holds a value that makes no plan.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise PlanError(f"{path}: expected a plan, found none ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: expected TOML, found: {error}") from error
    try:
        plan = _plan(found)
    except KeyError as error:
        raise PlanError(f"{path}: expected the key {error}, found none") from error
    except (TypeError, ValueError) as error:
        raise PlanError(f"{path}: {error}") from error
    return plan


def _plan(found: Mapping[str, Any]) -> Plan:
    limits, groups, cases = found["limits"], found["subgroups"], found["cases"]
    plan = Plan(
        version=str(found["plan"]["version"]),
        packages={
            name: Submitted(str(item["submitted_version"]), str(item["cohort"]))
            for name, item in found["package"].items()
        },
        changes=tuple(
            Change(item["id"], item["title"], item["reason"], tuple(item["touches"]), tuple(item["keeps"]))
            for item in found["change"]
        ),
        limits=Limits(
            auc=float(limits["auc"]),
            sensitivity=float(limits["sensitivity"]),
            specificity=float(limits["specificity"]),
            retention_auc=float(limits["retention_auc"]),
            subgroup_sensitivity=float(groups["sensitivity"]),
            subgroup_specificity=float(groups["specificity"]),
        ),
        fewest_present=int(cases["fewest_present"]),
        fewest_absent=int(cases["fewest_absent"]),
        subgroups=tuple(groups["by"]),
        subgroup_fewest_present=int(groups["fewest_present"]),
        subgroup_fewest_absent=int(groups["fewest_absent"]),
        threshold_tolerance=float(found["threshold"]["tolerance"]),
        bootstrap=int(found["statistics"]["bootstrap"]),
        seed=int(found["statistics"]["seed"]),
    )
    for name, value in vars(plan.limits).items():
        if not 0 < value < 1:
            raise ValueError(f"limits: {name}: expected a margin above 0 and below 1, found {value}")
    for name in plan.subgroups:
        if name not in SUBGROUPS:
            raise ValueError(f"subgroups.by: expected some of {', '.join(SUBGROUPS)}, found {name!r}")
    if not plan.changes or not plan.packages:
        raise ValueError("expected at least one change and one package, found none")
    return plan
