"""The packages that the node is released with: whole, small, honest about what they are."""

import json

import numpy as np
import pytest

from cxr_node.imaging import preprocess, radiograph_from_picture_file
from cxr_node.inference import BUILTIN, Engine, load_package, probability
from cxr_node.inference.package import GOLDEN, GOLDEN_TOLERANCE
from tests.system.conftest import put_made

RELEASED = sorted(folder.name for folder in BUILTIN.iterdir() if folder.is_dir())


@pytest.fixture(scope="module", params=RELEASED)
def package(request):
    return load_package(BUILTIN / request.param)


@pytest.fixture(scope="module")
def engine(package, tmp_path_factory):
    cache = tmp_path_factory.mktemp("packages") / "cache"
    put_made(cache)  # a conversion takes long, and has tests of its own
    return Engine(package, cache_dir=cache)


@pytest.mark.requirement("SRS-INF-201")
def test_a_released_package_is_served_by_litert_on_a_processor(engine):
    """The figures of speed and memory are those of LiteRT."""
    assert (engine.name, engine.device, engine.trouble) == ("litert", "CPU", "")


@pytest.mark.requirement("SRS-INF-007")
def test_the_three_packages_of_the_design_are_released():
    assert set(RELEASED) == {"abnormal-adult", "pneumonia-adult", "pneumonia-paediatric"}


@pytest.mark.requirement("SRS-INF-007")
def test_a_released_package_is_at_most_ten_megabytes(package):
    assert sum(file.stat().st_size for file in package.path.iterdir()) <= 10_000_000


@pytest.mark.requirement("SRS-INF-007")
def test_golden_inputs_score_as_on_the_day_of_release(package, engine):
    """The self-test of a site rests on this file: another TensorFlow or processor must stay within the tolerance."""
    with np.load(package.path / GOLDEN) as golden:
        inputs, expected = golden["inputs"], golden["scores"]
    assert inputs.shape == (3, *package.manifest.preprocess.size, 1)
    assert np.abs(engine.scores(inputs) - expected).max() <= GOLDEN_TOLERANCE


@pytest.mark.requirement("SRS-INF-003")
def test_a_released_network_scores_alike_alone_and_in_a_batch(package, engine):
    with np.load(package.path / GOLDEN) as golden:
        inputs = golden["inputs"]
    alone = np.concatenate([engine.scores(one[np.newaxis]) for one in inputs])
    assert np.abs(engine.scores(inputs) - alone).max() <= 1e-5


@pytest.mark.requirement("SRS-TRN-006")
def test_a_manifest_tells_where_figures_come_from_and_what_the_model_cannot(package):
    """A site decides by this file."""
    manifest = package.manifest
    assert manifest.limitations
    assert manifest.training["cohort"]["parts"]["train"]["sha256"]
    assert manifest.training["start_weights"]["sha256"]
    assert manifest.figures["criteria"]
    assert manifest.figures["baselines"]
    card = (package.path / "README.md").read_text("utf-8")
    point = manifest.operating_points[manifest.findings[0]]
    assert f"{point.threshold:.4f}" in card
    assert "Not cleared" in card
    assert all(sentence in card for sentence in manifest.limitations)
    assert "NaN" not in (package.path / "manifest.json").read_text("utf-8")
    assert (
        json.loads((package.path / "architecture.json").read_text("utf-8"))["config"]["name"] == manifest.architecture
    )


@pytest.mark.real_data
@pytest.mark.requirement("SRS-TRN-006")
def test_the_manifests_sample_of_real_images_scores_as_it_says(package, engine, shared_data):
    """Twelve images of the test part, from the picture file to the probability."""
    sample = package.manifest.figures["sample"]
    assert len(sample) == 12
    folder = shared_data / {"kermany": "kermany", "nih": "."}[package.manifest.training["cohort"]["name"]]
    for item in sample:
        path = folder / item["case"]
        path = path if path.is_file() else path.with_suffix(".jpg")
        inputs = preprocess(radiograph_from_picture_file(path), package.manifest.preprocess)[np.newaxis]
        found = probability(package.manifest, package.manifest.findings[0], float(engine.scores(inputs)[0, 0]))
        assert found == pytest.approx(item["probability"], abs=5e-3), item["case"]
