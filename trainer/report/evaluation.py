"""An evaluation's JSON as sections: model, data, every set with its figures and tables, limits, what was not run."""

from collections.abc import Mapping
from typing import Any

from trainer.report.document import Block, Bullets, Paragraph, Picture, Section, Table, facts
from trainer.report.figures import evaluation_drawings
from trainer.report.forest import GROUPS
from trainer.report.style import png
from trainer.report.words import (
    NOT_MEASURED,
    count,
    decimal,
    estimate,
    finding_name,
    interval,
    mapping,
    percent,
    plain,
    rows_of,
    value_of,
)

_WIDE = ("learning-curves", "subgroups")
METHODS = (
    "AUC with DeLong's 95 % interval, and beside it the percentile interval of a bootstrap that draws patients.",
    "Proportions (sensitivity, specificity, accuracy, precision) with Wilson's 95 % interval.",
    "The operating point was locked on the tune part; no threshold was chosen on the set it is measured on, but where "
    "a set is the tune part itself.",
    "Predictive values are computed from sensitivity and specificity at stated prevalences: the cohort's own mix is "
    "nobody's.",
    "Average precision depends on the base rate, which stands beside it.",
    "A subgroup with too few images with the finding is named and not measured.",
)
LIMITS = (
    "A research prototype. It was compared with labels, not with what became of patients.",
    "A case that is not flagged may still have the finding; it keeps its place in the reading queue.",
    "Nothing is said of other hospitals, devices, ages or views than those in the tables.",
    "No reader took part: what the flags would do to reading times or to care was not studied.",
)


def evaluation_sections(evaluation: Mapping[str, Any]) -> list[Section]:
    """Return the sections of an evaluation."""
    pictures: dict[str, list[Block]] = {}
    for drawing in evaluation_drawings(evaluation):
        width = 1.0 if any(word in drawing.key for word in _WIDE) else 0.8 if not drawing.group else 0.5
        pictures.setdefault(drawing.group, []).append(Picture(png(drawing.figure), drawing.caption, width))
    model = mapping(evaluation.get("model"))
    sections = [
        Section(f"Evaluation: {model.get('name', 'unnamed model')}", tuple(_summary(evaluation))),
        Section("Model and training", (*_model(evaluation), *pictures.get("", ())), 2),
        Section("Data", tuple(_data(evaluation)), 2),
    ]
    for key, word in (("sets", "Set"), ("cross_population", "Another population")):
        for name, item in mapping(evaluation.get(key)).items():
            blocks = (*_set(mapping(item)), *pictures.get(str(name), ()), *_subgroups(mapping(item)))
            sections.append(Section(f"{word}: {name}", blocks, 2))
    sections.append(Section("Trivial baselines", (_baselines(evaluation),), 2))
    sections.append(Section("Methods and limits", (Bullets(METHODS), Paragraph("Limits:"), Bullets(LIMITS)), 2))
    not_run = tuple(str(line) for line in rows_of(evaluation.get("not_run")))
    said = Bullets(not_run) if not_run else Paragraph("Nothing is named as not run.")
    sections.append(Section("Not run", (said,), 2))
    return sections


