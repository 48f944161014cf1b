"""The architecture as the import graph has it: layers, packages, modules, processes and what they keep.

Nothing here is drawn by hand: layers are the import contracts of pyproject.toml, edges are the imports in the source,
processes are the stages that the supervisor starts.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import BuildError, Figure, Material, Table, Text
from regulatory.syntax import constant_of, imports_of, names_of, openings_of

CONTRACTS = "pyproject.toml"
STAGES = "cxr_node/cli/__init__.py"
TOPS = ("regulatory", "trainer", "cxr_node", "storage")
# Names by which a module reaches the bytes of instances and result objects rather than rows of the database.
BYTES = ("storage.InstanceFiles", "storage.files", "storage.stores", "storage.object_store", "storage.holdings")
# How stages are called that run outside of the supervisor's list: a command that a person starts.
BY_HAND = ("fetch",)


def gather(root: Path) -> Material:
    """Return diagrams and tables of the tree below `root`.

    Raises
    ------
    BuildError
        A part of cxr_node stands in no layer of the contracts.
    """
    imports, openings = imports_of(root), openings_of(root)
    layers = _layers(root)
    edges = _edges(imports)
    placed = {part for line in layers for part in line}
    stray = sorted(part for part in edges if part.startswith("cxr_node.") and part not in placed)
    if stray:
        raise BuildError(f"{CONTRACTS}: no layer of `Inside the node` holds {', '.join(stray)}")
    source = "pyproject.toml, cxr_node, storage, trainer, regulatory"
    modules = {part: sorted(name for name in openings if _part(name) == part) for part in edges}
    texts = (
        Text("architecture.tops", _tops(edges), source),
        Text("architecture.layers", _layer_chart(layers, edges), source),
        Text("architecture.processes", _processes(root), f"{STAGES}, cxr_node, storage"),
    )
    tables = (
        _contracts(root),
        _parts(layers, edges, modules, openings, source),
        *(_modules(part, modules[part], openings, source) for part in sorted(modules)),
    )
    figures = (
        Figure("architecture.modules", len(openings), str(len(openings)), source, says="number of modules"),
        Figure(
            "architecture.parts",
            sorted(modules),
            str(len(modules)),
            source,
            says="number of packages and modules that layers are made of",
        ),
    )
    return Material(figures=figures, tables=tables, texts=texts)


def _part(module: str) -> str:
    """The package that a module belongs to at the level of the contracts: "cxr_node.receive", "storage"."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "cxr_node" and len(parts) > 1 else parts[0]


