"""A comparison's JSON as sections: the ladder, paired tests and the release gate."""

from collections.abc import Mapping
from typing import Any

from trainer.report.document import Block, Paragraph, Picture, Section, Table
from trainer.report.figures import comparison_drawings
from trainer.report.style import png
from trainer.report.words import (
    KINDS,
    NOT_MEASURED,
    count,
    decimal,
    estimate,
    interval,
    mapping,
    number,
    p_value,
    plain,
    rows_of,
)

_FIGURES = ("auc", "average_precision", "accuracy", "sensitivity", "specificity")


def comparison_sections(comparison: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a comparison."""
    pictures = tuple(Picture(png(drawing.figure), drawing.caption, 0.9) for drawing in comparison_drawings(comparison))
    rows = [mapping(row) for row in rows_of(comparison.get("rows"))]
    about: list[Block] = [
        Paragraph(
            f"{comparison.get('title', '')}. Set: {comparison.get('set', NOT_MEASURED)}. {comparison.get('says', '')}"
        )
    ]
    about += _gate(mapping(comparison.get("gate")))
    return [
        Section("Comparison", (*about, *pictures)),
        Section("All rows", (_figures(rows), _descriptions(rows)), 2),
        Section("Paired tests", (_paired(comparison),), 2),
    ]


def _gate(gate: Mapping[str, Any]) -> list[Block]:
    if not gate:
        return [Paragraph(f"Release gate: {NOT_MEASURED}", "note")]
    word, kind = ("passed", "good") if gate.get("passed") is True else ("not passed", "bad")
    if not isinstance(gate.get("passed"), bool):
        word, kind = NOT_MEASURED, "note"
    best = gate.get("best_baseline")
    reached = f" ({estimate(mapping(best).get('auc'))})" if mapping(best) else ""
    return [
        Paragraph(f"Release gate for {gate.get('model', 'the model')}: {word}.", kind),
        Paragraph(
            f"The rule: {str(gate.get('says', NOT_MEASURED)).rstrip('.')}. Found: {plain(gate.get('found'))}; best "
            f"trivial baseline: {baseline_name(best)}{reached}."
        ),
    ]


def baseline_name(best: Any) -> str:
    """Return the name of a gate's best baseline, which is a name or a mapping with one."""
    return plain(mapping(best).get("name") if isinstance(best, Mapping) else best)


def _figures(rows: list[Mapping[str, Any]]) -> Block:
    if not rows:
        return Paragraph(f"Rows: {NOT_MEASURED}", "note")
    table = tuple(
        (
            str(row.get("name", "unnamed")),
            KINDS.get(str(row.get("kind")), plain(row.get("kind"))),
            *(estimate(row.get(key)) for key in _FIGURES),
            decimal(row.get("f1")),
        )
        for row in rows
    )
    header = ("row", "kind", "AUC", "average precision", "accuracy", "sensitivity", "specificity", "F1")
    return Table(header, table, "Figures, with 95 % intervals", (1.6, 1.1, 1.3, 1.3, 1.3, 1.3, 1.3, 0.9))


def _descriptions(rows: list[Mapping[str, Any]]) -> Block:
    table = tuple(
        (
            str(row.get("name", "unnamed")),
            str(row.get("architecture") or "–"),
            count(row["parameters"]) if number(row.get("parameters")) else "–",
            str(row.get("says", "")),
            str(row.get("source", "–")),
        )
        for row in rows
    )
    return Table(
        ("row", "architecture", "parameters", "what it is", "source"), table, "Rows", (1.3, 1.2, 1, 2.4, 1.8), (2,)
    )


def _paired(comparison: Mapping[str, Any]) -> Block:
    rows = []
    for row in map(mapping, rows_of(comparison.get("paired"))):
        limits = interval(row)
        around = f" ({limits[0]:+.3f} to {limits[1]:+.3f})" if limits else ""
        difference = number(row.get("difference"))
        rows.append(
            (
                plain(row.get("a")),
                plain(row.get("b")),
                plain(row.get("figure")),
                NOT_MEASURED if difference is None else f"{difference:+.3f}{around}",
                p_value(row.get("p")),
                plain(row.get("test")),
            )
        )
    if not rows:
        return Paragraph(f"Paired tests: {NOT_MEASURED}", "note")
    header = ("first", "second", "figure", "first less second (95 % CI)", "p", "test")
    return Table(header, tuple(rows), "The same images, two rows at a time", (1.5, 1.5, 0.8, 2, 0.8, 1.6), (4,))
