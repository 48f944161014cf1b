"""VGG16 for transfer, with the layer names of `keras.applications`.

Source: Simonyan & Zisserman 2014, configuration D, without its three dense layers.
"""

from typing import Any

from trainer.architectures.parts import CAFFE_MEAN, image_input, three_channels, with_scores

# (filters, convolutions) of the five blocks.
_VGG_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

VGG16_BLOCKS = {f"block{number}": f"block{number}_pool" for number in range(1, 6)}


def vgg16(size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3) -> Any:
    """Return VGG16 with averaged features in place of its dense layers: 14.7 million weights.

    Its weights want 8-bit blue, green, red minus their mean; the first layers make that of gray values in [0, 1].
    Usual transfer freezes up to block4 and tunes block5. Blocks: block1 to block5, a block ends in its pool.
    """
    import keras

    inputs = image_input(size)
    x = three_channels(inputs, 255.0, [-mean for mean in CAFFE_MEAN])
    for block, (filters, convolutions) in enumerate(_VGG_BLOCKS, start=1):
        for layer in range(1, convolutions + 1):
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{layer}")(x)
        x = keras.layers.MaxPooling2D(2, 2, name=f"block{block}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    # No normalisation keeps the features near 1: as a dense layer is usually drawn, first scores would all be 0 or 1.
    kernel = keras.initializers.RandomNormal(stddev=0.01)
    return with_scores(inputs, x, findings, dropout=dropout, name="vgg16", kernel=kernel)
