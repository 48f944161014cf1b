"""Performance of each released package: its sets, its locked threshold, its criteria, and what was fixed before.

Everything is read from `manifest.json` and from the evaluation that is of it (`records`); nothing is measured here.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table, Text
from regulatory.results import may_be_missing
from regulatory.sources.records import NOT_RUN, Released, released
from trainer.evaluate.measure import BOOTSTRAP_REPEATS, PREVALENCES, SUBGROUP_PRESENT, TOO_FEW
from trainer.report.evaluation import LIMITS, METHODS, beats_baselines
from trainer.report.words import count, decimal, estimate, mapping, percent, value_of

# (key of a set, how it is printed, what it is)
OF_A_SET: tuple[tuple[str, Any, str], ...] = (
    ("images", count, "images"),
    ("patients", count, "patients"),
    ("present", count, "images with the finding by the reference standard"),
    ("absent", count, "images without the finding by the reference standard"),
    ("base_rate", percent, "share of images with the finding"),
    ("auc", estimate, "area under the ROC curve, DeLong's 95 % interval"),
    ("auc_patient_bootstrap", estimate, "area under the ROC curve, 95 % interval of a bootstrap that draws patients"),
    ("average_precision", estimate, "average precision, 95 % interval of a bootstrap that draws patients"),
    ("sensitivity", estimate, "sensitivity at the locked threshold, Wilson's 95 % interval"),
    ("specificity", estimate, "specificity at the locked threshold, Wilson's 95 % interval"),
    ("accuracy", estimate, "accuracy at the locked threshold, Wilson's 95 % interval"),
    ("precision", estimate, "precision at the locked threshold, Wilson's 95 % interval"),
    ("f1", decimal, "F1 at the locked threshold"),
)
_CALIBRATION = ("slope", "intercept", "brier", "expected_calibration_error")


def gather(root: Path) -> Material:
    """Return the figures, tables and texts of 08_validation/report.md and protocol.md.

    Raises
    ------
    ResultsError
        An evaluation is not of its form (`regulatory.results`).
    """
    packages = released(root)
    figures = [
        Figure(
            "validation.packages",
            tuple(package.name for package in packages),
            str(len(packages)),
            "cxr_node/packages",
            says="released model packages",
        ),
        *_constants(),
    ]
    tables = [_protocol(packages), _form()]
    texts = [
        Text("validation.methods", _bullets(METHODS), "trainer/report/evaluation.py:METHODS"),
        Text("validation.limits-of-method", _bullets(LIMITS), "trainer/report/evaluation.py:LIMITS"),
    ]
    for package in packages:
        figures += [*_of_package(package), *_of_sets(package)]
        tables += [_sets(package), _at_threshold(package), _predictive_values(package), _criteria(package)]
        texts += list(_texts(package))
    return Material(tuple(figures), tuple(tables), (), tuple(texts))


def _constants() -> Iterator[Figure]:
    source = "trainer/evaluate/measure.py"
    for name, value, says in (
        ("TOO_FEW", TOO_FEW, "images needed in either class before an AUC is given"),
        ("SUBGROUP_PRESENT", SUBGROUP_PRESENT, "images with the finding needed before a subgroup is measured"),
        ("BOOTSTRAP_REPEATS", BOOTSTRAP_REPEATS, "repeats of the bootstrap over patients"),
    ):
        identifier = f"validation.{name.lower().replace('_', '-')}"
        yield Figure(identifier, value, count(value), f"{source}:{name}", says=says)


def _of_package(package: Released) -> Iterator[Figure]:
    """The package itself: version, threshold, criteria, best baseline."""

    def of_manifest(key: str, value: Any, shown: str, says: str, pointer: str) -> Figure:
        return Figure(
            f"{package.name}.{key}", value, shown, package.manifest_path, pointer, package.export_command, says
        )

    version, point = str(package.manifest["version"]), package.point
    where = f"/operating_points/{package.finding}"
    yield of_manifest("version", version, version, "version of the package", "/version")
    yield of_manifest("title", package.manifest["title"], package.manifest["title"], "what the package is", "/title")
    yield of_manifest("finding", package.finding, package.finding.replace("_", " "), "finding", "/findings/0")
    threshold = decimal(point["threshold"], 4)
    yield of_manifest("threshold", point["threshold"], threshold, "locked threshold", f"{where}/threshold")
    yield of_manifest("threshold-rule", point["name"], point["name"], "rule of the threshold", f"{where}/name")
    for key in ("sensitivity", "specificity"):
        says = f"{key} on the tune part, where the threshold was locked"
        yield of_manifest(f"locked-{key}", point[key], decimal(point[key]), says, f"{where}/{key}")
    main = package.main_set
    yield of_manifest("main-set", main, main, "set that the criteria are about", "/figures/baselines/set")
    rows = package.criteria
    met = sum(row["passed"] for row in rows)
    shown = f"{met} of {len(rows)}" if rows else NOT_RUN
    yield of_manifest("criteria-met", met, shown, "criteria met, the gate among them", "/figures/criteria")
    yield of_manifest("criteria-all", len(rows), count(len(rows)), "criteria, the gate among them", "/figures/criteria")
    gate = rows[0] if rows else {}
    shown = "met" if gate.get("passed") else "NOT MET" if gate else NOT_RUN
    says = "release gate: lower limit of the AUC above the best trivial baseline"
    yield of_manifest("gate", bool(gate.get("passed")), shown, says, "/figures/criteria/0")
    best = beats_baselines(package.evaluation)
    yield Figure(
        f"{package.name}.best-baseline",
        best[0] if best else None,
        f"{best[0]}, {estimate(mapping(package.evaluation['baselines'])[best[0]]['auc'])}" if best else package.absent,
        package.evaluation_path,
        "/baselines",
        package.evaluate_command,
        "best trivial baseline on the main set, with its AUC",
    )
    yield Figure(
        f"{package.name}.same-manifest",
        package.same_bytes,
        "yes" if package.same_bytes else "no" if package.evaluation else package.absent,
        package.evaluation_path,
        "/model/sha256",
        package.evaluate_command,
        "whether the manifest is byte for byte the one that was evaluated",
    )


def _of_sets(package: Released) -> Iterator[Figure]:
    """`PACKAGE.SET.FIGURE`, and `PACKAGE.cross.COHORT.FIGURE`; what is not there reads so."""
    for where, sets, prefix in (("sets", package.sets, ""), ("cross_population", package.cross, "cross.")):
        for name, item in sets.items():
            yield from _of_set(package, item, f"{package.name}.{prefix}{name}", f"/{where}/{name}")


def _of_set(package: Released, item: Mapping[str, Any], prefix: str, pointer: str) -> Iterator[Figure]:
    def figure(key: str, value: Any, shown: str, says: str, path: str) -> Figure:
        shown = shown if value is not None else package.absent
        return Figure(
            f"{prefix}.{key}",
            value,
            shown,
            package.evaluation_path,
            f"{pointer}/{path}",
            package.evaluate_command,
            f"{package.name}, {pointer.rpartition('/')[2]}: {says}",
        )

    for key, printed, says in OF_A_SET:
        yield figure(key.replace("_", "-"), value_of(item.get(key)), printed(item.get(key)), says, key)
    for prevalence in PREVALENCES:
        entry = mapping(mapping(item.get("predictive_values")).get(f"{prevalence:g}"))
        for key in ("ppv", "npv"):
            says = f"{key.upper()} at a prevalence of {percent(prevalence)}"
            path = f"predictive_values/{prevalence:g}/{key}"
            yield figure(f"{key}.{prevalence:g}", entry.get(key), decimal(entry.get(key)), says, path)
    for when in ("before", "after"):
        entry = mapping(mapping(item.get("calibration")).get(when))
        for key in _CALIBRATION:
            says = f"{key.replace('_', ' ')} {when} calibration"
            path = f"calibration/{when}/{key}"
            yield figure(f"{when}.{key.replace('_', '-')}", entry.get(key), decimal(entry.get(key)), says, path)


def shown(package: Released, item: Mapping[str, Any], key: str, printed: Any = estimate) -> str:
    """Return one figure of a set as a cell; what is not there reads "not measured", or "not run" without evaluation."""
    return str(printed(item.get(key))) if item.get(key) is not None else package.absent


def every_set(package: Released) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the sets with the name they are printed by, those of another population last."""
    yield from package.sets.items()
    for name, item in package.cross.items():
        yield f"{name} (another population)", item


