"""The engine gives the network's scores, whatever else is in the batch, and starts from its own cache."""

import numpy as np
import pytest

from cxr_node.errors import PackageError
from cxr_node.inference import Engine
from cxr_node.inference import engine as engine_module


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((11, 16, 12, 1), dtype=np.float32)


@pytest.mark.requirement("SRS-INF-003")
def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(tiny_package, tmp_path, images):
    """The same image must be judged alike on a busy and on a quiet morning."""
    engine = Engine(tiny_package(), cache_dir=tmp_path / "cache")
    engine.warm()
    together = engine.scores(images)
    alone = np.concatenate([engine.scores(image[np.newaxis]) for image in images])
    turned = engine.scores(images[::-1])[::-1]
    assert together.shape == (11, 1)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together - turned).max() <= 1e-5
    assert np.ptp(together) > 1e-3


@pytest.mark.requirement("SRS-INF-003")
def test_more_images_than_a_batch_come_back_in_order(tiny_package, tmp_path):
    many = np.random.default_rng(4).random((engine_module.LARGEST_BATCH * 2 + 3, 16, 12, 1), dtype=np.float32)
    engine = Engine(tiny_package(), cache_dir=tmp_path)
    scores = engine.scores(many)
    assert np.abs(scores[-1:] - engine.scores(many[-1:])).max() <= 1e-5
    assert engine.scores(many[:0]).shape == (0, 1)


@pytest.mark.requirement("SRS-INF-003")
def test_the_engine_scores_as_keras_does_on_the_float16_weights(tiny_package, tmp_path, images):
    """What the trainer measured and what the node runs are one network."""
    package = tiny_package()
    network = engine_module.build_network(package)
    expected = np.asarray(network(images, training=False))
    assert np.abs(Engine(package, cache_dir=None).scores(images) - expected).max() <= 1e-5


@pytest.mark.requirement("SRS-INF-004")
def test_the_second_start_serves_from_the_cache(tiny_package, tmp_path, images, monkeypatch):
    """A restart must be quick: the network is built once for each package, not once for each start."""
    package = tiny_package()
    first = Engine(package, cache_dir=tmp_path / "cache").scores(images)
    monkeypatch.setattr(engine_module, "build_network", lambda package: pytest.fail("built again"))
    again = Engine(package, cache_dir=tmp_path / "cache").scores(images)
    assert np.array_equal(first, again)
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [package.digest]


@pytest.mark.requirement("SRS-INF-004")
def test_a_half_written_cache_is_made_anew(tiny_package, tmp_path, images):
    """A copy or restore that broke off leaves a folder that TensorFlow might take for a model."""
    package = tiny_package()
    half = tmp_path / "cache" / package.digest
    half.mkdir(parents=True)
    (half / "saved_model.pb").write_bytes(b"half")
    assert Engine(package, cache_dir=tmp_path / "cache").scores(images).shape == (11, 1)


@pytest.mark.requirement("SRS-INF-005")
def test_a_batch_that_memory_does_not_take_is_halved(tiny_package, tmp_path, images):
    """A smaller batch is slower and right; a failed study is neither."""
    import tensorflow

    engine = Engine(tiny_package(), cache_dir=tmp_path)
    expected = engine.scores(images)
    serve, sizes = engine._serve, []

    def small_memory(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise tensorflow.errors.ResourceExhaustedError(None, None, "out of memory")
        return serve(images=images)

    engine._serve = small_memory
    assert np.abs(engine.scores(images) - expected).max() <= 1e-5
    assert sizes[0] == 11
    assert max(sizes[3:]) <= 3
    sizes.clear()
    engine.scores(images)
    assert max(sizes) <= 3


@pytest.mark.requirement("SRS-INF-005")
def test_one_image_that_memory_does_not_take_is_an_error(tiny_package, tmp_path, images):
    import tensorflow

    engine = Engine(tiny_package(), cache_dir=tmp_path)

    def no_memory(images):
        raise tensorflow.errors.ResourceExhaustedError(None, None, "out of memory")

    engine._serve = no_memory
    with pytest.raises(tensorflow.errors.ResourceExhaustedError):
        engine.scores(images[:1])


@pytest.mark.requirement("SRS-INF-002")
@pytest.mark.parametrize("shape", [(1, 12, 16, 1), (1, 16, 12), (1, 16, 12, 3)])
def test_an_input_of_another_shape_is_refused(tiny_package, tmp_path, shape):
    engine = Engine(tiny_package(), cache_dir=tmp_path)
    with pytest.raises(PackageError, match="expected inputs"):
        engine.scores(np.zeros(shape, np.float32))


@pytest.mark.requirement("SRS-INF-002")
def test_weights_that_do_not_fit_the_architecture_are_refused(tiny_package, tmp_path):
    """Both files may be whole and still not belong together."""
    package = tiny_package()
    with np.load(package.path / "weights.npz") as stored:
        arrays = dict(stored)
    arrays["0000"] = arrays["0000"][..., :-1]
    np.savez(package.path / "weights.npz", **arrays)
    with pytest.raises(PackageError, match=r"weights\.npz: expected 0000 of"):
        Engine(package, cache_dir=tmp_path)


@pytest.mark.requirement("SRS-INF-003")
def test_a_network_that_gives_no_number_is_an_error(tiny_package, tmp_path, images):
    """NaN compares false with every threshold: it would pass as not flagged."""
    engine = Engine(tiny_package(), cache_dir=tmp_path)
    broken = images.copy()
    broken[0] = np.nan
    with pytest.raises(PackageError, match="no number"):
        engine.scores(broken)
