"""An image for a person to look at on a page: its stored values, reduced, and how they are first shown.

The values stay what the modality stored, so that whoever looks can move the window over all of them. Only how they
look at first is worked out here, by the same code that makes a model's input.
"""

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.decode import stored_values
from cxr_node.imaging.description import describe_pixels, name, numbers
from cxr_node.imaging.grayscale import to_grayscale

TABLE_LENGTH = 1024


@dataclass(frozen=True)
class PreviewDescription:
    """What a preview's values mean.

    `lowest` and `highest` are the stored values that occur. `gray` is what a reader would see (0 black, 255 white) at
    `len(gray)` stored values evenly spaced from `lowest` to `highest`; Modality LUT, VOI LUT or window, and
    MONOCHROME1 are in it. `window_low` and `window_high` are the stored values between which that mostly changes, and
    `inverted` tells that higher values are darker. A stored value times `slope` plus `intercept` is the modality
    value; both are None where a Modality LUT makes it. `voi` is where the first look comes from: "table", "window", or
    "range" where the image says nothing.
    """

    rows: int
    columns: int
    bits_stored: int
    photometric_interpretation: str
    lowest: int
    highest: int
    window_low: float
    window_high: float
    inverted: bool
    slope: float | None
    intercept: float | None
    voi: str
    gray: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Preview:
    """`values` are (rows, columns) uint16: stored values less `description.lowest`, maybe of a reduced image."""

    description: PreviewDescription
    values: np.ndarray


def make_preview(dataset: Dataset, longest_side: int) -> Preview:
    """Return the image, its longer side at most `longest_side` pixels.

    Reduced by area averaging of the stored values; an image that is small enough is left as it is.

    Raises
    ------
    UnreadablePixels
        See `decode.stored_values`: color images and images of several frames among others, which are for the viewer.
    """
    described = describe_pixels(dataset)
    stored = stored_values(dataset)
    lowest, highest = int(stored.min()), int(stored.max())
    gray = _gray_table(stored, to_grayscale(stored, dataset), lowest, highest)
    inverted = described.photometric_interpretation == "MONOCHROME1"
    slope, intercept = _rescale(dataset)
    voi, window = _window(dataset, slope, intercept)
    if window is None:
        window = _steep(gray, lowest, highest)
    return Preview(
        PreviewDescription(
            rows=described.rows,
            columns=described.columns,
            bits_stored=described.bits_stored,
            photometric_interpretation=described.photometric_interpretation,
            lowest=lowest,
            highest=highest,
            window_low=window[0],
            window_high=window[1],
            inverted=inverted,
            slope=slope,
            intercept=intercept,
            voi=voi,
            gray=tuple(int(value) for value in gray),
        ),
        _reduced((stored.astype(np.int32) - lowest).astype(np.uint16), longest_side),
    )


def _gray_table(stored: np.ndarray, shown: np.ndarray, lowest: int, highest: int) -> np.ndarray:
    """Return the gray values at evenly spaced stored values; those that do not occur lie between their neighbors."""
    by_value = np.full(highest - lowest + 1, np.nan, np.float32)
    by_value[stored.astype(np.int32).ravel() - lowest] = shown.ravel()
    occurring = np.flatnonzero(~np.isnan(by_value))
    places = np.linspace(0, highest - lowest, min(TABLE_LENGTH, highest - lowest + 1))
    return np.rint(255 * np.interp(places, occurring, by_value[occurring])).astype(np.int64)


def _rescale(dataset: Dataset) -> tuple[float | None, float | None]:
    """Source: PS3.3 C.11.1."""
    if dataset.get("ModalityLUTSequence"):
        return None, None
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    return slope[0] if slope else 1.0, intercept[0] if intercept else 0.0


def _window(dataset: Dataset, slope: float | None, intercept: float | None) -> tuple[str, tuple[float, float] | None]:
    """Return where the first look comes from, and the window in stored values where a straight line tells it all."""
    if dataset.get("VOILUTSequence"):
        return "table", None
    center, width = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not center or not width or width[0] < 1:
        return "range", None
    if not slope or slope < 0 or intercept is None:
        return "window", None
    low, high = center[0] - width[0] / 2, center[0] + width[0] / 2
    return "window", ((low - intercept) / slope, (high - intercept) / slope)


def _steep(gray: np.ndarray, lowest: int, highest: int) -> tuple[float, float]:
    """Return between which stored values the gray goes from almost black to almost white, or back."""
    step = (highest - lowest) / max(1, gray.size - 1)
    between = np.flatnonzero((gray > 2) & (gray < 253))
    if not between.size:
        return float(lowest), float(max(highest, lowest + 1))
    low, high = lowest + step * float(between[0]), lowest + step * float(between[-1])
    return low, max(high, low + 1)


def _reduced(values: np.ndarray, longest_side: int) -> np.ndarray:
    if longest_side < 1:
        raise UnreadablePixels(f"a preview of {longest_side} pixels; expected 1 or more ({name('Rows')})")
    scale = longest_side / max(values.shape)
    if scale >= 1:
        return np.ascontiguousarray(values)
    rows, columns = (max(1, round(length * scale)) for length in values.shape)
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), np.uint16)
