"""Outlines of heat maps."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_node.reporting.regions import MOST_REGIONS, outlines
from tests.builders import make_heat_map

pytestmark = pytest.mark.requirement("SRS-RPT-107")


def _filled(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.round(points - 0.5).astype(np.int32)], 1)
    return canvas > 0


def test_the_outline_lies_where_the_map_is_half_as_hot():
    """Within the tolerance of its simplification."""
    heat_map = make_heat_map(300, 240)
    (points,) = outlines(heat_map)
    assert np.array_equal(points[0], points[-1])
    hot, inside = heat_map >= 0.5 * heat_map.max(), _filled(points, heat_map.shape)
    assert (hot & inside).sum() / (hot | inside).sum() > 0.95
    assert len(points) < 100


def test_a_pixel_has_its_middle_at_a_half():
    """The origin is the corner of the first pixel, in SCOORD and in graphic annotations."""
    heat_map = np.zeros((20, 20), np.float32)
    heat_map[4:9, 10:16] = 1
    (points,) = outlines(heat_map)
    assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([10.5, 4.5], [15.5, 8.5])


def test_a_cold_map_has_none():
    """Nothing to point at."""
    assert outlines(np.zeros((20, 20), np.float32)) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.6)), min_size=1, max_size=6),
)
def test_outlines_are_closed_inside_and_few(rows, columns, spots):
    """Whatever the map: a point outside its image is an error to every display."""
    down, right = np.mgrid[0:rows, 0:columns]
    heat_map = np.zeros((rows, columns), np.float32)
    for top, left, width in spots:
        distance = ((down / rows - top) ** 2 + (right / columns - left) ** 2) / width**2
        heat_map = np.maximum(heat_map, np.exp(-distance).astype(np.float32))
    found = outlines(heat_map)
    assert len(found) <= MOST_REGIONS
    for points in found:
        assert points.dtype == np.float32
        assert len(points) >= 4
        assert np.array_equal(points[0], points[-1])
        assert points.min() >= 0
        assert points[:, 0].max() <= columns
        assert points[:, 1].max() <= rows
