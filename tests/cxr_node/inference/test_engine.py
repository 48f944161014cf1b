"""The engine gives the network's scores, whatever computes them and whatever else is in the batch."""

import threading

import numpy as np
import pytest

from cxr_node.errors import PackageError
from cxr_node.inference import Engine, conversions
from cxr_node.inference import engine as engine_module
from cxr_node.inference.network import build_network
from cxr_node.inference.runners import OutOfMemory


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((11, 16, 12, 1), dtype=np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One cache for tests that do not look into it: every one of them would convert the same package."""
    return tmp_path_factory.mktemp("made")


class SmallMemory:
    """A runner whose memory takes so many images at once."""

    def __init__(self, runner, most):
        self.name, self.device = runner.name, runner.device
        self.most, self.sizes = most, []
        self._runner = runner

    def run(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise OutOfMemory(f"a batch of {len(images)} images does not fit into memory")
        return self._runner.run(images)


@pytest.mark.requirement("SRS-INF-003")
@pytest.mark.parametrize("choice", ["savedmodel", "litert"])
def test_a_score_does_not_depend_on_its_neighbours_in_the_batch(tiny_package, made, images, choice):
    """The same image must be judged alike on a busy and on a quiet morning."""
    engine = Engine(tiny_package(), cache_dir=made, choice=choice)
    assert engine.name == choice
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
@pytest.mark.parametrize("choice", ["savedmodel", "litert"])
def test_more_images_than_a_batch_come_back_in_order(tiny_package, made, choice):
    many = np.random.default_rng(4).random((engine_module.LARGEST_BATCH * 2 + 3, 16, 12, 1), dtype=np.float32)
    engine = Engine(tiny_package(), cache_dir=made, choice=choice)
    scores = engine.scores(many)
    assert np.abs(scores[-1:] - engine.scores(many[-1:])).max() <= 1e-5
    assert engine.scores(many[:0]).shape == (0, 1)


@pytest.mark.requirement("SRS-INF-003")
def test_every_engine_scores_as_keras_does_on_the_float16_weights(tiny_package, made, images):
    """What the trainer measured and what the node runs are one network."""
    package = tiny_package()
    expected = np.asarray(build_network(package)(images, training=False))
    for engine in (
        Engine(package),
        Engine(package, cache_dir=made, choice="savedmodel"),
        Engine(package, cache_dir=made, choice="litert"),
        Engine(package, choice="litert"),
    ):
        assert np.abs(engine.scores(images) - expected).max() <= 1e-5
        assert engine.trouble == ""


@pytest.mark.requirement("SRS-INF-204")
@pytest.mark.parametrize("choice", ["savedmodel", "litert"])
def test_threads_that_score_at_once_get_what_each_would_get_alone(tiny_package, made, choice):
    """Studies, images that somebody tries and heat maps are scored beside one another in one process."""
    engine = Engine(tiny_package(), cache_dir=made, choice=choice)
    batches = [np.random.default_rng(seed).random((9, 16, 12, 1), dtype=np.float32) for seed in range(6)]
    expected = [engine.scores(batch) for batch in batches]
    wrong: list[int] = []
    gate = threading.Barrier(len(batches))

    def score(number):
        gate.wait(30)
        for _ in range(40):
            if not np.allclose(engine.scores(batches[number]), expected[number], atol=1e-6):
                wrong.append(number)

    threads = [threading.Thread(target=score, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


@pytest.mark.requirement("SRS-INF-004")
@pytest.mark.parametrize("choice", ["savedmodel", "litert"])
def test_the_second_start_serves_from_the_cache(tiny_package, tmp_path, images, monkeypatch, choice):
    """A restart must be quick: the network is built once for each package, not once for each start."""
    package = tiny_package()
    first = Engine(package, cache_dir=tmp_path / "cache", choice=choice).scores(images)
    monkeypatch.setattr(conversions, "_make", lambda *_: pytest.fail("made again"))
    again = Engine(package, cache_dir=tmp_path / "cache", choice=choice).scores(images)
    assert np.array_equal(first, again)


@pytest.mark.requirement("SRS-INF-005")
def test_a_batch_that_memory_does_not_take_is_halved_and_tried_whole_again_later(tiny_package, made, images):
    """A smaller batch is slower and right, a failed study is neither; and what took the memory may be gone."""
    told, now = [], [0.0]
    engine = Engine(
        tiny_package(),
        cache_dir=made,
        clock=lambda: now[0],
        report=lambda event, **detail: told.append(event),
    )
    expected = engine.scores(images)
    small = engine._runner = SmallMemory(engine._runner, 3)
    assert np.array_equal(engine.scores(images), expected)
    assert small.sizes[:3] == [11, 5, 2]
    assert told[-2:] == ["batch_halved", "batch_halved"]
    small.sizes.clear()
    engine.scores(images)
    assert max(small.sizes) == 2
    small.most, now[0] = 99, engine_module.RESTORE_AFTER_S
    small.sizes.clear()
    engine.scores(images)
    assert small.sizes == [11]


@pytest.mark.requirement("SRS-INF-005")
def test_one_image_that_memory_does_not_take_is_an_error(tiny_package, made, images):
    """On a processor there is nowhere else to go."""
    engine = Engine(tiny_package(), cache_dir=made)
    engine._runner = SmallMemory(engine._runner, 0)
    with pytest.raises(OutOfMemory):
        engine.scores(images[:1])


@pytest.mark.requirement("SRS-INF-002")
@pytest.mark.parametrize("shape", [(1, 12, 16, 1), (1, 16, 12), (1, 16, 12, 3)])
def test_an_input_of_another_shape_is_refused(tiny_package, made, shape):
    engine = Engine(tiny_package(), cache_dir=made)
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
@pytest.mark.parametrize("choice", ["savedmodel", "litert"])
def test_a_network_that_gives_no_number_is_an_error(tiny_package, made, images, choice):
    """NaN compares false with every threshold: it would pass as not flagged."""
    engine = Engine(tiny_package(), cache_dir=made, choice=choice)
    broken = images.copy()
    broken[0] = np.nan
    with pytest.raises(PackageError, match="no number"):
        engine.scores(broken)
