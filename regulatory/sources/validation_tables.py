"""Baselines, subgroups, calibration, other populations and readers, and the look at the pixels before a model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_node.findings.acceptance import ACCEPTANCE_RULES
from regulatory.figures import Figure, Material, Table, Text
from regulatory.sources.records import NOT_RUN, RUNS, Released, read_json, released
from regulatory.sources.validation import every_set, shown
from trainer.report.forest import GROUPS
from trainer.report.words import KINDS, count, decimal, estimate, finding_name, mapping, p_value, rows_of, value_of

RULES = "cxr_node/findings/acceptance.py"
PLAUSIBILITY = "cxr_node/imaging/plausibility.json"
PLAUSIBILITY_COMMAND = "python -m trainer.plausibility --data DIR --out cxr_node/imaging"
COMPARISONS = ("kermany", "nih-pneumonia", "nih-abnormal")
_FILES, _DRAWN, _ALL = "dicom files, pixels alone", "newly drawn pictures", "all"


def gather(root: Path) -> Material:
    """Return the tables of 08_validation/{baselines,subgroups,calibration,gate,cross_population}.md."""
    figures: list[Figure] = []
    tables: list[Table] = []
    texts: list[Text] = []
    for package in released(root):
        tables += [_baselines(package), _calibration(package), _elsewhere(package), *_subgroups(package)]
        figures.append(_subgroups_measured(package))
    for name in COMPARISONS:
        path = f"{RUNS}/comparison-{name}.json"
        found = read_json(root / path)
        tables += [_ladder(name, path, found), _paired(name, path, found)]
    report = read_json(root / PLAUSIBILITY)
    figures += list(_gate_figures(report))
    tables += [_rules(), _turns(report), _drawn(report), _files(report)]
    texts.append(_gate_limits(report))
    return Material(tuple(figures), tuple(tables), (), tuple(texts))


def _of(package: Released, key: str, title: str, header: tuple[str, ...], rows: Any, pointer: str) -> Table:
    rows = tuple(rows) or ((package.absent, *("" for _ in header[1:])),)
    title = f"{package.name} {package.manifest['version']}: {title}"
    path, command = package.evaluation_path, package.evaluate_command
    return Table(f"{package.name}.{key}", title, header, rows, path, pointer, command)


def _baselines(package: Released) -> Table:
    """The ladder's lowest rungs on the main set, and what the model still tells where a rung tells nothing."""
    main = mapping(package.sets.get(package.main_set))
    rows = [
        (
            name,
            entry["says"],
            estimate(entry["auc"]),
            shown(package, entry, "model_within_fifths"),
            shown(package, entry, "baseline_within_fifths"),
        )
        for name, entry in mapping(package.evaluation.get("baselines")).items()
    ]
    if rows:
        own = estimate(main.get("auc"))
        rows.append((f"**{package.name}**", "the package itself, all images", f"**{own}**", "", ""))
    header = ("predictor", "what it knows", "AUC", "package, images alike to it", "itself, images alike to it")
    title = f"trivial baselines on {package.main_set}"
    return _of(package, "baselines", title, header, rows, "/baselines")


def _calibration(package: Released) -> Table:
    header = ("set", "", "slope", "intercept", "Brier score", "expected calibration error")
    keys = ("slope", "intercept", "brier", "expected_calibration_error")
    rows = []
    for name, item in every_set(package):
        both = mapping(item.get("calibration"))
        for when in ("before", "after"):
            cells = [shown(package, mapping(both.get(when)), key, decimal) for key in keys]
            rows.append((name if when == "before" else "", when, *cells))
    title = "calibration before and after the map that was learned on the tune part; ideal: slope one, intercept nought"
    return _of(package, "calibration", title, header, rows, "/sets/*/calibration")


def _elsewhere(package: Released) -> Table:
    """The same package on its own test patients, against other readers, on changed pictures, on another population."""
    chosen = (package.main_set, "official-test", "rsna-readers", "google-readers", "tune-perturbed")
    names = [name for name in dict.fromkeys(chosen) if name in package.sets]
    rows = [(name, package.sets[name]) for name in names]
    rows += [(f"{name} (another population)", item) for name, item in package.cross.items()]
    header = ("set", "whose images, whose labels", "with / without", "AUC", "sensitivity", "specificity")
    cells = [
        (
            name,
            str(item.get("says", package.absent)),
            f"{shown(package, item, 'present', count)} / {shown(package, item, 'absent', count)}",
            *(shown(package, item, key) for key in ("auc", "sensitivity", "specificity")),
        )
        for name, item in rows
    ]
    if package.evaluation and not package.cross:
        cells.append(("another population", "no cohort of another population has this finding", NOT_RUN, "", "", ""))
    title = "its own patients beside other readers, changed pictures and another population, at the same threshold"
    return _of(package, "elsewhere", title, header, cells, "/sets, /cross_population")


