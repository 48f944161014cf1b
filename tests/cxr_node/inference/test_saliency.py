"""Occlusion sensitivity, on networks whose answer is known."""

import numpy as np
import pytest

from cxr_node.inference import Engine, occlusion_sensitivity
from cxr_node.inference.saliency import CELLS, SCORES

pytestmark = pytest.mark.requirement("SRS-INF-101")


def _brightness_of(rows: slice, columns: slice):
    """A network that scores the mean of one part of the image, for its second finding."""

    def scores(batch: np.ndarray) -> np.ndarray:
        part = batch[:, rows, columns, 0].mean(axis=(1, 2))
        return np.stack([np.full(len(batch), 0.5, np.float32), part.astype(np.float32)], axis=1)

    return scores


def _image(rows: int = 120, columns: int = 60) -> np.ndarray:
    image = np.full((rows, columns, 1), 0.1, np.float32)
    image[80:100, 10:20] = 1
    return image


def test_the_map_is_hot_where_the_score_comes_from():
    """In the image's coordinates, rows and columns scaled each by its own factor, as preprocessing did."""
    found = occlusion_sensitivity(_brightness_of(slice(80, 100), slice(10, 20)), _image(), 1, (2400, 600))
    assert found.shape == (2400, 600)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0.0, 1.0)
    hottest = np.unravel_index(int(found.argmax()), found.shape)
    assert 1500 <= hottest[0] <= 2100
    assert 60 <= hottest[1] <= 240
    assert found[:1000].max() < 0.05


def test_the_same_image_has_the_same_map():
    """An object that is built twice is the same bytes."""
    scores = _brightness_of(slice(80, 100), slice(10, 20))
    assert np.array_equal(*(occlusion_sensitivity(scores, _image(), 1, (300, 200)) for _ in range(2)))


def test_a_score_that_rests_on_no_place_has_no_map():
    """Half of all noise would else be drawn as a region."""
    assert occlusion_sensitivity(_brightness_of(slice(80, 100), slice(10, 20)), _image(), 0, (300, 200)) is None


def test_a_score_that_rises_when_covered_is_not_shown_as_its_ground():
    """What speaks against a finding is no reason for it."""

    def scores(batch: np.ndarray) -> np.ndarray:
        return (1 - _brightness_of(slice(80, 100), slice(10, 20))(batch))[:, 1:]

    assert occlusion_sensitivity(scores, _image(), 0, (300, 200)) is None


def test_the_cost_is_bounded_and_known():
    """One call, as many scores as said, whatever the size of the image."""
    calls = []

    def scores(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return np.zeros((len(batch), 1), np.float32)

    occlusion_sensitivity(scores, np.zeros((13, 29, 1), np.float32), 0, (5, 7))
    assert calls == [SCORES] == [(CELLS - 1) ** 2 + 1]


def test_it_asks_the_network_that_serves(tiny_package):
    """The map explains the very graph that gave the score: its deepest fall is one that the graph shows too."""
    engine = Engine(tiny_package())
    image = np.random.default_rng(3).random((16, 12, 1), dtype=np.float32)
    found = occlusion_sensitivity(engine.scores, image, 0, (CELLS, CELLS))
    assert found is not None
    row, column = np.unravel_index(int(found.argmax()), found.shape)
    before = engine.scores(image[np.newaxis])[0, 0]
    covered = image.copy()
    rows, columns = (
        slice(round(place * size / CELLS), round((place + 1) * size / CELLS) + 1)
        for place, size in ((row, 16), (column, 12))
    )
    covered[rows, columns] = image.mean()
    assert engine.scores(covered[np.newaxis])[0, 0] < before
