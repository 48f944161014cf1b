"""From stored instances to image analyses: gate, pixels, models. Knows no storage; `predict` and the stage share it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from cxr_node.analyze.acceptance import Profile, judge_header
from cxr_node.analyze.routing import Route, route
from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score
from cxr_node.imaging import (
    Radiograph,
    implausible,
    preprocess,
    radiograph_from_dicom_file,
    read_header,
)
from cxr_node.inference import Engine, ModelPackage, probability

# Scores known from an earlier look at the same image: package digest → finding → score before calibration.
KnownScores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Prepared:
    """An image after gate and preprocessing: an exclusion, or for each package an input or known scores."""

    image: ImageReference
    header: Dataset | None = None
    exclusion: Exclusion | None = None
    packages: tuple[ModelPackage, ...] = ()
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)  # by package digest
    known: KnownScores = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analyzed:
    """An image's analysis, and the scores before calibration that are worth keeping."""

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

    def prepare(self, files: Iterable[tuple[Path, ImageReference, KnownScores]]) -> list[Prepared]:
        """Gate and decode, two images at a time; the order is kept."""
        return list(self._pool.map(lambda item: self._prepare(*item), files))

    def _prepare(self, path: Path, image: ImageReference, known: KnownScores) -> Prepared:
        try:
            header = read_header(path)
        except UnreadableDataset as error:
            return Prepared(image, exclusion=Exclusion("unreadable-dataset", str(error)))
        routed = admit(header, self.profile, (*self.packages, *self.shadow))
        if isinstance(routed, Exclusion):
            return Prepared(image, header, routed)
        if all(package.digest in known for package in routed.packages):
            return Prepared(image, header, None, routed.packages, known=known, notes=routed.notes)
        try:
            radiograph = radiograph_from_dicom_file(path)
        except UnreadablePixels as error:
            return Prepared(image, header, Exclusion("unreadable-pixels", str(error), "(7FE0,0010) Pixel Data"))
        return prepare_radiograph(image, header, radiograph, routed)

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


def admit(header: Dataset, profile: Profile, packages: Sequence[ModelPackage]) -> Route | Exclusion:
    """Return which packages an image goes to by its header, or why to none: acceptance rules first, then routing."""
    return judge_header(header, profile) or route(header, profile, packages)


def prepare_radiograph(
    image: ImageReference, header: Dataset | None, radiograph: Radiograph, routed: Route
) -> Prepared:
    """Hold the pixels against what a chest looks like, and make the inputs of the packages it goes to."""
    exclusion = implausible(radiograph)
    if exclusion is not None:
        return Prepared(image, header, exclusion)
    inputs = {package.digest: preprocess(radiograph, package.manifest.preprocess) for package in routed.packages}
    return Prepared(image, header, None, routed.packages, inputs, notes=routed.notes)


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
