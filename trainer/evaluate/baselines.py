"""What can be had without looking at anatomy: learned on the train part, asked of the cases of a set."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import PreprocessSpec, preprocess
from trainer.calibration import logistic_fit, sigmoid
from trainer.cohorts import Case

PCA_SIZE, PCA_COMPONENTS = 48, 100
# A linear model of a hundred components learns nothing more from more pictures than these.
_MOST_PICTURES = 6000


@dataclass(frozen=True)
class Baseline:
    """A trivial predictor's probabilities (n,) on the cases of a set, in their order."""

    name: str
    says: str
    probabilities: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """Small pictures and file sizes of cases, read once. Cases whose picture does not decode have a gray one."""

    small: np.ndarray  # (n, 48, 48) float32
    sizes: np.ndarray  # (n,) bytes

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Pictures":
        small = np.full((len(cases), PCA_SIZE, PCA_SIZE), 0.5, np.float32)
        sizes = np.ones(len(cases))
        spec = PreprocessSpec((PCA_SIZE, PCA_SIZE))
        for index, case in enumerate(cases):
            try:
                sizes[index] = len(case.content())
                small[index] = preprocess(case.radiograph(), spec)[..., 0]
            except (UnreadablePixels, OSError, cv2.error):
                continue
        return cls(small, sizes)


def baselines(train: Sequence[Case], cases: Sequence[Case], finding: str) -> list[Baseline]:
    """Return what always says yes, what knows only the file, what knows only the patient, and 48 pixels.

    Each is learned on the train cases of the sources that are asked about: file sizes of another source say nothing.
    """
    sources = {case.source for case in cases}
    known = [case for case in train if not math.isnan(case.labels.get(finding, math.nan)) and case.source in sources]
    known = sorted(known, key=lambda case: case.identifier)
    if len(known) > _MOST_PICTURES:
        chosen = np.random.default_rng(1).choice(len(known), _MOST_PICTURES, replace=False)
        known = [known[index] for index in np.sort(chosen)]
    labels = np.array([case.labels[finding] for case in known])
    result = [Baseline("always-positive", "Every image flagged.", np.ones(len(cases)))]
    if not 0 < labels.sum() < len(labels):
        return result
    seen, asked = Pictures.of(known), Pictures.of(cases)

    def learned(name: str, says: str, features: Callable[[Sequence[Case], Pictures], np.ndarray], ridge: float) -> None:
        shown, wanted = features(known, seen), features(cases, asked)
        center, spread = shown.mean(axis=0), shown.std(axis=0) + 1e-9
        weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
        beta = logistic_fit((shown - center) / spread, labels, weights, ridge=ridge)
        result.append(Baseline(name, says, sigmoid(beta[0] + ((wanted - center) / spread) @ beta[1:])))

    learned("file-size", "The logarithm of the picture's size in bytes, by source.", _file_size, 1.0)
    learned("mean-gray", "The mean gray value of the picture.", lambda _, pictures: _mean_gray(pictures), 1.0)
    if any(case.age > 0 or case.view or case.sex for case in known) and len({_told(case) for case in known}) > 1:
        learned("metadata", "Logistic regression on view, age, sex and follow-up number; no pixels.", _metadata, 1.0)
    components = _principal(seen.small)
    learned(
        "pca-48",
        f"Logistic regression on {PCA_COMPONENTS} principal components of 48 x 48 pixels.",
        lambda _, pictures: (pictures.small.reshape(len(pictures.small), -1) - components[0]) @ components[1],
        10.0,
    )
    return result


def _principal(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    mean = flat.mean(axis=0)
    _, _, right = np.linalg.svd(flat - mean, full_matrices=False)
    return mean, right[:PCA_COMPONENTS].T


def _file_size(cases: Sequence[Case], pictures: Pictures) -> np.ndarray:
    # A source has its own picture size and quality; without its own level a size would only tell the source.
    sources = sorted({case.source for case in cases})
    logs = np.log(pictures.sizes)
    columns = [logs]
    for source in sources[1:]:
        columns.append(np.array([float(case.source == source) for case in cases]))
    return np.column_stack(columns)


def _mean_gray(pictures: Pictures) -> np.ndarray:
    return np.array(pictures.small.mean(axis=(1, 2)))[:, np.newaxis]


def _told(case: Case) -> tuple[str, str, bool]:
    return (case.view, case.sex, math.isnan(case.age))


def _metadata(cases: Sequence[Case], pictures: Pictures) -> np.ndarray:
    return np.array(
        [
            [
                case.view == "AP",
                case.sex == "M",
                0.0 if math.isnan(case.age) else (case.age - 50) / 20,
                0.0 if math.isnan(case.follow_up) else math.log1p(case.follow_up),
            ]
            for case in cases
        ],
        np.float64,
    )
