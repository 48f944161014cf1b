"""Tables of the software file: requirements by area, SOUP with its anomalies, problems, releases, decisions."""

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from regulatory import trace
from regulatory.evidence_record import COMMAND, PATH, command_of, source_of
from regulatory.figures import BuildError, Figure, Material, Table

SOUP = "regulatory/soup.toml"
LICENCES = "regulatory/licences.toml"
ANOMALIES = "regulatory/anomalies.toml"
PROBLEMS = "regulatory/problems.toml"
RELEASES = "regulatory/releases.toml"
DECISIONS = "regulatory/decisions"
LOCKS = {"runtime": "requirements.lock", "train": "requirements.lock"}
DEVELOPMENT_LOCK = "tests/requirements.lock"
NONE_KNOWN = "none known to this project"
GROUPS = {
    "runtime": "In the node",
    "train": "In the trainer",
    "weights": "Weights that training can start from",
    "dev": "In development and tests only",
}

_LOCKED = re.compile(r"(?m)^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)")


def gather(root: Path) -> Material:
    """Return figures and tables.

    Raises
    ------
    BuildError
        An anomaly whose file no longer deals with it, a problem that names no hazard that there is, a version without a
        release record.
    """
    made = trace.read(root)
    soup = _toml(root, SOUP)
    anomalies = _anomalies(root, soup)
    problems = _problems(root, {hazard.id for hazard in made.risks.hazards})
    tables = [
        *_requirements(made),
        *(_soup(root, group, soup, anomalies) for group in GROUPS),
        _vendored(soup),
        _transitive(root, soup),
        _other_anomalies(soup, anomalies),
        _problem_table(problems),
        _releases(root),
        _evidence(root, made.run),
        _decisions(root),
    ]
    counts = Counter(problem["state"] for problem in problems)
    direct = sum(len(soup[group]) for group in GROUPS)
    figures = [
        _figure("software.soup", direct, SOUP, "components that the project asks for by name"),
        _figure(
            "software.locked", len(_locked(root, "requirements.lock")), "requirements.lock", "packages in the lock"
        ),
        _figure("software.anomalies", len(anomalies), ANOMALIES, "known anomalies of components that this project met"),
        _figure("software.problems.open", counts["open"], PROBLEMS, "open problems"),
        _figure("software.problems.accepted", counts["accepted"], PROBLEMS, "accepted problems"),
        _figure("software.decisions", len(_decided(root)), DECISIONS, "design decisions on record"),
    ]
    return Material(figures=tuple(figures), tables=tuple(tables))


def _toml(root: Path, name: str) -> dict[str, Any]:
    return tomllib.loads((root / name).read_text(encoding="utf-8"))


def _figure(name: str, count: int, source: str, says: str) -> Figure:
    return Figure(name, count, str(count), source, says=f"number of {says}")


def _requirements(made: trace.Trace) -> Iterable[Table]:
    for area in made.areas:
        own = sorted((item for item in made.requirements if item.area == area.id), key=lambda item: item.id)
        rows = tuple((item.id, item.says, str(len(item.tests))) for item in own)
        yield Table(
            f"software.srs.{area.id}",
            f"Requirements: {area.title}",
            ("Requirement", "The software …", "Test functions"),
            rows,
            "regulatory/requirements.toml, tests",
            numeric=(2,),
        )


def _locked(root: Path, lock: str) -> dict[str, list[str]]:
    """Versions by name; a name may have several, for different Pythons."""
    found: dict[str, list[str]] = {}
    for name, version in _LOCKED.findall((root / lock).read_text(encoding="utf-8")):
        found.setdefault(name, []).append(version)
    return found


def _licence(name: str, licences: Mapping[str, Any]) -> str:
    for group in ("expressions", "named"):
        if name in licences[group]:
            return str(licences[group][name])
    return "not known" if name in licences["unknown"] else "not in the node"


