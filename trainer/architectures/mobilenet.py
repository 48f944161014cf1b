"""MobileNetV3-Large with the layer names of `keras.applications`.

Source: Howard et al. 2019, table 1. The large one: its 3.0 million weights are fewer than EfficientNet-Lite0's.
"""

from typing import Any

from trainer.architectures.efficientnet import eights
from trainer.architectures.parts import image_input, three_channels, with_scores

# (expansion, filters, kernel, stride, squeeze-and-excite, activation)
_BLOCKS = (
    (1, 16, 3, 1, False, "relu"),
    (4, 24, 3, 2, False, "relu"),
    (3, 24, 3, 1, False, "relu"),
    (3, 40, 5, 2, True, "relu"),
    (3, 40, 5, 1, True, "relu"),
    (3, 40, 5, 1, True, "relu"),
    (6, 80, 3, 2, False, "hard_swish"),
    (2.5, 80, 3, 1, False, "hard_swish"),
    (2.3, 80, 3, 1, False, "hard_swish"),
    (2.3, 80, 3, 1, False, "hard_swish"),
    (6, 112, 3, 1, True, "hard_swish"),
    (6, 112, 3, 1, True, "hard_swish"),
    (6, 160, 5, 2, True, "hard_swish"),
    (6, 160, 5, 1, True, "hard_swish"),
    (6, 160, 5, 1, True, "hard_swish"),
)
_EPSILON = 1e-3

MOBILENET_BLOCKS = {
    "stem": "conv_activation",
    "block1": "expanded_conv_add",
    "block2": "expanded_conv_2_add",
    "block3": "expanded_conv_5_add",
    "block4": "expanded_conv_11_add",
    "block5": "expanded_conv_14_add",
    "head": "conv_1_activation",
}


def mobilenet_v3(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return MobileNetV3-Large with one sigmoid score for each finding: 3.0 million weights, 960 features.

    Its weights want values in [-1, 1]. `momentum` as in `efficientnet_lite0`.
    Blocks: stem, block1 to block5 (one for each resolution, the fourth and fifth as wide as 112 and 160), head.
    """
    import keras

    def normalized(x: Any, name: str, activation: str = "") -> Any:
        x = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=momentum, name=f"{name}_bn")(x)
        return keras.layers.Activation(activation, name=f"{name}_activation")(x) if activation else x

    inputs = image_input(size)
    x = three_channels(inputs, 2.0, -1.0)
    x = keras.layers.Conv2D(16, 3, 2, "same", use_bias=False, name="conv")(x)
    x = normalized(x, "conv", "hard_swish")
    for index, (expansion, filters, kernel, stride, squeeze, activation) in enumerate(_BLOCKS):
        name = f"expanded_conv_{index}" if index else "expanded_conv"
        entry, channels = x, x.shape[-1]
        wide = eights(channels * expansion)
        if index:
            x = keras.layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand")(x)
            x = normalized(x, f"{name}_expand", activation)
        x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
        x = normalized(x, f"{name}_depthwise", activation)
        if squeeze:
            prefix = f"{name}_squeeze_excite"
            gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{prefix}_avg_pool")(x)
            gate = keras.layers.Conv2D(eights(wide / 4), 1, activation="relu", name=f"{prefix}_conv")(gate)
            gate = keras.layers.Conv2D(wide, 1, activation="hard_sigmoid", name=f"{prefix}_conv_1")(gate)
            x = keras.layers.Multiply(name=f"{prefix}_mul")([x, gate])
        x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
        x = normalized(x, f"{name}_project")
        if stride == 1 and channels == filters:
            x = keras.layers.Add(name=f"{name}_add")([entry, x])
    x = keras.layers.Conv2D(eights(x.shape[-1] * 6), 1, use_bias=False, name="conv_1")(x)
    x = normalized(x, "conv_1", "hard_swish")
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return with_scores(inputs, x, findings, dropout=dropout, name="mobilenet-v3")
