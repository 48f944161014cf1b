"""Stored values from every transfer syntax, and what is refused before or while decoding."""

import base64
import subprocess

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.tag import Tag
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import (
    PreprocessSpec,
    preprocess,
    radiograph_from_dataset,
    radiograph_from_dicom_file,
    radiograph_from_picture,
)
from cxr_node.imaging.codestream import read_codestream
from cxr_node.imaging.decode import stored_values
from cxr_node.imaging.description import MAXIMUM_PIXELS
from cxr_node.imaging.resolutions import LEAST_FACTOR
from tests.builders import make_radiograph_dataset
from tests.conftest import SHARED_DATA, find_program

pytestmark = pytest.mark.requirement("SRS-IMG-001")

DICOM = SHARED_DATA / "dicom"
PIXELS = (np.add.outer(np.arange(48) * 40, np.arange(40) * 50)).astype(np.uint16)
# PIXELS in High-Throughput JPEG 2000, reversible, encoded with imagecodecs 2026.3.6 (OpenJPH): none of the node's own
# libraries can encode it.
HTJ2K_FRAME = base64.b64decode(
    "/0//UQApQAAAAAAoAAAAMAAAAAAAAAAAAAAAKAAAADAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQ"
    "kJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAPEAAf+TwAArAEkAkfVz87voAsM0AMAAE0AAEwD3/QALdADb7QAi"
    "NADAABUQAAVQ994AAjACdgDaaqvtwEIB/rYAwAAVsAAFcMaNjY0bG9gv1+GLdwBs2djY2P70DEYxgey4AMAAFqwAAWsAYDAYDAaDwWAwGPzv"
    "+np6enpxAnoAsjKZTCaTyWSy/1AEPYhAe/YhAey9AMAALo4AAXTgoiiKoiiKoiiKoiiKoiiKoiiK/H/Kenp6enp6enp6enCCcQFOx3Ecx3Ec"
    "x3Ecx3Ecx3H+/32QEIHv2EIHv2EIHv2EIHv2EIHstwH/2Q=="
)


def _compressed(pixels: np.ndarray, syntax: str, **attributes) -> Dataset:
    dataset = make_radiograph_dataset(pixels, **attributes)
    plugin = {JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}.get(syntax, "")
    dataset.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return dataset


def _encapsulated(frame: bytes, syntax: str, pixels: np.ndarray = PIXELS, **attributes) -> Dataset:
    dataset = make_radiograph_dataset(pixels, **attributes)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    return dataset


def _refused(dataset: Dataset) -> str:
    with pytest.raises(UnreadablePixels) as caught:
        stored_values(dataset)
    return str(caught.value)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_what_was_compressed_without_loss_comes_back(syntax):
    """To the bit, or a model sees another picture than the modality made."""
    assert np.array_equal(stored_values(_compressed(PIXELS, syntax)), PIXELS)


def test_high_throughput_jpeg_2000_decodes():
    """The newest syntax a PACS may send; no file of it is at hand, so the frame was made for this test."""
    assert np.array_equal(stored_values(_encapsulated(HTJ2K_FRAME, HTJ2KLossless)), PIXELS)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
