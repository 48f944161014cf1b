"""Tables of the risk file: scales, matrix, each hazard with its controls and their tests, what is left."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regulatory import trace
from regulatory.evidence_record import command_of, source_of
from regulatory.figures import Figure, Material, Table
from regulatory.risk import KINDS, LEVELS, Control, Hazard, Risks
from regulatory.trace import Requirement

SOURCE = "regulatory/risks.toml"
TRAINED = "cxr-train release"
NOT_MEASURED = "not measured"
NOT_STATED = "not stated"
# How a level of the matrix is printed.
SHOWN = {"acceptable": "acceptable", "weigh": "to be weighed against benefit", "unacceptable": "not acceptable"}


def gather(root: Path) -> Material:
    """Return figures and tables.

    Raises
    ------
    ValueError
        A basis names a figure that is none.
    """
    made = trace.read(root)
    risks = made.risks
    requirements = {item.id: item for item in made.requirements}
    before = Counter(risks.before(hazard) for hazard in risks.hazards)
    after = Counter(risks.after(hazard) for hazard in risks.hazards)
    figures = [
        _figure("risk.hazards", len(risks.hazards), "number of hazards in the hazard table"),
        _figure("risk.controls", len(risks.controls), "number of risk controls"),
        *(
            _figure(f"risk.{when}.{level}", counts[level], f"number of risks {when} control that are {SHOWN[level]}")
            for when, counts in (("before", before), ("after", after))
            for level in LEVELS
        ),
        Figure(
            "risk.hazard-titles",
            {hazard.id: hazard.title for hazard in risks.hazards},
            str(len(risks.hazards)),
            SOURCE,
            "hazard",
            says="titles of the hazards",
        ),
    ]
    tables = [
        _scale("severity", "Severity of harm, least first", risks.severities),
        _scale("probability", "Probability of harm, least first", risks.probabilities),
        _matrix(risks),
        _summary(risks),
        _left(risks),
        _verification(root, risks, requirements),
        *(_hazard(root, risks, hazard, requirements) for hazard in risks.hazards),
    ]
    return Material(figures=tuple(figures), tables=tuple(tables))


def _figure(name: str, count: int, says: str) -> Figure:
    return Figure(name, count, str(count), SOURCE, "hazard", says=says)


def _scale(name: str, title: str, grades: Any) -> Table:
    rows = tuple((grade.name, grade.means) for grade in grades)
    return Table(f"risk.{name}", title, ("Grade", "Means"), rows, SOURCE, name)


def _matrix(risks: Risks) -> Table:
    names = [grade.name for grade in risks.probabilities]
    rows = tuple(
        (grade.name, *(SHOWN[risks.matrix[grade.name][name]] for name in names)) for grade in reversed(risks.severities)
    )
    return Table("risk.matrix", "Acceptability of a risk", ("Severity", *names), rows, SOURCE, "matrix")


def _graded(severity: str, probability: str, level: str) -> str:
    return f"{severity}, {probability}: {SHOWN[level]}"


def _summary(risks: Risks) -> Table:
    rows = tuple(
        (
            hazard.id,
            hazard.title,
            _graded(hazard.severity_before, hazard.probability_before, risks.before(hazard)),
            str(len(hazard.controls)),
            _graded(hazard.severity_after, hazard.probability_after, risks.after(hazard)),
        )
        for hazard in risks.hazards
    )
    header = ("Hazard", "Title", "Before control", "Controls", "After control")
    return Table("risk.summary", "Hazards at a glance", header, rows, SOURCE, "hazard", numeric=(3,))


def _left(risks: Risks) -> Table:
    rows = tuple(
        (hazard.id, hazard.title, f"{hazard.severity_after}, {hazard.probability_after}", hazard.residual)
        for hazard in risks.hazards
        if risks.after(hazard) != "acceptable"
    )
    header = ("Hazard", "Title", "Residual risk", "What is left")
    return Table("risk.left", "Residual risks that are not acceptable by themselves", header, rows, SOURCE, "hazard")


def _state(control: Control, requirements: Mapping[str, Requirement]) -> str:
    """What the tests behind a control came to: the words of its requirements, each once."""
    known = {requirements[name].result for name in control.requirements if name in requirements}
    return ", ".join(sorted(known | {NOT_STATED for name in control.requirements if name not in requirements}))


def _tests(control: Control, requirements: Mapping[str, Requirement]) -> int:
    known = [requirements[name] for name in control.requirements if name in requirements]
    return len({test.id for requirement in known for test in requirement.tests})


def _counted(tests: int) -> str:
    return "one test function" if tests == 1 else f"{tests} test functions"


def _verification(root: Path, risks: Risks, requirements: Mapping[str, Requirement]) -> Table:
    rows = tuple(
        (
            control.id,
            control.hazard,
            KINDS[control.kind],
            ", ".join(control.requirements),
            str(_tests(control, requirements)),
            _state(control, requirements),
        )
        for control in risks.controls
    )
    return Table(
        "risk.verification",
        "Controls, and the tests behind them",
        ("Control", "Hazard", "Kind", "Requirements", "Test functions", "Last run"),
        rows,
        source_of(root, SOURCE, "tests"),
        "hazard",
        command_of(root),
        numeric=(4,),
    )


def _hazard(root: Path, risks: Risks, hazard: Hazard, requirements: Mapping[str, Requirement]) -> Table:
    basis, sources = _basis(root, hazard)
    rows = [
        ("Sequence of events", hazard.sequence),
        ("Harm", hazard.harm),
        ("Before control", _graded(hazard.severity_before, hazard.probability_before, risks.before(hazard))),
        *(
            (
                f"{control.id}, {KINDS[control.kind]}",
                f"{control.what} {', '.join(control.requirements)}; "
                f"{_counted(_tests(control, requirements))}; last run: {_state(control, requirements)}.",
            )
            for control in hazard.controls
        ),
        ("After control", _graded(hazard.severity_after, hazard.probability_after, risks.after(hazard))),
        ("Basis of the estimate", basis),
        ("What is left", hazard.residual),
    ]
    if hazard.threats:
        rows.append(("Threat model", f"[{', '.join(hazard.threats)}](page:13_cybersecurity/threats.md)"))
    return Table(
        f"risk.{hazard.id}",
        f"{hazard.id}: {hazard.title}",
        ("", "As assessed"),
        tuple(rows),
        source_of(root, SOURCE, *sources),
        hazard.id,
        command_of(root, *([TRAINED] if sources else [])),
    )


def _basis(root: Path, hazard: Hazard) -> tuple[str, list[str]]:
    """Return the sentence with its figures, and the manifests that they are from."""
    text, sources = hazard.basis, list[str]()
    for place in hazard.places:
        package, part, measure = place.split(".")
        source = f"cxr_node/packages/{package}/manifest.json"
        path = root / source
        if not path.exists():
            raise ValueError(f"risks.toml: {hazard.id}: the basis names {{{place}}}; there is no {source}")
        text = text.replace(f"{{{place}}}", _shown(json.loads(path.read_text("utf-8")), part, measure))
        sources.append(source)
    return text, sorted(set(sources))


def _shown(manifest: Mapping[str, Any], part: str, measure: str) -> str:
    """A proportion with its interval as a manifest holds it; `part` is `tune` or the name of a test set."""
    figures = manifest["figures"]
    found = figures["tune"] if part == "tune" else figures["test"].get(part, {})
    if measure not in found:
        return NOT_MEASURED
    value = found[measure]
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
