"""Which part of an image a score rests on, by covering one part after the other.

Occlusion sensitivity needs nothing of the network but its scores, so the map explains the very graph that serves, and
the same image has the same map. Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks,
ECCV 2014, section 4.2.
"""

from collections.abc import Callable

import cv2
import numpy as np

CELLS = 12  # a side; the map's own resolution
WINDOW_CELLS = 2  # a side of what is covered at once: a sixth of the image, about the size of a lobe's consolidation
SCORES = (CELLS - WINDOW_CELLS + 1) ** 2 + 1  # what one map costs: 122
_LEAST_DROP = 1e-4  # of a score; below it the network leaned on no place


def occlusion_sensitivity(
    scores: Callable[[np.ndarray], np.ndarray], image: np.ndarray, finding: int, shape: tuple[int, int]
) -> np.ndarray | None:
    """Return how much the score falls where the image is covered with its mean.

    Parameters
    ----------
    scores : `Engine.scores`: (n, rows, columns, 1) float32 to (n, findings); called once
    image : (rows, columns, 1) float32 in [0, 1], the model's input
    finding : column of the scores
    shape : (rows, columns) of the image that the input was made of. `imaging.preprocess` only scales, so the map is
        scaled back

    Returns
    -------
    `shape` float32 in [0, 1], or None
        1 where the fall is deepest. None where covering no part lowers the score: there is nothing to show.
    """
    rows, columns = image.shape[:2]
    down, right = (np.linspace(0, length, CELLS + 1).round().astype(int) for length in (rows, columns))
    places = [(row, column) for row in range(CELLS - WINDOW_CELLS + 1) for column in range(CELLS - WINDOW_CELLS + 1)]
    batch = np.repeat(image[np.newaxis].astype(np.float32), len(places) + 1, axis=0)
    cover = np.float32(image.mean())
    for index, (row, column) in enumerate(places, start=1):
        batch[index, down[row] : down[row + WINDOW_CELLS], right[column] : right[column + WINDOW_CELLS]] = cover
    found = np.asarray(scores(batch), np.float64)[:, finding]
    falls, times = np.zeros((CELLS, CELLS)), np.zeros((CELLS, CELLS))
    for (row, column), score in zip(places, found[1:], strict=True):
        cells = (slice(row, row + WINDOW_CELLS), slice(column, column + WINDOW_CELLS))
        falls[cells] += found[0] - score
        times[cells] += 1
    mean = np.clip(falls / times, 0, None)
    deepest = float(mean.max())
    if deepest < _LEAST_DROP:
        return None
    scaled = (mean / deepest).astype(np.float32)
    return np.clip(cv2.resize(scaled, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), 0, 1)