@pytest.mark.parametrize("vr", ["OW", "OB"])
@pytest.mark.parametrize("pixels", [PIXELS, (PIXELS // 16).astype(np.uint8), PIXELS[:3, :3].astype(np.uint8)])
def test_uncompressed_pixels_read_in_both_byte_orders(syntax, vr, pixels, tmp_path):
    """8-bit pixels in words change places in Big Endian (PS3.5 8.1.1); an odd number of them has a byte of padding."""
    if vr == "OB" and pixels.dtype == np.uint16:
        pytest.skip("16-bit pixels are OW: PS3.5 A.2")
    dataset = make_radiograph_dataset(pixels)
    dataset["PixelData"].VR = vr
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and vr == "OW":
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(stored_values(dcmread(path)), pixels)
    assert radiograph_from_dicom_file(path).grayscale.shape == pixels.shape


def test_a_file_without_preamble_and_group_2_reads(tmp_path):
    """As it goes over the network."""
    dataset = make_radiograph_dataset(PIXELS)
    del dataset.file_meta
    path = tmp_path / "bare"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert radiograph_from_dicom_file(path).grayscale.shape == PIXELS.shape


@pytest.mark.peer("dcmcjpeg", "dcmcjpls", "dcmcrle")
@pytest.mark.parametrize(
    ("command", "bits", "most"),
    [
        (["dcmcjpeg", "+e1"], 12, 0),  # lossless, first-order prediction
        (["dcmcjpeg", "+el"], 12, 0),  # lossless
        (["dcmcjpeg", "+ee", "+q", "95"], 12, 40),  # extended
        (["dcmcjpeg", "+eb", "+q", "95"], 8, 4),  # baseline
        (["dcmcjpls", "+el"], 12, 0),
        (["dcmcjpls", "+en", "+md", "3"], 12, 3),
        (["dcmcrle"], 12, 0),
    ],
)
def test_what_another_toolkit_compressed_decodes(command, bits, most, tmp_path):
    """A codec that agrees with itself only is no codec."""
    y, x = np.mgrid[0:120, 0:100]
    wave = np.sin(y / 20) * np.cos(x / 15)
    # The whole range: DCMTK spreads what a lossy codec is given over it, and says so in Rescale Slope.
    pixels = np.round((wave - wave.min()) / np.ptp(wave) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    make_radiograph_dataset(pixels).save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    program = find_program(command[0]) or command[0]
    subprocess.run([program, *command[1:], tmp_path / "plain.dcm", tmp_path / "small.dcm"], check=True)
    found = stored_values(dcmread(tmp_path / "small.dcm")).astype(int)
    assert np.abs(found - pixels).max() <= most


@given(values=st.lists(st.integers(-2048, 2047), min_size=4, max_size=4), extended=st.booleans())
def test_signed_pixels_keep_their_sign(values, extended):
    """12 signed bits in a cell of 16, whether the sender fills the bits above with the sign or with nothing."""
    signed = np.array(values, np.int16).reshape(2, 2)
    cells = signed.view(np.uint16) if extended else signed.view(np.uint16) & 0x0FFF
    dataset = make_radiograph_dataset(cells, PixelRepresentation=1)
    assert np.array_equal(stored_values(dataset), signed)
    assert stored_values(dataset).dtype == np.int16


@given(values=st.lists(st.integers(0, 4095), min_size=4, max_size=4), overlay=st.integers(0, 15))
def test_bits_beyond_bits_stored_are_no_gray(values, overlay):
    """Old devices keep an overlay in the bits above, or the pixel in the upper bits of its cell."""
    pixels = np.array(values, np.uint16).reshape(2, 2)
    assert np.array_equal(stored_values(make_radiograph_dataset(pixels | overlay << 12)), pixels)
    raised = make_radiograph_dataset(pixels << 4 | overlay, BitsStored=12, HighBit=15)
    assert np.array_equal(stored_values(raised), pixels)


def test_a_codec_overshoot_is_clipped_to_bits_stored():
    """A value of 1024 in 10 bits, masked, would turn white into black."""
    dataset = _compressed(PIXELS, JPEG2000Lossless)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.91"
    dataset.BitsStored, dataset.HighBit = 10, 9
    assert np.array_equal(stored_values(dataset), np.minimum(PIXELS, 1023))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"PixelData": None}, "(7FE0,0010) Pixel Data is absent"),
        (
            {"PixelData": None, "FloatPixelData": b"\0" * 4},
            "(7FE0,0010) Pixel Data is absent, found (7FE0,0008) Float Pixel Data",
        ),
        ({"PixelData": b""}, "(7FE0,0010) Pixel Data is empty"),
        (
            {"PixelData": PIXELS.tobytes()[:-2]},
            "(7FE0,0010) Pixel Data has 3838 bytes, expected 3840 for 48 x 40 pixels of 16 bits",
        ),
        (
            {"PixelData": PIXELS.tobytes() + bytes(80)},
            "(7FE0,0010) Pixel Data has 3920 bytes, expected 3840 for 48 x 40 pixels of 16 bits",
        ),
        ({"Rows": None}, "(0028,0010) Rows is absent"),
        ({"Rows": 0}, "(0028,0010) Rows x (0028,0011) Columns is 0 x 40"),
        (
            {"Rows": 60000, "Columns": 60000},
            f"(0028,0010) Rows x (0028,0011) Columns is 60000 x 60000, more than {MAXIMUM_PIXELS} pixels",
        ),
        ({"BitsAllocated": 12}, "(0028,0100) Bits Allocated is 12, expected 8 or 16"),
        ({"BitsStored": 17}, "(0028,0101) Bits Stored is 17, more than (0028,0100) Bits Allocated 16"),
        ({"BitsStored": 0, "HighBit": 0}, "(0028,0101) Bits Stored is 0, expected 1 or more"),
        (
            {"HighBit": 10},
            "(0028,0102) High Bit is 10, expected 11 for (0028,0101) Bits Stored 12 of (0028,0100) Bits Allocated 16",
        ),
        ({"PixelRepresentation": 2}, "(0028,0103) Pixel Representation is 2, expected 0 or 1"),
        ({"SamplesPerPixel": 3}, "(0028,0002) Samples per Pixel is 3, expected 1"),
        ({"NumberOfFrames": 2}, "(0028,0008) Number of Frames is 2, expected 1"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "(0028,0004) Photometric Interpretation is 'PALETTE COLOR', expected MONOCHROME1 or MONOCHROME2",
        ),
        (
            {"PhotometricInterpretation": None},
            "(0028,0004) Photometric Interpretation is '', expected MONOCHROME1 or MONOCHROME2",
        ),
    ],
)
def test_a_contradiction_is_named_with_what_was_found_and_expected(attributes, message):
    """The person who mends the sender reads this."""
    assert _refused(make_radiograph_dataset(PIXELS, **attributes)) == message


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (
            RawDataElement(Tag("SamplesPerPixel"), "ZZ", 2, b"\1\0", 0, False, True),
            "(0028,0002) Samples per Pixel holds no value of its kind",
        ),
        (
            DataElement(Tag("PixelData"), "US", [700, 800]),
            "(7FE0,0010) Pixel Data holds no bytes, found VR US",
        ),
    ],
    ids=["a value representation that there is not", "numbers for bytes"],
)
def test_a_value_of_another_kind_is_named(element, message):
    """Found by the fuzzer: both ended the reader with an error of the library."""
    dataset = make_radiograph_dataset(PIXELS)
    dataset[element.tag] = element
    assert _refused(dataset) == message


