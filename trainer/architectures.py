"""The networks that can be trained, each a function from a size to a Keras model. Written for any Keras backend.

The first layers turn gray values in [0, 1] into what the ImageNet weights were trained on, so mean and scale are part
of the model and never of preprocessing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.weights import StartWeights, WeightsError

# (repeats, kernel, stride, expansion, filters): EfficientNet-B0's stages; Lite has ReLU6 and no squeeze-and-excite.
# Source: Tan & Le 2019, table 1; github.com/tensorflow/tpu, efficientnet/lite.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3
# Lite networks were trained on (value - 127) / 128 of 8-bit values.
_SCALE, _OFFSET = 255.0 / 128.0, -127.0 / 128.0


def efficientnet_lite0(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return EfficientNet-Lite0 with one sigmoid score for each finding.

    Input (rows, columns, 1) in [0, 1]; output (findings,) in [0, 1]; the layer ``features`` holds the pooled 1280.
    `momentum` is that of the normalisation statistics: low, as an epoch has a hundred steps only and training averages
    the weights anyway. At 0.99 the statistics lag an epoch behind the weights, and scores drift from epoch to epoch.
    """
    import keras

    inputs = keras.Input((*size, 1), name="images")
    x = keras.layers.Rescaling(_SCALE, _OFFSET, name="imagenet_scale")(inputs)
    x = keras.layers.Concatenate(name="three_channels")([x, x, x])
    x = _features(x, momentum)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    outputs = keras.layers.Dense(len(findings), activation="sigmoid", name="scores", dtype="float32")(x)
    return keras.Model(inputs, outputs, name="efficientnet-lite0")


def imagenet_classifier(size: tuple[int, int]) -> Any:
    """Return the network as trained on ImageNet, (rows, columns, 3) in [0, 1] to 1000 logits: to check weights."""
    import keras

    inputs = keras.Input((*size, 3), name="images")
    x = keras.layers.Rescaling(_SCALE, _OFFSET, name="imagenet_scale")(inputs)
    outputs = keras.layers.Dense(1000, name="imagenet")(_features(x, 0.99))
    return keras.Model(inputs, outputs, name="efficientnet-lite0-imagenet")


def _features(x: Any, momentum: float) -> Any:
    import keras

    def normalized(x: Any, name: str, activate: bool = True) -> Any:
        x = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=momentum, name=name)(x)
        return keras.layers.ReLU(6.0, name=f"{name}_relu6")(x) if activate else x

    x = keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="conv_stem")(x)
    x = normalized(x, "bn0")
    index = 0
    for repeats, kernel, first_stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            prefix, entry, channels = f"blocks_{index}_", x, x.shape[-1]
            if expansion != 1:
                x = keras.layers.Conv2D(channels * expansion, 1, use_bias=False, name=f"{prefix}expand_conv")(x)
                x = normalized(x, f"{prefix}bn0")
            x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{prefix}depthwise_conv")(x)
            x = normalized(x, f"{prefix}bn1")
            x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{prefix}project_conv")(x)
            x = normalized(x, f"{prefix}bn2", activate=False)
            if stride == 1 and channels == filters:
                x = keras.layers.Add(name=f"{prefix}add")([entry, x])
            index += 1
    x = keras.layers.Conv2D(1280, 1, use_bias=False, name="conv_head")(x)
    x = normalized(x, "bn1")
    return keras.layers.GlobalAveragePooling2D(name="features")(x)


def start_from(model: Any, weights: StartWeights) -> int:
    """Set every convolution and normalisation of the model from torch tensors; return how many layers were set.

    Raises
    ------
    WeightsError
        A layer finds no tensor of its name and shape, or a tensor of the backbone finds no layer.
    """
    import keras

    if not weights.tensors:
        return 0
    used: set[str] = set()
    parts: tuple[str, ...]
    layers = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
        elif isinstance(layer, keras.layers.DepthwiseConv2D | keras.layers.Conv2D):
            parts = ("weight",)
        elif layer.name == "imagenet":
            parts = ("weight", "bias")
        else:
            continue
        prefix = _torch_name(layer.name)
        try:
            values = [_keras_order(layer, weights.tensors[f"{prefix}.{part}"]) for part in parts]
        except KeyError as error:
            raise WeightsError(
                f"{weights.source}: expected the tensor {error} for layer {layer.name}, found none"
            ) from error
        found, expected = [value.shape for value in values], [tuple(weight.shape) for weight in layer.weights]
        if found != expected:
            raise WeightsError(f"{weights.source}: {prefix} has shapes {found}, layer {layer.name} expects {expected}")
        layer.set_weights(values)
        used.update(f"{prefix}.{part}" for part in parts)
        layers += 1
    unused = {name for name in weights.tensors if not name.endswith("num_batches_tracked")} - used
    if unused - {"_fc.weight", "_fc.bias"}:
        raise WeightsError(f"{weights.source}: no layer for {', '.join(sorted(unused)[:5])}")
    return layers


def _torch_name(layer: str) -> str:
    """``blocks_3_bn1`` is ``_blocks.3._bn1``, ``conv_stem`` is ``_conv_stem``."""
    if layer == "imagenet":
        return "_fc"
    if layer.startswith("blocks_"):
        _, index, rest = layer.split("_", 2)
        return f"_blocks.{index}._{rest}"
    return f"_{layer}"


def _keras_order(layer: Any, tensor: np.ndarray) -> np.ndarray:
    """Torch keeps (out, in, rows, columns), depthwise (channels, 1, rows, columns), dense (out, in)."""
    import keras

    if tensor.ndim == 4:
        axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
        return np.transpose(tensor, axes)
    return tensor.T if tensor.ndim == 2 else tensor


ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "efficientnet-lite0": efficientnet_lite0,
}
