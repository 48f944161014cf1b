"""Previews: the stored values that a page shows, and how they look at first."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import to_grayscale
from cxr_node.imaging.preview import TABLE_LENGTH, make_preview
from tests.builders import make_pixels, make_radiograph_dataset

pytestmark = pytest.mark.requirement("SRS-STU-002")


def voi_table() -> Dataset:
    """A VOI LUT that is no straight line: dark for a long way, then steep."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 8]
    item.LUTData = (255 * (np.arange(4096) / 4095) ** 3).astype(np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    return item


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 1500, "WindowWidth": 1000},
        {"WindowCenter": 0, "WindowWidth": 1000, "RescaleSlope": 2, "RescaleIntercept": -1000},
        {"WindowCenter": 1500, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": [voi_table()]},
    ],
)
def test_the_first_look_is_what_the_model_and_every_viewer_see(attributes):
    """One rendering: a preview that looked otherwise would show another picture than the one that was scored."""
    dataset = make_radiograph_dataset(make_pixels(64, 48), **attributes)
    made = make_preview(dataset, 1000)
    about = made.description
    places = np.rint(made.values.astype(float) * (len(about.gray) - 1) / (about.highest - about.lowest)).astype(int)
    shown = np.array(about.gray)[places]
    stored = np.frombuffer(dataset.PixelData, np.uint16).reshape(64, 48)
    # A step of the table is four stored values here.
    assert np.abs(shown - 255 * to_grayscale(stored, dataset)).max() < 3
    assert len(about.gray) <= TABLE_LENGTH


def test_an_image_that_is_small_enough_keeps_every_stored_value():
    """The readout under the pointer is what the modality stored."""
    pixels = make_pixels(40, 30, 11) + 7
    made = make_preview(make_radiograph_dataset(pixels), 40)
    assert made.description.lowest == 7
    assert np.array_equal(made.values.astype(int) + 7, pixels)
    assert made.values.dtype == np.uint16


def test_a_larger_image_is_reduced_by_averaging_areas():
    """A sampled pixel would show noise, and could leave out what lies between."""
    pixels = np.zeros((64, 64), np.uint16)
    pixels[::2] = 4000
    made = make_preview(make_radiograph_dataset(pixels), 32)
    assert made.values.shape == (32, 32)
    assert (made.values == 2000).all()
    assert (made.description.rows, made.description.columns) == (64, 64)
    assert make_preview(make_radiograph_dataset(make_pixels(300, 200)), 30).values.shape == (30, 20)


def test_signed_values_are_told_with_their_least_one():
    """What goes over the line is unsigned; nothing of the value is lost."""
    pixels = (make_pixels(16, 16).astype(np.int32) - 1024).astype(np.int16)
    dataset = make_radiograph_dataset(pixels.view(np.uint16), PixelRepresentation=1, BitsStored=16, HighBit=15)
    made = make_preview(dataset, 100)
    assert made.description.lowest == -1024
    assert np.array_equal(made.values.astype(int) - 1024, pixels)


def test_the_window_is_told_in_stored_values():
    """The sliders move over what is stored; the rescale is told apart."""
    dataset = make_radiograph_dataset(WindowCenter=100, WindowWidth=400, RescaleSlope=0.5, RescaleIntercept=-200)
    about = make_preview(dataset, 100).description
    assert (about.window_low, about.window_high, about.voi) == (200.0, 1000.0, "window")
    assert (about.slope, about.intercept) == (0.5, -200.0)


def test_a_missing_window_and_luts_have_a_stated_first_look():
    """Without a window the values that occur are spanned; a LUT's own curve is taken, and no rescale claimed."""
    assert make_preview(make_radiograph_dataset(), 100).description.voi == "range"
    about = make_preview(make_radiograph_dataset(VOILUTSequence=[voi_table()]), 100).description
    assert about.voi == "table"
    assert about.window_low > about.lowest
    modality = Dataset()
    modality.LUTDescriptor, modality.LUTData = [4096, 0, 16], np.arange(4096, dtype=np.uint16)[::-1].tobytes()
    modality["LUTData"].VR = "OW"
    about = make_preview(make_radiograph_dataset(ModalityLUTSequence=[modality]), 100).description
    assert (about.slope, about.intercept) == (None, None)
    assert about.gray[0] > about.gray[-1]


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "Samples per Pixel"),
        ({"NumberOfFrames": 2}, "Number of Frames"),
        ({"PixelData": None}, "Pixel Data"),
        ({"Rows": 60000, "Columns": 60000}, "more than"),
    ],
)
def test_what_has_no_preview_is_refused_by_name(attributes, named):
    """Color and several frames are for the viewer; a size that no detector has is not decoded."""
    with pytest.raises(UnreadablePixels, match=named):
        make_preview(make_radiograph_dataset(**attributes), 100)


def test_an_image_of_one_value_is_a_preview_too():
    """A detector that was not exposed."""
    made = make_preview(make_radiograph_dataset(np.full((8, 8), 5, np.uint16)), 100)
    assert made.description.lowest == made.description.highest == 5
    assert not made.values.any()
    assert made.description.window_high > made.description.window_low