@pytest.mark.parametrize("absent", ["SamplesPerPixel", "HighBit", "PixelRepresentation"])
def test_an_absent_attribute_with_one_usual_value_is_tolerated(absent):
    """Old files leave out what seems obvious."""
    assert np.array_equal(stored_values(make_radiograph_dataset(PIXELS, **{absent: None})), PIXELS)


def test_a_surplus_of_less_than_a_row_is_padding():
    """Some senders fill a block."""
    dataset = make_radiograph_dataset(PIXELS, PixelData=PIXELS.tobytes() + bytes(78))
    assert np.array_equal(stored_values(dataset), PIXELS)


def test_a_codestream_larger_than_its_header_says_is_refused_before_decoding():
    """A few bytes can hold a picture of gigabytes."""
    frame = bytearray(next(generate_frames(_compressed(PIXELS, JPEG2000Lossless).PixelData, number_of_frames=1)))
    frame[8:16] = frame[24:32] = (60000).to_bytes(4, "big") * 2  # image and tile
    message = _refused(_encapsulated(bytes(frame), JPEG2000Lossless))
    assert "is 60000 x 60000, expected (0028,0010) Rows 48 x (0028,0011) Columns 40" in message


def test_compressed_data_longer_than_any_codec_makes_it_is_refused():
    """Run lengths inflate 64 times: what goes in is bounded too."""
    dataset = _encapsulated(bytes(1 << 18), RLELossless)
    assert "compressed bytes, expected at most" in _refused(dataset)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, HTJ2KLossless])
