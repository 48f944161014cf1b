"""The curves of each released package as SVG, drawn by the trainer's own functions from the committed records.

Made for print without colour: every line of a drawing has its own dashes, every kind of point its own marker, and the
title says on how many images it rests. The same record gives the same text: no date, no random identifiers.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas

from regulatory.figures import Drawing, Material
from regulatory.sources.records import NOT_RUN, RUNS, Released, read_json, released
from regulatory.sources.validation_tables import COMPARISONS, compare_command
from trainer.report import curves, forest
from trainer.report.style import look, single
from trainer.report.words import count, mapping, rows_of

_SVG: dict[str, Any] = {"svg.hashsalt": "cxr-node", "svg.fonttype": "none"}
_METADATA = {"Date": None, "Creator": None}

_DRAW: dict[str, Callable[[Any], Canvas | None]] = {
    "learning-curves": curves.learning_curves,
    "auc-by-set": forest.sets_forest,
    "roc": curves.roc,
    "precision-recall": curves.precision_recall,
    "reliability": curves.reliability,
    "decision-curve": curves.decision_curve,
    "subgroups-plot": forest.subgroups,
    "ladder": forest.ladder,
}
# (key, what it shows, what a reader who does not see it is told)
OF_MAIN_SET = (
    (
        "roc",
        "sensitivity over the false positive rate at all thresholds; the point is the locked operating point, the "
        "dashed line is chance",
        "ROC curve",
    ),
    (
        "precision-recall",
        "precision over recall; the point is the locked operating point, the dashed line the base rate of this set, "
        "which precision depends on",
        "precision-recall curve",
    ),
    (
        "reliability",
        "how often the finding is present over the probability that the package gives, before calibration (squares, "
        "dashed) and after (circles, solid); the area of a point is its number of images",
        "reliability diagram",
    ),
    (
        "decision-curve",
        "net benefit of flagging what the package flags (solid), of flagging everyone (dashed) and nobody (dotted)",
        "decision curve",
    ),
    (
        "subgroups-plot",
        "AUC, sensitivity and specificity in subgroups with their 95 % intervals; a co-finding's positives are held "
        "against every negative of the set",
        "forest plot of subgroups",
    ),
)


def gather(root: Path) -> Material:
    """Return the drawings; one that has nothing to show says so in words, in place of the curve."""
    drawings: list[Drawing] = []
    for package in released(root):
        drawings += [_learning(package), _by_set(package), *_of_main_set(package)]
    drawings += [_ladder(root, name) for name in COMPARISONS]
    return Material(drawings=tuple(drawings))


def _learning(package: Released) -> Drawing:
    parts = mapping(mapping(package.run.get("cohort")).get("parts"))
    train, tune = (count(mapping(parts.get(name)).get("images")) for name in ("train", "tune"))
    where = f"{package.name}: {train} train, {tune} tune images"
    return Drawing(
        f"{package.name}.learning-curves",
        f"{package.name}: loss of the train part (circles, solid) and of the tune part (squares, dashed) and AUC on "
        "the tune part over epochs",
        f"Learning curves of {package.name} over {max(len(package.log) - 1, 0)} epochs",
        drawn("learning-curves", json.dumps(package.log), where)
        or nothing(f"{package.name}: learning curves {NOT_RUN}"),
        f"{package.log_path}, {package.run_path}" if package.log and package.run else package.manifest_path,
        package.train_command,
    )


def _by_set(package: Released) -> Drawing:
    main = mapping(package.sets.get(package.main_set))
    where = f"{package.name}: AUC by set; {package.main_set} n = {count(main.get('images'))}"
    # Curves and subgroups are not drawn here, and would make a long key of the memory.
    figures = {
        key: {name: {"auc": item.get("auc")} for name, item in mapping(package.evaluation.get(key)).items()}
        for key in ("sets", "cross_population", "baselines")
    }
    return _drawing(
        package,
        "auc-by-set",
        "AUC of each set, of another population, and of the trivial baselines on the main set, with 95 % intervals; "
        "the dashed line is chance",
        f"Forest plot of the AUC of {package.name} by set",
        drawn("auc-by-set", json.dumps(figures), where),
    )


def _of_main_set(package: Released) -> Iterator[Drawing]:
    item = mapping(package.sets.get(package.main_set))
    where = f"{package.name}, {package.main_set}, n = {count(item.get('images'))}"
    for key, says, alt in OF_MAIN_SET:
        svg_text = drawn(key, json.dumps(item), where)
        yield _drawing(package, key, f"{package.main_set}: {says}", f"{alt} of {where}", svg_text)


def _ladder(root: Path, name: str) -> Drawing:
    path = f"{RUNS}/comparison-{name}.json"
    found = read_json(root / path)
    first = next(map(mapping, rows_of(found.get("rows"))), mapping(None))
    images = count(mapping(first.get("auc")).get("n"))
    return Drawing(
        f"comparison.{name}.ladder",
        f"{found.get('title', name)}: AUC and accuracy of what was trained here, of trivial baselines, and as "
        "published",
        f"Forest plot of the comparison {name}",
        drawn("ladder", json.dumps(found), f"The same n = {images} images (but for what was published)")
        or nothing(f"comparison {name} {NOT_RUN}"),
        path if found else "regulatory/sources/drawings.py",
        compare_command(name, found),
    )


def _drawing(package: Released, key: str, title: str, alt: str, svg_text: str) -> Drawing:
    name = f"{package.name} {package.manifest['version']}"
    return Drawing(
        f"{package.name}.{key}",
        f"{name}, {title}",
        alt[0].upper() + alt[1:],
        svg_text or nothing(f"{name}: {key.replace('-', ' ')} {package.absent}"),
        package.evaluation_path if package.evaluation else package.manifest_path,
        package.evaluate_command,
    )


# A build and its check, and each test of them, ask for the same drawings.
@lru_cache(maxsize=256)
def drawn(kind: str, record: str, where: str) -> str:
    """Return the SVG text of one kind of drawing from a record in JSON, "" where the record has nothing to draw.

    `where` is the line above the drawing: whose images, how many.
    """
    with look():
        figure = _DRAW[kind](json.loads(record))
        if figure is None:
            return ""
        if kind == "learning-curves":
            # Printed in gray the two losses differ by dashes; the markers tell them apart at a crossing too.
            for line, marker in zip(figure.axes[0].lines, ("o", "s"), strict=False):
                line.set_marker(marker)
        if kind == "decision-curve":
            figure.axes[0].lines[0].set_linestyle(":")  # nobody: as dark as the package's own line in gray
            figure.axes[0].legend(loc="upper right")  # made anew: a legend keeps the dashes it was made with
        bold = kind in ("auc-by-set", "subgroups-plot", "ladder")
        figure.suptitle(where, x=0.01, ha="left", fontsize=11 if bold else 9.5, fontweight="bold" if bold else "normal")
    return svg(figure)


def nothing(words: str) -> str:
    """Return a drawing that says in words that there is nothing to draw."""
    with look():
        figure, axis = single(6.2, 1.2)
        axis.axis("off")
        axis.text(0.5, 0.5, words, ha="center", va="center")
    return svg(figure)


def svg(figure: Canvas) -> str:
    """Return a figure as SVG text, the same for the same figure; text stays text.

    Without the program's name and version in a comment, which would change the text and not the drawing.
    """
    stream = io.StringIO()
    with look(), matplotlib.rc_context(_SVG):  # type: ignore[arg-type]  # the stubs want each key as a literal
        figure.savefig(stream, format="svg", metadata=_METADATA)
    text = re.sub(r"<!--.*?-->\s*", "", stream.getvalue(), flags=re.DOTALL)
    return text if text.endswith("\n") else f"{text}\n"
