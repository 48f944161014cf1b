"""`python -m regulatory.threats`: the threat model of threats.toml as Markdown tables, by interface."""

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regulatory.lock import ROOT

SOURCE = ROOT / "regulatory" / "threats.toml"
STRIDE = {
    "S": "spoofing",
    "T": "tampering",
    "R": "repudiation",
    "I": "information disclosure",
    "D": "denial of service",
    "E": "elevation of privilege",
}
HEADINGS = ("", "Threat", "Control", "Requirements", "Tests", "What is left")


@dataclass(frozen=True)
class Threat:
    """One row; `stride` is a letter of `STRIDE`."""

    interface: str
    stride: str
    threat: str
    control: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]
    residual: str


@dataclass(frozen=True)
class Interface:
    """Something that is reached from outside; `settings` are the keys of node.toml that open or shape it."""

    name: str
    title: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """The whole file."""

    interfaces: tuple[Interface, ...]
    threats: tuple[Threat, ...]


def read(path: Path = SOURCE) -> Model:
    """Return the model.

    Raises
    ------
    ValueError
        A row lacks something, or names an interface or letter that is none.
    """
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    interfaces = tuple(
        Interface(name, about["title"], tuple(about["settings"])) for name, about in values["interface"].items()
    )
    threats = []
    for number, row in enumerate(values["threat"], 1):
        values_of: dict[str, Any] = {key: tuple(cell) if isinstance(cell, list) else cell for key, cell in row.items()}
        try:
            made = Threat(**values_of)
        except TypeError as error:
            raise ValueError(f"{path.name}: threat {number}: {error}") from error
        if made.stride not in STRIDE or made.interface not in values["interface"]:
            raise ValueError(f"{path.name}: threat {number}: found {made.interface!r}, {made.stride!r}")
        threats.append(made)
    return Model(interfaces, tuple(threats))


def markdown(model: Model) -> str:
    """Return a table for each interface."""
    parts = ["# Threat model", "", "Made by `python -m regulatory.threats` from `threats.toml`.", ""]
    for interface in model.interfaces:
        parts += [f"## {interface.title}", "", _row(HEADINGS), _row(["---"] * len(HEADINGS))]
        for item in model.threats:
            if item.interface == interface.name:
                tests = "<br>".join(f"`{name}`" for name in item.tests)
                needs = "<br>".join(item.requirements)
                parts.append(_row((STRIDE[item.stride], item.threat, item.control, needs, tests, item.residual)))
        parts.append("")
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> int:
    """Print it."""
    sys.stdout.write(markdown(read()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
