"""A look at the pixels of an image whose header says frontal chest: is it one, upright, and of the right polarity?

The image's thumbnail is correlated with the mean thumbnails of adult and paediatric chests (made by
`trainer.plausibility` from training parts only), as it is and inverted, upside down and rotated. A frontal chest looks
most like the mean when nothing is done to it. How often that errs stands in ``plausibility.json`` beside the templates:
measured on test parts, with counts. No lateral radiograph was at hand: a lateral view is excluded by its header only.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from cxr_node.findings import Exclusion
from cxr_node.imaging.radiograph import Radiograph

SIZE = 32
TEMPLATES = Path(__file__).with_name("plausibility.npz")
BLANK_DEVIATION = 0.02  # of gray values in [0, 1]
TWO_TONED = 0.9  # share of pixels within 2 % of black or white: a page of text, not a radiograph

_TURNS = {"upside-down": 2, "rotated": 1}


def thumbnail(grayscale: np.ndarray) -> np.ndarray:
    """Return the (32, 32) float32 thumbnail, flattened in contrast: mean 0, norm 1; zeros for a blank image."""
    small = cv2.resize(np.ascontiguousarray(grayscale, np.float32), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    # Ranks instead of values: exposure, window and gamma of the sender change the gray scale, not the order.
    ranks = np.empty(SIZE * SIZE, np.float32)
    ranks[np.argsort(small, axis=None, kind="stable")] = np.arange(SIZE * SIZE, dtype=np.float32)
    flat = ranks.reshape(SIZE, SIZE) - ranks.mean()
    return np.asarray(flat / np.linalg.norm(flat), np.float32)


@cache
def _model() -> tuple[np.ndarray, float, float]:
    with np.load(TEMPLATES, allow_pickle=False) as stored:
        return stored["templates"], float(stored["least"]), float(stored["margin"])


def likeness(view: np.ndarray) -> float:
    """Return the highest correlation of a thumbnail with a mean chest, in [-1, 1]."""
    templates, _, _ = _model()
    return float(np.max(np.tensordot(templates, view, axes=((1, 2), (0, 1)))))


def likenesses(radiograph: Radiograph) -> dict[str, float]:
    """Return the likeness to a chest of the image as it is and of each way it could be wrong."""
    view = thumbnail(radiograph.grayscale)
    return {
        "upright": likeness(view),
        "upside-down": likeness(view[::-1]),
        "rotated": max(likeness(np.rot90(view)), likeness(np.rot90(view, -1))),
        "inverted-polarity": likeness(-view),
    }


MESSAGES = {
    "inverted-polarity": "the picture looks like a chest with black and white exchanged",
    "upside-down": "the picture looks like a chest upside down",
    "rotated": "the picture looks like a chest turned by a quarter",
    "not-a-chest": "the picture does not look like a frontal chest radiograph",
    "blank": "the picture is blank or nearly so",
}


def implausible(radiograph: Radiograph) -> Exclusion | None:
    """Return why the picture cannot be an upright frontal chest radiograph, or None where it may be one."""
    gray = radiograph.grayscale
    if float(gray.std()) < BLANK_DEVIATION:
        return _exclusion("blank")
    if float(np.mean((gray < 0.02) | (gray > 0.98))) > TWO_TONED:
        return _exclusion("not-a-chest")
    _, least, margin = _model()
    found = likenesses(radiograph)
    best = max(found, key=lambda name: found[name])
    if best != "upright" and found[best] >= least and found[best] - found["upright"] > margin:
        return _exclusion(best)
    return None if found["upright"] >= least else _exclusion("not-a-chest")


def _exclusion(reason: str) -> Exclusion:
    return Exclusion(reason, MESSAGES[reason], "(7FE0,0010) Pixel Data")