def _table(package: Released, key: str, title: str, header: tuple[str, ...], rows: Any, numeric: Any) -> Table:
    return Table(
        f"{package.name}.{key}",
        f"{package.name} {package.manifest['version']}: {title}",
        header,
        tuple(rows),
        package.evaluation_path,
        "/sets",
        package.evaluate_command,
        tuple(numeric),
    )


def _sets(package: Released) -> Table:
    header = ("set", "images", "patients", "with", "without", "base rate", "AUC, DeLong", "AUC, patients drawn", "AP")
    keys = [key for key, _, _ in OF_A_SET[:8]]
    printed = {key: how for key, how, _ in OF_A_SET}
    rows = [(name, *(shown(package, item, key, printed[key]) for key in keys)) for name, item in every_set(package)]
    title = "sets, with 95 % intervals; AP is the average precision, whose floor is the base rate"
    return _table(package, "sets", title, header, rows, range(1, 6))


def _at_threshold(package: Released) -> Table:
    header = ("set", "sensitivity", "specificity", "accuracy", "precision", "F1", "TP / FN / FP / TN")
    rows = []
    for name, item in every_set(package):
        counts = mapping(item.get("confusion"))
        order = ("true_positive", "false_negative", "false_positive", "true_negative")
        rows.append(
            (
                name,
                *(shown(package, item, key) for key in ("sensitivity", "specificity", "accuracy", "precision")),
                shown(package, item, "f1", decimal),
                " / ".join(count(counts[key]) for key in order) if counts else package.absent,
            )
        )
    title = f"at the locked threshold of {decimal(package.point['threshold'], 4)}, with Wilson's 95 % intervals"
    return _table(package, "at-threshold", title, header, rows, ())


