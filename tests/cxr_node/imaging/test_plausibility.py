"""What the pixels say about themselves, and that the rates beside the weights are of these weights."""

import hashlib
import json

import numpy as np
import pytest

from cxr_node.cli.phantom import draw_phantom
from cxr_node.imaging import Radiograph, implausible, radiograph_from_picture_file
from cxr_node.imaging.plausibility import LEAST_NAMED, LEAST_UPRIGHT, MESSAGES, SIZE, WEIGHTS, shares, thumbnail
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.requirement("SRS-IMG-004")


def _reason(gray: np.ndarray) -> str | None:
    found = implausible(Radiograph(np.ascontiguousarray(gray, np.float32)))
    return found.reason if found else None


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads(WEIGHTS.with_suffix(".json").read_text())


def test_the_reported_rates_are_of_these_weights_and_thresholds(report):
    """A rate measured on other weights says nothing."""
    assert report["weights_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert (report["least_upright"], report["least_named"]) == (LEAST_UPRIGHT, LEAST_NAMED)
    assert WEIGHTS.stat().st_size < 200_000


def test_fewer_than_one_real_chest_in_a_hundred_is_excluded(report):
    """The upper end of the interval, not the rate: an excluded chest is one nobody triages."""
    assert report["test"]["all"]["as it is"]["of"] > 1000
    assert report["test"]["all"]["as it is"]["ci95"][1] < 0.01


@pytest.mark.parametrize("wrong", ["inverted", "upside down", "half a turn", "a quarter left", "a quarter right"])
def test_nearly_every_wrong_version_of_a_chest_is_excluded(report, wrong):
    """The lower end of the interval."""
    assert report["test"]["all"][wrong]["ci95"][0] > 0.98


def test_what_was_not_measured_is_said(report):
    """A reader must not take silence about lateral views for a measurement."""
    assert any("Lateral" in sentence for sentence in report["limits"])


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_the_phantom_of_the_demonstration_is_taken_for_a_chest(opacity):
    """Or the demonstration would end in an exclusion."""
    assert _reason(draw_phantom(np.random.default_rng(1), opacity=opacity) / 4095) is None


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_uniform_picture_is_blank(value):
    """An exposure that went wrong, or a window beside the values."""
    assert _reason(np.full((100, 80), value)) == "blank"
    assert _reason(value * 0.9 + np.random.default_rng(1).random((100, 80)) * 0.02) == "blank"


def test_noise_and_ramps_are_no_chest():
    """What a broken detector or a wrong transfer syntax looks like."""
    y, x = np.mgrid[0:200, 0:200] / 200
    for gray in (np.random.default_rng(1).random((300, 300)), x, y, (x + y) / 2, (x * 10 % 1 > 0.5) * 1.0):
        assert _reason(gray) == "not-a-chest"


def test_exposure_and_gamma_change_nothing():
    """Ranks are looked at: the scale of the sender is not."""
    gray = draw_phantom(np.random.default_rng(1), opacity=0.5).astype(np.float32) / 4095
    view = thumbnail(gray)
    assert view.shape == (SIZE, SIZE)
    assert abs(float(view.mean())) < 1e-5
    assert np.allclose(shares(thumbnail(gray * np.float32(0.25) + np.float32(0.5))), shares(view), atol=0.02)


def test_equal_values_share_their_rank():
    """A collimated border must not become a ramp that tells up from down."""
    gray = np.zeros((64, 64), np.float32)
    gray[20:40, 20:40] = 1
    view = thumbnail(gray)
    assert len(np.unique(view)) == 2


@pytest.mark.parametrize("shape", [(8, 8), (20, 400), (4000, 100)])
def test_any_size_is_looked_at(shape):
    """A thumbnail of a screenshot or a strip reaches this too."""
    assert _reason(np.random.default_rng(2).random(shape)) in MESSAGES


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["cxr14", "kermany/test/NORMAL", "kermany/test/PNEUMONIA"])
def test_real_chests_pass_and_their_wrong_versions_do_not(folder):
    """Twenty of each, spread over the folder; the rates of all stand beside the weights."""
    paths = sorted(path for path in (SHARED_DATA / folder).iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))
    for path in paths[:: len(paths) // 20]:
        gray = radiograph_from_picture_file(path).grayscale
        assert _reason(gray) is None
        assert _reason(1 - gray) == "inverted-polarity"
        assert _reason(np.rot90(gray)) == "rotated"
        assert _reason(gray[::-1]) == "upside-down"
