"""The device description and its comparison with cleared devices."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_node.analyze.routing import POPULATIONS
from cxr_node.deliver.destinations import DESTINATIONS
from cxr_node.findings import ACCEPTANCE_RULES
from cxr_node.imaging.plausibility import MESSAGES
from cxr_node.reporting import BUILDERS
from cxr_node.settings import DESTINATION_OBJECTS, Settings
from regulatory.figures import Figure, Material, Table, Text
from regulatory.sources.intended_use import EVALUATED, Manifest, ages, manifests, source_of, test_sets
from trainer.report.words import count, estimate, mapping

PREDICATES = "regulatory/predicates.toml"
OBJECT_NAMES = {
    "sr": "Structured Report",
    "sc": "result card (Secondary Capture)",
    "gsps": "Presentation State (profile research)",
    "kos": "Key Object Selection",
    "pdf": "Encapsulated PDF",
    "feedback": "reader's assessment (Structured Report)",
    "priority": "priority notice",
}
_STAGES = (
    "cxr_node/findings/acceptance.py:ACCEPTANCE_RULES, cxr_node/analyze/routing.py:route, "
    "cxr_node/imaging/plausibility.py:MESSAGES, cxr_node/reporting/__init__.py:BUILDERS, "
    "cxr_node/deliver/destinations.py:DESTINATIONS"
)


def gather(root: Path) -> Material:
    """Return flowchart, components, inputs, outputs and the predicates."""
    packages = manifests(root)
    known = tomllib.loads((root / PREDICATES).read_text("utf-8"))
    settings = Settings()
    return Material(
        figures=(
            *(_component_figures(packages)),
            Figure(
                "device.max-wait",
                settings.worklist.max_wait_min,
                f"{settings.worklist.max_wait_min:g} min",
                "cxr_node/settings.py:Worklist",
                "max_wait_min",
                says="default of the maximum wait, after which a study not flagged moves to the top in turn",
            ),
            Figure(
                "predicates.count",
                len(known["device"]),
                str(len(known["device"])),
                PREDICATES,
                "device",
                says="cleared chest-radiograph triage devices in the comparison",
            ),
        ),
        tables=(
            _components(packages),
            _destinations(),
            _predicates(known["device"]),
            _ours(packages),
            _comparison(known["comparison"]),
        ),
        texts=(Text("device.flowchart", flowchart(packages), f"{_STAGES}, {_sources(packages)}", EVALUATED),),
    )


def flowchart(packages: Mapping[str, Manifest]) -> str:
    """Return the way of an image as a Mermaid flowchart, a box for each rule, model, object and destination kind."""
    default = Settings().analyze.models
    lines = [
        "```mermaid",
        "flowchart TD",
        '  in["Instance arrives: C-STORE, STOW-RS, watched folder, upload"] --> kept[("bytes, row and job durable,<br>'
        'then Success")]',
        '  kept --> header["Header is read"]',
    ]
    before = "header"
    for number, rule in enumerate(ACCEPTANCE_RULES):
        name = f"rule{number}"
        lines.append(f'  {before} --> {name}{{"{rule.reason}:<br>{_label(rule.attribute)}"}}')
        lines.append(f"  {name} -- objects --> excluded")
        before = name
    lines.append(f'  {before} -- accepted --> age{{"age at the study"}}')
    lines.append('  age -- "unknown, or between the models" --> excluded')
    for number, (name, manifest) in enumerate(packages.items()):
        if name not in default:
            continue
        low, high = manifest["preprocess"]["size"]
        lines += [
            f'  age -- "{ages(manifest)}" --> look{number}{{"look at the pixels:<br>{_label(", ".join(MESSAGES))}"}}',
            f"  look{number} -- objects --> excluded",
            f'  look{number} -- plausible --> model{number}["{name} {manifest["version"]}<br>{low} x {high} pixels, '
            f'{manifest["architecture"]}"]',
            f'  model{number} --> point{number}{{"operating point"}}',
            f'  point{number} -- crossed --> raise["priority HIGH, or what was ordered if higher"]',
            f'  point{number} -- "not crossed" --> keep["priority stays as it was"]',
        ]
    lines += [
        '  excluded["Excluded with a reason"] --> keep',
        '  raise --> study["Study: the highest score of its images"]',
        "  keep --> study",
        f'  study --> objects["{_label(", ".join(OBJECT_NAMES[kind] for kind in BUILDERS))}"]',
        '  study --> list["Worklist: page, Modality Worklist, UPS"]',
        f'  objects --> sent["{_label(", ".join(DESTINATIONS))}"]',
        "```",
    ]
    return "\n".join(lines)


def _label(text: str) -> str:
    return text.replace('"', "'")


def _component_figures(packages: Mapping[str, Manifest]) -> Iterator[Figure]:
    for name, (low, high) in POPULATIONS.items():
        yield Figure(
            f"device.stated.{name}",
            (low, high),
            f"{low:g}" if low == high else f"{low:g} to {high:g}",
            "cxr_node/analyze/routing.py:POPULATIONS",
            name,
            says=f"years of age that a person states by saying that a picture without a header shows a {name}",
        )


def _components(packages: Mapping[str, Manifest]) -> Table:
    rows = [
        (
            f"`{name}` {manifest['version']}",
            str(manifest["architecture"]),
            count(mapping(manifest["training"]).get("parameters")),
            " x ".join(str(side) for side in manifest["preprocess"]["size"]),
            ", ".join(manifest["findings"]),
            str(mapping(manifest["training"]).get("cohort", {}).get("title", "not stated")),
        )
        for name, manifest in packages.items()
    ]
    return Table(
        "device.models",
        "The machine-learning components",
        ("package", "architecture", "parameters", "input, pixels", "finding", "learned from"),
        tuple(rows),
        _sources(packages),
        "/architecture, /preprocess, /training",
        EVALUATED,
        numeric=(2,),
    )


def _destinations() -> Table:
    rows = [(f"`{kind}`", ", ".join(OBJECT_NAMES[item] for item in DESTINATION_OBJECTS[kind])) for kind in DESTINATIONS]
    return Table(
        "device.outputs",
        "What leaves the node, and how",
        ("kind of destination", "what it can be sent"),
        tuple(rows),
        "cxr_node/deliver/destinations.py:DESTINATIONS, cxr_node/settings.py:DESTINATION_OBJECTS",
    )


def _predicates(devices: list[Mapping[str, Any]]) -> Table:
    columns = ("test_set", "auc", "sensitivity", "specificity", "time")
    rows = []
    for item in devices:
        unknown = sorted(set(item.get("unverified", ())) - set(columns))
        if unknown:
            raise ValueError(f"{PREDICATES}: {item['name']}: unverified names {unknown[0]}, expected one of {columns}")
        rows.append(
            (
                f"{item['name']}, {item['number']}, {item['cleared']}",
                item["target"],
                *(_reported(item, column) for column in columns),
                item["source"],
            )
        )
    return Table(
        "predicates.devices",
        "Cleared chest-radiograph triage devices, 95 % intervals where reported",
        ("device", "target", "test set", "AUC", "sensitivity", "specificity", "time", "read at"),
        tuple(rows),
        PREDICATES,
        "device",
    )


def _reported(item: Mapping[str, Any], column: str) -> str:
    if column not in item:
        return "not found"
    return f"{item[column]} (recalled, not verified)" if column in item.get("unverified", ()) else str(item[column])


def _ours(packages: Mapping[str, Manifest]) -> Table:
    rows = [
        (
            f"`{name}`",
            f"{', '.join(manifest['findings'])}; {ages(manifest)}",
            f"{test}: {count(found.get('images'))} images ({count(found.get('present'))} with)",
            estimate(found.get("auc")),
            estimate(found.get("sensitivity")),
            estimate(found.get("specificity")),
        )
        for name, manifest in packages.items()
        for test, found in test_sets(manifest)
    ]
    return Table(
        "predicates.ours",
        "This device, measured on public collections; not comparable case by case with the table above",
        ("package", "target", "test set", "AUC", "sensitivity", "specificity"),
        tuple(rows),
        _sources(packages),
        "/figures/test",
        EVALUATED,
    )


def _comparison(rows: list[Mapping[str, str]]) -> Table:
    return Table(
        "predicates.comparison",
        "Aspect by aspect",
        ("aspect", "cleared devices", "this device"),
        tuple((row["aspect"], row["cleared"], row["ours"]) for row in rows),
        PREDICATES,
        "comparison",
    )


def _sources(packages: Mapping[str, Manifest]) -> str:
    return ", ".join(source_of(name) for name in packages) or "cxr_node/packages"
