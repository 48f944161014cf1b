"""Stored values to gray values, against the standard's formulas written out."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.tag import BaseTag

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


def _table_reference(value: float, first: int, table: list[int]) -> int:
    """PS3.3 C.11.1.1.1: before the first mapped value the first entry, after the last the last."""
    if value < first:
        return table[0]
    if value >= first + len(table):
        return table[-1]
    return table[int(value) - first]


def _lut_item(first: int, table: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(table), first, bits])
    item.add_new(0x00283006, "US", table)
    return item


@given(
    first=st.integers(-50, 300),
    table=st.lists(st.integers(0, 1023), min_size=2, max_size=40),
    values=st.lists(st.integers(-100, 400), min_size=4, max_size=4),
)
def test_a_voi_table_is_the_rule_of_the_standard(first, table, values):
    """Entry by entry, in a loop."""
    stored = np.array(values, np.int16).reshape(2, 2)
    dataset = make_radiograph_dataset(stored.view(np.uint16), PixelRepresentation=1, BitsStored=16, HighBit=15)
    dataset.VOILUTSequence = [_lut_item(first, table, 10)]
    expected = [_table_reference(value, first, table) / 1023 for value in values]
    assert np.allclose(to_grayscale(stored, dataset).ravel(), expected, atol=1e-6)


@given(first=st.integers(0, 300), table=st.lists(st.integers(0, 4095), min_size=2, max_size=40))
def test_a_modality_table_agrees_with_pydicom(first, table):
    """And what follows sees its values: here a window over all of them."""
    stored = np.arange(400, dtype=np.uint16).reshape(20, 20)
    dataset = make_radiograph_dataset(stored, WindowCenter=2048, WindowWidth=4096)
    dataset.ModalityLUTSequence = [_lut_item(first, table, 16)]
    expected = apply_modality_lut(stored, dataset).astype(float) / 4095
    assert np.allclose(to_grayscale(stored, dataset), expected, atol=1e-5)


@given(
    slope=st.floats(0.01, 4),
    intercept=st.floats(-2000, 2000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    center=st.integers(-500, 4000),
    width=st.integers(2, 5000),
)
def test_rescale_and_each_window_function_agree_with_pydicom(slope, intercept, function, center, width):
    """A second implementation of C.11.1 and C.11.2, over every stored value of 12 bits."""
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    slope, intercept = float(f"{slope:.5g}"), float(f"{intercept:.5g}")
    dataset = make_radiograph_dataset(
        stored,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=center,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    peer = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    assert np.allclose(to_grayscale(stored, dataset), (peer - intercept) / (slope * 4095), atol=1e-5)


def test_a_negative_slope_turns_the_values_round_before_the_window():
    """The window is over modality values; pydicom's own output range is not defined there."""
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    found = _render(stored, RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    assert np.allclose(found, (4095 - stored.astype(float)) / 4095, atol=1e-6)


def test_packed_tables_of_eight_bits_are_unpacked():
    """Two entries to a word, the first in the low byte, as old senders write them."""
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.add_new(0x00283006, "OW", bytes([0, 85, 170, 255]))
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    assert np.allclose(_render(stored, VOILUTSequence=[item]), stored / 3, atol=1e-6)


def test_zero_entries_stand_for_65536():
    """LUT Descriptor is of 16 bits."""
    item = Dataset()
    item.add_new(0x00283002, "US", [0, 0, 16])
    item.add_new(0x00283006, "OW", np.arange(65536, dtype="<u2").tobytes())
    stored = np.array([[0, 4095], [65535, 300]], np.uint16)
    found = _render(stored, BitsStored=16, HighBit=15, VOILUTSequence=[item])
    assert np.allclose(found, stored / 65535, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_values_are_scaled_and_inverted_like_others(photometric):
    """CT-like stored values appear in CR too."""
    stored = np.array([[-1000, -500], [0, 1000]], np.int16)
    dataset = make_radiograph_dataset(
        stored.view(np.uint16), PixelRepresentation=1, WindowCenter=0.5, WindowWidth=2001,
        PhotometricInterpretation=photometric,
    )  # fmt: skip
    expected = (stored + 1000) / 2000
    found = to_grayscale(stored, dataset)
    assert np.allclose(found, expected if photometric == "MONOCHROME2" else 1 - expected, atol=1e-6)


@pytest.mark.parametrize("value", [(4000, 4095), (4095, 4000)])
def test_a_range_of_padding_is_black_in_either_order(value):
    """The limit may be the greater or the lesser end: C.7.5.1.1.2."""
    stored = np.array([[3999, 4000], [4050, 4095]], np.uint16)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    dataset = make_radiograph_dataset(stored, PhotometricInterpretation="MONOCHROME1", **window)
    dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = value
    found = to_grayscale(stored, dataset)
    assert found[0, 0] > 0
    assert not found.ravel()[1:].any()


def test_padding_of_the_other_sign_has_the_bits_of_the_stored_value():
    """63536 for -2000, written with the wrong value representation."""
    stored = np.array([[-2000, 0], [100, 200]], np.int16)
    dataset = make_radiograph_dataset(stored.view(np.uint16), PixelRepresentation=1, BitsStored=16, HighBit=15)
    dataset.add_new(0x00280120, "US", 63536)
    found = to_grayscale(stored, dataset)
    assert found[0, 0] == 0
    assert np.allclose(found.ravel()[1:], [0, 0.5, 1], atol=1e-6)


def test_an_image_of_nothing_but_padding_is_black():
    """No value is left to scale by."""
    assert not _render(np.full((4, 4), 9, np.uint16), PixelPaddingValue=9).any()


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_a_width_that_the_standard_forbids_counts_as_no_window(width):
    """A division by zero would make every lung white, or NaN."""
    stored = np.linspace(500, 1500, 10000).astype(np.uint16).reshape(100, 100)
    assert np.array_equal(_render(stored, WindowCenter=1000, WindowWidth=width), _render(stored))


def test_a_width_of_one_is_a_threshold():
    """C.11.2.1.2.1 allows it."""
    found = _render(np.array([[9, 10], [11, 12]], np.uint16), WindowCenter=11, WindowWidth=1)
    assert np.array_equal(found, [[0, 0], [1, 1]])


def test_a_spacing_of_zero_is_not_read():
    """RG1 of the NEMA samples has 0.000: nothing here divides by it."""
    stored = np.array([[0, 1000], [2000, 4095]], np.uint16)
    found = _render(stored, PixelSpacing=["0.000", "0.000"], WindowCenter=2048, WindowWidth=4096)
    assert np.allclose(found, stored / 4095, atol=1e-6)


@pytest.mark.parametrize("pixels", [np.uint8, np.int8])
def test_up_to_eight_bits_span_what_the_bits_can_hold(pixels):
    """Whatever values occur: two images of a series keep one scale."""
    stored = np.array([[10, 20], [30, 100]], pixels)
    dataset = make_radiograph_dataset(stored.view(np.uint8), PixelRepresentation=int(pixels == np.int8))
    expected = (stored.astype(float) + (128 if pixels == np.int8 else 0)) / 255
    assert np.allclose(to_grayscale(stored, dataset), expected, atol=1e-7)


@given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=50), slope=st.sampled_from([1, -1, 0.5]))
def test_every_value_lies_between_black_and_white(values, slope):
    """Whatever the image holds."""
    stored = np.array([values], np.uint16)
    found = _render(stored, BitsStored=16, HighBit=15, RescaleSlope=slope, RescaleIntercept=-7)
    assert found.dtype == np.float32
    assert np.all((found >= 0) & (found <= 1))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "(0028,1053) Rescale Slope is 0, which makes one value of all"),
        (
            {"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
            "(0028,1056) VOI LUT Function is none of LINEAR, LINEAR_EXACT, SIGMOID",
        ),
        (
            {"VOILUTSequence": [Dataset()]},
            "(0028,3010) VOI LUT Sequence has no item with (0028,3002) LUT Descriptor and data",
        ),
        (
            {"VOILUTSequence": [_lut_item(0, [1, 2, 3], 17)]},
            "(0028,3002) LUT Descriptor of (0028,3010) VOI LUT Sequence tells 17 bits, expected 8 to 16",
        ),
    ],
)
def test_a_description_that_makes_no_picture_is_named(attributes, message):
    """Rather an exclusion that says why than a gray picture."""
    with pytest.raises(UnreadablePixels) as caught:
        _render(np.zeros((2, 2), np.uint16), **attributes)
    assert str(caught.value) == message


def test_a_table_shorter_than_its_descriptor_is_named():
    """The missing entries could be anything."""
    item = _lut_item(0, [1, 2, 3], 12)
    item.LUTDescriptor = [300, 0, 12]
    with pytest.raises(UnreadablePixels, match="has 3 entries, expected 300"):
        _render(np.zeros((2, 2), np.uint16), VOILUTSequence=[item])


def test_a_window_that_is_no_number_is_named():
    """Decimal strings hold what a sender writes."""
    stored = np.zeros((2, 2), np.uint16)
    dataset = make_radiograph_dataset(stored, WindowWidth=4096)
    dataset[0x00281050] = RawDataElement(BaseTag(0x00281050), "DS", 3, b"abc", 0, False, True)
    with pytest.raises(UnreadablePixels, match=r"\(0028,1050\) Window Center"):
        to_grayscale(stored, dataset)
