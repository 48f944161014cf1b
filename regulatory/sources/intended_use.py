"""Intended use and labelling, from the tables that the gate runs and the manifests of the released packages."""

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cxr_node
from cxr_node.analyze.acceptance import SOP_CLASSES
from cxr_node.findings import ACCEPTANCE_RULES, Exclusion, ImageAnalysis, ImageReference, Score, StudyOutcome
from cxr_node.imaging.plausibility import MESSAGES
from cxr_node.reporting.material import Device
from cxr_node.reporting.material import Material as ReportMaterial
from cxr_node.reporting.sr import NOTICE
from cxr_node.reporting.statement import NOTICES, Statement, state
from cxr_node.settings import Settings
from regulatory.figures import Figure, Material, Table, Text
from trainer.report.words import NOT_MEASURED, count, decimal, estimate, mapping, percent, rows_of

FILE = "regulatory/intended_use.toml"
ACCEPTANCE = "cxr_node/findings/acceptance.py:ACCEPTANCE_RULES, cxr_node/analyze/acceptance.py:ACCEPTANCE"
CODE = Path(cxr_node.__file__).parent
STATEMENT = "cxr_node/reporting/statement.py:state"
EVALUATED = "cxr-train evaluate"
NOTHING = "not run: no released package is there"
OLDEST = 120.0

Manifest = Mapping[str, Any]


def gather(root: Path) -> Material:
    """Return figures, tables and lists of the labelling; packages that are not there read "not run"."""
    stated = tomllib.loads((root / FILE).read_text("utf-8"))
    packages = manifests(root)
    return Material(
        figures=(*_figures(packages), *_missing(packages, stated)),
        tables=(
            _populations(packages, stated),
            _acceptance(),
            _after_the_header(),
            _outputs(),
            _failures(root, stated),
            _performance(packages),
            _predictive(packages),
            _criteria(packages),
        ),
        texts=(
            *(_list(f"intended-use.{kind}s", stated[kind]) for kind in ("contraindication", "warning", "precaution")),
            *(_told(name, stated["device"][name]) for name in ("purpose", "users", "setting", "training")),
            Text("intended-use.notices", "\n".join(f"> {line}" for line in (*NOTICES, NOTICE)), _NOTICE_SOURCE),
            Text("intended-use.limitations", _limitations(packages), _all(packages), EVALUATED),
        ),
    )


_NOTICE_SOURCE = "cxr_node/reporting/statement.py:NOTICES, cxr_node/reporting/sr.py:NOTICE"


def manifests(root: Path) -> dict[str, Manifest]:
    """Return the manifests of the released packages by name."""
    found = sorted((root / "cxr_node" / "packages").glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text("utf-8")) for path in found}


def source_of(name: str) -> str:
    """Return the path of a package's manifest."""
    return f"cxr_node/packages/{name}/manifest.json"


def ages(manifest: Manifest) -> str:
    """Return the ages as the labelling says them."""
    low, high = manifest["intended_use"]["age_years"]
    return f"{low:g} years and older" if high >= OLDEST else f"{low:g} to {high:g} years"


def test_sets(manifest: Manifest) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the measured test sets of a package."""
    yield from ((name, mapping(found)) for name, found in mapping(mapping(manifest["figures"]).get("test")).items())


def _figures(packages: Mapping[str, Manifest]) -> Iterator[Figure]:
    for name, manifest in packages.items():
        source = source_of(name)
        used = manifest["intended_use"]
        yield Figure(
            f"intended-use.{name}.ages",
            used["age_years"],
            ages(manifest),
            source,
            "/intended_use/age_years",
            EVALUATED,
            f"completed years of age that {name} is meant for, both ends included",
        )
        for finding, point in manifest["operating_points"].items():
            yield Figure(
                f"intended-use.{name}.threshold",
                point["threshold"],
                f"{point['threshold']:g}",
                source,
                f"/operating_points/{finding}/threshold",
                EVALUATED,
                f"operating point of {name}, on the probability after calibration; {point['source']}",
            )
        for test, found in test_sets(manifest):
            for key, says in (("auc", "AUC"), ("sensitivity", "sensitivity"), ("specificity", "specificity")):
                yield Figure(
                    f"intended-use.{name}.{test}.{key}",
                    mapping(found.get(key)).get("value"),
                    estimate(found.get(key)),
                    source,
                    f"/figures/test/{test}/{key}",
                    EVALUATED,
                    f"{says} of {name} on {test}, {count(found.get('images'))} images "
                    f"({count(found.get('present'))} with the finding), 95 % interval",
                )


def _missing(packages: Mapping[str, Manifest], stated: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield what the pages name of a package that is not there."""
    for name in stated["populations"]:
        if name not in packages:
            for key in ("ages", "threshold"):
                yield Figure(f"intended-use.{name}.{key}", None, "not run", source_of(name), "", EVALUATED, NOTHING)


