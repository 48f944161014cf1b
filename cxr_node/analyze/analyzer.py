"""From stored instances to image analyses: gate, pixels, models. Knows no storage; `predict` and the stage share it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cxr_node.analyze.acceptance import Profile
from cxr_node.analyze.prepare import (
    Gate,
    KnownScores,
    Lent,
    Prepared,
    Wanted,
    opened,
    prepare_file,
    prepare_radiograph,
)
from cxr_node.analyze.routing import Route
from cxr_node.errors import UnreadableDataset
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score
from cxr_node.imaging import Radiograph
from cxr_node.inference import Engine, ModelPackage, probability


@dataclass(frozen=True)
class Analyzed:
    """An image's analysis, and the scores before calibration that are worth keeping. `prepared` has no inputs any more:
    they are large, and a study may have thousands."""

    prepared: Prepared
    analysis: ImageAnalysis
    shadow: tuple[Score, ...] = ()
    raw: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Analyzer:
    """Holds the engines of the configured packages.

    Parameters
    ----------
    packages : reported
    shadow : run and kept, never reported
    """

    def __init__(
        self,
        packages: Sequence[ModelPackage],
        *,
        profile: Profile,
        shadow: Sequence[ModelPackage] = (),
        cache_dir: Path | None = None,
        engine: Callable[..., Engine] = Engine,
    ) -> None:
        self.packages = tuple(packages)
        self.shadow = tuple(shadow)
        self.profile = profile
        self._engines = {
            package.digest: engine(package, cache_dir=cache_dir) for package in (*self.packages, *self.shadow)
        }
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")

    def engine(self, package: ModelPackage) -> Engine:
        """Return what scores for the package."""
        return self._engines[package.digest]

    def warm(self) -> None:
        """Run every engine once, so that the first study does not wait for it."""
        for engine in self._engines.values():
            engine.warm()

    def devices(self) -> dict[str, str]:
        """Return the device each package runs on, by name."""
        return {
            package.manifest.name: self._engines[package.digest].device for package in (*self.packages, *self.shadow)
        }

    def gate(self, *, full_decode: bool = False, told: Sequence[str] = ()) -> Gate:
        """Return what decides over images that these packages are to look at."""
        return Gate(self.profile, (*self.packages, *self.shadow), full_decode, tuple(told))

    def prepare(self, files: Iterable[tuple[Lent, ImageReference, KnownScores]]) -> list[Prepared]:
        """Gate and decode in this process, two images at a time; the order is kept."""
        gate = self.gate()
        return list(self._pool.map(lambda item: prepare_lent(gate, Wanted(*item)), files))

    def prepare_picture(self, radiograph: Radiograph, package: ModelPackage) -> Prepared:
        """Take a picture without a header to one package; only the pixels are looked at."""
        return prepare_radiograph(ImageReference("", "", ""), None, radiograph, Route((package,)))

    def analyze(self, prepared: Sequence[Prepared]) -> list[Analyzed]:
        """Score what was prepared, all inputs of a package in one batch."""
        raw: list[dict[str, dict[str, float]]] = [{} for _ in prepared]
        for package in (*self.packages, *self.shadow):
            waiting = [index for index, item in enumerate(prepared) if package.digest in item.inputs]
            if not waiting:
                continue
            batch = np.stack([prepared[index].inputs[package.digest] for index in waiting])
            for index, row in zip(waiting, self._engines[package.digest].scores(batch), strict=True):
                raw[index][package.digest] = dict(
                    zip(package.manifest.findings, (float(score) for score in row), strict=True)
                )
        return [self._analyzed(item, scores) for item, scores in zip(prepared, raw, strict=True)]

    def _analyzed(self, item: Prepared, raw: dict[str, dict[str, float]]) -> Analyzed:
        item = replace(item, inputs={})
        if item.exclusion is not None:
            return Analyzed(item, ImageAnalysis(item.image, exclusion=item.exclusion))
        merged = {**item.known, **raw}
        reported = [package for package in item.packages if package in self.packages]
        if not reported:
            exclusion = Exclusion("shadow-only", "only shadow models are meant for this image; they are never reported")
            return Analyzed(item, ImageAnalysis(item.image, exclusion=exclusion))
        scores = tuple(score for package in reported for score in scores_of(package, merged[package.digest]))
        shadow = tuple(
            score
            for package in item.packages
            if package not in self.packages
            for score in scores_of(package, merged[package.digest])
        )
        return Analyzed(item, ImageAnalysis(item.image, scores=scores, notes=item.notes), shadow, raw)


def prepare_lent(gate: Gate, wanted: Wanted) -> Prepared:
    """As `prepare_file`, of a file that has to be lent first; one whose bytes are gone or altered is excluded."""
    try:
        with opened(wanted.file) as path:
            return prepare_file(gate, path, wanted)
    except UnreadableDataset as error:
        return Prepared(wanted.image, exclusion=Exclusion("unreadable-dataset", str(error)))


def scores_of(package: ModelPackage, raw: Mapping[str, float]) -> Iterable[Score]:
    """Hold a package's scores against its operating points; decided on the unrounded probability."""
    manifest = package.manifest
    for finding, score in raw.items():
        point = manifest.operating_points[finding]
        value = probability(manifest, finding, score)
        yield Score(
            finding=finding,
            model=manifest.name,
            model_version=manifest.version,
            model_digest=package.digest,
            probability=value,
            threshold=point.threshold,
            operating_point=point.name,
            flagged=value >= point.threshold,
        )
