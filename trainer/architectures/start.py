"""Sets a network's layers from start weights, and freezes blocks of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.weights import StartWeights, WeightsError

_NORMALISED = ("weight", "bias", "running_mean", "running_var")


def start_from(model: Any, start: StartWeights, findings: Sequence[str] = ()) -> int:
    """Set every layer of the model that has weights, but the scores; return how many layers were set.

    `findings` are the model's, in order: where the start weights name theirs, the score of each finding that both
    have is set too. Without, scores stay as they are drawn.

    Raises
    ------
    WeightsError
        A layer finds no tensor of its name and shape, or a tensor of the backbone finds no layer.
    """
    if not start.tensors:
        return 0
    if all(name.isdigit() for name in start.tensors):
        return _set_in_order(model, start)
    torch = not any("/" in name for name in start.tensors)
    used: set[str] = set()
    layers = 0
    for layer in model.layers:
        if not layer.weights or layer.name == "scores":
            continue
        names = _torch_names(layer) if torch else [f"{layer.name}/{index}" for index in range(len(layer.weights))]
        # A scale that its file does not name stays that of ImageNet, which the network was built with.
        if layer.name == "input_scale" and not set(names) & set(start.tensors):
            continue
        try:
            values = [start.tensors[name] for name in names]
        except KeyError as error:
            raise WeightsError(
                f"{start.source}: expected the tensor {error} for layer {layer.name}, found none"
            ) from error
        if torch:
            values = [_keras_order(layer, value) for value in values]
        found, expected = [value.shape for value in values], [tuple(weight.shape) for weight in layer.weights]
        if found != expected:
            raise WeightsError(
                f"{start.source}: {names[0].rpartition('.')[0] or names[0]} has shapes {found}, "
                f"layer {layer.name} expects {expected}"
            )
        layer.set_weights(values)
        used.update(names)
        layers += 1
    unused = {name for name in start.tensors if not name.endswith("num_batches_tracked")} - used
    unused = {name for name in unused if not name.startswith(_HEADS_OF.get(model.name, _HEADS))}
    if unused:
        raise WeightsError(f"{start.source}: no layer for {', '.join(sorted(unused)[:5])}")
    return layers + _set_scores(model, start, findings)


# What stands behind the features of another network: its classes, VGG16's dense layers, the edges of HED (conv2d).
_HEADS = ("_fc.", "imagenet/", "scores/", "predictions/", "dense")
_HEADS_OF = {"vgg16": (*_HEADS, "fc1/", "fc2/", "conv2d")}


def _set_scores(model: Any, start: StartWeights, findings: Sequence[str]) -> int:
    common = [finding for finding in findings if finding in start.findings]
    if not common:
        return 0
    layer = model.get_layer("scores")
    kernel, bias = (np.array(value) for value in layer.get_weights())
    given, offset = start.tensors["scores/0"], start.tensors["scores/1"]
    for finding in common:
        here, there = list(findings).index(finding), start.findings.index(finding)
        kernel[:, here], bias[here] = given[:, there], offset[there]
    layer.set_weights([kernel, bias])
    return 1


def _set_in_order(model: Any, start: StartWeights) -> int:
    """Set the weights of a run or a model package, which are numbered in the model's order; all but the scores."""
    variables = list(model.weights)
    values = [start.tensors[name] for name in sorted(start.tensors)]
    if len(values) != len(variables):
        raise WeightsError(f"{start.source}: expected {len(variables)} arrays for {model.name}, found {len(values)}")
    scores = {id(variable) for variable in model.get_layer("scores").weights}
    for index, (variable, value) in enumerate(zip(variables, values, strict=True)):
        if id(variable) in scores:
            continue
        if tuple(variable.shape) != value.shape:
            raise WeightsError(
                f"{start.source}: array {index} has shape {value.shape}, "
                f"{variable.path} expects {tuple(variable.shape)}"
            )
        variable.assign(value.astype(np.float32))
    return sum(bool(layer.weights) for layer in model.layers) - 1


def _torch_names(layer: Any) -> list[str]:
    import keras

    prefix = _torch_name(layer.name)
    if isinstance(layer, keras.layers.BatchNormalization):
        return [f"{prefix}.{part}" for part in _NORMALISED]
    return [f"{prefix}.{part}" for part in ("weight", "bias")[: len(layer.weights)]]


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
