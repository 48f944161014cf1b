"""Tables of the cybersecurity file: assets, boundaries, threats, listeners, bill of materials, vulnerabilities."""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cxr_node.settings import DESTINATION_NEEDS, Settings
from regulatory import threats, trace
from regulatory.figures import BuildError, Figure, Material, Table, Text
from regulatory.vulnerabilities import NOT_RUN, sentence

THREATS = "regulatory/threats.toml"
SECURITY = "regulatory/security.toml"
SBOM = "regulatory/sbom.cdx.json"
SBOM_COMMAND = "python -m regulatory.sbom"
RECORD = "regulatory/vulnerabilities.json"
RECORD_COMMAND = "python -m regulatory.vulnerabilities"
LOCK = "requirements.lock"
SETTINGS = "cxr_node/settings.py:Settings"
STATES = ("met", "partly", "not met")

# What listens: what it is, its section and keys in node.toml, and who is let in.
LISTENERS = (
    ("DICOM, images and notices", "receive", "host", "port", "tls", "listed callers; certificates with TLS"),
    ("STOW-RS", "receive.dicomweb", "host", "port", "tls", "tokens; names of loopback without one"),
    ("DICOM, worklists", "worklist", "dicom_host", "dicom_port", "dicom_tls", "listed callers; certificates with TLS"),
    ("Web page and API", "worklist", "host", "port", "tls", "people who signed in; tokens"),
    ("HL7 orders", "orders", "hl7_host", "hl7_port", "hl7_tls", "listed addresses; certificates with TLS"),
    ("Metrics of a stage that runs alone", "node", "metrics_host", "metrics_port", "", "whoever reaches the address"),
)  # fmt: skip


def gather(root: Path) -> Material:
    """Return figures and tables.

    Raises
    ------
    BuildError
        An interface that lies on no boundary or on two, a threat without its test, a bill of materials of another lock.
    """
    model = threats.read(root / THREATS)
    about = tomllib.loads((root / SECURITY).read_text(encoding="utf-8"))
    _check_boundaries(model, about)
    _check_tests(root, model)
    bill: dict[str, Any] = json.loads((root / SBOM).read_text(encoding="utf-8"))
    _check_bill(root, bill)
    record: dict[str, Any] = json.loads((root / RECORD).read_text(encoding="utf-8"))
    figures = (
        _count("security.interfaces", len(model.interfaces), THREATS, "interfaces of the threat model"),
        _count("security.threats", len(model.threats), THREATS, "threats of the threat model"),
        _count(
            "security.components", len(bill["components"]), SBOM, "components of the bill of materials", SBOM_COMMAND
        ),
        Figure(
            "security.interface-titles",
            {interface.name: interface.title for interface in model.interfaces},
            str(len(model.interfaces)),
            THREATS,
            "interface",
            says="titles of the interfaces of the threat model",
        ),
        *_expectation_counts(about),
        *_vulnerability_figures(root, record),
    )
    tables = (
        _plain("security.assets", "Assets", ("Asset", "What must hold", "Where it lies", "Why"), about["asset"]),
        _boundaries(about),
        _stride(model),
        *(_interface(model, interface.name, interface.title) for interface in model.interfaces),
        _listeners(),
        _calls(),
        _bill_counts(bill),
        _bill_models(bill),
        _bill_licences(bill),
        _holes(record),
        _expectations(about),
    )
    return Material(figures=figures, tables=tables, texts=(_view(about),))


def _count(name: str, count: int, source: str, says: str, command: str = "") -> Figure:
    return Figure(name, count, str(count), source, command=command, says=f"number of {says}")


def _plain(name: str, title: str, header: tuple[str, ...], rows: list[dict[str, str]]) -> Table:
    return Table(name, title, header, tuple(tuple(row.values()) for row in rows), SECURITY)


def _check_boundaries(model: threats.Model, about: dict[str, Any]) -> None:
    placed = [name for boundary in about["boundary"] for name in boundary["interfaces"]]
    there = {interface.name for interface in model.interfaces}
    wrong = sorted(({*placed} ^ there) | {name for name in placed if placed.count(name) > 1})
    if wrong:
        raise BuildError(
            f"{SECURITY}: each interface of threats.toml on one boundary; found otherwise: {', '.join(wrong)}"
        )
    for row in about["expectation"]:
        if row["state"] not in STATES:
            raise BuildError(f"{SECURITY}: {row['item']!r} is {row['state']!r}, expected one of {STATES}")