def _predictive_values(package: Released) -> Table:
    header = ("set", *(f"PPV / NPV at {100 * prevalence:g} %" for prevalence in PREVALENCES))
    rows = []
    for name, item in every_set(package):
        values = mapping(item.get("predictive_values"))
        cells = []
        for prevalence in PREVALENCES:
            entry = mapping(values.get(f"{prevalence:g}"))
            both = [decimal(entry[key]) for key in ("ppv", "npv") if entry.get(key) is not None]
            cells.append(" / ".join(both) if len(both) == 2 else package.absent)
        rows.append((name, *cells))
    title = "predictive values at stated prevalences, from sensitivity and specificity; an NPV is to be read beside "
    return _table(package, "predictive-values", title + "one minus the prevalence", header, rows, range(1, 5))


def _criteria(package: Released) -> Table:
    rows = [
        (row["says"], decimal(row["found"], 4), "met" if row["passed"] else "**NOT MET**", _despite(row))
        for row in package.criteria
    ]
    return Table(
        f"{package.name}.criteria",
        f"{package.name} {package.manifest['version']}: acceptance criteria and what came of them",
        ("criterion", "found", "result", "released all the same, because"),
        tuple(rows) or ((NOT_RUN, NOT_RUN, NOT_RUN, ""),),
        package.manifest_path,
        "/figures/criteria",
        package.export_command,
        (1,),
    )


def _despite(row: Mapping[str, Any]) -> str:
    if row["passed"]:
        return ""
    return str(row.get("released_despite", "no reason was asked for: only the gate stops a release"))


def _texts(package: Released) -> Iterator[Text]:
    evaluation = package.evaluation
    said = [f"`{name}`: {item['says']}" for name, item in every_set(package) if item.get("says")]
    yield Text(
        f"{package.name}.what-the-sets-are",
        _bullets(said) if said else f"{package.absent}.",
        package.evaluation_path,
        package.evaluate_command,
    )
    limits = package.manifest.get("limitations", ())
    yield Text(f"{package.name}.limits", _bullets(limits), package.manifest_path, package.export_command)
    if not evaluation:
        not_run = f"The whole evaluation is {package.why_not}."
    else:
        lines = evaluation.get("not_run", ())
        not_run = _bullets(lines) if lines else "The evaluation names nothing as not run."
    yield Text(f"{package.name}.not-run", not_run, package.evaluation_path, package.evaluate_command)


def _protocol(packages: tuple[Released, ...]) -> Table:
    """What was fixed, where, and whether the files of today prove that it was fixed before the test part was opened."""
    rows = []
    for package in packages:
        then = mapping(package.run.get("config")).get("sha256", "")
        same = bool(then) and then == package.config_sha256
        differs = package.config_differences
        rows += [
            (package.name, "SHA-256 of the experiment when it was trained", f"`{then or NOT_RUN}`"),
            (package.name, "SHA-256 of the experiment's file today", f"`{package.config_sha256 or NOT_RUN}`"),
            (
                package.name,
                "settings of training, input and threshold rule, then and today",
                "the same" if not differs else f"differ in {', '.join(differs)}" if NOT_RUN not in differs else NOT_RUN,
            ),
            (
                package.name,
                "words, limits and criteria dated before the test part was scored",
                "yes: the file is the one that was trained with"
                if same
                else "not shown by these records: the file was changed since; version control holds its history",
            ),
            (package.name, "threshold locked on", str(package.point["source"])),
            (package.name, "split, by rule and hash", _split(package)),
        ]
    sources = [path for package in packages for path in (package.run_path, package.config_path)]
    return Table(
        "validation.protocol",
        "what was fixed, and what the committed records can show of when",
        ("package", "what", "as recorded"),
        tuple(rows),
        ", ".join(sources),
        "/config",
        "; ".join(package.train_command for package in packages),
    )


def _split(package: Released) -> str:
    parts = mapping(mapping(package.run.get("cohort")).get("parts"))
    hashed = [f"{name} `{part['sha256'][:16]}…`" for name, part in parts.items() if part.get("sha256")]
    return ", ".join(hashed) if hashed else NOT_RUN


def _form() -> Table:
    return Table(
        "validation.may-be-missing",
        "keys of a set that may be missing from a results file; each then reads “not measured”",
        ("key",),
        tuple((f"`{key}`",) for key in may_be_missing()),
        "regulatory/results.py, regulatory/results.schema.json",
        "/$defs/SetFigures",
        "python -m regulatory.results",
    )


def _bullets(lines: Any) -> str:
    return "\n".join(f"- {line}" for line in lines)