def _anomalies(root: Path, soup: Mapping[str, Any]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = _toml(root, ANOMALIES)["anomaly"]
    for row in rows:
        path = root / row["where"]
        if not path.exists() or row["mentions"] not in path.read_text(encoding="utf-8"):
            raise BuildError(
                f"{ANOMALIES}: {row['component']}: {row['where']} no longer says {row['mentions']!r}; "
                "expected the words with which it deals with the anomaly"
            )
    return rows


def _of(name: str, anomalies: Iterable[Mapping[str, str]]) -> str:
    told = [
        f"{row['what']} {row['answer']} [{row['where']}](repo:{row['where']})"
        for row in anomalies
        if row["component"] == name
    ]
    return " Also: ".join(told) or NONE_KNOWN


def _soup(root: Path, group: str, soup: Mapping[str, Any], anomalies: list[dict[str, str]]) -> Table:
    lock = LOCKS.get(group, DEVELOPMENT_LOCK)
    versions = _locked(root, lock)
    licences = _toml(root, LICENCES)
    rows = tuple(
        (
            name,
            ", ".join(versions.get(name, ["not locked"])),
            _licence(name, licences),
            reason,
            _of(name, anomalies),
        )
        for name, reason in sorted(soup[group].items())
    )
    return Table(
        f"software.soup.{group}",
        GROUPS[group],
        ("Component", "Version", "Licence", "Why it is used", "Known anomalies"),
        rows,
        f"{SOUP}, {lock}, {LICENCES}, {ANOMALIES}",
        group,
    )


def _vendored(soup: Mapping[str, Any]) -> Table:
    rows = tuple((name, about["reason"], about["sha256"]) for name, about in sorted(soup["vendored"].items()))
    header = ("File", "Why it is used, and licence", "SHA-256")
    return Table("software.soup.vendored", "Files that the pages load", header, rows, SOUP, "vendored")


def _transitive(root: Path, soup: Mapping[str, Any]) -> Table:
    """What the lock holds beyond what is asked for by name: brought along by something that is."""
    licences = _toml(root, LICENCES)
    named = {name for group in ("runtime", "train") for name in soup[group]}
    rows = tuple(
        (name, ", ".join(versions), _licence(name, licences))
        for name, versions in sorted(_locked(root, "requirements.lock").items())
        if name not in named
    )
    return Table(
        "software.soup.transitive",
        "Components that others bring along",
        ("Component", "Version", "Licence"),
        rows,
        f"requirements.lock, {LICENCES}",
    )


def _other_anomalies(soup: Mapping[str, Any], anomalies: list[dict[str, str]]) -> Table:
    """Anomalies of what no table of direct components has: the system's libraries, what others bring along."""
    named = {name for group in GROUPS for name in soup[group]}
    rows = tuple(
        (row["component"], row["what"], row["answer"], f"[{row['where']}](repo:{row['where']})")
        for row in anomalies
        if row["component"] not in named
    )
    header = ("Component", "Anomaly", "What is done about it", "Where")
    return Table("software.anomalies.other", "Anomalies of other components", header, rows, ANOMALIES, "anomaly")


def _problems(root: Path, hazards: set[str]) -> list[dict[str, Any]]:
    problems: list[dict[str, Any]] = _toml(root, PROBLEMS)["problem"]
    ids = [problem["id"] for problem in problems]
    for problem in problems:
        unknown = sorted(set(problem["hazards"]) - hazards)
        if unknown or problem["state"] not in ("open", "accepted") or ids.count(problem["id"]) > 1:
            raise BuildError(
                f"{PROBLEMS}: {problem['id']}: found hazards {unknown}, state {problem['state']!r}; expected "
                "hazards of risks.toml, open or accepted, and each id once"
            )
    return problems


def _problem_table(problems: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            row["id"],
            row["title"],
            f"{row['what']} {row['effect']}",
            row["answer"],
            ", ".join(row["hazards"]) or "none",
            row["state"],
        )
        for row in problems
    )
    header = ("Problem", "Title", "What, and what it may do", "Answer", "Hazards", "State")
    return Table("software.problems", "Known problems and limits", header, rows, PROBLEMS, "problem")


