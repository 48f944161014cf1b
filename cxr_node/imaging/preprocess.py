"""The only way from a radiograph to a model's input, for trainer and node alike."""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from cxr_node.imaging.radiograph import Radiograph


@dataclass(frozen=True)
class PreprocessSpec:
    """How a package wants its input; it travels in the manifest.

    Both sizes are (rows, columns) in pixels, reached by area averaging without keeping the aspect ratio, as the
    public cohorts were made. `intermediate` is the size of the cohort's own pictures: going through it makes a
    3000-pixel detector image as sharp as the picture the model learned from. Where the image is smaller than a
    size, the step is linear interpolation.
    """

    size: tuple[int, int]
    intermediate: tuple[int, int] | None = None

    @property
    def first_size(self) -> tuple[int, int]:
        """The (rows, columns) that the first step shrinks to: a decoder need not give much more than that."""
        return self.intermediate or self.size

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PreprocessSpec":
        intermediate = value.get("intermediate")
        return cls(
            size=(int(value["size"][0]), int(value["size"][1])),
            intermediate=(int(intermediate[0]), int(intermediate[1])) if intermediate else None,
        )


def preprocess(radiograph: Radiograph, spec: PreprocessSpec) -> np.ndarray:
    """Return the model's input.

    Returns
    -------
    (rows, columns, 1) float32 in [0, 1]
        Mean and scale are the model's first layer, not done here.
    """
    pixels = radiograph.grayscale
    if spec.intermediate is not None:
        pixels = _resize(pixels, spec.intermediate)
    return _resize(pixels, spec.size)[..., np.newaxis]


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = size
    if pixels.shape == size:
        return pixels
    shrinks = pixels.shape[0] >= rows and pixels.shape[1] >= columns
    return cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
