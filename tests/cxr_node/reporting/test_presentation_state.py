"""The presentation state, rendered by DCMTK over its image: what a reader sees."""

import copy
import subprocess
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from cxr_node.imaging import radiograph_from_dataset
from cxr_node.reporting import encode
from cxr_node.reporting.presentation_state import build_gsps
from tests.builders import make_heat_map, make_material, make_radiograph_dataset, to_part_10

pytestmark = pytest.mark.requirement("SRS-RPT-105")

WINDOW = {"WindowCenter": "2000", "WindowWidth": "3000"}


def _slope() -> np.ndarray:
    return np.add.outer(np.linspace(0, 1500, 256), np.linspace(500, 2500, 256)).astype(np.uint16)


def _rendered(dataset, folder) -> np.ndarray:
    """Return the image under its state, as DCMTK shows it: (rows, columns) in [0, 1]."""
    state = build_gsps(make_material(dataset, profile="research"))
    (folder / "image.dcm").write_bytes(to_part_10(dataset))
    (folder / "state.dcm").write_bytes(encode(state))
    done = subprocess.run(
        ["dcmp2pgm", "--pstate", "state.dcm", "image.dcm", "out.pgm"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr
    return cv2.imread(str(folder / "out.pgm"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 255


@pytest.mark.peer("dcmp2pgm")
@pytest.mark.parametrize(
    ("pixels", "attributes"),
    [
        (_slope(), {"PhotometricInterpretation": "MONOCHROME2", **WINDOW}),
        (4095 - _slope(), {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": "2095", "WindowWidth": "3000"}),
        (_slope(), {"RescaleSlope": "2", "RescaleIntercept": "-100", "WindowCenter": "3900", "WindowWidth": "6000"}),
        (
            4095 - _slope(),
            {
                "PhotometricInterpretation": "MONOCHROME1",
                "RescaleSlope": "0.5",
                "RescaleIntercept": "10",
                "WindowCenter": "1057.5",
                "WindowWidth": "1500",
            },
        ),
    ],
    ids=["monochrome2", "monochrome1", "rescale", "monochrome1-rescale"],
)
def test_the_image_is_shown_as_without_the_state(tmp_path, pixels, attributes):
    """The default of a state shows MONOCHROME1 as a negative, and drops rescaling and window of the image."""
    dataset = make_radiograph_dataset(pixels, **attributes)
    shown, expected = _rendered(dataset, tmp_path), radiograph_from_dataset(dataset).grayscale
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 0.01, (shown[0, 0], expected[0, 0])
    assert shown[-1, -1] - shown[0, 0] > 0.5, "bright where the radiograph is bright"


def test_a_state_refers_to_its_image_and_draws_the_region_on_it():
    """Displays look the image up by series and instance."""
    dataset = make_radiograph_dataset(**WINDOW)
    state = build_gsps(make_material(dataset, profile="research"))
    (series,) = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == dataset.SeriesInstanceUID
    assert series.ReferencedImageSequence[0].ReferencedSOPInstanceUID == dataset.SOPInstanceUID
    (annotation,) = state.GraphicAnnotationSequence
    (line,) = annotation.GraphicObjectSequence
    points = np.array(line.GraphicData).reshape(-1, 2)
    assert (line.GraphicType, line.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
    assert len(points) == line.NumberOfGraphicPoints
    heat_map = make_heat_map(256, 256)
    for column, row in points:
        assert 0.3 < heat_map[int(row), int(column)] < 0.75
    assert "Not reviewed" in annotation.TextObjectSequence[0].UnformattedTextValue
    assert state.GraphicLayerSequence[0].GraphicLayer == annotation.GraphicLayer
    assert list(state.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner) == [256, 256]


def test_images_of_another_polarity_are_left_to_themselves():
    """One state has one polarity: with the other the image would be shown as a negative."""
    first = make_radiograph_dataset(**WINDOW)
    second = make_radiograph_dataset(
        StudyInstanceUID=first.StudyInstanceUID, PhotometricInterpretation="MONOCHROME1", **WINDOW
    )
    state = build_gsps(make_material(first, second, profile="research"))
    assert [item.ReferencedImageSequence[0].ReferencedSOPInstanceUID for item in state.GraphicAnnotationSequence] == [
        first.SOPInstanceUID
    ]
    assert len(state.SoftcopyVOILUTSequence) == len(state.DisplayedAreaSelectionSequence) == 1
    assert state.PresentationLUTShape == "IDENTITY"


def test_images_alike_share_the_state():
    """Each with a window of its own."""
    first = make_radiograph_dataset(**WINDOW)
    second = make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID, WindowCenter="900", WindowWidth="700")
    state = build_gsps(make_material(first, second, profile="research"))
    assert [item.WindowCenter for item in state.SoftcopyVOILUTSequence] == ["2000", "900"]
    assert len(state.ReferencedSeriesSequence) == 2


def test_the_window_keeps_its_function_and_a_lut_its_place():
    """A display that knows them shows the image as its own; DCMTK knows no SIGMOID."""
    sigmoid = make_radiograph_dataset(VOILUTFunction="SIGMOID", **WINDOW)
    (voi,) = build_gsps(make_material(sigmoid, profile="research")).SoftcopyVOILUTSequence
    assert (voi.VOILUTFunction, voi.WindowCenter) == ("SIGMOID", "2000")
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4096, 0, 16], (np.arange(4096, dtype=np.uint16) * 16).tobytes()
    lut["LUTData"].VR = "OW"
    with_lut = make_radiograph_dataset(VOILUTSequence=[lut], **WINDOW)
    (voi,) = build_gsps(make_material(with_lut, profile="research")).SoftcopyVOILUTSequence
    assert "WindowCenter" not in voi
    assert list(voi.VOILUTSequence[0].LUTDescriptor) == [4096, 0, 16]


@pytest.mark.parametrize(("signed", "first"), [(0, 0), (1, 0), (1, -2000)])
@pytest.mark.parametrize("entries", [4096, 60000])
def test_tables_of_implicit_vr_images_can_be_written(signed, first, entries):
    """Nothing in the state tells US from SS, and a state that cannot be encoded would cost the study its result."""
    lut = Dataset()
    lut.add_new("LUTDescriptor", "SS" if signed else "US", [entries, first, 16])
    lut.add_new("LUTData", "OW", (np.arange(entries) % 65536).astype("<u2").tobytes())
    modality = copy.deepcopy(lut)
    modality.ModalityLUTType = "US"
    dataset = make_radiograph_dataset(PixelRepresentation=signed, ModalityLUTSequence=[modality], VOILUTSequence=[lut])
    buffer = BytesIO()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    state = dcmread(BytesIO(encode(build_gsps(make_material(dcmread(buffer), profile="research")))))
    for item in (state.ModalityLUTSequence[0], state.SoftcopyVOILUTSequence[0].VOILUTSequence[0]):
        assert [int(value) % 65536 for value in item.LUTDescriptor] == [entries, first % 65536, 16]
        assert item.LUTData == (np.arange(entries) % 65536).astype("<u2").tobytes()
    assert state.ModalityLUTSequence[0].ModalityLUTType == "US"


@pytest.mark.parametrize(
    ("attributes", "spacing", "aspect"),
    [
        ({"ImagerPixelSpacing": ["0.14", "0.15"]}, ["0.14", "0.15"], None),
        ({"PixelSpacing": ["0.1", "0.1"], "ImagerPixelSpacing": ["0.14", "0.15"]}, ["0.1", "0.1"], None),
        ({"PixelAspectRatio": ["4", "3"]}, None, [4, 3]),
        ({"ImagerPixelSpacing": ["0", "0"]}, None, [1, 1]),
        ({"ImagerPixelSpacing": "0.14"}, None, [1, 1]),
        ({}, None, [1, 1]),
    ],
)
def test_pixels_keep_their_shape(attributes, spacing, aspect):
    """And a spacing that is none costs no study its result."""
    state = build_gsps(make_material(make_radiograph_dataset(**WINDOW, **attributes), profile="research"))
    (area,) = state.DisplayedAreaSelectionSequence
    assert area.get("PresentationPixelSpacing") == spacing
    assert area.get("PresentationPixelAspectRatio") == aspect


def test_there_is_none_without_a_region():
    """Nothing to draw."""
    material = make_material(profile="research")
    cold = {uid: np.zeros_like(heat_map) for uid, heat_map in material.heat_maps.items()}
    assert build_gsps(replace(material, heat_maps={})) is None
    assert build_gsps(replace(material, heat_maps=cold)) is None
