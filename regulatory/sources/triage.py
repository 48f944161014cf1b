"""What triage does to waiting times, by each released package's measured sensitivity and specificity.

The closed form is computed here from the manifests, so that a new threshold changes the page at once; simulations come
from regulatory/evidence/triage.json and count only while they are of the same figures.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cxr_node.findings.triage import Accuracy, Discipline, Waits, closed_form
from regulatory.figures import Drawing, Figure, Material, Table
from regulatory.sources.drawings import svg
from regulatory.sources.records import NOT_RUN, Released, read_json, released
from regulatory.triage import COMMAND, EVIDENCE, LOADS, MAX_WAIT_MIN, MEAN_READ_MIN, ORACLE, PREVALENCES
from trainer.report.style import ABSENT, INK, PRESENT, look, single
from trainer.report.words import mapping

LOAD, PREVALENCE = 0.8, 0.1  # of the figures in sentences; the tables hold others
FORMULA = "cxr_node/findings/triage/closed_form.py:closed_form"
_SOURCE = EVIDENCE.as_posix()
_SCENARIOS = {
    "load-0.8-no-cap": "one reader, busy 80 % of the time, no maximum wait",
    "load-0.8-in-turn": "the same, the node's own list with its maximum wait",
    "load-0.8-top": "the same, a list elsewhere that knows the priority only",
    "load-0.9-no-cap": "one reader, busy 90 % of the time, no maximum wait",
    "load-0.9-in-turn": "the same, the node's own list with its maximum wait",
    "load-0.9-top": "the same, a list elsewhere that knows the priority only",
    "day": "synthetic day, shifts of readers, log-normal readings, maximum wait of the node",
}


def gather(root: Path) -> Material:
    """Return the figures, tables and drawings of 09_triage_effectiveness.md."""
    evidence = read_json(root / EVIDENCE) if (root / EVIDENCE).is_file() else {}
    packages = released(root)
    figures = [*_assumed(evidence)]
    tables = [_check(evidence)]
    drawings = []
    for package in packages:
        found = _accuracy(package)
        if found is None:
            figures.append(
                Figure(
                    f"triage.{package.name}.set",
                    None,
                    "not measured",
                    package.manifest_path,
                    "/figures/test",
                    package.export_command,
                    "test set with sensitivity and specificity",
                )
            )
            continue
        figures += [*_of_package(package, *found)]
        tables += [_sets(package), _loads(package, *found), _simulated(package, *found, evidence)]
        drawings.append(_drawing(package, *found))
    figures.append(
        Figure(
            "triage.packages",
            tuple(package.name for package in packages if _accuracy(package) is not None),
            str(len(packages)),
            "cxr_node/packages",
            says="released model packages with a measured sensitivity and specificity",
        )
    )
    return Material(tuple(figures), tuple(tables), tuple(drawings))


def _accuracy(package: Released) -> tuple[str, Mapping[str, Any]] | None:
    """Return the first test set of the manifest with both shares, as `cxr-node triage-sim --model` takes it."""
    for name, item in mapping(package.figures.get("test")).items():
        if "sensitivity" in item and "specificity" in item:
            return name, item
    return None


def _waits(item: Mapping[str, Any], which: str, load: float, prevalence: float) -> Waits:
    accuracy = Accuracy(item["sensitivity"][which], item["specificity"][which], prevalence)
    return closed_form(accuracy, mean_read_min=MEAN_READ_MIN, load=load, discipline=Discipline.NON_PREEMPTIVE)


def _of_package(package: Released, name: str, item: Mapping[str, Any]) -> Iterator[Figure]:
    key = f"triage.{package.name}"
    source, pointer, command = package.manifest_path, f"/figures/test/{name}", package.export_command
    yield Figure(f"{key}.set", name, name, source, pointer, command, "test set whose figures the model of waits takes")
    for share in ("sensitivity", "specificity"):
        value = item[share]
        shown = f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
        says = f"{share} on {name}, 95 % interval"
        yield Figure(f"{key}.{share}", value["value"], shown, source, f"{pointer}/{share}", command, says)
    waits = _waits(item, "value", LOAD, PREVALENCE)
    worst, best = _waits(item, "low", LOAD, PREVALENCE), _waits(item, "high", LOAD, PREVALENCE)
    where = f"load {LOAD:g}, prevalence {PREVALENCE:g}, readings of {MEAN_READ_MIN:g} min"
    made = f"{source}, {FORMULA}"
    for part, says in (
        ("fifo", "mean wait without triage"),
        ("diseased", "mean wait of the diseased with triage"),
        ("non_diseased", "mean wait of those without the finding, with triage"),
        ("flagged", "mean wait of flagged studies"),
        ("missed", "mean wait of the diseased whom the model misses"),
    ):
        value = getattr(waits, part)
        # More sensitivity and specificity do not move every wait in one direction.
        low, high = sorted((getattr(worst, part), getattr(best, part)))
        shown = f"{value:.1f} min" if part == "fifo" else f"{value:.1f} min ({low:.1f} to {high:.1f})"
        between = "" if part == "fifo" else "; in parentheses at both lower and both upper limits of the two shares"
        yield Figure(
            f"{key}.{part.replace('_', '-')}", value, shown, made, pointer, command, f"{says}: {where}{between}"
        )
    for part, says in (("diseased", "saved for the diseased"), ("missed", "added for the missed diseased")):
        change = getattr(waits, part) - waits.fifo
        shown = f"{abs(change):.1f} min ({abs(change) / waits.fifo:.0%})"
        yield Figure(f"{key}.{part}-change", change, shown, made, pointer, command, f"mean wait {says}: {where}")


def _sets(package: Released) -> Table:
    """Every test set: one is harder than another, and readers see other things than reports say."""
    rows = []
    for name, item in mapping(package.figures.get("test")).items():
        if "sensitivity" not in item or "specificity" not in item:
            rows.append((name, *(["not measured"] * 6)))
            continue
        waits = _waits(item, "value", LOAD, PREVALENCE)
        rows.append(
            (
                name,
                f"{item['sensitivity']['value']:.3f}",
                f"{item['specificity']['value']:.3f}",
                *(f"{value:.1f}" for value in (waits.fifo, waits.diseased, waits.non_diseased, waits.missed)),
            )
        )
    return Table(
        f"triage.{package.name}.sets",
        f"{package.name}: mean waits in minutes by test set, load {LOAD:g}, prevalence {PREVALENCE:g}",
        ("test set", "sensitivity", "specificity", "first come", "diseased", "not diseased", "missed diseased"),
        tuple(rows),
        f"{package.manifest_path}, {FORMULA}",
        "/figures/test",
        package.export_command,
        tuple(range(1, 7)),
    )


def _loads(package: Released, name: str, item: Mapping[str, Any]) -> Table:
    rows = []
    for load in LOADS:
        for prevalence in PREVALENCES:
            waits = _waits(item, "value", load, prevalence)
            rows.append(
                (
                    f"{load:g}",
                    f"{prevalence:.1%}",
                    *(
                        f"{value:.1f}"
                        for value in (waits.fifo, waits.diseased, waits.non_diseased, waits.flagged, waits.missed)
                    ),
                    f"{waits.diseased - waits.fifo:+.1f}",
                    f"{waits.missed - waits.fifo:+.1f}",
                )
            )
    return Table(
        f"triage.{package.name}.loads",
        f"{package.name}: mean waits in minutes by closed form, sensitivity and specificity of {name}",
        (
            "load",
            "prevalence",
            "first come",
            "diseased",
            "not diseased",
            "flagged",
            "missed diseased",
            "diseased less first come",
            "missed less first come",
        ),
        tuple(rows),
        f"{package.manifest_path}, {FORMULA}",
        f"/figures/test/{name}",
        package.export_command,
        tuple(range(9)),
    )


def _simulated(package: Released, name: str, item: Mapping[str, Any], evidence: Mapping[str, Any]) -> Table:
    found, why_not = _evidence_of(package, item, evidence)
    rows = []
    for key, says in _SCENARIOS.items():
        scenario = mapping(mapping(found.get("scenarios")).get(key))
        if not scenario:
            rows.append((says, *([why_not or NOT_RUN] * 8)))
            continue
        rows.append(
            (
                says,
                _interval(scenario["fifo"]["diseased"]),
                _interval(scenario["triage"]["diseased"]),
                _interval(scenario["difference"]["diseased"], signed=True),
                _interval(scenario["difference"]["missed"], signed=True),
                _interval(scenario["difference"]["non_diseased"], signed=True),
                f"{scenario['fifo']['maximum']['value']:.0f}",
                f"{scenario['triage']['maximum']['value']:.0f}",
                f"{scenario['fifo']['over_limit']['value']:.1%} / {scenario['triage']['over_limit']['value']:.1%}",
            )
        )
    return Table(
        f"triage.{package.name}.simulated",
        f"{package.name}: simulated waits in minutes at prevalence {PREVALENCE:g}, 95 % intervals over replications",
        (
            "scenario",
            "diseased, first come",
            "diseased, triage",
            "diseased, difference",
            "missed diseased, difference",
            "not diseased, difference",
            "longest, first come",
            "longest, triage",
            "over an hour, first come / triage",
        ),
        tuple(rows),
        _SOURCE,
        f"/packages/{package.name}",
        COMMAND,
        tuple(range(1, 9)),
    )


def _evidence_of(
    package: Released, item: Mapping[str, Any], evidence: Mapping[str, Any]
) -> tuple[Mapping[str, Any], str]:
    """Return the simulations of a package, or why there are none that count."""
    for found in evidence.get("packages", ()):
        if found["package"] != package.name:
            continue
        shares = ("sensitivity", "specificity")
        if all(abs(found[share] - item[share]["value"]) < 1e-9 for share in shares):
            return found, ""
        return {}, "not run: the evidence is of other figures"
    return {}, NOT_RUN


def _interval(item: Mapping[str, Any], *, signed: bool = False) -> str:
    if item.get("value") is None:
        return "none"
    form = "+.1f" if signed else ".1f"
    return f"{item['value']:{form}} ({item['low']:{form}} to {item['high']:{form}})"


def _check(evidence: Mapping[str, Any]) -> Table:
    """The oracle case: formula as computed now, simulation as recorded."""
    rows = []
    simulated = {item["discipline"]: item["simulated"] for item in evidence.get("check", ())}
    for discipline, says in (
        (Discipline.FIFO, "first come, first served"),
        (Discipline.PREEMPTIVE, "pre-emptive resume"),
        (Discipline.NON_PREEMPTIVE, "non-pre-emptive"),
    ):
        waits = closed_form(
            ORACLE.accuracy, mean_read_min=ORACLE.mean_read_min, load=ORACLE.load, discipline=discipline
        )
        run = mapping(simulated.get(discipline.value if discipline is not Discipline.FIFO else "preemptive"))
        side = "fifo" if discipline is Discipline.FIFO else "triage"
        for part, title in (("diseased", "diseased"), ("non_diseased", "not diseased"), ("unflagged", "not flagged")):
            measured = _interval(run[side][part]) if run else NOT_RUN
            rows.append((says, title, f"{getattr(waits, part):.2f}", measured))
    return Table(
        "triage.check",
        f"The check case: mean wait in minutes, readings of {ORACLE.mean_read_min:g} min, load {ORACLE.load:g}, "
        f"prevalence {ORACLE.accuracy.prevalence:g}, sensitivity {ORACLE.accuracy.sensitivity:g}, "
        f"specificity {ORACLE.accuracy.specificity:g}",
        ("order of reading", "studies", "closed form", "simulated (95 % interval)"),
        tuple(rows),
        f"{_SOURCE}, {FORMULA}",
        "/check",
        COMMAND,
        (2, 3),
    )


def _assumed(evidence: Mapping[str, Any]) -> Iterator[Figure]:
    yield Figure(
        "triage.max-wait",
        MAX_WAIT_MIN,
        f"{MAX_WAIT_MIN:g} min",
        "cxr_node/settings.py:Worklist.max_wait_min",
        says="maximum wait of a study that is not flagged, as the node comes",
    )
    for name, assumption, shown, constant in (
        ("mean-read", MEAN_READ_MIN, f"{MEAN_READ_MIN:g} min", "regulatory/triage.py:MEAN_READ_MIN"),
        ("load", LOAD, f"{LOAD:.0%}", "regulatory/sources/triage.py:LOAD"),
        ("prevalence", PREVALENCE, f"{PREVALENCE:.0%}", "regulatory/sources/triage.py:PREVALENCE"),
    ):
        says = f"assumed {name.replace('-', ' ')} of the sentences"
        yield Figure(f"triage.{name}", assumption, shown, constant, says=says)
    assumed = mapping(evidence.get("assumes"))
    for name in ("studies", "replications", "seed", "shifts", "shift_cv"):
        value = assumed.get(name)
        shown = NOT_RUN if value is None else f"{value:,}" if isinstance(value, int) else str(value)
        yield Figure(
            f"triage.simulation.{name.replace('_', '-')}",
            value,
            shown,
            _SOURCE,
            f"/assumes/{name}",
            COMMAND,
            {
                "studies": "studies in a replication",
                "replications": "replications of each scenario",
                "seed": "seed of the simulation",
                "shifts": "readers by hour in the synthetic day",
                "shift_cv": "standard deviation over mean of a log-normal reading",
            }[name],
        )


def _drawing(package: Released, name: str, item: Mapping[str, Any]) -> Drawing:
    """Mean waits over the load: first come, the diseased, the missed diseased."""
    return Drawing(
        f"triage.{package.name}.waits",
        f"{package.name}: mean wait over the load, prevalence {PREVALENCE:g}, readings of {MEAN_READ_MIN:g} min",
        "Mean waits rise with the load. With triage the diseased wait less than without, and the diseased whom the "
        "model misses wait longer than without; both gaps grow with the load.",
        _curves(f"{package.name}, {name}", item["sensitivity"]["value"], item["specificity"]["value"]),
        f"{package.manifest_path}, {FORMULA}",
        package.export_command,
    )


@lru_cache
def _curves(title: str, sensitivity: float, specificity: float) -> str:
    """Return the drawing as SVG; kept, as drawing takes longer than all the rest."""
    loads = [step / 100 for step in range(30, 96)]
    accuracy = Accuracy(sensitivity, specificity, PREVALENCE)
    waits = [
        closed_form(accuracy, mean_read_min=MEAN_READ_MIN, load=load, discipline=Discipline.NON_PREEMPTIVE)
        for load in loads
    ]
    with look():
        figure, axes = single()
        for part, label, colour, dashes in (
            ("fifo", "first come, first served", INK, "solid"),
            ("diseased", "diseased, with triage", ABSENT, "dashed"),
            ("missed", "diseased whom the model misses, with triage", PRESENT, "dotted"),
        ):
            axes.plot(loads, [getattr(one, part) for one in waits], color=colour, linestyle=dashes, label=label)
        axes.set_xlabel("load: share of time that the reader is busy")
        axes.set_ylabel("mean wait, min")
        axes.set_ylim(0, 100)
        axes.legend(loc="upper left", frameon=False)
        axes.set_title(title)
    return svg(figure)
