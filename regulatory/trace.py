"""Traceability: user needs → requirements → risk controls → code → tests → results of the last run.

All of it is read, nothing is run: needs.toml, requirements.toml, risks.toml, the tests' `requirement` marks and imports
by their syntax trees, and the record of the last run where there is one (`make evidence` writes it). What does not hang
together is an orphan; `check` raises for any.
"""

import fnmatch
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from regulatory.evidence_record import PATH as RECORD
from regulatory.evidence_record import digest_of
from regulatory.risk import Risks
from regulatory.risk import read as read_risks
from regulatory.syntax import MarkedTest, modules_of, tests_of

NOT_RUN, PASSED, FAILED, SKIPPED, PARTLY, CHANGED = (
    "not run",
    "passed",
    "FAILED",
    "skipped",
    "passed, some skipped",
    "tests changed since the run",
)


class BrokenTrace(ValueError):
    """Something hangs together with nothing, or a test of a requirement failed; the message lists all of it."""


@dataclass(frozen=True)
class Need:
    """What one kind of user needs; `requirements` are the identifiers that its patterns match, sorted."""

    id: str
    user: str
    says: str
    patterns: tuple[str, ...]
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Area:
    """The letters in the middle of an identifier; `code` are dotted names of packages or modules."""

    id: str
    title: str
    code: tuple[str, ...]


@dataclass(frozen=True)
class Requirement:
    """One requirement with all that refers to it.

    `code` : the modules of its area that its tests import, or the area's packages where they import none of them, as a
    test that drives the node from outside
    `result` : one of the words at the top of this module
    """

    id: str
    says: str
    area: str
    needs: tuple[str, ...]
    controls: tuple[str, ...]
    code: tuple[str, ...]
    tests: tuple[MarkedTest, ...]
    result: str


@dataclass(frozen=True)
class Trace:
    """Everything; `orphans` are sentences, none where all hangs together; `run` is the last run's record or None."""

    needs: tuple[Need, ...]
    areas: tuple[Area, ...]
    requirements: tuple[Requirement, ...]
    risks: Risks
    tests: tuple[MarkedTest, ...]
    orphans: tuple[str, ...]
    run: Mapping[str, Any] | None


def read(root: Path) -> Trace:
    """Return the trace of the tree below `root`, orphans named and not raised."""
    return _read(root, _fingerprint(root))


def check(trace: Trace) -> None:
    """Raise where something is an orphan.

    Raises
    ------
    BrokenTrace
        Naming every orphan.
    """
    if trace.orphans:
        raise BrokenTrace("traceability: " + "; ".join(trace.orphans))


def _fingerprint(root: Path) -> tuple[tuple[str, int, int], ...]:
    """What `read` is kept by: several sources ask for it in one build, and a test changes a file in between."""
    files = [*(root / "tests").rglob("test_*.py"), *(root / "regulatory").glob("*.toml"), root / RECORD]
    files += [path for top in ("cxr_node", "storage", "trainer") for path in (root / top).rglob("*.py")]
    return tuple(sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.exists()))


@lru_cache(maxsize=4)
def _read(root: Path, _fingerprint: tuple[tuple[str, int, int], ...]) -> Trace:
    folder = root / "regulatory"
    stated: dict[str, str] = _toml(folder / "requirements.toml")["requirements"]
    values = _toml(folder / "needs.toml")
    needs = tuple(_need(name, about, stated) for name, about in values["need"].items())
    areas = tuple(Area(name, about["title"], tuple(about["code"])) for name, about in values["area"].items())
    risks = read_risks(folder / "risks.toml")
    tests = tests_of(root)
    run = _run(root)
    requirements = tuple(_requirement(name, says, needs, areas, risks, tests, run) for name, says in stated.items())
    orphans = tuple(_orphans(root, needs, areas, requirements, risks, tests, run))
    return Trace(needs, areas, requirements, risks, tests, orphans, run)


def _need(name: str, about: Mapping[str, Any], stated: Iterable[str]) -> Need:
    matched = {item for pattern in about["requirements"] for item in fnmatch.filter(stated, pattern)}
    return Need(name, about["user"], about["says"], tuple(about["requirements"]), tuple(sorted(matched)))


