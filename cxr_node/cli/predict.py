"""`cxr-node predict`: the models on files, by the same gate and the same pixels as the node, without its storage."""

import argparse
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.analyze import Analyzer, load_packages
from cxr_node.analyze.analyzer import Prepared
from cxr_node.cli.send import files_of
from cxr_node.errors import CxrNodeError, UnreadablePixels
from cxr_node.findings import Exclusion, ImageReference
from cxr_node.imaging import is_picture, radiograph_from_picture_file
from cxr_node.inference import Engine, ModelPackage
from cxr_node.log import configure_logging
from cxr_node.settings import Settings

BATCH = 32


def predict(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print a line per file; the exit status is 1 where there was no file."""
    configure_logging("warning")
    paths = list(files_of(arguments.paths))
    if not paths:
        raise CxrNodeError("no file found in the paths given")
    names = (arguments.model,) if arguments.model else settings.analyze.models
    packages = load_packages(settings, names)
    cache = settings.data_dir / "cache"
    analyzer = Analyzer(
        packages,
        profile=arguments.profile or settings.node.profile,
        # Where no node has run, nothing is converted for one call: the engine takes what it can have at once.
        cache_dir=cache if cache.is_dir() else None,
        engine=functools.partial(_WhenNeeded, choice=settings.analyze.engine),
    )
    for line in _lines(analyzer, paths, arguments.model):
        print(json.dumps(line, ensure_ascii=False) if arguments.json else _readable(line), flush=True)
    return 0


class _WhenNeeded(Engine):
    """An engine that starts with the first image for its model: of the configured models most calls need one."""

    def __init__(self, package: ModelPackage, **options: Any) -> None:
        self.package = package
        self._options: dict[str, Any] | None = options

    def scores(self, batch: np.ndarray) -> np.ndarray:
        if self._options is not None:
            options, self._options = self._options, None
            super().__init__(self.package, **options)
        return super().scores(batch)


def _lines(analyzer: Analyzer, paths: list[Path], model: str | None) -> Iterator[dict[str, Any]]:
    for start in range(0, len(paths), BATCH):
        chunk = paths[start : start + BATCH]
        prepared = [_prepare(analyzer, path, model) for path in chunk]
        for path, item in zip(chunk, analyzer.analyze(prepared), strict=True):
            exclusion = item.analysis.exclusion
            score = max(item.analysis.scores, key=lambda score: (score.flagged, score.probability), default=None)
            yield {
                "path": str(path),
                "model": score.model if score else None,
                "finding": score.finding if score else None,
                "probability": round(score.probability, 6) if score else None,
                "threshold": score.threshold if score else None,
                "flagged": score.flagged if score else None,
                "exclusion": None
                if exclusion is None
                else {
                    "reason": exclusion.reason,
                    "message": exclusion.message,
                    "attribute": exclusion.attribute,
                    "value": exclusion.value,
                },
                "notes": list(item.analysis.notes),
            }


def _prepare(analyzer: Analyzer, path: Path, model: str | None) -> Prepared:
    nowhere = ImageReference("", "", "")
    if not is_picture(path):
        return analyzer.prepare([(path, nowhere, {})])[0]
    if model is None:
        message = "a picture carries no age and no view: name the model with --model"
        return Prepared(nowhere, exclusion=Exclusion("no-header", message))
    try:
        return analyzer.prepare_picture(radiograph_from_picture_file(path), analyzer.packages[0])
    except UnreadablePixels as error:
        return Prepared(nowhere, exclusion=Exclusion("unreadable-pixels", str(error)))


def _readable(line: dict[str, Any]) -> str:
    if line["exclusion"]:
        return f"{line['path']}: not analysed: {line['exclusion']['message']}"
    verdict = "flagged" if line["flagged"] else "not flagged"
    return (
        f"{line['path']}: {verdict} by {line['model']}: probability of {line['finding']} {line['probability']:.3f}, "
        f"threshold {line['threshold']:.3f}"
    )
