"""The figures of an exploration, drawn from its JSON; and grids of samples, drawn from the pictures themselves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from trainer.cohorts import Cohort
from trainer.eda.pictures import sample, thumbnails
from trainer.report.figures import Drawing
from trainer.report.grids import grid_figure
from trainer.report.style import (
    ABSENT,
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    PRESENT,
    PURPLE,
    SKY,
    VERMILLION,
    look,
    png,
    several,
    single,
)
from trainer.report.words import count, interval, mapping, number, rows_of, value_of

_CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, AMBER, SKY)


def exploration_drawings(record: Mapping[str, Any]) -> Iterator[Drawing]:
    """Yield the figures that the JSON gives; what was not run is not drawn."""
    for key, group, caption, draw in _FIGURES:
        with look():
            figure = draw(record)
        if figure is not None:
            yield Drawing(key, group, caption, figure)


def drawn_exploration(record: Mapping[str, Any]) -> list[tuple[Drawing, bytes]]:
    """Return the figures with their PNG; the same JSON gives the same bytes."""
    return [(drawing, png(drawing.figure)) for drawing in exploration_drawings(record)]


def sample_grids(cohort: Cohort, finding: str, seed: int, most: int) -> list[tuple[str, bytes, str]]:
    """Return (name, PNG, caption) of grids of pictures with and without a finding, drawn by seed."""
    grids = []
    for value, word in ((1, "present"), (0, "absent")):
        cases = [case for case in cohort.cases if case.labels.get(finding) == value]
        chosen, _ = sample(cases, min(3 * most, len(cases)), seed, "")
        order = np.random.default_rng(seed).permutation(len(chosen))
        images, captions = thumbnails([chosen[index] for index in order], most)
        if images:
            title = f"{finding.replace('_', ' ')}: {word}"
            with look():
                drawn = png(grid_figure(images, captions, 4, title))
            grids.append((f"sample-{word}", drawn, f"Pictures drawn by seed {seed}; reference standard: {title}."))
    return grids


def _prevalence(record: Mapping[str, Any]) -> Figure | None:
    items = [
        (name, entry["prevalence"], number(mapping(entry).get("present")))
        for name, entry in mapping(record.get("prevalence")).items()
        if value_of(mapping(entry).get("prevalence")) is not None
    ]
    if not items:
        return None
    items.sort(key=lambda item: value_of(item[1]) or 0)
    figure, axis = single(6.8, 1.3 + 0.27 * len(items))
    values = [100 * (value_of(item[1]) or 0) for item in items]
    axis.barh(range(len(items)), values, color=BLUE, height=0.62)
    for place, (_, found, present) in enumerate(items):
        limits = interval(found)
        if limits:
            axis.plot([100 * limits[0], 100 * limits[1]], [place, place], color=INK, linewidth=1.4)
        right = 100 * max(value_of(found) or 0, limits[1] if limits else 0)
        axis.annotate(
            f"{values[place]:.1f} %  ({count(present)})",
            (right, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(items)), [item[0].replace("_", " ") for item in items])
    axis.set(
        title="Prevalence with 95 % interval (images)", xlabel="Share of images (%)", xlim=(0, 1.32 * max(values) or 1)
    )
    axis.grid(axis="y", visible=False)
    return figure


def _matrix(record: Mapping[str, Any], key: str) -> Figure | None:
    table = mapping(record.get("co_occurrence"))
    names = [str(name).replace("_", " ") for name in rows_of(table.get("findings"))]
    cells = [[number(cell) for cell in rows_of(row)] for row in rows_of(table.get(key))]
    if not names or len(cells) != len(names):
        return None
    side = 2.6 + 0.47 * len(names)
    figure, axis = single(side + 0.6, side)
    values = np.array([[np.nan if cell is None else cell for cell in row] for row in cells], float)
    np.fill_diagonal(values, np.nan)
    if key == "phi":
        most = max(0.1, float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.1)
        drawn = values
        image = axis.imshow(drawn, cmap="RdBu_r", vmin=-most, vmax=most)
        title, label = "Correlation of findings (phi)", "phi"
    else:
        drawn = np.log10(values + 1)
        image = axis.imshow(drawn, cmap="Blues")
        title, label = "Images with both findings", "images (log10 of count + 1)"
    high = float(np.nanmax(np.abs(drawn))) if np.isfinite(values).any() else 1.0
    for row in range(len(names)):
        for column in range(len(names)):
            cell = cells[row][column]
            if row == column:
                text = "" if key == "phi" else (f"{cell:,.0f}" if cell is not None else "")
            else:
                text = "–" if cell is None else (f"{cell:.2f}" if key == "phi" else f"{cell:,.0f}")
            shown = abs(float(drawn[row, column])) if row != column and cell is not None else 0
            axis.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="white" if shown > 0.66 * high else INK,
                fontweight="bold" if row == column else "normal",
            )
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(title)
    axis.grid(visible=False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, shrink=0.7, label=label)
    return figure


def _comorbidity(record: Mapping[str, Any]) -> Figure | None:
    table = mapping(record.get("comorbidity"))
    entries = sorted(
        mapping(table.get("with")).items(), key=lambda item: value_of(mapping(item[1]).get("share")) or 0, reverse=True
    )
    if not entries:
        return None
    finding = str(table.get("finding"))
    figure, axis = single(6.8, 1.5 + 0.34 * len(entries))
    for offset, key, label, color in (
        (-0.19, "share", f"with {finding}", PRESENT),
        (0.19, "share_without", f"without {finding}", ABSENT),
    ):
        axis.barh(
            [place + offset for place in range(len(entries))],
            [100 * (value_of(mapping(entry).get(key)) or 0) for _, entry in entries],
            height=0.36,
            color=color,
            label=label,
        )
    axis.set_yticks(range(len(entries)), [name.replace("_", " ") for name, _ in entries])
    axis.invert_yaxis()
    axis.set(title=f"Other findings beside {finding}", xlabel="Share of images (%)")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower right")
    return figure


def _per_patient(record: Mapping[str, Any]) -> Figure | None:
    tallies = [
        ("Findings of an image", mapping(record.get("findings_of_an_image")), "Images", "Findings"),
        ("Findings of a patient", mapping(record.get("findings_of_a_patient")), "Patients", "Different findings"),
        (
            "Images of a patient",
            mapping(mapping(record.get("images_of_a_patient")).get("histogram")),
            "Patients",
            "Images",
        ),
    ]
    tallies = [tally for tally in tallies if tally[1]]
    if not tallies:
        return None
    figure, axes = several(1, len(tallies), 3.5 * len(tallies), 3.4)
    for axis, (title, tally, unit, label) in zip(axes[0], tallies, strict=True):
        names = [name.replace(" or more", "+") for name in tally]
        axis.bar(range(len(names)), [number(value) or 0 for value in tally.values()], color=BLUE, width=0.7)
        axis.set_xticks(range(len(names)), names)
        axis.set(title=title, ylabel=unit, xlabel=label)
        axis.grid(axis="x", visible=False)
    return figure


def _ages(record: Mapping[str, Any]) -> Figure | None:
    table = mapping(mapping(record.get("age")).get("histogram"))
    edges = rows_of(table.get("edges"))
    if len(edges) < 2:
        return None
    figure, axis = single(6.8, 3.9)
    for (name, tally), color in zip(
        [item for item in table.items() if item[0] != "edges"], (MUTED, *_CYCLE), strict=False
    ):
        values = [number(value) or 0 for value in rows_of(tally)]
        total = sum(values)
        if not total:
            continue
        label = "all images" if name == "images" else name.replace("_", " ")
        axis.stairs(
            [100 * value / total for value in values],
            edges,
            label=f"{label} ({total:,.0f})",
            color=color,
            linewidth=2,
            fill=False,
        )
        if name == "images":
            axis.stairs([100 * value / total for value in values], edges, color=color, alpha=0.18, fill=True)
    axis.set(title="Age", xlabel="Age (years)", ylabel="Share of images (%)", xlim=(0, 120))
    axis.legend()
    return figure


def _spacing(record: Mapping[str, Any]) -> Figure | None:
    table = mapping(mapping(record.get("pixel_spacing_mm")).get("histogram"))
    edges, values = rows_of(table.get("edges")), rows_of(table.get("images"))
    if len(edges) < 2:
        return None
    figure, axis = single(5.6, 3.4)
    axis.stairs(values, edges, fill=True, color=BLUE, alpha=0.85)
    axis.set(title="Pixel spacing as acquired", xlabel="Pixel spacing (mm)", ylabel="Images")
    return figure


def _intensity(kinds: Sequence[str], title: str) -> Callable[[Mapping[str, Any]], Figure | None]:
    def draw(record: Mapping[str, Any]) -> Figure | None:
        groups = [
            entry
            for entry in map(mapping, rows_of(record.get("intensity")))
            if entry.get("kind") in kinds and rows_of(entry.get("histogram"))
        ]
        if not groups:
            return None
        # Of many findings the commonest six: more lines tell nobody anything.
        groups = sorted(groups, key=lambda entry: -(number(entry.get("images")) or 0))[: len(_CYCLE)]
        figure, axis = single(6.2, 3.9)
        for entry, color, dash in zip(groups, _CYCLE, ("-", "--", "-.", ":", "-", "--"), strict=False):
            shares = [100 * (number(share) or 0) for share in entry["histogram"]]
            centers = (np.arange(len(shares)) + 0.5) / len(shares)
            label = f"{str(entry.get('name')).replace('_', ' ')} ({count(entry.get('images'))})"
            axis.plot(centers, shares, dash, color=color, linewidth=1.8, label=label)
        axis.set(title=title, xlabel="Gray value (0 black, 1 white)", ylabel="Share of pixels (%)", xlim=(0, 1))
        # A black border is a spike at the left that would flatten the rest.
        inner = [100 * (number(share) or 0) for entry in groups for share in entry["histogram"][2:-2]]
        axis.set_ylim(0, 1.15 * max(inner) if inner and max(inner) > 0 else None)
        axis.legend()
        return figure

    return draw


def _shortcuts(record: Mapping[str, Any]) -> Figure | None:
    rows = [row for row in map(mapping, rows_of(record.get("shortcuts"))) if value_of(row.get("auc")) is not None]
    labels = list(dict.fromkeys(str(row.get("label")) for row in rows))
    features = list(dict.fromkeys(str(row.get("feature")) for row in rows))
    if not rows:
        return None
    figure, axis = single(2.9 + 0.62 * len(features), 1.9 + 0.42 * len(labels))
    values = np.full((len(labels), len(features)), np.nan)
    for row in rows:
        values[labels.index(str(row["label"])), features.index(str(row["feature"]))] = value_of(row.get("auc"))
    axis.imshow(values, cmap="Oranges", vmin=0.5, vmax=1.1, aspect="auto")
    for row in rows:
        down, across = labels.index(str(row["label"])), features.index(str(row["feature"]))
        flagged = bool(row.get("flagged"))
        axis.text(
            across,
            down,
            f"{values[down, across]:.2f}",
            ha="center",
            va="center",
            fontsize=8.5,
            fontweight="bold" if flagged else "normal",
            color="white" if values[down, across] > 0.88 else INK,
        )
        if flagged:
            axis.add_patch(
                Rectangle((across - 0.47, down - 0.46), 0.94, 0.92, fill=False, edgecolor=INK, linewidth=1.6)
            )
    axis.set_xticks(range(len(features)), [name.replace("_", " ") for name in features], rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), [name.replace("_", " ") for name in labels])
    figure.suptitle("What tells a label without anatomy: AUC", x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    return figure


_FIGURES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], Figure | None]], ...] = (
    ("prevalence", "prevalence", "Share of images with each label, with Wilson's interval.", _prevalence),
    (
        "co-occurrence",
        "co_occurrence",
        "Images that have both findings; on the diagonal, images that have the one.",
        lambda record: _matrix(record, "counts"),
    ),
    (
        "correlation",
        "co_occurrence",
        "phi, the correlation of two yes-or-no labels.",
        lambda record: _matrix(record, "phi"),
    ),
    ("comorbidity", "comorbidity", "Other findings of images with and without the finding.", _comorbidity),
    ("per-patient", "per_patient", "How findings and images are spread over images and patients.", _per_patient),
    ("age", "age", "Ages, each line summing to 100 %; ages above 120 are left out and counted in the table.", _ages),
    ("pixel-spacing", "size", "Pixel spacing before the cohort's makers made the pictures smaller.", _spacing),
    (
        "intensity-health",
        "intensity",
        "Mean gray histogram of images by label: healthy, where no finding is labelled, and disease, where one is.",
        _intensity(("health",), "Gray values: healthy and disease"),
    ),
    (
        "intensity-finding",
        "intensity",
        "Mean gray histogram of images with a finding, of the commonest six.",
        _intensity(("finding",), "Gray values by finding"),
    ),
    (
        "intensity-view",
        "intensity",
        "Mean gray histogram of each view.",
        _intensity(("view",), "Gray values by view"),
    ),
    (
        "shortcuts",
        "shortcuts",
        "AUC of a single feature against a label, turned so that it is at least one half. Framed: flagged.",
        _shortcuts,
    ),
)