def _populations(packages: Mapping[str, Manifest], stated: Mapping[str, Any]) -> Table:
    default = Settings().analyze.models
    rows = [
        (
            f"`{name}` {manifest['version']}",
            stated["populations"].get(name, "not stated"),
            ", ".join(manifest["findings"]),
            ages(manifest),
            ", ".join(manifest["intended_use"]["views"]),
            ", ".join(manifest["intended_use"]["modalities"]),
            ", ".join(manifest["intended_use"]["body_parts"]),
            "yes" if name in default else "no",
        )
        for name, manifest in packages.items()
    ]
    header = ("model package", "population", "finding", "age", "views", "modalities", "body part", "runs by default")
    title = "Populations, each with its own model; an image goes to one by the patient's age"
    return Table("intended-use.populations", title, header, tuple(rows), _all(packages), "/intended_use", EVALUATED)


def _acceptance() -> Table:
    rows = tuple((rule.reason, rule.attribute, rule.accepts, rule.when_missing) for rule in ACCEPTANCE_RULES)
    return Table(
        "intended-use.acceptance",
        "What an image must say of itself to be analysed, in the order in which it is asked",
        ("rule", "attribute", "accepted", "where it is missing"),
        rows,
        ACCEPTANCE,
    )


def _after_the_header() -> Table:
    rows = [(reason, says, f"`{path}`") for reason, says, path in further_reasons()]
    rows += [(reason, says, "`cxr_node/imaging/plausibility.py`") for reason, says in MESSAGES.items()]
    return Table(
        "intended-use.after-the-header",
        "Further reasons for which an image is not analysed",
        ("reason", "what it says", "code"),
        tuple(rows),
        "cxr_node/analyze, cxr_node/imaging/plausibility.py:MESSAGES",
    )