def test_a_codestream_without_its_end_is_refused(syntax):
    """A decoder would fill the missing part with gray, and a model would read it."""
    if syntax == HTJ2KLossless:
        frame = HTJ2K_FRAME
    else:
        frame = next(generate_frames(_compressed(PIXELS, syntax).PixelData, number_of_frames=1))
    message = _refused(_encapsulated(frame[: len(frame) * 2 // 3], syntax))
    assert "ends before the end marker FFD9" in message or "ends within a tile" in message


def test_several_frames_behind_one_are_refused():
    """Number of Frames says 1, the offsets say 2."""
    dataset = _encapsulated(HTJ2K_FRAME, HTJ2KLossless)
    dataset.PixelData = encapsulate([HTJ2K_FRAME, HTJ2K_FRAME])
    assert "holds 2 frames, expected 1" in _refused(dataset)


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, HTJ2KLossless])
def test_bytes_that_are_no_codestream_are_refused(syntax):
    """Whatever the transfer syntax says."""
    assert "no JPEG, JPEG-LS or JPEG 2000 codestream" in _refused(_encapsulated(b"\0" * 100, syntax))


def test_a_film_is_no_radiograph():
    """A transfer syntax that is not decoded here is named."""
    assert f"(0002,0010) Transfer Syntax UID is {MPEG2MPML}" in _refused(_encapsulated(b"\0" * 100, MPEG2MPML))


@given(data=st.binary(max_size=200), jpeg=st.booleans())
def test_any_bytes_are_a_codestream_or_are_refused(data, jpeg):
    """The reader of frame headers never runs over the end, and always ends."""
    try:
        found = read_codestream((b"\xff\xd8" if jpeg else b"\xff\x4f\xff\x51") + data)
    except UnreadablePixels as error:
        found, said = None, str(error)
    else:
        said = ""
    assert (found is None) == bool(said), "a refusal says why"


def test_a_deflated_bomb_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    """A megabyte of zeros deflates to a thousand bytes."""
    monkeypatch.setattr("cxr_node.imaging.reader._LARGEST_INFLATED", 1 << 20)
    dataset = make_radiograph_dataset(np.zeros((1000, 1000), np.uint16))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "bomb.dcm", enforce_file_format=True)
    with pytest.raises(UnreadablePixels, match="inflates to more than"):
        radiograph_from_dicom_file(tmp_path / "bomb.dcm")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless])
def test_a_file_that_ends_early_is_refused(share, syntax, tmp_path):
    """Half a film must not be read as a whole one."""
    noise = np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16)
    dataset = _compressed(noise, syntax) if syntax == JPEG2000Lossless else make_radiograph_dataset(noise)
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadablePixels):
        radiograph_from_dicom_file(path)


def test_a_missing_file_is_no_property_of_the_image(tmp_path):
    """The disk may come back: the job is tried again, the image is not excluded."""
    with pytest.raises(FileNotFoundError):
        radiograph_from_dicom_file(tmp_path / "absent.dcm")


