"""The networks that can be trained, each a function from a size to a Keras model. Written for any Keras backend.

Every network takes (rows, columns, 1), gray values in [0, 1]; its first layers turn them into what its start weights
were trained on, so mean and scale are part of the model and never of preprocessing. A layer ``features`` holds the
pooled vector, a layer ``scores`` a sigmoid for each finding. Layers are Keras's own, so that a node reads a network
back from JSON without any code of the trainer.
"""

from collections.abc import Callable, Mapping
from typing import Any

from trainer.architectures.convnext import CONVNEXT_BLOCKS, convnext_tiny
from trainer.architectures.densenet import DENSENET121_BLOCKS, densenet121
from trainer.architectures.efficientnet import (
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    imagenet_classifier,
    lite_blocks,
)
from trainer.architectures.efficientnet_b0 import B0_BLOCKS, efficientnet_b0
from trainer.architectures.mobilenet import MOBILENET_BLOCKS, mobilenet_v3
from trainer.architectures.small import CNN_BLOCKS, MLP_BLOCKS, cnn, mlp
from trainer.architectures.start import start_from
from trainer.architectures.vgg import VGG16_BLOCKS, vgg16
from trainer.weights import WeightsError

__all__ = ["ARCHITECTURES", "BLOCKS", "freeze", "imagenet_classifier", "start_from"]

ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "cnn": cnn,
    "vgg16": vgg16,
    "densenet121": densenet121,
    "efficientnet-lite0": efficientnet_lite0,
    "efficientnet-lite1": efficientnet_lite1,
    "efficientnet-lite2": efficientnet_lite2,
    "efficientnet-b0": efficientnet_b0,
    "mobilenet-v3": mobilenet_v3,
    "convnext-tiny": convnext_tiny,
}

# The last layer of each block, in the order of the network.
BLOCKS: Mapping[str, Mapping[str, str]] = {
    "mlp": MLP_BLOCKS,
    "cnn": CNN_BLOCKS,
    "vgg16": VGG16_BLOCKS,
    "densenet121": DENSENET121_BLOCKS,
    "efficientnet-lite0": lite_blocks("efficientnet-lite0"),
    "efficientnet-lite1": lite_blocks("efficientnet-lite1"),
    "efficientnet-lite2": lite_blocks("efficientnet-lite2"),
    "efficientnet-b0": B0_BLOCKS,
    "mobilenet-v3": MOBILENET_BLOCKS,
    "convnext-tiny": CONVNEXT_BLOCKS,
}


def freeze(model: Any, until: str) -> int:
    """Freeze all layers up to and including a block, "block4", or "features" for all but the scores.

    Frozen normalisation keeps its statistics too. Returns how many layers with weights are frozen by this.

    Raises
    ------
    WeightsError
        The network has no such block; says which it has.
    """
    blocks = {**BLOCKS.get(model.name, {}), "features": "features"}
    if until not in blocks:
        raise WeightsError(f"{model.name}: expected a block to freeze of {', '.join(blocks)}, found {until!r}")
    last = [layer.name for layer in model.layers].index(blocks[until])
    frozen = 0
    for layer in model.layers[: last + 1]:
        frozen += bool(layer.trainable and layer.weights)
        layer.trainable = False
    return frozen
