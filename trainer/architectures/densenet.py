"""DenseNet-121 with the layer names of `keras.applications` and the numbers of torch.

Source: Huang et al. 2016; CheXNet (Rajpurkar et al. 2017) and TorchXRayVision (Cohen et al. 2021) are this network.
"""

from typing import Any

import numpy as np

from trainer.architectures.parts import IMAGENET_DEVIATION, IMAGENET_MEAN, image_input, with_scores

GROWTH = 32
LAYERS = (6, 12, 24, 16)
# Torch's; Keras has 1.001e-5, which changes no output that float32 could tell.
_EPSILON = 1e-5

DENSENET121_BLOCKS = {
    "conv1": "pool1",
    "block1": "pool2_pool",
    "block2": "pool3_pool",
    "block3": "pool4_pool",
    "block4": "relu",
}


def densenet121(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return DenseNet-121 with one sigmoid score for each finding: 7.0 million weights, 1024 features.

    The gray values become three channels by a 1x1 convolution `input_scale` that is not trained: first by ImageNet's
    mean and deviation. As the scale is a weight, start weights with another input convention bring theirs along
    (TorchXRayVision has one channel in [-1024, 1024]), and zero padding stands where it stood when they were trained.
    `momentum` as in `efficientnet_lite0`. Blocks: conv1, block1 to block4; a block takes its transition with it.
    """
    import keras

    def normalized(x: Any, name: str, relu: str) -> Any:
        x = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=momentum, name=name)(x)
        return keras.layers.ReLU(name=relu)(x)

    inputs = image_input(size)
    x = keras.layers.Conv2D(3, 1, trainable=False, name="input_scale")(inputs)
    x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(x)
    x = keras.layers.Conv2D(64, 7, 2, use_bias=False, name="conv1_conv")(x)
    x = normalized(x, "conv1_bn", "conv1_relu")
    # After ReLU nothing is below zero: padding with it is torch's padding with minus infinity.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    for block, layers in enumerate(LAYERS, start=2):
        for layer in range(1, layers + 1):
            name = f"conv{block}_block{layer}"
            new = normalized(x, f"{name}_0_bn", f"{name}_0_relu")
            new = keras.layers.Conv2D(4 * GROWTH, 1, use_bias=False, name=f"{name}_1_conv")(new)
            new = normalized(new, f"{name}_1_bn", f"{name}_1_relu")
            new = keras.layers.Conv2D(GROWTH, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(new)
            x = keras.layers.Concatenate(name=f"{name}_concat")([x, new])
        if block - 1 < len(LAYERS):
            name = f"pool{block}"
            x = normalized(x, f"{name}_bn", f"{name}_relu")
            x = keras.layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False, name=f"{name}_conv")(x)
            x = keras.layers.AveragePooling2D(2, 2, name=f"{name}_pool")(x)
    x = normalized(x, "bn", "relu")
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = with_scores(inputs, x, findings, dropout=dropout, name="densenet121")
    model.get_layer("input_scale").set_weights(imagenet_scale())
    return model


def imagenet_scale() -> list[np.ndarray]:
    """Return kernel (1, 1, 1, 3) and bias (3,) that turn gray in [0, 1] into red, green, blue as torchvision has it."""
    deviation = np.asarray(IMAGENET_DEVIATION)
    kernel, bias = 1 / deviation, -np.asarray(IMAGENET_MEAN) / deviation
    return [kernel.reshape(1, 1, 1, 3).astype(np.float32), bias.astype(np.float32)]
