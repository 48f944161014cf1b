"""Every network of the table keeps the same promises: what goes in, what comes out, and that a node can read it."""

import numpy as np
import pytest

from trainer.architectures import ARCHITECTURES, BLOCKS, freeze, start_from
from trainer.weights import StartWeights, WeightsError

SIZE = (64, 64)
FINDINGS = tuple(f"finding_{number}" for number in range(14))
MEMBERS = tuple(BLOCKS)
IMAGES = np.random.default_rng(0).random((2, *SIZE, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def built():
    """A network of each kind, built once."""
    models = {}

    def build(name):
        if name not in models:
            models[name] = ARCHITECTURES[name](SIZE, FINDINGS, dropout=0.2)
        return models[name]

    return build


@pytest.fixture(scope="module")
def scored(built):
    """The scores of a network as it was built, computed once; every test leaves its weights as they were."""
    found = {}

    def score(name):
        if name not in found:
            found[name] = scores(built(name))
        return found[name]

    return score


def scores(model, images=IMAGES):
    return np.asarray(model(images, training=False))


@pytest.mark.requirement("SRS-TRN-300")
def test_every_member_of_the_ladder_is_in_the_table():
    """A configuration names them; the tests below run over what is named here."""
    expected = {"mlp", "cnn", "vgg16", "densenet121", "mobilenet-v3", "convnext-tiny", "efficientnet-b0"}
    expected |= {f"efficientnet-lite{number}" for number in range(3)}
    assert set(MEMBERS) == expected
    assert expected <= set(ARCHITECTURES)


@pytest.mark.requirement("SRS-TRN-300")
@pytest.mark.parametrize("name", MEMBERS)
def test_a_network_takes_gray_values_and_gives_a_score_for_each_finding(name, built, scored):
    """The input is the same for all: whatever the start weights want is made inside the network."""
    model = built(name)
    assert model.name == name
    assert tuple(model.input.shape) == (None, *SIZE, 1)
    assert tuple(model.output.shape) == (None, 14)
    assert len(model.get_layer("features").output.shape) == 2
    head = model.get_layer("scores")
    assert (head.units, head.dtype_policy.name, head.activation.__name__) == (14, "float32", "sigmoid")
    assert ((scored(name) > 0) & (scored(name) < 1)).all()


@pytest.mark.requirement("SRS-TRN-300")
@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg16", "efficientnet-lite0", "mobilenet-v3"])
def test_a_network_for_one_finding_has_one_score(name):
    """A single finding is the common case of a release; other sizes than square occur."""
    model = ARCHITECTURES[name]((96, 64), ("pneumonia",))
    assert tuple(model.output.shape) == (None, 1)
    assert scores(model, np.zeros((1, 96, 64, 1), np.float32)).shape == (1, 1)


@pytest.mark.requirement("SRS-TRN-301")
@pytest.mark.parametrize("name", MEMBERS)
def test_a_network_comes_back_from_json_with_equal_scores(name, built):
    """A model package is JSON and numbers; the node that reads it has Keras and none of the trainer's code."""
    import keras

    model = built(name)
    modules = {type(layer).__module__.split(".")[0] for layer in model.layers}
    assert modules == {"keras"}
    back = keras.models.model_from_json(model.to_json())
    back.set_weights(model.get_weights())
    assert np.array_equal(scores(back), scores(model))
    assert "lambda" not in model.to_json().lower()


@pytest.mark.requirement("SRS-TRN-302")
@pytest.mark.parametrize("name", MEMBERS)
def test_one_step_of_training_moves_every_layer_that_is_not_frozen(name, built):
    """A layer that no gradient reaches would be carried along untrained, and nobody would notice."""
    import keras

    model = built(name)
    before = {weight.path: np.array(weight) for weight in model.weights}
    original = model.get_weights()
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.eye(14, dtype=np.float32)[:2])
    still = [weight.path for weight in model.trainable_weights if np.array_equal(before[weight.path], np.array(weight))]
    model.set_weights(original)
    # Stochastic depth leaves a few blocks out of a step by chance, all of a block together.
    drawn = sum(layer.name.endswith(("drop", "stochastic_depth")) for layer in model.layers)
    assert len(still) <= (30 if drawn else 0), still
    for weight in model.non_trainable_weights:
        if "input_scale" in weight.path:
            assert np.array_equal(before[weight.path], np.array(weight))


@pytest.mark.requirement("SRS-TRN-303")
@pytest.mark.parametrize("name", MEMBERS)
def test_a_block_is_frozen_with_all_before_it_and_nothing_after(name, built):
    """Transfer learning freezes the early blocks; "block4" must mean the same block in every run."""
    model = built(name)
    trainable = [layer.trainable for layer in model.layers]
    layers = {layer.name: layer for layer in model.layers}
    order = [layer.name for layer in model.layers]
    last = [order.index(layer) for layer in BLOCKS[name].values()]
    assert last == sorted(last)
    assert last[-1] <= order.index("features")
    middle = list(BLOCKS[name])[len(last) // 2]
    freeze(model, middle)
    at = order.index(BLOCKS[name][middle])
    assert not any(layers[layer].trainable for layer in order[: at + 1])
    assert all(layers[layer].trainable for layer in order[at + 1 :])
    freeze(model, "features")
    assert {weight.path.rpartition("/")[0] for weight in model.trainable_weights} == {"scores"}
    for layer, was in zip(model.layers, trainable, strict=True):
        layer.trainable = was


@pytest.mark.requirement("SRS-TRN-303")
def test_frozen_convolutions_of_vgg16_are_those_up_to_the_block(built):
    """The usual recipe by its layers' names."""
    model = built("vgg16")
    assert freeze(model, "block4") == 10
    named = [layer.name for layer in model.layers if layer.weights and layer.trainable]
    assert named == ["block5_conv1", "block5_conv2", "block5_conv3", "scores"]
    for layer in model.layers:
        layer.trainable = True
    with pytest.raises(WeightsError, match=r"vgg16: expected a block to freeze of block1, .*, found 'block6'"):
        freeze(model, "block6")


def drawn_weights(model, rng):
    """Numbers with which a signal reaches the last layer: an error in any layer before it shows there."""

    def drawn(weight):
        name, shape = weight.path.rpartition("/")[2], tuple(weight.shape)
        if weight.path.startswith("normalization"):
            return np.asarray(weight)
        if name in ("gamma", "moving_variance"):
            return rng.uniform(0.5, 1.5, shape)
        if len(shape) < 2:
            return rng.normal(0, 0.2, shape)
        depthwise = "depthwise" in weight.path or "dwconv" in weight.path
        inputs = shape[0] * shape[1] if depthwise else np.prod(shape[:-1])
        return rng.normal(0, 1.4 / np.sqrt(inputs), shape)

    return [drawn(weight).astype(np.float32) for weight in model.weights]


MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
COLOURS = (np.repeat(IMAGES, 3, axis=3) - MEAN) / DEVIATION
WANTED = {
    "densenet121": COLOURS,
    # With the mean and variance that come with the published weights its own first layers do what ours do; without
    # them they only divide by 255.
    "efficientnet-b0": 255 * COLOURS,
    "mobilenet-v3": 2 * np.repeat(IMAGES, 3, axis=3) - 1,
    "convnext-tiny": COLOURS,
}


@pytest.mark.requirement("SRS-TRN-304")
@pytest.mark.parametrize("name", sorted(WANTED))
def test_our_network_computes_what_that_of_keras_applications_computes(name, built):
    """Weights are published for those networks. Names and shapes can all fit, and the features still be others."""
    import keras

    from trainer.weights.applications import application, application_tensors

    theirs = application(name)
    theirs.set_weights(drawn_weights(theirs, np.random.default_rng(1)))
    ours = built(name)
    layers = start_from(ours, StartWeights("drawn", "0", application_tensors(theirs)))
    assert layers == sum(bool(layer.weights) for layer in ours.layers) - 1 - (name == "densenet121")
    features = keras.Model(ours.input, ours.get_layer("features").output)
    expected = np.asarray(theirs(WANTED[name].astype(np.float32), training=False))
    # The images must differ in it, or nothing of the way from the input was checked.
    size = float(np.abs(expected).max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * size
    assert np.allclose(scores(features), expected, rtol=1e-3, atol=1e-4 * size)


@pytest.mark.requirement("SRS-TRN-305")
def test_the_perceptron_shrinks_what_is_large_and_keeps_what_is_small():
    """A dense layer on 224 x 224 pixels would have 26 million weights."""
    small, large = (ARCHITECTURES["mlp"]((side, side), ("pneumonia",)) for side in (48, 224))
    assert small.get_layer("dense1").weights[0].shape[0] == 48 * 48
    assert large.get_layer("dense1").weights[0].shape[0] == 74 * 74
