"""From the JSON of other steps to documents: a page and a PDF for the expert, slides for everybody."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cxr_node.errors import CxrNodeError
from trainer.report.comparison import comparison_sections
from trainer.report.document import Document, Paragraph, Section, Table
from trainer.report.evaluation import evaluation_sections
from trainer.report.page import html
from trainer.report.pdf import pdf
from trainer.report.slides import slides
from trainer.report.words import BANNER, mapping

EVALUATION, COMPARISON, EXPLORATION = "evaluation.json", "comparison.json", "eda.json"
SCHEMAS = {
    EVALUATION: "cxr-train evaluation 1",
    COMPARISON: "cxr-train comparison 1",
    EXPLORATION: "cxr-train exploration 1",
}


class ReportError(CxrNodeError):
    """There is nothing to report on, or a file is not what its name says; says which."""


def write_report(folders: Path | Iterable[Path], out: Path) -> dict[str, Path]:
    """Write ``report.html``, ``report.pdf`` and ``slides.pdf`` into `out`; return their paths by name.

    Reads every ``evaluation.json``, ``comparison.json`` and ``eda.json`` that is in the folders. No figure is in a
    report that is not in one of them. The slides are about the first evaluation, and the comparison and exploration
    of the same cohort.

    Raises
    ------
    ReportError
        None of the three is in any folder, or one is no JSON of its schema.
    """
    folders = [folders] if isinstance(folders, Path) else list(folders)
    files = {name: [folder / name for folder in folders if (folder / name).is_file()] for name in SCHEMAS}
    found = {name: [_read(path) for path in paths] for name, paths in files.items()}
    if not any(found.values()):
        places = ", ".join(str(folder) for folder in folders) or "no folder"
        raise ReportError(f"{places}: expected {', '.join(SCHEMAS)} or some of them, found none")
    made_from = [
        (f"{path.parent.name}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
        for paths in files.values()
        for path in paths
    ]
    document = expert_document(found[EVALUATION], found[COMPARISON], found[EXPLORATION], made_from)
    out.mkdir(parents=True, exist_ok=True)
    written = {name: out / name for name in ("report.html", "report.pdf", "slides.pdf")}
    written["report.html"].write_text(html(document), "utf-8")
    written["report.pdf"].write_bytes(pdf(document))
    evaluation = next(iter(found[EVALUATION]), {})
    written["slides.pdf"].write_bytes(
        slides(evaluation, _fitting(evaluation, found[COMPARISON]), _fitting(evaluation, found[EXPLORATION]))
    )
    return written


def expert_document(
    evaluations: list[Mapping[str, Any]],
    comparisons: list[Mapping[str, Any]],
    explorations: list[Mapping[str, Any]],
    made_from: list[tuple[str, str]],
) -> Document:
    """Return everything that the JSON holds, as one document; a step that is missing is named as not run.

    `made_from` names each results file with its SHA-256.
    """
    from trainer.eda.page import exploration_sections

    about = (
        f"{BANNER}. This report is made from the results files of other steps; no figure in it comes from elsewhere. "
        "It is for readers who know imaging statistics. Sensitivity and specificity are those of a prioritization aid: "
        "an image that is not flagged is not free of the finding, and stays in the reading queue."
    )
    sources = Table(("results file", "SHA-256"), tuple(made_from), "Made from", (1, 2.4))
    sections = [Section("About this report", (Paragraph(about), sources))]
    for evaluation in evaluations:
        sections += evaluation_sections(evaluation)
    for comparison in comparisons:
        sections += comparison_sections(comparison)
    for exploration in explorations:
        title = mapping(exploration.get("cohort")).get("title", "unnamed cohort")
        sections.append(Section(f"Exploration: {title}", ()))
        sections += exploration_sections(exploration)
    for name, members in (("Evaluation", evaluations), ("Comparison", comparisons), ("Exploration", explorations)):
        if not members:
            sections.append(Section(name, (Paragraph("Not run: no results file of this step was given.", "note"),)))
    names = ", ".join(str(mapping(entry.get("model")).get("name", "unnamed model")) for entry in evaluations)
    return Document(
        f"Report: {names}" if names else "Report", "Chest radiograph triage: results, methods, limits", tuple(sections)
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ReportError(f"{path}: expected JSON, found {error}") from error
    schema = mapping(record).get("schema")
    if schema != SCHEMAS[path.name]:
        raise ReportError(f'{path}: expected "schema": "{SCHEMAS[path.name]}", found {schema!r}')
    return mapping(record)


def _fitting(evaluation: Mapping[str, Any], records: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the record of the same cohort, or the first where none says which cohort it is of."""
    cohort = mapping(evaluation.get("cohort")).get("name")
    named = [record for record in records if mapping(record.get("cohort")).get("name") is not None]
    fitting = [record for record in named if cohort is None or mapping(record.get("cohort")).get("name") == cohort]
    return next(iter(fitting), next((record for record in records if record not in named), {}))
