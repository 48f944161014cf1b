"""The distributions of each cohort as SVG, drawn by the trainer's own functions from its exploration."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from regulatory.figures import Drawing, Material
from regulatory.figures import Figure as Shown
from regulatory.sources.cohorts import WORDS, Explored, explored
from regulatory.sources.drawings import nothing, svg
from regulatory.sources.records import NOT_RUN
from trainer.eda.figures import exploration_drawings
from trainer.report.style import INK, look
from trainer.report.words import count, mapping, rows_of

# Of the exploration's drawings those that a data card is asked for; the others stand there as tables.
CHOSEN = ("age", "per-patient", "comorbidity", "intensity-health")
_DRAWN_FROM = (
    "counts",
    "sampled",
    "age",
    "comorbidity",
    "findings_of_an_image",
    "findings_of_a_patient",
    "images_of_a_patient",
    "intensity",
)
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def gather(root: Path) -> Material:
    """Return the drawings of 06_data; a cohort without ages or other findings has no drawing of them."""
    drawings: list[Drawing] = []
    figures: list[Shown] = []
    for cohort in explored(root):
        found = _of(cohort)
        drawings += found
        names = tuple(drawing.id.removeprefix(f"{cohort.name}.") for drawing in found)
        says = "drawings of the cohort's distributions"
        figures.append(Shown(f"{cohort.name}.plots", names, str(len(names)), WORDS, says=says))
    return Material(figures=tuple(figures), drawings=tuple(drawings))


def _of(cohort: Explored) -> list[Drawing]:
    # Only what is drawn from: the other drawings of an exploration take their time and are not shown.
    record = {key: cohort.record[key] for key in _DRAWN_FROM if key in cohort.record}
    record["intensity"] = [item for item in rows_of(record.get("intensity")) if mapping(item).get("kind") == "health"]
    found = _drawn(json.dumps(record), cohort.name) if cohort.record else {}
    drawings = [
        Drawing(
            f"{cohort.name}.{key}-plot",
            f"{cohort.words['name']}: {caption[0].lower()}{caption[1:]}".rstrip("."),
            f"{key.replace('-', ' ').capitalize()} of {where}",
            text,
            cohort.path,
            cohort.command,
        )
        for key, (caption, where, text) in found.items()
    ]
    if not drawings:
        words = f"{cohort.name}: exploration {NOT_RUN}"
        drawings = [Drawing(f"{cohort.name}.per-patient-plot", words, words, nothing(words), WORDS)]
    return drawings


@lru_cache(maxsize=16)
def _drawn(record: str, name: str) -> dict[str, tuple[str, str, str]]:
    """Return caption, line above and SVG text of each chosen drawing that the exploration gives."""
    explored_record = json.loads(record)
    images = count(explored_record["counts"]["images"])
    read = count(mapping(explored_record.get("sampled")).get("read"))
    found = {}
    for drawing in exploration_drawings(explored_record):
        if drawing.key in CHOSEN:
            # Gray values are of the pictures that were read, everything else of the whole table.
            where = (
                f"{name}, n = {read} images read of {images}"
                if drawing.group == "intensity"
                else f"{name}, n = {images}"
            )
            with look():
                _tell_apart(drawing.key, drawing.figure)
                drawing.figure.suptitle(where, x=0.01, ha="left", fontsize=9.5)
            found[drawing.key] = (drawing.caption, where, svg(drawing.figure))
    return found


def _tell_apart(key: str, figure: Figure) -> None:
    """Give lines dashes and bars hatching where they differ in colour only, and the legend with them."""
    axis = figure.axes[0]
    if key == "age":
        outlines = [patch for patch in axis.patches if not patch.get_fill()]
        for patch, dashes in zip(outlines, _DASHES, strict=False):
            patch.set_linestyle(dashes)
    elif key == "comorbidity":
        for bar in axis.patches[len(axis.patches) // 2 :]:
            bar.set(hatch="////", facecolor="white", edgecolor=INK)
    else:
        return
    axis.legend(loc="best")
