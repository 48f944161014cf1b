"""The plan of a clinical validation, with its sample size computed."""

import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table, Text
from regulatory.sample_size import (
    auc_lower,
    cases_for,
    cases_for_half_width,
    cases_for_observed,
    exact_meets,
    fewest_successes,
    power,
    with_losses,
)
from regulatory.sources.intended_use import EVALUATED, Manifest, manifests, source_of, test_sets
from trainer.report.words import count, decimal, interval, percent

PLAN = "regulatory/validation_plan.toml"
COMPUTED = f"{PLAN}, regulatory/sample_size.py:cases_for"


def gather(root: Path) -> Material:
    """Return the plan's numbers, its computed sizes and its lists."""
    plan = tomllib.loads((root / PLAN).read_text("utf-8"))
    return Material(
        figures=(
            *_stated(plan),
            _standing(plan["goals"], manifests(root)),
            *(figure for study in plan["study"] for figure in _computed(plan["goals"], study)),
        ),
        tables=(_sizes(plan), _subgroups(plan), _comorbidities(plan), _stages(plan)),
        texts=tuple(
            Text(f"plan.{kind}s", "\n".join(f"- {item['text']}" for item in plan[kind]), PLAN)
            for kind in ("inclusion", "exclusion")
        ),
    )


def _standing(goals: Mapping[str, float], packages: Mapping[str, Manifest]) -> Figure:
    """Return how many measured test sets would meet both primary goals; a set without both measures is not counted."""
    met = measured = 0
    for manifest in packages.values():
        for _, found in test_sets(manifest):
            limits = {key: interval(found.get(key)) for key in ("sensitivity", "specificity")}
            if all(limits.values()):
                measured += 1
                met += all(limit is not None and limit[0] > goals[key] for key, limit in limits.items())
    return Figure(
        "plan.sets-meeting-goals",
        met,
        f"{met} of {measured}" if measured else "not run",
        f"{PLAN}, {', '.join(source_of(name) for name in packages) or 'cxr_node/packages'}",
        "/figures/test",
        EVALUATED,
        "measured test sets of released packages on which the lower limits of sensitivity and specificity are above "
        "the goals of the plan",
    )


_SHARES = ("sensitivity", "specificity", "power", "losses", "half_width", "prevalence")
_SAYS = {
    "sensitivity": "performance goal: the lower limit of the 95 % interval of the sensitivity is above it",
    "specificity": "performance goal: the lower limit of the 95 % interval of the specificity is above it",
    "power": "probability that a model as good as expected meets one goal",
    "losses": "share of collected cases that is expected to be lost",
    "half_width": "half width of the 95 % interval that a subgroup is planned for",
    "few": "cases with the finding below which a subgroup is printed as too few",
    "prevalence": "share of studies with pneumonia among consecutive ones, assumed for planning",
    "auc_goal": "secondary goal: the lower limit of the AUC's 95 % interval is above it",
    "sites": "sites, none of which gave training data",
    "regions": "countries or regions the sites are in",
    "manufacturers": "manufacturers of detectors, at least",
    "readers": "readers of each image",
    "adjudicators": "further senior readers who settle what the readers do not agree on",
    "kappa": "agreement between readers (Fleiss' kappa) below which the reading rules are revised",
}


def _stated(plan: Mapping[str, Any]) -> Iterator[Figure]:
    for section in ("goals", "design"):
        for key, value in plan[section].items():
            shown = percent(value, 0) if key in _SHARES else f"{value:g}"
            name = f"plan.{key.replace('_', '-')}"
            yield Figure(name, value, shown, PLAN, f"{section}.{key}", says=_SAYS[key])


