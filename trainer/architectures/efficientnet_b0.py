"""EfficientNet-B0 with the layer names of `keras.applications`: the stages of Lite0, with swish and squeeze-and-excite.

Source: Tan & Le 2019, table 1.
"""

from typing import Any

from trainer.architectures.efficientnet import STAGES
from trainer.architectures.parts import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    image_input,
    three_channels,
    with_scores,
)

_EPSILON = 1e-3

B0_BLOCKS = {
    "stem": "stem_activation",
    "block1": "block1a_project_bn",
    "block2": "block2b_add",
    "block3": "block3b_add",
    "block4": "block4c_add",
    "block5": "block5c_add",
    "block6": "block6d_add",
    "block7": "block7a_project_bn",
    "head": "top_activation",
}


def efficientnet_b0(
    size: tuple[int, int],
    findings: tuple[str, ...],
    *,
    dropout: float = 0.3,
    momentum: float = 0.9,
    drop_path: float = 0.2,
) -> Any:
    """Return EfficientNet-B0 with one sigmoid score for each finding: 4.0 million weights, 1280 features.

    Its weights want red, green, blue by ImageNet's mean and deviation. `momentum` as in `efficientnet_lite0`;
    `drop_path` is the share of images that skip a block in training, growing linearly from none at the first.
    Blocks: stem, block1 to block7 (the stages), head.
    """
    import keras

    def normalized(x: Any, name: str, activation: str = "") -> Any:
        x = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=momentum, name=name)(x)
        return keras.layers.Activation("swish", name=activation)(x) if activation else x

    inputs = image_input(size)
    x = three_channels(
        inputs,
        [1 / deviation for deviation in IMAGENET_DEVIATION],
        [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)],
    )
    x = keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(x)
    x = normalized(x, "stem_bn", "stem_activation")
    total, done = sum(repeats for repeats, *_ in STAGES), 0
    for stage, (repeats, kernel, first_stride, expansion, filters) in enumerate(STAGES, start=1):
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            name, entry, channels = f"block{stage}{'abcd'[repeat]}_", x, x.shape[-1]
            if expansion != 1:
                x = keras.layers.Conv2D(channels * expansion, 1, use_bias=False, name=f"{name}expand_conv")(x)
                x = normalized(x, f"{name}expand_bn", f"{name}expand_activation")
            x = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}dwconv")(x)
            x = normalized(x, f"{name}bn", f"{name}activation")
            gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}se_squeeze")(x)
            gate = keras.layers.Conv2D(channels // 4, 1, activation="swish", name=f"{name}se_reduce")(gate)
            gate = keras.layers.Conv2D(channels * expansion, 1, activation="sigmoid", name=f"{name}se_expand")(gate)
            x = keras.layers.Multiply(name=f"{name}se_excite")([x, gate])
            x = keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}project_conv")(x)
            x = normalized(x, f"{name}project_bn")
            if stride == 1 and channels == filters:
                rate = drop_path * done / total
                x = keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
                x = keras.layers.Add(name=f"{name}add")([entry, x])
            done += 1
    x = keras.layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    x = normalized(x, "top_bn", "top_activation")
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return with_scores(inputs, x, findings, dropout=dropout, name="efficientnet-b0")