def _releases(root: Path) -> Table:
    version = _toml(root, "pyproject.toml")["project"]["version"]
    releases = _toml(root, RELEASES)["release"]
    if version not in {row["version"] for row in releases}:
        raise BuildError(f"{RELEASES}: no release {version}, the version of pyproject.toml")
    rows = tuple(
        (
            row["version"],
            row["date"],
            row["state"],
            " ".join(row["changed"]),
            ", ".join(row["verified"]),
            row["upgrade"],
        )
        for row in releases
    )
    header = ("Version", "Date", "State", "What changed", "Evidence", "Upgrade")
    return Table("software.releases", "Releases", header, rows, f"{RELEASES}, pyproject.toml", "release")


def _evidence(root: Path, run: Mapping[str, Any] | None) -> Table:
    """What each kind of evidence of a release says today."""
    if run is None:
        tests = trace.NOT_RUN
    else:
        tests = (
            f"{run['passed']} passed, {run['failed']} failed, {run['skipped']} skipped on {run['measured_on']}, "
            f"commit {run['commit']}" + (" with changes" if run["changed_since"] else "")
        )
    vulnerabilities = json.loads((root / "regulatory" / "vulnerabilities.json").read_text(encoding="utf-8"))
    searched = (
        f"{vulnerabilities['state']}: {vulnerabilities['audited']} components looked at, "
        f"{len(vulnerabilities['found'])} holes found"
    )
    if vulnerabilities["state"] == "not run":
        searched = f"not run: {vulnerabilities['reason']}"
    folder = root / "regulatory" / "evidence"
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
        if path.name != PATH.name
    }
    # A benchmark's record names its machine; a trial computes, and gives the same on every machine.
    kept = [name for name, record in records.items() if "machine" in record]
    trials = {name: str(record.get("command", "")) for name, record in records.items() if "machine" not in record}
    manifests = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((root / "cxr_node" / "packages").glob("*/manifest.json"))
    ]
    models = "; ".join(
        f"{manifest['name']} {manifest['version']}: {sum(row['passed'] for row in manifest['figures']['criteria'])} of "
        f"{len(manifest['figures']['criteria'])} criteria met"
        for manifest in manifests
    )
    rows = (
        ("tests", tests, COMMAND, "[traceability](page:17_traceability.md)"),
        (
            "service",
            ", ".join(kept) or "not run",
            "python -m tests.benchmarks.record NAME",
            "[service.md](repo:regulatory/service.md)",
        ),
        (
            "trials",
            ", ".join(trials) or "not run",
            ", ".join(f"`{command}`" for command in trials.values()) or "not run",
            "the pages on triage, change control and monitoring",
        ),
        ("models", models, "cxr-train release", "the manifest of each package"),
        (
            "vulnerabilities",
            searched,
            "python -m regulatory.vulnerabilities",
            "[the page](page:13_cybersecurity/vulnerabilities.md)",
        ),
    )
    return Table(
        "software.evidence",
        "What the evidence says",
        ("Kind", "Says", "Command", "More"),
        rows,
        source_of(root, "regulatory/evidence", "regulatory/vulnerabilities.json", "cxr_node/packages"),
        command=command_of(root),
    )


def _decided(root: Path) -> list[Path]:
    return sorted((root / DECISIONS).glob("[0-9]*.md"))


def _decisions(root: Path) -> Table:
    rows = []
    for path in _decided(root):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").partition(". ")[2]
        rows.append((path.name[:4], f"[{title}](repo:{path.relative_to(root).as_posix()})"))
    return Table("software.decisions", "Design decisions", ("Number", "Title"), tuple(rows), DECISIONS)