def _computed(goals: Mapping[str, float], study: Mapping[str, Any]) -> Iterator[Figure]:
    name = study["name"]
    with_finding, without = _needed(goals, study)
    collected = with_losses(with_finding, goals["losses"])
    for key, value, says in (
        ("with", with_finding, f"cases with the finding needed for {name}"),
        ("without", without, f"cases without the finding needed for {name}"),
        ("collect-with", collected, f"cases with the finding to collect for {name}, losses counted"),
        (
            "collect-without",
            with_losses(without, goals["losses"]),
            f"cases without the finding to collect for {name}, losses counted",
        ),
        (
            "look-through",
            math.ceil(collected / goals["prevalence"]),
            f"consecutive studies to look through until so many of {name} have the finding, at the assumed prevalence",
        ),
    ):
        yield Figure(f"plan.{name}.{key}", value, count(value), COMPUTED, f"study {name}", says=says)
    reached = auc_lower(study["expected_auc"], with_finding, without)
    yield Figure(
        f"plan.{name}.auc-lower",
        round(reached, 3),
        decimal(reached),
        f"{PLAN}, regulatory/sample_size.py:auc_lower",
        f"study {name}",
        says=f"lower limit of the AUC for {name} at the expected AUC and these cases (Hanley and McNeil)",
    )
    both = power(with_finding, study["expected_sensitivity"], goals["sensitivity"]) * power(
        without, study["expected_specificity"], goals["specificity"]
    )
    yield Figure(
        f"plan.{name}.power-both",
        round(both, 3),
        percent(both),
        f"{PLAN}, regulatory/sample_size.py:power",
        f"study {name}",
        says=f"probability that a model for {name} as good as expected meets both goals",
    )


def _needed(goals: Mapping[str, float], study: Mapping[str, Any]) -> tuple[int, int]:
    """Return the cases with and without the finding: the larger of Wilson's and the exact interval's."""
    found = []
    for key in ("sensitivity", "specificity"):
        expected = study[f"expected_{key}"]
        found.append(
            max(
                cases_for(expected, goals[key], goals["power"]),
                cases_for(expected, goals[key], goals["power"], exact_meets),
            )
        )
    return found[0], found[1]


def _sizes(plan: Mapping[str, Any]) -> Table:
    goals = plan["goals"]
    rows = []
    for study in plan["study"]:
        for key, needed in zip(("sensitivity", "specificity"), _needed(goals, study), strict=True):
            expected = study[f"expected_{key}"]
            right = fewest_successes(needed, goals[key])
            rows.append(
                (
                    study["name"],
                    key,
                    percent(goals[key], 0),
                    percent(expected, 0),
                    count(cases_for_observed(expected, goals[key])),
                    count(needed),
                    f"{right} of {needed}",
                    percent(power(needed, expected, goals[key])),
                    count(with_losses(needed, goals["losses"])),
                )
            )
    return Table(
        "plan.sizes",
        "Sample size: cases with the finding for sensitivity, without it for specificity",
        (
            "population",
            "measure",
            "goal",
            "expected",
            "cases where just the expected share is observed",
            "cases with power",
            "fewest right to meet the goal",
            "power",
            "to collect",
        ),
        tuple(rows),
        COMPUTED,
        numeric=(2, 3, 4, 5, 6, 7, 8),
    )


def _subgroups(plan: Mapping[str, Any]) -> Table:
    goals = plan["goals"]
    least = min(study[f"expected_{key}"] for study in plan["study"] for key in ("sensitivity", "specificity"))
    cases = cases_for_half_width(least, goals["half_width"])
    rows = tuple((item["name"], count(cases), count(cases)) for item in plan["subgroup"])
    return Table(
        "plan.subgroups",
        f"Least number of cases in each value of a subgroup, so that its interval is no wider than "
        f"{percent(goals['half_width'], 0)} to either side",
        ("subgroup, each of its values", "with the finding", "without it"),
        rows,
        f"{PLAN}, regulatory/sample_size.py:cases_for_half_width",
        numeric=(1, 2),
    )


def _comorbidities(plan: Mapping[str, Any]) -> Table:
    rows = tuple((item["name"], "in" if item["included"] else "out", item["why"]) for item in plan["comorbidity"])
    return Table("plan.comorbidities", "Other findings and conditions", ("what", "in or out", "why"), rows, PLAN)


def _stages(plan: Mapping[str, Any]) -> Table:
    rows = tuple((item["what"], item["done"]) for item in plan["stage"])
    return Table("plan.stages", "What there is to do, and how much of it was done", ("step", "state"), rows, PLAN)
