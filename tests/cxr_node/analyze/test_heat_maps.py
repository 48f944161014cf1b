"""Which images get a heat map, and what one that cannot be made costs."""

import numpy as np
import pytest

from cxr_node.analyze.analyzer import Analyzed, Analyzer, Prepared
from cxr_node.analyze.heat_maps import MOST_IMAGES, heat_maps
from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score
from cxr_node.inference import ModelPackage
from tests.builders import make_pixels, make_radiograph_dataset, to_part_10
from tests.cxr_node.inference.conftest import make_manifest

pytestmark = pytest.mark.requirement("SRS-INF-102")

DIGEST = "d" * 64


class Brightness:
    """An engine that scores how bright the right half is."""

    device = "CPU"

    def __init__(self, package, *, cache_dir=None) -> None:
        self.calls = 0

    def scores(self, batch: np.ndarray) -> np.ndarray:
        self.calls += 1
        return batch[:, :, batch.shape[2] // 2 :].mean(axis=(1, 2))


@pytest.fixture
def package(tmp_path):
    return ModelPackage(make_manifest(), tmp_path, DIGEST)


@pytest.fixture
def analyzer(package):
    return Analyzer([package], profile="research", engine=Brightness)


@pytest.fixture
def make(tmp_path, package):
    """Write an image and return it as analyzed, with its path."""

    def made(number: int, probability: float | None, pixels=None):
        path = tmp_path / f"{number}.dcm"
        dataset = make_radiograph_dataset(make_pixels(200, 100) if pixels is None else pixels)
        path.write_bytes(to_part_10(dataset))
        reference = ImageReference(f"1.2.{number}", dataset.SOPClassUID, "1.3")
        if probability is None:
            exclusion = Exclusion("view", "lateral")
            return Analyzed(Prepared(reference, None, exclusion), ImageAnalysis(reference, exclusion=exclusion)), path
        score = Score("pneumonia", "tiny", "1.0.0", DIGEST, probability, 0.5, "test", probability >= 0.5)
        return Analyzed(Prepared(reference, None, None, (package,)), ImageAnalysis(reference, (score,))), path

    return made


def _maps(analyzer, pairs, profile="research", kinds=("sr", "sc")):
    return heat_maps(analyzer, [item for item, _ in pairs], [path for _, path in pairs], profile=profile, kinds=kinds)


def test_a_flagged_image_has_a_map_over_the_whole_of_it(analyzer, make):
    """With the radiograph it lies over; images that are not flagged or not analysed have none."""
    found = _maps(analyzer, [make(0, 0.9), make(1, 0.1), make(2, None)])
    assert list(found.maps) == list(found.radiographs) == ["1.2.0"]
    heat_map = found.maps["1.2.0"]
    assert heat_map.shape == found.radiographs["1.2.0"].shape == (200, 100)
    assert heat_map[:, 60:].mean() > 3 * heat_map[:, :40].mean()


@pytest.mark.parametrize(
    ("profile", "kinds"), [("triage", ("sr", "sc", "gsps")), ("research", ("sr", "kos", "pdf")), ("research", ())]
)
def test_none_is_made_where_none_is_shown(analyzer, package, make, profile, kinds):
    """In triage never; elsewhere it would only cost time."""
    found = _maps(analyzer, [make(0, 0.9)], profile, kinds)
    assert (found.maps, found.radiographs) == ({}, {})
    assert analyzer.engine(package).calls == 0


def test_a_study_has_no_more_than_its_share(analyzer, make):
    """Those of the highest probabilities."""
    found = _maps(analyzer, [make(number, 0.6 + number / 100) for number in range(MOST_IMAGES + 2)])
    assert sorted(found.maps) == [f"1.2.{number}" for number in (2, 3)]


def test_a_map_that_cannot_be_made_costs_nothing_else(analyzer, make):
    """The study's result does not wait for a picture of it."""
    broken, lost = make(0, 0.9), make(1, 0.95)
    broken[1].write_bytes(b"no longer an image")
    lost[1].unlink()
    whole = make(2, 0.8)
    assert list(_maps(analyzer, [broken, whole]).maps) == ["1.2.2"]
    assert list(_maps(analyzer, [lost, whole]).maps) == ["1.2.2"]


def test_a_large_radiograph_is_kept_small(analyzer, make):
    """The card is no larger; the map keeps the image's size, for regions are in its coordinates."""
    found = _maps(analyzer, [make(0, 0.9, make_pixels(2048, 1500))])
    assert found.maps["1.2.0"].shape == (2048, 1500)
    assert found.radiographs["1.2.0"].shape == (1024, 750)
