"""The change control plan as a page: its changes, limits and packages, and the trial of it on real images."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table
from regulatory.sources.records import NOT_RUN, read_json, released
from trainer.pccp.plan import load_plan
from trainer.report.words import mapping

PLAN = Path("regulatory") / "pccp.toml"
TRIAL = Path("regulatory") / "evidence" / "pccp-trial.json"
TRIAL_COMMAND = "python -m regulatory.pccp_trial --data DIR"
_PLAN = PLAN.as_posix()


def gather(root: Path) -> Material:
    """Return the figures and tables of 15_pccp.md.

    Raises
    ------
    PlanError
        regulatory/pccp.toml is not a plan.
    """
    plan = load_plan(root / PLAN)
    found = tomllib.loads((root / PLAN).read_text("utf-8"))
    trial = read_json(root / TRIAL) if (root / TRIAL).is_file() else {}
    versions = {package.name: str(package.manifest["version"]) for package in released(root)}
    packages = Table(
        "pccp.packages",
        "Packages under the plan",
        ("package", "compared with version", "version released now", "cohort of its population"),
        tuple(
            (name, item.version, versions.get(name, "not released"), item.cohort)
            for name, item in plan.packages.items()
        ),
        f"{_PLAN}, cxr_node/packages",
        "package",
        "",
    )
    changes = Table(
        "pccp.changes",
        "Changes that the plan allows",
        ("change", "what it is", "why it is inside", "parts of the manifest that may differ", "parts that stay"),
        tuple((item.id, item.title, item.reason, _keys(item.touches), _keys(item.keeps)) for item in plan.changes),
        _PLAN,
        "change",
    )
    return Material(
        figures=(*_figures(found, plan.version), *_trial_figures(trial)),
        tables=(packages, changes, _limits(found), _trials(trial), _trial_limits(trial)),
    )


def _keys(keys: tuple[str, ...]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _figures(found: Mapping[str, Any], version: str) -> Iterator[Figure]:
    yield Figure("pccp.version", version, version, _PLAN, "plan.version", says="version of the plan")
    yield Figure(
        "pccp.changes", len(found["change"]), str(len(found["change"])), _PLAN, "change", says="changes that it allows"
    )
    for section, name, says in (
        ("cases", "fewest_present", "images with the finding needed at least"),
        ("cases", "fewest_absent", "images without the finding needed at least"),
        ("subgroups", "fewest_present", "images with the finding needed before a subgroup is measured"),
        ("subgroups", "fewest_absent", "images without the finding needed before a subgroup is measured"),
        ("limits", "auc", "most that the AUC may lose"),
        ("limits", "sensitivity", "most that sensitivity may lose"),
        ("limits", "specificity", "most that specificity may lose"),
        ("limits", "retention_auc", "most that the AUC on the previous cases may lose"),
        ("subgroups", "sensitivity", "most that sensitivity may lose in a subgroup"),
        ("subgroups", "specificity", "most that specificity may lose in a subgroup"),
        ("threshold", "tolerance", "most that a threshold derived again may differ"),
        ("statistics", "bootstrap", "repeats of the bootstrap over patients"),
    ):
        value = found[section][name]
        yield Figure(
            f"pccp.{section}.{name.replace('_', '-')}", value, f"{value:,}", _PLAN, f"{section}.{name}", says=says
        )


def _limits(found: Mapping[str, Any]) -> Table:
    limits, groups = found["limits"], found["subgroups"]
    rows = [
        ("AUC", f"{limits['auc']:g}", "all cases", limits["reason"]),
        ("sensitivity", f"{limits['sensitivity']:g}", "all cases", limits["reason"]),
        ("specificity", f"{limits['specificity']:g}", "all cases", limits["reason"]),
        ("AUC", f"{limits['retention_auc']:g}", "previous cases", "What the submitted version knew must stay known."),
        ("sensitivity", f"{groups['sensitivity']:g}", f"each group by {', '.join(groups['by'])}", groups["reason"]),
        ("specificity", f"{groups['specificity']:g}", f"each group by {', '.join(groups['by'])}", groups["reason"]),
    ]
    return Table(
        "pccp.limits",
        "Most that an update may lose against the submitted version",
        ("figure", "margin", "on", "why"),
        tuple(rows),
        _PLAN,
        "limits",
        numeric=(1,),
    )


def _trial_figures(trial: Mapping[str, Any]) -> Iterator[Figure]:
    trials = {item["name"]: item for item in trial.get("trials", ())}
    source = TRIAL.as_posix()
    main = mapping(trials.get("threshold"))
    for name in ("images", "present", "absent"):
        value = main.get(name)
        shown = NOT_RUN if value is None else f"{value:,}"
        yield Figure(
            f"pccp.trial.{name}",
            value,
            shown,
            source,
            f"/trials/0/{name}",
            TRIAL_COMMAND,
            {
                "images": "images of the official test part that the trial used",
                "present": "of them with the finding",
                "absent": "of them without the finding",
            }[name],
        )
    count = len(trials)
    yield Figure(
        "pccp.trial.candidates", count, str(count) if count else NOT_RUN, source, "/trials", TRIAL_COMMAND, "candidates"
    )


def _trials(trial: Mapping[str, Any]) -> Table:
    rows = []
    for item in trial.get("trials", ()):
        learning = mapping(mapping(item.get("shift")).get("learning"))
        retention = mapping(mapping(item.get("shift")).get("retention"))
        potential = mapping(mapping(item.get("shift")).get("potential"))
        rows.append(
            (
                item["says"],
                item["verdict"],
                "; ".join(item["reasons"][:3]) + (" …" if len(item["reasons"]) > 3 else "") or "every limit met",
                item["threshold"],
                _estimate(learning, signed=True),
                _estimate(potential, signed=True),
                _estimate(retention),
            )
        )
    return Table(
        "pccp.trials",
        "The plan tried: candidates made for the trial, none released",
        ("candidate", "verdict", "reasons", "threshold", "learning", "potential", "retention"),
        tuple(rows) or ((NOT_RUN,) * 7,),
        TRIAL.as_posix(),
        "/trials",
        TRIAL_COMMAND,
    )


def _trial_limits(trial: Mapping[str, Any]) -> Table:
    rows = [
        (
            item["name"],
            limit["name"],
            _share(limit["old"]),
            _share(limit["new"]),
            _estimate({"value": limit["difference"], "low": limit["low"], "high": limit["high"]}, signed=True),
            f"{-limit['margin']:+.3f}",
            limit["answer"],
        )
        for item in trial.get("trials", ())
        for limit in item["limits"]
    ]
    return Table(
        "pccp.trial-limits",
        "The trial's limits: submitted version, candidate, difference with its 95 % interval",
        ("candidate", "figure", "submitted", "candidate's", "difference", "limit", "answer"),
        tuple(rows) or ((NOT_RUN,) * 7,),
        TRIAL.as_posix(),
        "/trials/limits",
        TRIAL_COMMAND,
        (2, 3, 4, 5),
    )


def _share(value: float | None, form: str = ".3f") -> str:
    return "not measured" if value is None else f"{value:{form}}"


def _estimate(item: Mapping[str, Any], *, signed: bool = False) -> str:
    if item.get("low") is None:
        return "not measured"
    form = "+.3f" if signed else ".3f"
    return f"{item['value']:{form}} ({item['low']:{form}} to {item['high']:{form}})"
