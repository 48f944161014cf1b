"""An exploration from end to end: table, pictures, audit; one JSON, and figures and a page drawn from it."""

import json
import math
from pathlib import Path
from typing import Any

from trainer.cohorts import Cohort
from trainer.eda import agreement, audit, pictures, table
from trainer.eda.table import Columns

SCHEMA = "cxr-train exploration 1"
EDA = "eda.json"
NO_PICTURES = "not run: no pictures found"
_NOT_ASKED = "not run: no pictures were asked for"
_GRID = 8


def explore(cohort: Cohort, out: Path, *, pictures: int = 1000, seed: int = 1) -> dict[str, Any]:
    """Explore a cohort; write ``eda.json``, ``eda.html`` and figures into `out` and return what the JSON holds.

    The table is described whole; of the pictures, at most so many as `pictures` says are read. Grids of samples show
    cases of the cohort: they are in the page and in ``figures``, never in the JSON, and are not to be published.
    """
    from trainer.eda.figures import drawn_exploration, sample_grids
    from trainer.eda.page import exploration_page

    out.mkdir(parents=True, exist_ok=True)
    columns = Columns.of(cohort)
    record = describe(cohort, columns, most=pictures, seed=seed)
    (out / EDA).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", "utf-8")
    drawn = drawn_exploration(record)
    grids = sample_grids(cohort, columns.main[0] if columns.main else "", seed, _GRID) if pictures > 0 else []
    (out / "figures").mkdir(exist_ok=True)
    for name, content in [*((drawing.key, content) for drawing, content in drawn), *(grid[:2] for grid in grids)]:
        (out / "figures" / f"{name}.png").write_bytes(content)
    (out / "eda.html").write_text(exploration_page(record, drawn, grids), "utf-8")
    return record


def describe(cohort: Cohort, columns: Columns, *, most: int, seed: int) -> dict[str, Any]:
    """Return the exploration as JSON holds it; a section that could not be run is the sentence that says so."""
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "cohort": {
            "name": cohort.name,
            "title": cohort.title,
            "split_rule": cohort.split_rule,
            "problems": list(cohort.problems),
        },
    }
    if not len(columns.frame):
        return record | {"not_run": ["not run: the cohort has no rows"]}
    record |= {
        "main_labels": list(columns.main),
        "counts": table.counts(columns),
        "prevalence": table.prevalence(columns),
        "co_occurrence": table.co_occurrence(columns) if len(columns.findings) > 1 else "not run: one finding only",
        "comorbidity": table.comorbidity(columns) or "not run: no pneumonia beside other findings",
        **table.per_patient(columns),
        "age": table.ages(columns),
        "sex": table.by_value(columns, "sex"),
        "view": table.by_value(columns, "view"),
        "original_size": table.original_sizes(columns) or "not run: the table has no sizes as acquired",
        "pixel_spacing_mm": table.pixel_spacings(columns) or "not run: the table has no pixel spacing",
        "agreement": agreement.agreement(columns) or "not run: no other reader's labels found",
        "overlap": audit.overlap(columns),
        "duplicates": {"declared": audit.declared_duplicates(columns)},
    }
    shortcuts = audit.table_shortcuts(columns)
    chosen, says = pictures.sample(cohort.cases, most, seed, columns.main[0] if columns.main else "")
    found, problems = pictures.measured(chosen)
    if found:
        record |= {
            "sampled": {"says": says, "asked": len(chosen), "read": len(found), "unreadable": problems, "seed": seed},
            "picture_size": pictures.picture_sizes(found),
            "intensity": pictures.groups(found, list(columns.labels)),
        }
        record["duplicates"]["bytes"] = audit.same_bytes(found)
        shortcuts += audit.picture_shortcuts(columns, found)
    else:
        why = _NOT_ASKED if cohort.cases and most <= 0 else NO_PICTURES
        if problems:
            why = f"not run: none of {len(problems)} pictures could be read"
        record |= {"sampled": why, "picture_size": why, "intensity": why, "picture_shortcuts": why}
        record["duplicates"]["bytes"] = why
    record["shortcuts"] = shortcuts
    record["not_run"] = [
        f"{key.replace('_', ' ')}: {value.removeprefix('not run: ')}"
        for key, value in [*record.items(), ("duplicates by bytes", record["duplicates"]["bytes"])]
        if isinstance(value, str) and value.startswith("not run")
    ]
    return _without_nan(record)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: it becomes null, which readers print as not measured."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