def _check_tests(root: Path, model: threats.Model) -> None:
    there = {test.name.rpartition("::")[2] for test in trace.read(root).tests}
    missing = sorted({name for threat in model.threats for name in threat.tests} - there)
    if missing:
        raise BuildError(f"{THREATS}: tests that are not there: {', '.join(missing)}")


def _check_bill(root: Path, bill: dict[str, Any]) -> None:
    """The bill is that of the lock: each line of the lock is a component."""
    lines = set(re.findall(r"(?m)^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", (root / LOCK).read_text("utf-8")))
    held = {(item["name"], item.get("version", "")) for item in bill["components"] if item["type"] == "library"}
    python = {
        (item["name"], item.get("version", "")) for item in bill["components"] if "pkg:pypi" in item.get("purl", "")
    }
    wrong = sorted((lines - held) | (python - lines))
    if wrong:
        shown = ", ".join(f"{name} {version}" for name, version in wrong)
        raise BuildError(f"{SBOM}: is not that of {LOCK}: {shown}; expected after a change of the lock: {SBOM_COMMAND}")


def _boundaries(about: dict[str, Any]) -> Table:
    rows = tuple((row["name"], row["other"], ", ".join(row["interfaces"])) for row in about["boundary"])
    return Table(
        "security.boundaries", "Trust boundaries", ("Boundary", "On the other side", "Interfaces"), rows, SECURITY
    )


def _view(about: dict[str, Any]) -> Text:
    """Global system view: the node, what lies on each boundary, and who is on the other side."""
    lines = ["```mermaid", "flowchart LR", "  node_[cxr-node]"]
    for number, row in enumerate(about["boundary"]):
        inside = ", ".join(row["interfaces"])
        lines += [f'  subgraph boundary{number}["{row["name"]}"]', f'    other{number}["{row["other"]}"]', "  end"]
        lines.append(f'  other{number} <-- "{inside}" --> node_')
    return Text("security.view", "\n".join([*lines, "```"]), SECURITY)


def _stride(model: threats.Model) -> Table:
    counts = Counter((threat.interface, threat.stride) for threat in model.threats)
    rows = tuple(
        (interface.title, *(str(counts[interface.name, letter]) for letter in threats.STRIDE))
        for interface in model.interfaces
    )
    header = ("Interface", *(name.capitalize() for name in threats.STRIDE.values()))
    columns = tuple(range(1, len(threats.STRIDE) + 1))
    return Table("security.stride", "Threats by interface and kind", header, rows, THREATS, numeric=columns)


def _interface(model: threats.Model, name: str, title: str) -> Table:
    rows = tuple(
        (
            threats.STRIDE[item.stride],
            item.threat,
            item.control,
            ", ".join(item.requirements) or "none",
            ", ".join(f"`{test}`" for test in item.tests),
            item.residual,
        )
        for item in model.threats
        if item.interface == name
    )
    header = ("Kind", "Threat", "Control", "Requirements", "Tests", "What is left")
    return Table(f"security.threats.{name}", title, header, rows, f"{THREATS}, tests", f"interface.{name}")


def _listeners() -> Table:
    rows = []
    for title, section, host, port, tls, who in LISTENERS:
        values: Any = Settings()
        for part in section.split("."):
            values = getattr(values, part)
        number = getattr(values, port)
        default = f"{getattr(values, host)}, port {number}" if number else "not opened"
        keys = f"`[{section}] {host}, {port}`"
        rows.append((title, default, keys, f"`[{section}.{tls}]`" if tls else "none", who))
    header = ("Listener", "By default", "Keys", "TLS", "Who is let in")
    return Table("security.listeners", "Ports that the node opens", header, tuple(rows), SETTINGS)


def _calls() -> Table:
    """Everything that the node calls of its own accord; nothing is called that node.toml does not name."""
    rows = (
        *(
            (f"destination `{kind}`", "`[[destination]]`", "results and priorities")
            for kind in sorted(DESTINATION_NEEDS)
        ),
        ("system that subscribed to work items, or asked for storage commitment", "`[[peer]]`", "events and reports"),
        ("source of a back catalogue", "`[[source]]`", "queries; studies come back"),
        ("worklist of the RIS", "`[orders.ris]`", "queries by the study's own numbers"),
        ("identity provider", "`[worklist.oidc]`", "sign-in of people"),
        ("audit record repository", "`[audit]`", "audit messages"),
        ("database server", "`[node] database`", "rows"),
        ("object store", "`[node] instances`", "bytes of instances and result objects"),
    )
    header = ("Called", "Configured in", "What goes there")
    return Table("security.calls", "Systems that the node calls", header, rows, SETTINGS)