def further_reasons() -> list[tuple[str, str, str]]:
    """Return reason, message and file of each exclusion that the code beside the acceptance table can make.

    Read from the calls in the code itself: a reason that is added appears without anybody writing it here.
    """
    stated = {rule.reason for rule in ACCEPTANCE_RULES}
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(CODE.glob("analyze/*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Exclusion" and call.args):
                continue
            reason = call.args[0]
            if not isinstance(reason, ast.Constant) or reason.value in stated:
                continue
            says = _words(call.args[1]) if len(call.args) > 1 else ""
            found.setdefault(str(reason.value), (says, f"cxr_node/{path.relative_to(CODE)}"))
    return [(reason, *told) for reason, told in sorted(found.items())]


def _words(node: ast.expr) -> str:
    """Return a message as the code writes it; what is filled in while it runs is an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return "says what was found"


def _outputs() -> Table:
    rows = [(case, said.headline, " ".join(said.sentences)) for case, said in statements()]
    return Table(
        "intended-use.outputs",
        "What the device says of a study, word for word; the numbers and reasons are examples",
        ("case", "headline", "sentences"),
        tuple(rows),
        STATEMENT,
    )


def statements() -> Iterator[tuple[str, Statement]]:
    """Yield every kind of outcome with what the node's own code says of it."""
    image = ImageReference("1.2.3", SOP_CLASSES["triage"][0], "1.2")
    other = ImageReference("1.2.4", SOP_CLASSES["triage"][0], "1.2")

    def scored(flagged: bool) -> ImageAnalysis:
        score = Score("pneumonia", "model", "version", "0" * 64, 0.9 if flagged else 0.1, 0.5, "point", flagged)
        return ImageAnalysis(image, (score,))

    lateral = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")
    cases = (
        ("an image crossed an operating point", (scored(True),), False),
        ("no image crossed one", (scored(False),), False),
        ("no image crossed one, an earlier revision had flagged the study", (scored(False),), True),
        ("some images could not be analysed", (scored(False), ImageAnalysis(other, exclusion=lateral)), False),
        ("no image could be analysed", (ImageAnalysis(other, exclusion=lateral),), False),
    )
    device = Device("cxr-node", "", "cxr-node", "", "", "1.2.3")
    for case, images, was_flagged in cases:
        outcome = StudyOutcome("1.2.3", tuple(images))
        material = ReportMaterial(outcome, {}, device, 1, datetime(2026, 1, 1, tzinfo=UTC), was_flagged=was_flagged)
        yield case, state(material)


def _failures(root: Path, stated: Mapping[str, Any]) -> Table:
    known = tomllib.loads((root / "regulatory/requirements.toml").read_text("utf-8"))["requirements"]
    rows = []
    for item in stated["failure"]:
        if item["requirement"] not in known:
            raise ValueError(f"{FILE}: [[failure]] {item['event']!r} names {item['requirement']}, which is not stated")
        rows.append((item["event"], item["effect"], item["requirement"], known[item["requirement"]]))
    return Table(
        "device.failures",
        "What happens when something fails",
        ("event", "effect", "requirement", "as the requirement states it"),
        tuple(rows),
        f"{FILE}, regulatory/requirements.toml",
    )


def _performance(packages: Mapping[str, Manifest]) -> Table:
    rows = [
        (
            f"`{name}`",
            f"{test}: {found.get('says') or 'no description'}",
            count(found.get("images")),
            count(found.get("patients")),
            count(found.get("present")),
            estimate(found.get("auc")),
            estimate(found.get("sensitivity")),
            estimate(found.get("specificity")),
        )
        for name, manifest in packages.items()
        for test, found in test_sets(manifest)
    ]
    return Table(
        "intended-use.performance",
        "Stand-alone performance at the locked operating point, 95 % intervals",
        ("package", "test set", "images", "patients", "with finding", "AUC", "sensitivity", "specificity"),
        tuple(rows),
        _all(packages),
        "/figures/test",
        EVALUATED,
        numeric=(2, 3, 4, 5, 6, 7),
    )


def _predictive(packages: Mapping[str, Manifest]) -> Table:
    rows = []
    for name, manifest in packages.items():
        for test, found in test_sets(manifest):
            for prevalence, values in mapping(found.get("predictive_values")).items():
                of = mapping(values)
                rows.append(
                    (f"`{name}`", test, percent(float(prevalence)), percent(of.get("ppv")), percent(of.get("npv")))
                )
    return Table(
        "intended-use.predictive-values",
        "Predictive values at stated prevalences, computed from the sensitivity and specificity above",
        ("package", "test set", "prevalence", "positive predictive value", "negative predictive value"),
        tuple(rows),
        _all(packages),
        "/figures/test/*/predictive_values",
        EVALUATED,
        numeric=(2, 3, 4),
    )


def _criteria(packages: Mapping[str, Manifest]) -> Table:
    rows = [
        (
            f"`{name}`",
            str(item["says"]),
            decimal(item.get("found")),
            "passed" if item.get("passed") else "FAILED" if "passed" in item else NOT_MEASURED,
            str(item.get("released_despite", "")) or ("not stated" if item.get("passed") is False else ""),
        )
        for name, manifest in packages.items()
        for item in rows_of(mapping(manifest["figures"]).get("criteria"))
    ]
    return Table(
        "intended-use.criteria",
        "Criteria set before the test part was scored, those that failed included",
        ("package", "criterion", "found", "verdict", "released despite it because"),
        tuple(rows),
        _all(packages),
        "/figures/criteria",
        EVALUATED,
        numeric=(2,),
    )


def _limitations(packages: Mapping[str, Manifest]) -> str:
    lines: list[str] = []
    for name, manifest in packages.items():
        lines += [f"### {name}: {manifest['title']}", ""]
        lines += [f"- {item}" for item in rows_of(manifest.get("limitations"))] or ["- none stated"]
        lines.append("")
    return "\n".join(lines) or NOTHING


def _list(name: str, items: list[Mapping[str, str]]) -> Text:
    return Text(name, "\n".join(f"- {item['text']}" for item in items), FILE)


def _told(name: str, sentence: str) -> Text:
    return Text(f"intended-use.{name}", f"> {sentence[0].upper()}{sentence[1:]}.", FILE)


def _all(packages: Mapping[str, Manifest]) -> str:
    return ", ".join(source_of(name) for name in packages) or "cxr_node/packages"
