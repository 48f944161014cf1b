"""What the networks share: the input as a network of colour photographs wants it, and the layer of scores."""

from collections.abc import Sequence
from typing import Any

# Of 8-bit values; source: the Caffe model of VGG16, whose input is blue, green, red.
CAFFE_MEAN = (103.939, 116.779, 123.68)
# Of values in [0, 1], red, green, blue; source: torchvision, and every network trained with it.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def image_input(size: tuple[int, int]) -> Any:
    """Return the input of every network here: (rows, columns, 1), gray values in [0, 1]."""
    import keras

    return keras.Input((*size, 1), name="images")


def three_channels(x: Any, scale: float | Sequence[float], offset: float | Sequence[float]) -> Any:
    """Return the gray values as three channels, times `scale` plus `offset` (a number, or one for each channel)."""
    import keras

    x = keras.layers.Concatenate(name="three_channels")([x, x, x])
    scale, offset = (value if isinstance(value, float) else list(value) for value in (scale, offset))
    return keras.layers.Rescaling(scale, offset, name="imagenet_scale")(x)


def with_scores(
    inputs: Any, features: Any, findings: Sequence[str], *, dropout: float, name: str, kernel: Any = "glorot_uniform"
) -> Any:
    """Return the model that ends in a sigmoid score for each finding; `kernel` says how its weights are drawn.

    The scores are float32 whatever the precision of the rest: float16 knows no probability near 1 but 1.
    """
    import keras

    x = keras.layers.Dropout(dropout, name="dropout")(features)
    outputs = keras.layers.Dense(
        len(findings), activation="sigmoid", kernel_initializer=kernel, name="scores", dtype="float32"
    )(x)
    return keras.Model(inputs, outputs, name=name)
