"""A look at the pixels of an image whose header says frontal chest: is it one, upright, and of the right polarity?

A small convolutional network, in NumPy, looks at a thumbnail of 32 x 32. It was trained by `trainer.plausibility` on
the training parts of the cohorts, on wrong versions of them, and on drawn pictures of other things. How often it errs
stands in ``plausibility.json`` beside its weights, measured on test parts, with counts and intervals: how many real
chests it would exclude, and how many wrong pictures it catches. No lateral radiograph was at hand: a lateral view is
excluded by its header only.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from cxr_node.findings import Exclusion
from cxr_node.imaging.radiograph import Radiograph

SIZE = 32
WEIGHTS = Path(__file__).with_name("plausibility.npz")
_SAMPLED_SIDE = 256
BLANK_DEVIATION = 0.02  # of gray values in [0, 1]
# An upright chest's share below which a picture is excluded. Real chests of the tune parts are far above it.
LEAST_UPRIGHT = 0.05
# A particular reason needs this share: below it, what is known is only that the picture is no upright chest.
LEAST_NAMED = 0.5

# The network's classes: a chest in quarter turns (counter-clockwise), the same with black and white exchanged, or else.
UPRIGHT, QUARTER_LEFT, HALF, QUARTER_RIGHT = range(4)
INVERTED = slice(4, 8)
OTHER = 8
CLASSES = 9

MESSAGES = {
    "inverted-polarity": "the picture looks like a chest with black and white exchanged",
    "upside-down": "the picture looks like a chest upside down",
    "rotated": "the picture looks like a chest turned by a quarter",
    "not-a-chest": "the picture does not look like an upright frontal chest radiograph",
    "blank": "the picture is blank or nearly so",
}


@dataclass(frozen=True)
class Seen:
    """What a look at the pixels found: why they are excluded, if so, and figures that are worth watching over time.

    `mean_gray` and `contrast`, the standard deviation, are of gray values in [0, 1]; `upright` is the network's share
    for an upright chest, None of a blank picture, which it does not look at.
    """

    exclusion: Exclusion | None
    mean_gray: float
    contrast: float
    upright: float | None = None


def implausible(radiograph: Radiograph) -> Exclusion | None:
    """Return why the picture cannot be an upright frontal chest radiograph, or None where it may be one."""
    return look_at(radiograph).exclusion


def look_at(radiograph: Radiograph) -> Seen:
    """Return whether the picture may be an upright frontal chest radiograph, and what was measured on the way."""
    gray = _sampled(radiograph.grayscale)
    mean, deviation = float(gray.mean()), float(gray.std())
    if deviation < BLANK_DEVIATION:
        return Seen(_exclusion("blank"), mean, deviation)
    found = shares(thumbnail(gray))
    return Seen(_judged(found), mean, deviation, float(found[UPRIGHT]))


def _judged(found: np.ndarray) -> Exclusion | None:
    if found[UPRIGHT] >= LEAST_UPRIGHT:
        return None
    named = {
        "inverted-polarity": float(found[INVERTED].sum()),
        "upside-down": float(found[HALF]),
        "rotated": float(found[QUARTER_LEFT] + found[QUARTER_RIGHT]),
    }
    best = max(named, key=lambda reason: named[reason])
    return _exclusion(best if named[best] >= LEAST_NAMED else "not-a-chest")


def _sampled(grayscale: np.ndarray) -> np.ndarray:
    """Return every nth pixel of a large image, at least 256 a side: enough to average for a thumbnail, in a tenth of
    the time."""
    step = max(1, min(grayscale.shape) // _SAMPLED_SIDE)
    return grayscale[::step, ::step]


def thumbnail(grayscale: np.ndarray) -> np.ndarray:
    """Return the (32, 32) float32 ranks of the thumbnail's values, mean 0, deviation 1 where no two are equal.

    Ranks instead of values: exposure, window and gamma of the sender change the gray scale, not the order.
    """
    small = cv2.resize(np.ascontiguousarray(grayscale, np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    # Equal values share their mean rank: a collimated border must not become a ramp.
    _, inverse, counts = np.unique(small, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[inverse.reshape(SIZE, SIZE)]
    return np.asarray((ranks / (SIZE * SIZE - 1) - 0.5) * np.sqrt(12), np.float32)


def shares(view: np.ndarray) -> np.ndarray:
    """Return how much of each class the network sees in a thumbnail: (9,) float64, sum 1."""
    weights = _weights()
    values = view[..., np.newaxis]
    for layer, stride in (("conv1", 2), ("conv2", 2), ("conv3", 1)):
        values = np.maximum(_convolved(values, weights[f"{layer}.kernel"], stride) + weights[f"{layer}.bias"], 0)
    hidden = np.maximum(values.ravel() @ weights["dense1.kernel"] + weights["dense1.bias"], 0)
    scores = (hidden @ weights["dense2.kernel"] + weights["dense2.bias"]).astype(np.float64)
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _convolved(values: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Convolve (rows, columns, in) with (height, width, in, out), without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(values, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
    return np.tensordot(windows, kernel, axes=((3, 4, 2), (0, 1, 2)))


@cache
def _weights() -> dict[str, np.ndarray]:
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        return {key: stored[key].astype(np.float32) for key in stored.files}


def _exclusion(reason: str) -> Exclusion:
    return Exclusion(reason, MESSAGES[reason], "(7FE0,0010) Pixel Data")