@pytest.mark.requirement("SRS-IMG-003")
def test_the_same_jpeg_bytes_as_picture_and_as_dicom_are_the_same_radiograph():
    """To the bit: the cohorts are read as JPEG pictures."""
    frame = cv2.imencode(".jpg", (_smooth(300, 200) >> 4).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    picture = radiograph_from_picture(frame).grayscale
    dataset = _encapsulated(frame, JPEGBaseline8Bit, np.zeros((300, 200), np.uint8))
    assert np.array_equal(radiograph_from_dataset(dataset).grayscale, picture)


@pytest.mark.requirement("SRS-IMG-003")
@pytest.mark.parametrize("bits", [12, 14, 16])
def test_a_deep_picture_and_its_dicom_copy_give_the_same_input(bits):
    """Within half a stored level: a 16-bit PNG spans 0 to 65535, the DICOM copy its Bits Stored."""
    deep = _smooth(500, 400).astype(np.uint32) * 65535 // 4095
    picture = radiograph_from_picture(cv2.imencode(".png", deep.astype(np.uint16))[1].tobytes())
    most = 2**bits - 1
    stored = np.round(deep * (most / 65535)).astype(np.uint16)
    dataset = make_radiograph_dataset(stored, BitsStored=bits, HighBit=bits - 1)
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    spec = PreprocessSpec((128, 128), (224, 224))
    apart = np.abs(preprocess(radiograph_from_dataset(dataset), spec) - preprocess(picture, spec))
    assert apart.max() <= 0.5 / most + 1e-6


# Lower resolution of JPEG 2000


def _smooth(rows: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:columns]
    wave = np.sin(y / rows * 9) * np.cos(x / columns * 7) * 0.4 + 0.5
    grain = np.random.default_rng(3).normal(0, 0.02, (rows, columns))
    return (np.clip(wave + grain, 0, 1) * 4095).astype(np.uint16)


@pytest.mark.requirement("SRS-IMG-005")
@pytest.mark.parametrize(
    ("target", "shape"),
    [((224, 224), (450, 512)), ((238, 200), (900, 1023)), ((100, 100), (225, 256)), (None, (900, 1023))],
)
def test_the_lowest_resolution_of_about_twice_the_target_is_decoded(target, shape):
    """Less would blur what the model looks at; more costs time."""
    assert stored_values(_compressed(_smooth(900, 1023), JPEG2000Lossless), target).shape == shape


@pytest.mark.requirement("SRS-IMG-005")
@pytest.mark.parametrize("attributes", [{"PixelPaddingValue": 4095}, {"PixelRepresentation": 1}])
def test_full_resolution_where_a_lower_one_would_mean_something_else(attributes):
    """Padding is an exact value; signed samples are shifted differently by each library."""
    pixels = _smooth(900, 900) >> (1 if "PixelRepresentation" in attributes else 0)
    dataset = _compressed(pixels.view(np.int16) if "PixelRepresentation" in attributes else pixels, JPEG2000Lossless)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    assert stored_values(dataset, (224, 224)).shape == (900, 900)


@pytest.mark.requirement("SRS-IMG-005")
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["RG1_J2KI", "canon_966_fixed_deid", "kodak_hand_J2KR", "RG3_J2KI", "RG3_J2KR"])
@pytest.mark.parametrize(
    "spec", [PreprocessSpec((128, 128), (224, 224)), PreprocessSpec((320, 320)), PreprocessSpec((512, 512))]
)
def test_a_lower_resolution_gives_nearly_the_same_input(name, spec):
    """Stated tolerance in gray levels of 255: 0.3 on average, 2 for one pixel in a hundred, 10 for one in a thousand.

    The largest differences lie on burned-in letters and at the edge of the film.
    """
    dataset = dcmread(DICOM / f"{name}.dcm")
    full = preprocess(radiograph_from_dataset(dataset), spec)
    reduced = radiograph_from_dataset(dataset, spec.first_size)
    assert min(reduced.rows, reduced.columns) >= LEAST_FACTOR * max(spec.first_size) or reduced.rows == dataset.Rows
    apart = np.abs(preprocess(reduced, spec) - full)
    assert apart.mean() <= 0.3 / 255
    assert np.quantile(apart, 0.99) <= 2 / 255
    assert np.quantile(apart, 0.999) <= 10 / 255