def _edges(imports: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Which part imports which, parts without an import included; the bare package cxr_node is no part of its own."""
    edges: dict[str, set[str]] = {}
    for module, targets in imports.items():
        part = _part(module)
        edges.setdefault(part, set()).update(_part(target) for target in targets)
    edges.pop("cxr_node", None)
    return {part: targets - {part, "cxr_node"} for part, targets in edges.items()}


def _contract(root: Path) -> list[dict[str, Any]]:
    values = tomllib.loads((root / CONTRACTS).read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = values["tool"]["importlinter"]["contracts"]
    return rows


def _layers(root: Path) -> list[tuple[str, ...]]:
    """The lines of the contract `Inside the node`, uppermost first, with the module that starts the program on top."""
    (inside,) = [row for row in _contract(root) if row.get("containers") == ["cxr_node"]]
    lines = [tuple(f"cxr_node.{name.strip()}" for name in line.split("|")) for line in inside["layers"]]
    ignored = tuple(f"cxr_node.{name}" for name in inside.get("exhaustive_ignores", ()))
    return [(*ignored, *lines[0]), *lines[1:]]


def _tops(edges: Mapping[str, set[str]]) -> str:
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"  {top}[{top}]" for top in TOPS]
    between = {
        (part.split(".")[0], target.split(".")[0])
        for part, targets in edges.items()
        for target in targets
        if part.split(".")[0] != target.split(".")[0]
    }
    lines += [f"  {above} --> {below}" for above, below in sorted(between)]
    return "\n".join([*lines, "```"])


def _layer_chart(layers: list[tuple[str, ...]], edges: Mapping[str, set[str]]) -> str:
    """A box for each line of the contract, and an arrow wherever something in it imports something in a lower one."""
    lines = ["```mermaid", "flowchart TD"]
    place = {part: number for number, line in enumerate(layers) for part in line}
    for number, line in enumerate(layers):
        shown = ", ".join(part.removeprefix("cxr_node.") for part in sorted(line))
        lines.append(f'  layer{number}["{shown}"]')
    lines.append('  storage[("storage")]')
    between = {
        (place[part], place[target])
        for part, targets in edges.items()
        for target in targets
        if part in place and target in place and place[part] != place[target]
    }
    lines += [f"  layer{above} --> layer{below}" for above, below in sorted(between)]
    lines += [
        f"  layer{number} --> storage" for number in sorted({place[p] for p in place if "storage" in edges.get(p, ())})
    ]
    return "\n".join([*lines, "```"])


def _processes(root: Path) -> str:
    """Stages, and which of them reach rows and bytes; where two stages meet is in those stores and nowhere else."""
    stages = constant_of(root / STAGES, "STAGES")
    if not isinstance(stages, tuple):
        raise BuildError(f"{STAGES}: STAGES is {type(stages).__name__}, expected a tuple of names")
    named = names_of(root)
    lines = ["```mermaid", "flowchart LR", "  supervisor([supervisor])"]
    lines += [f"  {stage}[{stage}]" for stage in (*stages, *BY_HAND)]
    lines += ["  rows[(database)]", "  bytes[(instances and result objects)]"]
    lines += [f"  supervisor -. starts .-> {stage}" for stage in stages]
    for stage in (*stages, *BY_HAND):
        own = {name for module, names in named.items() if _part(module) == f"cxr_node.{stage}" for name in names}
        if any(name.startswith("storage") for name in own):
            lines.append(f"  {stage} <--> rows")
        if any(name == base or name.startswith(base + ".") for name in own for base in BYTES):
            lines.append(f"  {stage} <--> bytes")
    return "\n".join([*lines, "```"])


def _contracts(root: Path) -> Table:
    rows = []
    for row in _contract(root):
        if row["type"] == "layers":
            rule = "imports point down: " + " / ".join(row["layers"])
        else:
            rule = f"{', '.join(row['source_modules'])} never import {', '.join(row['forbidden_modules'])}"
        rows.append((row["name"], rule))
    header = ("Contract", "Rule that `make lint` holds")
    return Table("architecture.contracts", "Import contracts", header, tuple(rows), CONTRACTS, "tool.importlinter")


def _parts(
    layers: list[tuple[str, ...]],
    edges: Mapping[str, set[str]],
    modules: Mapping[str, list[str]],
    openings: Mapping[str, str],
    source: str,
) -> Table:
    place = {part: number for number, line in enumerate(layers) for part in line}

    def order(part: str) -> tuple[int, int, str]:
        return (TOPS.index(part.split(".")[0]), place.get(part, 0), part)

    rows = tuple(
        (
            f"`{part}`",
            openings.get(part, "") or "not said",
            str(len(modules[part])),
            ", ".join(target.removeprefix("cxr_node.") for target in sorted(edges[part])) or "nothing of the project",
        )
        for part in sorted(edges, key=order)
    )
    header = ("Part", "What it owns", "Modules", "Imports")
    return Table("architecture.parts", "Parts, from the top layer down", header, rows, source, numeric=(2,))


def _modules(part: str, names: list[str], openings: Mapping[str, str], source: str) -> Table:
    rows = tuple((f"`{name}`", openings[name] or "not said") for name in names)
    return Table(f"architecture.modules.{part}", f"Modules of {part}", ("Module", "What it owns"), rows, source)
