"""Reads the files that Keras publishes for `keras.applications`, by building that network once.

Those files are of Keras 2: their layers are told apart by order, and some have other names than the layers have today.
Keras itself knows that order; the names of the tensors here are those of its layers, which our networks share.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trainer.weights.values import WeightsError

# The smallest side for which every one of them can be built.
_SIDE = 64


def application(architecture: str) -> Any:
    """Return the network of `keras.applications`, without classes and with weights as drawn; None if it has none."""
    import keras

    common = {"weights": None, "include_top": False, "input_shape": (_SIDE, _SIDE, 3), "pooling": "avg"}
    builders: dict[str, Any] = {
        "densenet121": lambda: keras.applications.DenseNet121(**common),
        "efficientnet-b0": lambda: keras.applications.EfficientNetB0(**common),
        "mobilenet-v3": lambda: keras.applications.MobileNetV3Large(**common, include_preprocessing=False),
        "convnext-tiny": lambda: keras.applications.ConvNeXtTiny(**common, include_preprocessing=False),
    }
    return builders[architecture]() if architecture in builders else None


def read_application(path: Path, architecture: str) -> dict[str, np.ndarray]:
    """Return the tensors of a published file as ``layer/index``, shaped as our layers have them.

    Raises
    ------
    WeightsError
        The file is not this network's without classes.
    """
    model = application(architecture)
    if model is None:
        raise WeightsError(f"{path}: {architecture} is not among keras.applications")
    try:
        model.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: expected the weights that Keras publishes for {architecture}, without classes (notop), "
            f"found: {error}"
        ) from error
    return application_tensors(model)


def application_tensors(model: Any) -> dict[str, np.ndarray]:
    """Return a network's tensors by the names and in the shapes of our layers."""
    import keras

    tensors = {}
    for layer in _flat(model):
        # The scale of the input is told by our own layers, in the same numbers.
        if isinstance(layer, keras.layers.Normalization):
            continue
        name = layer.name
        # ConvNeXt's last normalisation is named by a counter.
        if isinstance(layer, keras.layers.LayerNormalization) and name.startswith("layer_normalization"):
            name = "features"
        for index, value in enumerate(layer.get_weights()):
            tensors[f"{name}/{index}"] = _our_shape(name, index, value)
    return tensors


def _our_shape(layer: str, index: int, value: np.ndarray) -> np.ndarray:
    """ConvNeXt's layer scale (channels,) and its convolution of as many groups, (7, 7, 1, channels), are depthwise."""
    if layer.endswith("_layer_scale"):
        return value.reshape(1, 1, -1, 1)
    return np.swapaxes(value, 2, 3) if layer.endswith("_depthwise_conv") and index == 0 else value


def _flat(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flat(layer)
        elif layer.weights:
            yield layer
