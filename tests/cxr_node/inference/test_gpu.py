"""The way onto a GPU and back to the processor, with TensorFlow on the processor in the GPU's place.

No GPU is here: what a GPU does is simulated where TensorFlow would do it, and nothing of this was run on one.
"""

import numpy as np
import pytest

from cxr_node.inference import Engine, devices
from cxr_node.inference import engine as engine_module
from cxr_node.inference.devices import visible_gpus
from cxr_node.inference.runners import GPU, SavedModelRunner, batch_sizes, filled

IMAGES = np.random.default_rng(3).random((5, 16, 12, 1), dtype=np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One cache for all: every test would convert the same package."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def told():
    """What the engine told, as (event, detail)."""
    return []


@pytest.fixture
def make(tiny_package, made, told):
    """Return a function that starts the tiny package."""
    package = tiny_package()

    def engine(**options):
        return Engine(
            package,
            cache_dir=made,
            report=lambda event, **detail: told.append((event, detail)),
            **options,
        )

    return engine


@pytest.fixture
def seen(monkeypatch):
    """TensorFlow runs on the processor and is taken for a GPU's; `seen` holds the sizes of what it was given."""
    monkeypatch.setattr(engine_module, "visible_gpus", lambda: ("0",))
    monkeypatch.setattr(SavedModelRunner, "sees_gpu", lambda self: True)
    monkeypatch.setattr(SavedModelRunner, "_place", lambda self: "/CPU:0")
    sizes, right = [], SavedModelRunner.__init__

    def start(self, folder, device):
        right(self, folder, device)
        serve = self._serve

        def watched(images):
            sizes.append(len(images))
            return serve(images=images)

        self._serve = watched

    monkeypatch.setattr(SavedModelRunner, "__init__", start)
    return sizes


@pytest.mark.requirement("SRS-INF-205")
def test_a_gpu_that_tensorflow_cannot_use_is_left_for_the_processor_and_told(make, monkeypatch, told):
    """A driver that does not fit the library is found at the first start after an update, on a Sunday."""
    monkeypatch.setattr(engine_module, "visible_gpus", lambda: ("0",))
    engine = make()
    assert (engine.name, engine.device) == ("litert", "CPU")
    assert "TensorFlow finds no GPU that it can use" in engine.trouble
    assert told[-1][0] == "gpu_unavailable"
    assert engine.scores(IMAGES).shape == (5, 1)


@pytest.mark.requirement("SRS-INF-205")
@pytest.mark.parametrize("kind", ["InternalError", "UnknownError", "UnavailableError", "AbortedError"])
def test_a_gpu_that_fails_while_it_computes_loses_no_study(make, seen, monkeypatch, told, kind):
    """A GPU that falls off the bus is no reason for a study to wait until somebody comes."""
    import tensorflow

    engine = make()
    assert (engine.name, engine.device, engine.trouble) == ("savedmodel", GPU, "")
    expected = engine.scores(IMAGES)

    def fails(images):
        raise getattr(tensorflow.errors, kind)(None, None, "CUDA_ERROR_ILLEGAL_ADDRESS")

    engine._runner._serve = fails
    assert np.abs(engine.scores(IMAGES) - expected).max() <= 1e-4
    assert (engine.name, engine.device) == ("litert", "CPU")
    assert kind in engine.trouble
    assert told[-1][0] == "gpu_lost"
    before = len(told)
    engine.scores(IMAGES)
    assert len(told) == before  # told once


@pytest.mark.requirement("SRS-INF-205")
def test_a_mistake_of_the_network_is_no_failure_of_the_gpu(make, seen):
    """What fails on every device must not be tried on the next."""
    import tensorflow

    engine = make()

    def fails(images):
        raise tensorflow.errors.InvalidArgumentError(None, None, "shapes")

    engine._runner._serve = fails
    with pytest.raises(tensorflow.errors.InvalidArgumentError):
        engine.scores(IMAGES)
    assert engine.device == GPU


@pytest.mark.requirement("SRS-INF-206")
def test_a_gpu_without_memory_for_one_image_is_left_for_the_processor(make, seen, told):
    """Another program took the memory: smaller and smaller batches, then the processor, never a failed study."""
    import tensorflow

    engine = make()
    expected = engine.scores(IMAGES)
    tried = []

    def no_memory(images):
        tried.append(len(images))
        raise tensorflow.errors.ResourceExhaustedError(None, None, "out of memory")

    engine._runner._serve = no_memory
    assert np.abs(engine.scores(IMAGES) - expected).max() <= 1e-4
    assert tried == [8, 2, 1]
    assert [event for event, _ in told][-3:] == ["batch_halved", "batch_halved", "gpu_lost"]
    assert "memory does not take one image" in engine.trouble


@pytest.mark.requirement("SRS-INF-207")
def test_a_gpu_is_warmed_for_every_size_of_batch_that_it_will_see(make, seen):
    """Its libraries choose algorithms for each new shape, which takes longer than the batch itself."""
    engine = make(batch=8)
    engine.warm()
    warmed = set(seen)
    assert warmed == {1, 2, 4, 8}
    expected = make(choice="litert").scores(np.repeat(IMAGES, 4, axis=0))
    for number in range(1, 21):
        images = np.repeat(IMAGES, 4, axis=0)[:number]
        assert np.abs(engine.scores(images) - expected[:number]).max() <= 1e-4
    assert set(seen) == warmed


@pytest.mark.requirement("SRS-INF-207")
def test_a_processor_is_warmed_with_one_image(make):
    """Nothing is chosen anew there, and a start is waited for."""
    engine = make(choice="savedmodel")
    sizes, serve = [], engine._runner._serve

    def watched(images):
        sizes.append(len(images))
        return serve(images=images)

    engine._runner._serve = watched
    engine.warm()
    engine.scores(IMAGES)
    assert sizes == [1, 5]


@pytest.mark.requirement("SRS-INF-207")
@pytest.mark.parametrize(("number", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (32, 32)])
def test_a_batch_is_filled_with_black_images_to_a_power_of_two(number, size):
    images = np.random.default_rng(1).random((number, 4, 3, 1), dtype=np.float32)
    found = filled(images)
    assert found.shape == (size, 4, 3, 1)
    assert np.array_equal(found[:number], images)
    assert not found[number:].any()
    assert batch_sizes(number)[-1] == size


@pytest.mark.requirement("SRS-INF-205")
def test_a_gpu_that_the_supervisor_gave_up_is_not_tried(make, seen, monkeypatch, told):
    """A driver that aborts the process leaves nothing to catch: the next worker must not meet it again."""
    monkeypatch.setenv(devices.GIVEN_UP, "1")
    engine = make()
    assert (engine.name, engine.device) == ("litert", "CPU")
    assert told[-1][0] == "gpu_unavailable"
    assert "GPU 1 is not used" in engine.trouble


@pytest.mark.requirement("SRS-INF-209")
@pytest.mark.parametrize(
    ("files", "chosen", "found"),
    [
        ((), None, ()),
        ((), "0", ()),
        (("nvidia0", "nvidia1"), None, ("0", "1")),
        (("nvidia3",), None, ("0",)),
        (("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"), "1", ("1",)),
        (("nvidia0", "nvidia1"), "1, 0", ("1", "0")),
        (("nvidia0", "nvidia1"), "1,-1,0", ("1",)),
        (("nvidia0",), "", ()),
        (("nvidia0",), "GPU-8932f937", ("GPU-8932f937",)),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(tmp_path, files, chosen, found):
    """A container that was given the fourth GPU of its host has one, and its number is 0."""
    for name in files:
        (tmp_path / name).touch()
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible_gpus(tmp_path, environment) == found


@pytest.mark.requirement("SRS-INF-209")
@pytest.mark.parametrize(
    ("limit", "most"),
    [(None, 4), ("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("?", 4)],
)
def test_a_containers_limit_of_processor_time_bounds_the_threads(tmp_path, monkeypatch, limit, most):
    """Its cores are all of the host's: threads for each would spend the limit at once and stand still together."""
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    file = tmp_path / "cpu.max"
    if limit is not None:
        file.write_text(f"{limit}\n")
    assert devices.cores(file) == most
