"""Every figure that the JSON of an evaluation or a comparison gives; what was not measured is not drawn."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trainer.report import curves, forest
from trainer.report.grids import draw_grid, draw_overlays
from trainer.report.style import look, save
from trainer.report.words import mapping, slug

__all__ = [
    "Drawing",
    "comparison_drawings",
    "draw_comparison",
    "draw_evaluation",
    "draw_grid",
    "draw_overlays",
    "evaluation_drawings",
]


@dataclass(frozen=True)
class Drawing:
    """A figure with its key, the set it belongs to ("" for the whole), and the sentence that goes under it."""

    key: str
    group: str
    caption: str
    figure: Figure


_OF_A_SET: tuple[tuple[str, str, Callable[[Mapping[str, Any], Any], Figure | None]], ...] = (
    (
        "roc",
        "Sensitivity against false positive rate over all thresholds; the point is the locked operating point.",
        lambda item, _: curves.roc(item),
    ),
    (
        "precision-recall",
        "Precision against recall. The dashed line is the base rate of this set: precision depends on it.",
        lambda item, _: curves.precision_recall(item),
    ),
    (
        "confusion",
        "Images by reference standard and by what the model says at the locked operating point.",
        lambda item, _: forest.confusion(item),
    ),
    (
        "histogram",
        "Calibrated probabilities of images with and without the finding, each class summing to 100 %.",
        curves.histogram,
    ),
    (
        "reliability",
        "How often the finding is present over what the model says, before and after calibration. "
        "ECE: expected calibration error.",
        lambda item, _: curves.reliability(item),
    ),
    (
        "decision-curve",
        "Net benefit of flagging by the model, against flagging everyone and nobody.",
        lambda item, _: curves.decision_curve(item),
    ),
    (
        "subgroups",
        "AUC, sensitivity and specificity in subgroups with 95 % intervals. A co-finding's positives are held "
        "against every negative of the set.",
        lambda item, _: forest.subgroups(item),
    ),
)


def evaluation_drawings(evaluation: Mapping[str, Any]) -> Iterator[Drawing]:
    """Yield the figures of an evaluation, those of the whole first, then set by set."""
    threshold = mapping(evaluation.get("operating_point")).get("threshold")
    with look():
        figure = curves.learning_curves(mapping(evaluation.get("training")).get("log"))
    if figure is not None:
        yield Drawing("learning-curves", "", "Loss and tune AUC of each epoch of training.", figure)
    with look():
        figure = forest.sets_forest(evaluation)
    if figure is not None:
        yield Drawing("auc-by-set", "", "AUC of each set, beside what trivial baselines reach.", figure)
    for where in ("sets", "cross_population"):
        for name, item in mapping(evaluation.get(where)).items():
            for kind, caption, draw in _OF_A_SET:
                with look():
                    figure = draw(mapping(item), threshold)
                if figure is not None:
                    yield Drawing(f"{slug(name)}-{kind}", str(name), caption, figure)


def comparison_drawings(comparison: Mapping[str, Any]) -> Iterator[Drawing]:
    """Yield the figures of a comparison."""
    with look():
        figure = forest.ladder(comparison)
    if figure is not None:
        caption = (
            "AUC and accuracy with 95 % intervals where the source gives them; published rows are as their authors "
            "report them, on their own split."
        )
        yield Drawing("ladder", "", caption, figure)


def draw_evaluation(evaluation: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the figures of an evaluation as PNG and return their paths by key; the same JSON gives the same bytes."""
    return {
        drawing.key: save(drawing.figure, folder / f"{drawing.key}.png") for drawing in evaluation_drawings(evaluation)
    }


def draw_comparison(comparison: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the figures of a comparison as PNG and return their paths by key."""
    return {
        drawing.key: save(drawing.figure, folder / f"{drawing.key}.png") for drawing in comparison_drawings(comparison)
    }