def main_set(evaluation: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the set that an evaluation is about: the one it names, or the first."""
    sets = mapping(evaluation.get("sets"))
    name = evaluation.get("main_set")
    if not isinstance(name, str) or name not in sets:
        name = next(iter(sets), "")
    return str(name), mapping(sets.get(name))


def _summary(evaluation: Mapping[str, Any]) -> list[Block]:
    name, item = main_set(evaluation)
    blocks: list[Block] = [
        Paragraph(
            f"Finding: {finding_name(evaluation.get('finding'))}. Main set: {name or NOT_MEASURED}"
            f" ({count(item.get('images'))} images, {count(item.get('present'))} with the finding). "
            f"{item.get('says', '')}"
        ),
        Paragraph(
            f"AUC {estimate(item.get('auc'))}; sensitivity {estimate(item.get('sensitivity'))} and specificity "
            f"{estimate(item.get('specificity'))} at the locked operating point; accuracy "
            f"{estimate(item.get('accuracy'))}."
        ),
    ]
    criteria = [mapping(row) for row in rows_of(evaluation.get("criteria"))]
    if criteria:
        rows = tuple(
            (
                criterion_name(row),
                plain(row.get("found")),
                "met" if row.get("passed") is True else "not met" if row.get("passed") is False else NOT_MEASURED,
            )
            for row in criteria
        )
        blocks.append(Table(("criterion, stated beforehand", "found", ""), rows, "Acceptance criteria", (3, 1.4, 1)))
    else:
        blocks.append(Paragraph("No acceptance criteria are recorded.", "note"))
    return blocks


def criterion_name(row: Mapping[str, Any]) -> str:
    """Return a criterion's sentence, or its terms where it has none."""
    if row.get("says"):
        return str(row["says"])
    return plain({key: value for key, value in row.items() if key not in ("found", "passed")})


def _model(evaluation: Mapping[str, Any]) -> list[Block]:
    model, point = mapping(evaluation.get("model")), mapping(evaluation.get("operating_point"))
    calibration, training = mapping(evaluation.get("calibration")), mapping(evaluation.get("training"))
    rows = [
        ("name", str(model.get("name", NOT_MEASURED))),
        ("kind", plain(model.get("kind"))),
        ("architecture", plain(model.get("architecture"))),
        ("parameters", count(model.get("parameters") or None)),
        ("input (rows, columns)", plain(model.get("size"))),
        ("SHA-256 of the weights", plain(model.get("sha256"))),
        ("operating point: rule", plain(point.get("rule"))),
        ("operating point: threshold", decimal(point.get("threshold"), 4)),
        (
            "operating point: where it was locked",
            f"{plain(point.get('source'))}; sensitivity {estimate(point.get('sensitivity'))}, specificity "
            f"{estimate(point.get('specificity'))} there",
        ),
        (
            "calibration",
            f"slope {decimal(calibration.get('slope'))}, intercept {decimal(calibration.get('intercept'))}",
        ),
    ]
    settings = _flat({key: value for key, value in training.items() if key != "log"})
    log = [mapping(row) for row in rows_of(training.get("log"))]
    blocks: list[Block] = [facts(rows)]
    if settings:
        blocks.append(facts(settings, "Training"))
    if log:
        keys = tuple(dict.fromkeys(key for row in log for key in row))
        table = tuple(tuple(plain(row.get(key)) for key in keys) for row in log)
        header = tuple(key.replace("_", " ") for key in keys)
        blocks.append(Table(header, table, "Training log", numeric=tuple(range(len(keys)))))
    else:
        blocks.append(Paragraph(f"Training log: {NOT_MEASURED}", "note"))
    if evaluation.get("measured_with"):
        blocks.append(facts(_flat(mapping(evaluation["measured_with"])), "Measured with"))
    return blocks


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return settings inside settings as rows of their own: a wall of text is not read."""
    rows = []
    for key, value in settings.items():
        name = f"{before}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{name}: ")
        else:
            rows.append((name, "none" if value is None else plain(value)))
    return rows


def _data(evaluation: Mapping[str, Any]) -> list[Block]:
    cohort = mapping(evaluation.get("cohort"))
    rows = tuple(
        (
            name,
            count(mapping(part).get("images")),
            count(mapping(part).get("patients")),
            count(mapping(part).get("present")),
            count(mapping(part).get("absent")),
            plain(mapping(part).get("sha256")),
        )
        for name, part in mapping(cohort.get("parts")).items()
    )
    problems = tuple(str(line) for line in rows_of(cohort.get("problems")))
    header = ("part", "images", "patients", "present", "absent", "SHA-256 of the list")
    blocks: list[Block] = [
        Paragraph(f"{cohort.get('title', NOT_MEASURED)}. Split: {cohort.get('split_rule', NOT_MEASURED)}"),
        Table(header, rows, shares=(0.7, 0.8, 0.8, 0.8, 0.8, 3.4), numeric=(1, 2, 3, 4)),
    ]
    if problems:
        blocks += [Paragraph("Problems of the source:"), Bullets(problems)]
    return blocks


def _set(item: Mapping[str, Any]) -> list[Block]:
    rows = [
        ("images / patients", f"{count(item.get('images'))} / {count(item.get('patients'))}"),
        ("with / without the finding", f"{count(item.get('present'))} / {count(item.get('absent'))}"),
        ("base rate", percent(item.get("base_rate"))),
        ("AUC (DeLong)", estimate(item.get("auc"))),
        ("AUC (bootstrap over patients)", estimate(item.get("auc_patient_bootstrap"))),
        ("average precision", estimate(item.get("average_precision"))),
        ("accuracy", estimate(item.get("accuracy"))),
        ("sensitivity (recall)", estimate(item.get("sensitivity"))),
        ("specificity", estimate(item.get("specificity"))),
        ("precision", estimate(item.get("precision"))),
        ("F1", decimal(item.get("f1"))),
    ]
    values = mapping(item.get("predictive_values"))
    blocks: list[Block] = [Paragraph(str(item.get("says", ""))), facts(rows, "Figures, with 95 % intervals")]
    if values:
        stated = tuple(
            (_prevalence(name), decimal(mapping(entry).get("ppv")), decimal(mapping(entry).get("npv")))
            for name, entry in values.items()
        )
        header = ("prevalence", "positive predictive value", "negative predictive value")
        blocks.append(Table(header, stated, "At stated prevalences", numeric=(1, 2)))
    calibration = mapping(item.get("calibration"))
    if calibration:
        names = ("slope", "intercept", "brier", "expected_calibration_error")
        table = tuple(
            (when, *(decimal(mapping(calibration.get(when)).get(name)) for name in names))
            for when in ("before", "after")
        )
        columns = ("calibration", "slope", "intercept", "Brier score", "expected calibration error")
        blocks.append(Table(columns, table, "Calibration on this set", numeric=(1, 2, 3, 4)))
    else:
        blocks.append(Paragraph(f"Calibration: {NOT_MEASURED}", "note"))
    return blocks


def _prevalence(text: str) -> str:
    try:
        return f"{100 * float(text):g} %"
    except ValueError:
        return text


def _subgroups(item: Mapping[str, Any]) -> list[Block]:
    rows = []
    for key, members in mapping(item.get("subgroups")).items():
        for name, found in mapping(members).items():
            entry = mapping(found)
            figures = ("auc", "sensitivity", "specificity")
            few = entry.get("too_few")
            rows.append(
                (
                    GROUPS.get(key, key),
                    str(name).replace("_", " "),
                    f"{count(entry.get('present'))} / {count(entry.get('absent'))}",
                    *((f"too few: {few}", "", "") if few else (estimate(entry.get(figure)) for figure in figures)),
                )
            )
    if not rows:
        return [Paragraph(f"Subgroups: {NOT_MEASURED}", "note")]
    header = ("group", "", "present / absent", "AUC", "sensitivity", "specificity")
    return [Table(header, tuple(rows), "Subgroups, with 95 % intervals", (1, 1.3, 1.1, 2, 2, 2))]


def _baselines(evaluation: Mapping[str, Any]) -> Block:
    rows = tuple(
        (str(name), str(mapping(entry).get("says", "")), estimate(mapping(entry).get("auc")))
        for name, entry in mapping(evaluation.get("baselines")).items()
        if isinstance(entry, Mapping)
    )
    if not rows:
        return Paragraph(f"Trivial baselines: {NOT_MEASURED}", "note")
    return Table(("baseline", "what it knows", "AUC (95 % CI)"), rows, shares=(1, 2.6, 1.4))


def beats_baselines(evaluation: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return the best trivial baseline and whether the lower limit of the model's AUC is above it; None if unknown."""
    found = {
        str(name): value
        for name, entry in mapping(evaluation.get("baselines")).items()
        if (value := value_of(mapping(entry).get("auc"))) is not None
    }
    limits = interval(main_set(evaluation)[1].get("auc"))
    if not found or limits is None:
        return None
    best = max(found, key=lambda name: found[name])
    return best, limits[0] > found[best]