def _bill_counts(bill: dict[str, Any]) -> Table:
    counts = Counter(item["type"] for item in bill["components"])
    rows = tuple((kind, str(count)) for kind, count in sorted(counts.items()))
    header = ("Type", "Components")
    return Table("security.sbom.types", "Components by type", header, rows, SBOM, command=SBOM_COMMAND, numeric=(1,))


def _bill_models(bill: dict[str, Any]) -> Table:
    """Models and data sets, each with what identifies it."""
    rows = []
    for item in bill["components"]:
        if item["type"] == "machine-learning-model":
            learned = ", ".join(row["ref"] for row in item["modelCard"]["modelParameters"]["datasets"])
            rows.append(
                (
                    f"model {item['name']} {item['version']}",
                    item["description"],
                    f"`{item['hashes'][0]['content']}`",
                    learned,
                )
            )
        elif item["type"] == "data":
            licence = item["licenses"][0]["license"]
            parts = "; ".join(f"{row['name'].removeprefix('cxr-node:')}: {row['value']}" for row in item["properties"])
            rows.append(
                (
                    f"data {item['name']}",
                    f"{item['description']}. {licence.get('id') or licence['name']}",
                    parts,
                    item["supplier"]["name"],
                )
            )
    header = ("Component", "What it is", "Identified by", "Learned from, or supplied by")
    return Table("security.sbom.models", "Models and data sets", header, tuple(rows), SBOM, command=SBOM_COMMAND)


def _bill_licences(bill: dict[str, Any]) -> Table:
    named: dict[str, list[str]] = {}
    for item in bill["components"]:
        if item["type"] == "library":
            told = item.get("licenses", [{}])[0]
            licence = told.get("expression") or told.get("license", {}).get("name") or "not known"
            named.setdefault(licence, []).append(item["name"])
    rows = tuple((licence, str(len(names)), ", ".join(sorted(set(names)))) for licence, names in sorted(named.items()))
    header = ("Licence", "Components", "Names")
    return Table(
        "security.sbom.licences", "Libraries by licence", header, rows, SBOM, command=SBOM_COMMAND, numeric=(1,)
    )


def _vulnerability_figures(root: Path, record: dict[str, Any]) -> Iterable[Figure]:
    lock = hashlib.sha256((root / LOCK).read_bytes()).hexdigest()
    told = {
        "state": (record["state"], "whether the search for known vulnerabilities was run"),
        "says": (sentence(record, lock), "what the record of the last search is worth for the lock that stands here"),
        "day": (record["made_at"][:10], "day of the last search for known vulnerabilities"),
        "tool": (record["tool"], "tool of the last search for known vulnerabilities"),
        "audited": (str(record["audited"]), "number of components that the last search looked at"),
        "skipped": (str(len(record["skipped"])), "number of components that the last search could not look at"),
        "found": (
            NOT_RUN if record["state"] == NOT_RUN else str(len(record["found"])),
            "number of known vulnerabilities found",
        ),
    }
    for name, (shown, says) in told.items():
        yield Figure(f"security.vulnerabilities.{name}", shown, shown, RECORD, command=RECORD_COMMAND, says=says)


def _holes(record: dict[str, Any]) -> Table:
    if record["state"] == NOT_RUN:
        rows: tuple[tuple[str, ...], ...] = (("not run", "not run", "not run", "not run"),)
    else:
        rows = tuple(
            (
                hole["name"],
                hole["version"],
                ", ".join([hole["id"], *hole["aliases"]]),
                ", ".join(hole["fixed_in"]) or "none",
            )
            for hole in record["found"]
        )
    header = ("Component", "Version", "Vulnerability", "Fixed in")
    return Table(
        "security.vulnerabilities.found", "Known vulnerabilities", header, rows, RECORD, command=RECORD_COMMAND
    )


def _expectation_counts(about: dict[str, Any]) -> Iterable[Figure]:
    counts = Counter(row["state"] for row in about["expectation"])
    for state in STATES:
        name = f"security.expectations.{state.replace(' ', '-')}"
        yield _count(name, counts[state], SECURITY, f"expectations on cybersecurity that are {state}")


def _expectations(about: dict[str, Any]) -> Table:
    rows = tuple(
        (
            row["item"],
            row["basis"],
            row["state"],
            f"[{row['page']}](page:{row['page']})" if row["page"] else "none",
            row["says"],
        )
        for row in about["expectation"]
    )
    header = ("Expectation", "From", "State", "Page", "What there is")
    return Table("security.expectations", "What is expected of cybersecurity", header, rows, SECURITY, "expectation")