def _subgroups(package: Released) -> Iterator[Table]:
    """A table for the main set, one for all others together that have subgroups."""
    header = ("set", "group", "", "with / without", "AUC", "sensitivity", "specificity")
    main = package.main_set
    for key, names in (
        ("subgroups", [main]),
        ("subgroups-of-other-sets", [name for name, _ in every_set(package) if name not in (main, "tune")]),
    ):
        sets = dict(every_set(package))
        rows = [
            (name, GROUPS.get(group, group), member.replace("_", " "), *_subgroup(package, entry))
            for name in names
            for group, members in mapping(mapping(sets.get(name)).get("subgroups")).items()
            for member, entry in mapping(members).items()
        ]
        title = f"subgroups of {main}" if key == "subgroups" else "subgroups of the other sets"
        yield _of(package, key, f"{title}, with 95 % intervals", header, rows, "/sets/*/subgroups")


def _subgroup(package: Released, entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    counts = f"{count(entry.get('present'))} / {count(entry.get('absent'))}"
    if entry.get("too_few"):
        return counts, f"too few: {entry['too_few']}", "too few", "too few"
    cells = [shown(package, entry, key) for key in ("auc", "sensitivity", "specificity")]
    return counts, cells[0], cells[1], cells[2]


def _subgroups_measured(package: Released) -> Figure:
    groups = mapping(mapping(package.sets.get(package.main_set)).get("subgroups"))
    entries = [entry for members in groups.values() for entry in mapping(members).values()]
    measured = sum("auc" in entry for entry in entries)
    return Figure(
        f"{package.name}.subgroups-measured",
        measured,
        f"{measured} of {len(entries)}" if entries else package.absent,
        package.evaluation_path,
        f"/sets/{package.main_set}/subgroups",
        package.evaluate_command,
        f"subgroups of {package.main_set} with enough images for an AUC, of those named",
    )


def _ladder(name: str, path: str, found: Mapping[str, Any]) -> Table:
    keys = ("auc", "accuracy", "sensitivity", "specificity")
    rows = [
        (
            str(row.get("name")),
            KINDS.get(str(row.get("kind")), str(row.get("kind"))),
            str(row.get("says", "")),
            *(estimate(row[key]) if value_of(row.get(key)) is not None else "–" for key in keys),
        )
        for row in map(mapping, rows_of(found.get("rows")))
    ]
    return Table(
        f"comparison.{name}",
        f"{found.get('title', name)}, set {found.get('set', NOT_RUN)}: what was trained here, what is trivial, and "
        "what others published (on their own splits; – is what they do not give)",
        ("name", "kind", "says", "AUC", "accuracy", "sensitivity", "specificity"),
        tuple(rows) or ((NOT_RUN, "", "", "", "", "", ""),),
        path,
        "/rows",
        compare_command(name, found),
    )


def _paired(name: str, path: str, found: Mapping[str, Any]) -> Table:
    rows = [
        (
            f"{row.get('a')} − {row.get('b')}",
            str(row.get("figure")),
            decimal(row.get("difference")) if "difference" in row else "–",
            f"{decimal(row['low'])} to {decimal(row['high'])}" if "low" in row else "–",
            p_value(row.get("p")),
            str(row.get("test", "")),
        )
        for row in map(mapping, rows_of(found.get("paired")))
    ]
    return Table(
        f"comparison.{name}.paired",
        f"{finding_name(found.get('finding'))}, set {found.get('set', NOT_RUN)}: paired differences on the same images",
        ("pair", "figure", "difference", "95 % interval", "p", "test"),
        tuple(rows) or ((NOT_RUN, "", "", "", "", ""),),
        path,
        "/paired",
        compare_command(name, found),
        (2, 4),
    )


def compare_command(name: str, found: Mapping[str, Any]) -> str:
    """Return the command of a comparison, the models in the order of its rows."""
    models = []
    for row in map(mapping, rows_of(found.get("rows"))):
        if row.get("kind") == "ours":
            first = str(row["name"]).split()[0]
            models.append(f"cxr_node/packages/{first}" if " " in str(row["name"]) else f"{RUNS}/{first}")
    chosen = f" --set {found['set']}" if found.get("set") == "internal-test" else ""
    return (
        f"cxr-train compare {' '.join(models)} --data DIR --part test{chosen} --out OUT && "
        f"cp OUT/comparison.json {RUNS}/comparison-{name}.json"
    )


def _gate_figures(report: Mapping[str, Any]) -> Iterator[Figure]:
    """`gate.all.upside-down`: the share excluded with Wilson's interval; `gate.rules`: rules on the header."""
    yield Figure(
        "gate.rules",
        len(ACCEPTANCE_RULES),
        count(len(ACCEPTANCE_RULES)),
        f"{RULES}:ACCEPTANCE_RULES",
        says="rules of the acceptance table that every image's header has to satisfy",
    )
    test = mapping(report.get("test"))
    for group in (_ALL, _DRAWN):
        for kind, entry in mapping(test.get(group)).items():
            yield Figure(
                f"gate.{_slug(group)}.{_slug(kind)}",
                entry.get("rate"),
                _share(entry),
                PLAUSIBILITY,
                f"/test/{group}/{kind}",
                PLAUSIBILITY_COMMAND,
                f"share excluded by their pixels, {group}: {kind}",
            )
    refused = mapping(mapping(test.get(_ALL)).get("as it is"))
    yield Figure(
        "gate.over-refusal",
        refused.get("rate"),
        _share(refused) if refused else NOT_RUN,
        PLAUSIBILITY,
        f"/test/{_ALL}/as it is",
        PLAUSIBILITY_COMMAND,
        "share of real upright chests that are excluded by mistake",
    )
    yield Figure(
        "gate.real-chests",
        refused.get("of"),
        count(refused["of"]) if refused else NOT_RUN,
        PLAUSIBILITY,
        f"/test/{_ALL}/as it is/of",
        PLAUSIBILITY_COMMAND,
        "real chests of the test parts",
    )


def _share(entry: Mapping[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{100 * entry['rate']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _gate_table(key: str, title: str, header: tuple[str, ...], rows: Any, pointer: str) -> Table:
    rows = tuple(rows) or ((NOT_RUN, *("" for _ in header[1:])),)
    return Table(f"gate.{key}", title, header, rows, PLAUSIBILITY, pointer, PLAUSIBILITY_COMMAND)


def _rules() -> Table:
    return Table(
        "gate.header",
        "the acceptance table, in the order in which the gate asks",
        ("reason", "attribute", "accepts", "where it is missing"),
        tuple((f"`{rule.reason}`", rule.attribute, rule.accepts, rule.when_missing) for rule in ACCEPTANCE_RULES),
        f"{RULES}:ACCEPTANCE_RULES",
    )


def _turns(report: Mapping[str, Any]) -> Table:
    """A row for each group of real chests, a column for each way of turning it wrong."""
    groups = {name: entry for name, entry in mapping(report.get("test")).items() if "as it is" in mapping(entry)}
    kinds = list(next(iter(groups.values()), {}))
    header = ("real chests of the test parts", "images", *kinds)
    rows = [
        (name, count(entry["as it is"]["of"]), *(_share(entry[kind]) for kind in kinds))
        for name, entry in groups.items()
    ]
    title = "share excluded with Wilson's 95 % interval; “as it is” is over-refusal, every other column is catch rate"
    return _gate_table("turns", title, header, rows, "/test")


def _drawn(report: Mapping[str, Any]) -> Table:
    entries = mapping(mapping(report.get("test")).get(_DRAWN))
    rows = [(name, count(entry["of"]), count(entry["excluded"]), _share(entry)) for name, entry in entries.items()]
    header = ("drawn picture", "pictures", "excluded", "catch rate")
    return _gate_table(
        "drawn", "pictures that are no chest, drawn anew by another seed", header, rows, f"/test/{_DRAWN}"
    )


def _files(report: Mapping[str, Any]) -> Table:
    entries = mapping(mapping(report.get("test")).get(_FILES))
    title = "public DICOM test files, none of them trained on: what the pixels alone are taken for"
    return _gate_table("files", title, ("file", "said of its pixels"), entries.items(), f"/test/{_FILES}")


def _gate_limits(report: Mapping[str, Any]) -> Text:
    lines = rows_of(report.get("limits"))
    said = "\n".join(f"- {line}" for line in lines) if lines else f"The look at the pixels was {NOT_RUN}."
    return Text("gate.limits", said, PLAUSIBILITY, PLAUSIBILITY_COMMAND)


def _slug(text: str) -> str:
    return text.replace(" ", "-").replace(",", "")
