"""What leaks and how far the labels are right: overlap of parts, shortcuts, agreement with other readers.

Read from the explorations in trainer/runs (`cxr-train eda`); a cohort that was not explored reads "not run".
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from regulatory.figures import Figure, Material, Table, Text
from regulatory.sources.cohorts import Explored, explored, figure_of, table_of
from regulatory.sources.records import NOT_RUN
from trainer.eda.audit import FLAG
from trainer.report.words import count, decimal, estimate, mapping, rows_of, value_of


def gather(root: Path) -> Material:
    """Return the figures, tables and texts of 06_data/splits_and_leakage.md and reference_standard.md."""
    figures = [
        Figure(
            "leaks.bound", FLAG, decimal(FLAG, 1), "trainer/eda/audit.py:FLAG", says="bound of the audit for shortcuts"
        )
    ]
    tables: list[Table] = []
    texts: list[Text] = []
    for cohort in explored(root):
        figures += list(_figures(cohort))
        tables += [_overlap(cohort), _shortcuts(cohort), _agreement(cohort)]
        texts.append(_split_rule(cohort))
    return Material(tuple(figures), tuple(tables), (), tuple(texts))


def _figures(cohort: Explored) -> Iterator[Figure]:
    overlap = mapping(cohort.record.get("overlap"))

    def figure(key: str, value: Any, shown: str, says: str, pointer: str) -> Figure:
        return figure_of(cohort, key, value, shown, says, pointer)

    patients = mapping(overlap.get("patients"))
    learned = [value for pair, value in patients.items() if "apart" not in pair]
    says = "patients that stand in two of the parts train, tune and test"
    yield figure("shared-patients", sum(learned) if learned else None, count(sum(learned)), says, "/overlap/patients")
    groups = [value for pair, value in mapping(overlap.get("duplicate_groups")).items() if "apart" not in pair]
    says = "groups of the same pixels that stand in two of the parts train, tune and test"
    yield figure(
        "shared-pixels", sum(groups) if groups else None, count(sum(groups)), says, "/overlap/duplicate_groups"
    )
    flagged = [row for row in map(mapping, rows_of(cohort.record.get("shortcuts"))) if row.get("flagged")]
    told = [row for row in map(mapping, rows_of(cohort.record.get("shortcuts"))) if "auc" in row]
    says = "features without anatomy that tell a label by themselves, of those measured"
    shown = f"{len(flagged)} of {len(told)}"
    yield figure("shortcuts-flagged", len(flagged) if told else None, shown, says, "/shortcuts")
    for row in map(mapping, rows_of(cohort.record.get("agreement"))):
        for key in ("ppv", "sensitivity", "kappa"):
            value = row.get(key)
            says = f"label {row['label']} held against reader {row['reader']}: {key} ({count(row['n'])} images)"
            shown = decimal(value) if key == "kappa" else estimate(value)
            yield figure(f"{row['label']}.by.{row['reader']}.{key}", value_of(value), shown, says, "/agreement")


def _overlap(cohort: Explored) -> Table:
    overlap = mapping(cohort.record.get("overlap"))
    groups = mapping(overlap.get("duplicate_groups"))
    rows = [(pair, count(value), count(groups.get(pair))) for pair, value in mapping(overlap.get("patients")).items()]
    header = ("parts", "patients in both", "groups of the same pixels in both")
    title = "patients and pictures that stand in two parts; part “apart” is used for nothing"
    return table_of(cohort, "overlap", title, header, rows, "/overlap")


def _shortcuts(cohort: Explored) -> Table:
    """What tells the label without any anatomy; rows that could not be measured say why."""
    rows = [
        (
            str(row["feature"]).replace("_", " "),
            str(row["label"]),
            f"{count(row.get('present'))} / {count(row.get('absent'))}",
            estimate(row["auc"]) if "auc" in row else f"not measured: {row.get('not_run', '')}",
            "**tells the label**" if row.get("flagged") else "",
        )
        for row in map(mapping, rows_of(cohort.record.get("shortcuts")))
    ]
    header = ("feature", "label", "present / absent", "AUC of the feature alone", "")
    title = (
        "what a model could read instead of anatomy; marked where the lower limit of the AUC is above the audit's bound"
    )
    return table_of(cohort, "shortcuts", title, header, rows, "/shortcuts")


def _agreement(cohort: Explored) -> Table:
    found = cohort.record.get("agreement")
    rows = [
        (
            str(row["label"]),
            str(row["reader"]).replace("_", " "),
            count(row["n"]),
            *(estimate(row.get(key)) for key in ("ppv", "npv", "sensitivity", "specificity")),
            decimal(row.get("kappa")),
        )
        for row in map(mapping, rows_of(found))
    ]
    if isinstance(found, str):
        rows = [(found, "", "", "", "", "", "", "")]
    header = ("label", "reader (reference)", "images", "PPV", "NPV", "sensitivity", "specificity", "kappa")
    return table_of(
        cohort, "agreement", "its labels held against other readers of the same images", header, rows, "/agreement"
    )


def _split_rule(cohort: Explored) -> Text:
    rule = mapping(cohort.record.get("cohort")).get("split_rule", f"{NOT_RUN}.")
    return Text(f"{cohort.name}.split-rule", f"> {rule}", cohort.path, cohort.command)
