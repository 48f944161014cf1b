"""The risk file's data, regulatory/risks.toml: hazards, their risks by the file's own scales, and controls.

The shape is that of ISO 14971:2019: a hazard, the sequence of events that makes it a hazardous situation, the harm, the
risk before and after control, and what each control rests on.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# ISO 14971:2019, 7.1: the order in which controls are to be preferred.
KINDS = {
    "design": "inherently safe design",
    "protective": "protective measure",
    "information": "information for safety",
}
LEVELS = ("acceptable", "weigh", "unacceptable")

_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Grade:
    """One step of a scale, with what it means."""

    name: str
    means: str


@dataclass(frozen=True)
class Control:
    """What lowers a risk; `id` is its hazard's number and a letter ("RC-07b"); `kind` a key of `KINDS`."""

    id: str
    hazard: str
    kind: str
    what: str
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Hazard:
    """One row; severities and probabilities are names of the scales; `basis` may hold places for figures, `{id}`."""

    id: str
    title: str
    sequence: str
    harm: str
    severity_before: str
    probability_before: str
    severity_after: str
    probability_after: str
    basis: str
    residual: str
    threats: tuple[str, ...]
    controls: tuple[Control, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """Ids of the figures that the basis is told with."""
        return tuple(_PLACE.findall(self.basis))


@dataclass(frozen=True)
class Risks:
    """The whole file; `matrix[severity][probability]` is one of `LEVELS`."""

    severities: tuple[Grade, ...]
    probabilities: tuple[Grade, ...]
    matrix: dict[str, dict[str, str]]
    hazards: tuple[Hazard, ...]

    @property
    def controls(self) -> tuple[Control, ...]:
        return tuple(control for hazard in self.hazards for control in hazard.controls)

    def before(self, hazard: Hazard) -> str:
        """Return the level of the risk without controls."""
        return self.matrix[hazard.severity_before][hazard.probability_before]

    def after(self, hazard: Hazard) -> str:
        """Return the level of the residual risk."""
        return self.matrix[hazard.severity_after][hazard.probability_after]


def read(path: Path) -> Risks:
    """Return what the file says.

    Raises
    ------
    ValueError
        A grade that no scale has, a cell of the matrix that is missing, a row without controls or with a control that
        names no requirement, two rows of one id, a risk that is higher after control than before.
    """
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    severities = tuple(Grade(**row) for row in values["severity"])
    probabilities = tuple(Grade(**row) for row in values["probability"])
    matrix: dict[str, dict[str, str]] = values["matrix"]
    for severity in severities:
        row = matrix.get(severity.name, {})
        if set(row) != {grade.name for grade in probabilities} or set(row.values()) - set(LEVELS):
            raise ValueError(f"{path.name}: matrix.{severity.name}: found {row}, expected one of {LEVELS} for each")
    risks = Risks(severities, probabilities, matrix, tuple(_hazard(path, row) for row in values["hazard"]))
    ids = [hazard.id for hazard in risks.hazards]
    if len(ids) != len(set(ids)):
        raise ValueError(f"{path.name}: hazards {sorted({name for name in ids if ids.count(name) > 1})} stand twice")
    for hazard in risks.hazards:
        _check(path, risks, hazard)
    return risks


def _hazard(path: Path, row: dict[str, Any]) -> Hazard:
    number = str(row["id"]).removeprefix("HAZ-")
    controls = []
    for place, control in enumerate(row["controls"]):
        made = Control(f"RC-{number}{chr(ord('a') + place)}", row["id"], **_tuples(control))
        if made.kind not in KINDS or not made.requirements:
            raise ValueError(f"{path.name}: {made.id}: expected a kind of {tuple(KINDS)} and at least one requirement")
        controls.append(made)
    if not controls:
        raise ValueError(f"{path.name}: {row['id']} has no control")
    rest = {key: value for key, value in row.items() if key != "controls"}
    try:
        return Hazard(**_tuples({"threats": [], **rest}), controls=tuple(controls))
    except TypeError as error:
        raise ValueError(f"{path.name}: {row['id']}: {error}") from error


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(cell) if isinstance(cell, list) else cell for key, cell in row.items()}


def _check(path: Path, risks: Risks, hazard: Hazard) -> None:
    severities = [grade.name for grade in risks.severities]
    probabilities = [grade.name for grade in risks.probabilities]
    for name, scale in (
        (hazard.severity_before, severities),
        (hazard.severity_after, severities),
        (hazard.probability_before, probabilities),
        (hazard.probability_after, probabilities),
    ):
        if name not in scale:
            raise ValueError(f"{path.name}: {hazard.id}: found {name!r}, expected one of {scale}")
    if severities.index(hazard.severity_after) > severities.index(hazard.severity_before):
        raise ValueError(f"{path.name}: {hazard.id}: more severe after control than before")
    if probabilities.index(hazard.probability_after) > probabilities.index(hazard.probability_before):
        raise ValueError(f"{path.name}: {hazard.id}: more probable after control than before")
