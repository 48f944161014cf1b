"""EfficientNet-Lite0 to Lite2, with layer names that tell torch's: no squeeze-and-excite, and ReLU6 for swish.

Source: Tan & Le 2019, table 1; github.com/tensorflow/tpu, efficientnet/lite: stem, head and the depth of the first and
the last stage are not scaled.
"""

import math
from typing import Any

from trainer.architectures.parts import image_input, with_scores

# (repeats, kernel, stride, expansion, filters): EfficientNet-B0's stages.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# (width, depth)
_LITE = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
_EPSILON = 1e-3
# Lite networks were trained on (value - 127) / 128 of 8-bit values.
_SCALE, _OFFSET = 255.0 / 128.0, -127.0 / 128.0


def efficientnet_lite0(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return EfficientNet-Lite0 with one sigmoid score for each finding: 3.4 million weights.

    Input (rows, columns, 1) in [0, 1]; output (findings,) in [0, 1]; the layer ``features`` holds the pooled 1280.
    `momentum` is that of the normalisation statistics: low, as an epoch has a hundred steps only and training averages
    the weights anyway. At 0.99 the statistics lag an epoch behind the weights, and scores drift from epoch to epoch.
    Blocks: stem, block1 to block7 (the stages), head.
    """
    return _lite("efficientnet-lite0", size, findings, dropout, momentum)


def efficientnet_lite1(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return EfficientNet-Lite1: as Lite0, with five layers more; 4.2 million weights."""
    return _lite("efficientnet-lite1", size, findings, dropout, momentum)


def efficientnet_lite2(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9
) -> Any:
    """Return EfficientNet-Lite2: as Lite1, a tenth wider; 4.8 million weights."""
    return _lite("efficientnet-lite2", size, findings, dropout, momentum)


def imagenet_classifier(size: tuple[int, int], name: str = "efficientnet-lite0") -> Any:
    """Return a Lite network as trained on ImageNet, (rows, columns, 3) in [0, 1] to 1000 logits: to check weights."""
    import keras

    inputs = keras.Input((*size, 3), name="images")
    x = keras.layers.Rescaling(_SCALE, _OFFSET, name="imagenet_scale")(inputs)
    outputs = keras.layers.Dense(1000, name="imagenet")(_features(x, 0.99, _lite_stages(name)))
    return keras.Model(inputs, outputs, name=name)


def _lite(name: str, size: tuple[int, int], findings: tuple[str, ...], dropout: float, momentum: float) -> Any:
    import keras

    inputs = image_input(size)
    x = keras.layers.Rescaling(_SCALE, _OFFSET, name="imagenet_scale")(inputs)
    x = keras.layers.Concatenate(name="three_channels")([x, x, x])
    x = _features(x, momentum, _lite_stages(name))
    return with_scores(inputs, x, findings, dropout=dropout, name=name)


def _lite_stages(name: str) -> tuple[tuple[int, int, int, int, int], ...]:
    width, depth = _LITE[name]
    last = len(STAGES) - 1
    return tuple(
        (
            repeats if index in (0, last) else math.ceil(depth * repeats),
            kernel,
            stride,
            expansion,
            eights(width * filters),
        )
        for index, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES)
    )


def eights(channels: float) -> int:
    """Return the multiple of 8 next to a number of channels, but never a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def lite_blocks(name: str) -> dict[str, str]:
    """Return the last layer of each block of a Lite network."""
    blocks, index = {"stem": "bn0_relu6"}, 0
    for stage, (repeats, _, stride, _, _) in enumerate(_lite_stages(name), start=1):
        index += repeats
        # The first and the last stage widen, and have one layer: nothing is added.
        added = repeats > 1 or (stride == 1 and stage not in (1, len(STAGES)))
        blocks[f"block{stage}"] = f"blocks_{index - 1}_{'add' if added else 'bn2'}"
    return {**blocks, "head": "bn1_relu6"}


def _features(x: Any, momentum: float, stages: tuple[tuple[int, int, int, int, int], ...]) -> Any:
    import keras

    def normalized(x: Any, name: str, activate: bool = True) -> Any:
        x = keras.layers.BatchNormalization(epsilon=_EPSILON, momentum=momentum, name=name)(x)
        return keras.layers.ReLU(6.0, name=f"{name}_relu6")(x) if activate else x

    x = keras.layers.Conv2D(32, 3, 2, "same", use_bias=False, name="conv_stem")(x)
    x = normalized(x, "bn0")
    index = 0
    for repeats, kernel, first_stride, expansion, filters in stages:
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
