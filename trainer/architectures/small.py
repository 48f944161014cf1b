"""Networks that start from nothing: the multilayer perceptron and the convolutional network of student projects."""

from typing import Any

from trainer.architectures.parts import image_input, with_scores

MLP_SIDE = 64
CNN_FILTERS = (32, 64, 128, 256, 256)

MLP_BLOCKS = {"block1": "dense1_relu", "block2": "features"}
CNN_BLOCKS = {f"block{number}": f"block{number}_pool" for number in range(1, 6)}


def mlp(size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3) -> Any:
    """Return a multilayer perceptron: pixels in a row, two dense layers, scores.

    A larger image is averaged to between 64 and 127 pixels a side first, as such projects do: each pixel costs 512
    weights. Blocks: block1 (512 units), block2 (128 units, the features).
    """
    import keras

    inputs = image_input(size)
    pool = tuple(max(1, side // MLP_SIDE) for side in size)
    x = keras.layers.AveragePooling2D(pool, name="shrink")(inputs)
    x = keras.layers.Rescaling(2.0, -1.0, name="scale")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(512, kernel_initializer="he_normal", name="dense1")(x)
    x = keras.layers.ReLU(name="dense1_relu")(x)
    x = keras.layers.Dropout(dropout, name="dense1_dropout")(x)
    x = keras.layers.Dense(128, kernel_initializer="he_normal", name="dense2")(x)
    x = keras.layers.ReLU(name="features")(x)
    return with_scores(inputs, x, findings, dropout=dropout, name="mlp")


def cnn(size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, momentum: float = 0.9) -> Any:
    """Return a convolutional network of five blocks: 3x3 convolutions with batch normalisation, then a pool of 2.

    The first block has one convolution, as it works on every pixel; the others have two. 2.3 million weights.
    `momentum` is that of the normalisation statistics, see `efficientnet_lite0`. Blocks: block1 to block5.
    """
    import keras

    inputs = image_input(size)
    x = keras.layers.Rescaling(2.0, -1.0, name="scale")(inputs)
    for block, filters in enumerate(CNN_FILTERS, start=1):
        for layer in range(1, 2 if block == 1 else 3):
            name = f"block{block}_conv{layer}"
            x = keras.layers.Conv2D(
                filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
            )(x)
            x = keras.layers.BatchNormalization(momentum=momentum, name=f"{name}_bn")(x)
            x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return with_scores(inputs, x, findings, dropout=dropout, name="cnn")