def _requirement(
    name: str,
    says: str,
    needs: tuple[Need, ...],
    areas: tuple[Area, ...],
    risks: Risks,
    tests: tuple[MarkedTest, ...],
    run: Mapping[str, Any] | None,
) -> Requirement:
    letters = name.split("-")[1]
    area = next((item for item in areas if item.id == letters), Area(letters, letters, ()))
    own = tuple(test for test in tests if name in test.requirements)
    imported = {module for test in own for module in test.imports if _within(module, area.code)}
    return Requirement(
        name,
        says,
        letters,
        tuple(need.id for need in needs if name in need.requirements),
        tuple(control.id for control in risks.controls if name in control.requirements),
        tuple(sorted(imported)) or area.code,
        own,
        _result(name, own, run),
    )


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _result(name: str, tests: tuple[MarkedTest, ...], run: Mapping[str, Any] | None) -> str:
    counts = None if run is None else run["requirements"].get(name)
    if counts is None:
        return NOT_RUN
    if counts["failed"]:
        return FAILED
    if counts["tests_sha256"] != digest_of(test.id for test in tests):
        return CHANGED
    if not counts["passed"]:
        return SKIPPED
    return PARTLY if counts["skipped"] else PASSED


def _orphans(
    root: Path,
    needs: tuple[Need, ...],
    areas: tuple[Area, ...],
    requirements: tuple[Requirement, ...],
    risks: Risks,
    tests: tuple[MarkedTest, ...],
    run: Mapping[str, Any] | None,
) -> Iterable[str]:
    stated = {item.id: item for item in requirements}
    known = {area.id for area in areas}
    for need in needs:
        if not need.requirements:
            yield f"needs.toml: need {need.id} has no requirement"
        for pattern in need.patterns:
            if not fnmatch.filter(stated, pattern):
                yield f"needs.toml: pattern {pattern} of {need.id} matches no requirement"
    for item in requirements:
        if item.area not in known:
            yield f"needs.toml: no row [area] {item.area} for {item.id}"
        if not item.needs:
            yield f"needs.toml: requirement {item.id} belongs to no need"
        if not item.tests:
            yield f"tests: requirement {item.id} has no test"
    for test in tests:
        if not test.requirements:
            yield f"tests: {test.id} names no requirement"
        for name in sorted(set(test.requirements) - set(stated)):
            yield f"tests: {test.id} names {name}, which requirements.toml does not state"
    for area in areas:
        if not any(item.area == area.id for item in requirements):
            yield f"needs.toml: area {area.id} has no requirement"
    yield from _code_orphans(root, areas)
    for control in risks.controls:
        for name in control.requirements:
            if name not in stated:
                yield f"risks.toml: control {control.id} names {name}, which requirements.toml does not state"
            elif not stated[name].tests:
                yield f"risks.toml: control {control.id} rests on {name}, which has no test"
            elif stated[name].result == FAILED:
                yield f"risks.toml: control {control.id} rests on {name}, whose tests failed in the last run"
    yield from _failures(requirements, run)


def _failures(requirements: tuple[Requirement, ...], run: Mapping[str, Any] | None) -> Iterable[str]:
    if run is None:
        return
    told = set[str]()
    for item in requirements:
        if item.result == FAILED:
            failing = run["requirements"][item.id]["failing"]
            told.update(failing)
            yield f"{RECORD.as_posix()}: {item.id} failed in the last run: {', '.join(failing)}"
    for name in sorted(set(run["failing"]) - told):
        yield f"{RECORD.as_posix()}: failed in the last run: {name}"


def _code_orphans(root: Path, areas: tuple[Area, ...]) -> Iterable[str]:
    """Packages that no area answers for, and areas that name code which is not there."""
    claimed = {code for area in areas for code in area.code}
    there = modules_of(root)
    folders = {f"cxr_node.{path.name}" for path in (root / "cxr_node").glob("*/") if path.name != "__pycache__"}
    for code in sorted(claimed - there - folders):
        yield f"needs.toml: the area's code {code} is not there"
    parts = {".".join(module.split(".")[:2]) if module.startswith("cxr_node.") else "" for module in there} - {""}
    for part in sorted(parts):
        if not _within(part, claimed - {"cxr_node"}):
            yield f"needs.toml: code {part} belongs to no area"


def _run(root: Path) -> dict[str, Any] | None:
    path = root / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
