"""Stored values to gray values, against the standard's formulas written out."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import radiograph_from_dataset, read_header, to_grayscale
from cxr_node.imaging.description import MAXIMUM_PIXELS
from tests.builders import make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-IMG-002")


def _linear(value: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1, written as it stands there, for output 0 to 1."""
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if value > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (center - 0.5)) / (width - 1) + 0.5


def _render(stored, **attributes):
    dataset = make_radiograph_dataset(np.asarray(stored), **attributes)
    return to_grayscale(np.asarray(stored), dataset)


@given(
    center=st.floats(-500, 5000),
    width=st.floats(2, 9000),
    values=st.lists(st.integers(0, 4095), min_size=4, max_size=4),
)
def test_a_linear_window_is_the_formula_of_the_standard(center, width, values):
    """Half a level at the wrong place is a different picture."""
    center, width = float(f"{center:.6g}"), float(f"{width:.6g}")
    stored = np.array(values, np.uint16).reshape(2, 2)
    found = _render(stored, WindowCenter=f"{center:.6g}", WindowWidth=f"{width:.6g}")
    expected = [_linear(value, center, width) for value in values]
    assert np.allclose(found.ravel(), expected, atol=1e-5)


@given(center=st.integers(100, 4000), width=st.integers(2, 4000))
def test_windows_agree_with_pydicom(center, width):
    """A second implementation, of the same section."""
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    dataset = make_radiograph_dataset(stored, WindowCenter=center, WindowWidth=width)
    peer = apply_voi_lut(stored, dataset)
    assert np.allclose(to_grayscale(stored, dataset), peer / 4095, atol=1e-5)


def test_golden_values_of_every_branch():
    """One small array for each way an image can be described."""
    stored = np.array([[0, 1024], [2048, 4095]], np.uint16)
    assert np.allclose(_render(stored, WindowCenter=2048, WindowWidth=4096), stored / 4095, atol=1e-6)
    assert np.allclose(
        _render(stored, WindowCenter=2048, WindowWidth=4096, PhotometricInterpretation="MONOCHROME1"),
        1 - stored / 4095,
        atol=1e-6,
    )
    assert np.allclose(
        _render(stored, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3096, WindowWidth=8191),
        stored / 4095,
        atol=1e-3,
    )
    exact = _render(stored, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    assert np.allclose(exact, np.clip((stored - 1000.0) / 2000, 0, 1), atol=1e-6)
    sigmoid = _render(stored, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID")
    assert np.allclose(sigmoid, 1 / (1 + np.exp(-4 * (stored - 2048.0) / 1000)), atol=1e-5)
    several = _render(stored, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
    assert np.allclose(several, stored / 4095, atol=1e-6)


def test_eight_bits_without_a_window_span_their_full_range():
    """A DICOM copy of a PNG is the PNG."""
    stored = np.array([[0, 100], [200, 250]], np.uint8)
    assert np.array_equal(_render(stored), stored.astype(np.float32) / np.float32(255))


def test_deeper_images_without_a_window_span_their_values():
    """12 bits of 16 would otherwise be nearly black."""
    stored = np.linspace(500, 1500, 10000).astype(np.uint16).reshape(100, 100)
    found = _render(stored)
    assert found.min() == 0
    assert found.max() == 1
    assert abs(float(np.median(found)) - 0.5) < 0.01


def test_a_lookup_table_is_applied():
    """VOI LUT Sequence goes before a window."""
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.LUTData = [0, 85, 170, 255]
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    found = _render(stored, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    assert np.allclose(found, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


def test_padding_is_black_and_does_not_move_the_scale():
    """Collimation filled with 4095 would otherwise be the brightest thing in the film."""
    stored = np.full((50, 50), 1000, np.uint16)
    stored[:, :25] = np.linspace(900, 1100, 25).astype(np.uint16)
    stored[:10] = 4095
    found = _render(stored, PixelPaddingValue=4095)
    assert np.all(found[:10] == 0)
    assert found[10:].max() == 1


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"PixelData": None}, "Pixel Data is absent"),
        ({"BitsStored": 17}, "Bits Stored is 17, more than (0028,0100) Bits Allocated 16"),
        ({"SamplesPerPixel": 3}, "Samples per Pixel is 3"),
        ({"NumberOfFrames": 2}, "Number of Frames is 2"),
        ({"Rows": 50000, "Columns": 50000}, f"more than {MAXIMUM_PIXELS}"),
        ({"Rows": 4096}, "expected 2097152"),
        ({"Columns": None}, "Columns is absent"),
    ],
)
def test_a_contradiction_is_named(attributes, text):
    """What was found, what was expected, and where."""
    with pytest.raises(UnreadablePixels) as caught:
        radiograph_from_dataset(make_radiograph_dataset(**attributes))
    assert text in str(caught.value)


@given(data=st.binary(max_size=400))
def test_any_bytes_read_as_a_header_or_are_refused(data, tmp_path_factory):
    """The gate never crashes."""
    from cxr_node.errors import UnreadableDataset

    path = tmp_path_factory.mktemp("bytes") / "x"
    path.write_bytes(data)
    with contextlib.suppress(UnreadableDataset):
        assert len(read_header(path))
