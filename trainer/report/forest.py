"""Forest plots and the confusion matrix: estimates beside one another with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from trainer.report.style import AMBER, BLUE, INK, MUTED, PURPLE, RULE, VERMILLION, several, single
from trainer.report.words import FINDINGS, count, estimate, interval, mapping, number, rows_of, value_of

GROUPS = {
    "sex": "Sex",
    "age": "Age in years",
    "view": "View",
    "source": "Source",
    "co_finding": "Also has",
    "subset": "Subset",
}
_KIND_COLORS = {"ours": BLUE, "baseline": MUTED, "published": PURPLE}
_LONGEST = 30


@dataclass(frozen=True)
class Line:
    """A line of a forest plot: estimates by panel name, a note where there are none, a heading where it is one."""

    name: str
    estimates: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    heading: bool = False
    color: str = BLUE


def forest(lines: Sequence[Line], panels: Sequence[str], title: str, *, chance: float | None = None) -> Figure | None:
    """Draw estimates with intervals, a panel for each figure; None where no line has an estimate."""
    panels = [name for name in panels if any(value_of(line.estimates.get(name)) is not None for line in lines)]
    if not panels:
        return None
    width = 2.2 + 2.3 * len(panels) if len(panels) > 1 else 6.4
    figure, axes = several(1, len(panels), width, 1.5 + 0.3 * len(lines), sharey=True)
    places = range(len(lines))
    for axis, panel in zip(axes[0], panels, strict=True):
        lows = []
        for place, line in zip(places, lines, strict=True):
            value, limits = value_of(line.estimates.get(panel)), interval(line.estimates.get(panel))
            if value is None:
                if line.note and panel == panels[0]:
                    axis.text(
                        0.02,
                        place,
                        line.note,
                        transform=axis.get_yaxis_transform(),
                        va="center",
                        fontsize=8,
                        color=MUTED,
                        # A note may run on over the empty panels at its right.
                        clip_on=False,
                        in_layout=False,
                        zorder=5,
                    )
                continue
            if limits:
                axis.plot(limits, (place, place), color=line.color, linewidth=2, solid_capstyle="butt")
            axis.plot(value, place, "s" if limits else "D", color=line.color, markersize=5)
            lows.append(limits[0] if limits else value)
            axis.text(
                1.02,
                place,
                estimate(line.estimates.get(panel), 2),
                transform=axis.get_yaxis_transform(),
                va="center",
                fontsize=8,
            )
        low = max(0.0, min(lows) - 0.05)
        if chance is not None and panel == "AUC":
            axis.axvline(chance, color=MUTED, linestyle="--", linewidth=1)
            low = min(low, chance - 0.03)
        axis.set(xlim=(low, 1.005), xlabel=panel)
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        for place, line in zip(places, lines, strict=True):
            if line.heading:
                axis.axhline(place - 0.5, color=RULE, linewidth=0.8)
    first = axes[0][0]
    first.set_yticks(list(places), [_shortened(line) for line in lines])
    for label, line in zip(first.get_yticklabels(), lines, strict=True):
        if line.heading:
            label.set_fontweight("bold")
        elif line.note:
            label.set_color(MUTED)
    first.set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return figure


def subgroups(item: Mapping[str, Any]) -> Figure | None:
    """Draw AUC, sensitivity and specificity of each subgroup, the whole set on top; groups with few cases are named."""
    groups = mapping(item.get("subgroups"))
    lines = [Line("All images", _three(item), color=VERMILLION)]
    for key, members in groups.items():
        if not mapping(members):
            continue
        lines.append(Line(GROUPS.get(key, key.replace("_", " ")), heading=True))
        for name, values in members.items():
            note = str(mapping(values).get("too_few", ""))
            shown = FINDINGS.get(name, name).replace("_", " ")
            lines.append(Line(shown, {} if note else _three(mapping(values)), f"too few: {note}" if note else ""))
    if len(lines) == 1:
        return None
    return forest(lines, ("AUC", "Sensitivity", "Specificity"), "Subgroups, with 95 % intervals")


def ladder(comparison: Mapping[str, Any]) -> Figure | None:
    """Draw the AUC of every row of a comparison: trained here, trivial, published."""
    lines: list[Line] = []
    rows = [mapping(row) for row in rows_of(comparison.get("rows"))]
    for kind, title in (
        ("ours", "Trained here"),
        ("baseline", "Trivial baselines"),
        ("published", "Published, own split"),
    ):
        members = [row for row in rows if row.get("kind") == kind]
        members.sort(key=lambda row: value_of(row.get("auc")) or 0.0, reverse=True)
        if members:
            lines.append(Line(title, heading=True))
        for row in members:
            lines.append(
                Line(
                    str(row.get("name", "unnamed")),
                    {"AUC": row.get("auc"), "Accuracy": row.get("accuracy")},
                    color=_KIND_COLORS[kind],
                )
            )
    return forest(lines, ("AUC", "Accuracy"), "Comparison on the same images", chance=0.5)


def sets_forest(evaluation: Mapping[str, Any]) -> Figure | None:
    """Draw the AUC of every set, of the trivial baselines and of other populations."""
    lines: list[Line] = []
    for key, title, color in (
        ("sets", "The model, by set", BLUE),
        ("cross_population", "The model, on another population", PURPLE),
        ("baselines", "Trivial baselines, on the main set", AMBER),
    ):
        members = mapping(evaluation.get(key))
        if members:
            lines.append(Line(title, heading=True))
        lines += [Line(str(name), {"AUC": mapping(values).get("auc")}, color=color) for name, values in members.items()]
    return forest(lines, ("AUC",), "AUC with 95 % intervals", chance=0.5)


def confusion(item: Mapping[str, Any]) -> Figure | None:
    """Draw the four counts with their share of the row, which is a class of the reference standard."""
    counts = mapping(item.get("confusion"))
    cells = [
        [number(counts.get("true_positive")), number(counts.get("false_negative"))],
        [number(counts.get("false_positive")), number(counts.get("true_negative"))],
    ]
    if any(cell is None for row in cells for cell in row):
        return None
    figure, axis = single(5.2, 4.2)
    shares = [[(cell or 0) / max(1.0, sum(c or 0 for c in row)) for cell in row] for row in cells]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for row in range(2):
        for column in range(2):
            dark = shares[row][column] > 0.6
            color = "white" if dark else INK
            axis.text(column, row - 0.08, count(cells[row][column]), ha="center", va="center", fontsize=20, color=color)
            axis.text(
                column,
                row + 0.2,
                f"{100 * shares[row][column]:.1f} % of row",
                ha="center",
                va="center",
                fontsize=9.5,
                color=color,
            )
    axis.set_xticks([0, 1], ["flagged", "not flagged"])
    axis.set_yticks([0, 1], ["finding present", "finding absent"])
    axis.set(title="Confusion matrix (images)", xlabel="Model at the operating point", ylabel="Reference standard")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    return figure


def _three(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "AUC": item.get("auc"),
        "Sensitivity": item.get("sensitivity"),
        "Specificity": item.get("specificity"),
    }


def _shortened(line: Line) -> str:
    longest = 2 * _LONGEST if line.heading else _LONGEST
    return line.name if len(line.name) <= longest else f"{line.name[: longest - 1]}…"
