"""Real files of many makers through the reader, and the pictures they must come out as."""

import csv

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import (
    PreprocessSpec,
    implausible,
    preprocess,
    radiograph_from_dataset,
    radiograph_from_dicom_file,
    radiograph_from_picture,
    read_header,
)
from cxr_node.imaging.decode import stored_values
from tests.builders import make_radiograph_dataset
from tests.conftest import SHARED_DATA

SPEC = PreprocessSpec(size=(128, 128), intermediate=(224, 224))
DICOM = SHARED_DATA / "dicom"


@pytest.mark.real_data
@pytest.mark.requirement("SRS-IMG-001")
@pytest.mark.parametrize(
    ("name", "most"),
    [("JPLL", 0), ("JLSL", 0), ("J2KR", 0), ("RLE", 0), ("JLSN", 4), ("J2KI", 60), ("JPLY", 60)],
)
def test_a_picture_is_the_same_in_every_compression(name, most):
    """Lossless to the bit; lossy within the error of its own ratio, on 10 bits."""
    reference = stored_values(dcmread(DICOM / "RG3_UNC.dcm")).astype(int)
    found = stored_values(dcmread(DICOM / f"RG3_{name}.dcm")).astype(int)
    assert np.abs(found - reference).max() <= most


@pytest.mark.real_data
@pytest.mark.requirement("SRS-IMG-001")
def test_every_file_of_the_table_decodes_or_says_why():
    """A reader that crashes on one file stops a node."""
    with (DICOM / "table.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        assert read_header(DICOM / row["file"]).SOPClassUID
        if row["Photometric"] == "RGB" or "no PixelData" in row["decodes"]:
            with pytest.raises(UnreadablePixels, match=r"Pixel Data|Samples per Pixel"):
                radiograph_from_dicom_file(DICOM / row["file"])
        else:
            radiograph = radiograph_from_dicom_file(DICOM / row["file"])
            assert radiograph.grayscale.min() >= 0
            assert radiograph.grayscale.max() <= 1
            assert radiograph.grayscale.std() > 0.01


@pytest.mark.real_data
@pytest.mark.requirement("SRS-IMG-004")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("udacity_test1", None),
        ("udacity_test2", None),
        ("udacity_test3", None),
        ("RG1_J2KI", None),
        ("gdcm-CR-MONO1-10-chest", None),
        ("canon_966_fixed_deid", None),
        ("xrv_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819", None),
        ("xrv_Fake_MONOHR1", "inverted-polarity"),
        ("clunie_CR_chest_textpage", "not-a-chest"),
        ("clunie_DX_textpage", "not-a-chest"),
        ("RG3_UNC", "not-a-chest"),
        ("kodak_hand_J2KR", "not-a-chest"),
        ("fodicom_teeth_modalitylut", "not-a-chest"),
        ("orthanc_RF", "not-a-chest"),
    ],
)
def test_the_pixels_tell_a_chest_from_what_is_none(name, reason):
    """A header may say CHEST PA over a page of text."""
    found = implausible(radiograph_from_dicom_file(DICOM / f"{name}.dcm"))
    assert (found.reason if found else None) == reason


@pytest.mark.real_data
@pytest.mark.requirement("SRS-IMG-004")
def test_wrong_versions_of_a_real_chest_are_caught():
    """Upside down, turned, inverted."""
    gray = radiograph_from_dicom_file(DICOM / "udacity_test2.dcm").grayscale
    for pixels, reason in (
        (gray[::-1], "upside-down"),
        (np.rot90(gray), "rotated"),
        (np.rot90(gray, -1), "rotated"),
        (np.float32(1) - gray, "inverted-polarity"),
        (np.zeros_like(gray), "blank"),
        (np.random.default_rng(1).random(gray.shape, np.float32), "not-a-chest"),
    ):
        found = implausible(type(radiograph_from_dicom_file(DICOM / "udacity_test2.dcm"))(np.ascontiguousarray(pixels)))
        assert found is not None
        assert found.reason == reason


@pytest.mark.real_data
@pytest.mark.requirement("SRS-IMG-003")
@pytest.mark.parametrize("name", ["00000001_000.jpg", "00000003_000.jpg"])
def test_a_picture_and_its_dicom_copy_give_the_same_input(name, tmp_path):
    """Training and serving must see the same thing: to the bit at 8 bits, within half a stored level at 12 and 16."""
    pixels = cv2.imread(str(SHARED_DATA / "cxr14" / name), cv2.IMREAD_GRAYSCALE)
    picture = preprocess(radiograph_from_picture(cv2.imencode(".png", pixels)[1].tobytes()), SPEC)
    for sop_class in (SecondaryCaptureImageStorage, None):
        more = {"SOPClassUID": sop_class} if sop_class else {}
        dataset = make_radiograph_dataset(pixels, **more)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        assert np.array_equal(preprocess(radiograph_from_dicom_file(tmp_path / "a.dcm"), SPEC), picture)
        inverted = make_radiograph_dataset(255 - pixels, PhotometricInterpretation="MONOCHROME1", **more)
        assert np.abs(preprocess(radiograph_from_dataset(inverted), SPEC) - picture).max() < 1e-6
    deep = np.round(pixels.astype(np.float64) / 255 * 4095).astype(np.uint16)
    dataset = make_radiograph_dataset(deep, WindowCenter=2048, WindowWidth=4096)
    assert np.abs(preprocess(radiograph_from_dataset(dataset), SPEC) - picture).max() <= 0.5 / 4095 + 1e-6


@pytest.mark.requirement("SRS-IMG-003")
def test_preprocessing_alone_and_through_tf_data_are_equal():
    """The trainer's pipeline is the node's function, called from another thread."""
    import tensorflow as tf

    gray = np.random.default_rng(2).random((300, 260), np.float32)
    from cxr_node.imaging import Radiograph

    alone = preprocess(Radiograph(gray), SPEC)

    def load(index):
        return preprocess(Radiograph(gray), SPEC)

    piped = next(
        iter(
            tf.data.Dataset.range(1).map(
                lambda index: tf.numpy_function(load, [index], tf.float32), num_parallel_calls=2
            )
        )
    )
    assert np.array_equal(piped.numpy(), alone)


@pytest.mark.requirement("SRS-IMG-001")
@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_bytes_that_are_no_picture_are_unreadable_pixels(data):
    """An empty file is what an interrupted copy leaves; it must cost itself and nothing else."""
    with pytest.raises(UnreadablePixels, match="expected a PNG or JPEG picture"):
        radiograph_from_picture(data)
