"""ConvNeXt-Tiny with the layer names of `keras.applications`, of Keras's own layers only.

`keras.applications` has classes of its own for layer scale and stochastic depth, which a node would have to know to
read the network. A depthwise 1x1 convolution without bias is a layer scale, dropout of whole images stochastic depth.

Source: Liu et al. 2022.
"""

from typing import Any

from trainer.architectures.parts import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    image_input,
    three_channels,
    with_scores,
)

# (blocks, channels) of the four stages.
_STAGES = ((3, 96), (3, 192), (9, 384), (3, 768))
_EPSILON = 1e-6
_LAYER_SCALE = 1e-6

CONVNEXT_BLOCKS = {
    "stem": "convnext_tiny_stem_layernorm",
    **{
        f"block{stage + 1}": f"convnext_tiny_stage_{stage}_block_{blocks - 1}_add"
        for stage, (blocks, _) in enumerate(_STAGES)
    },
}


def convnext_tiny(
    size: tuple[int, int], findings: tuple[str, ...], *, dropout: float = 0.3, drop_path: float = 0.1
) -> Any:
    """Return ConvNeXt-Tiny with one sigmoid score for each finding: 27.8 million weights, 768 features.

    Its weights want red, green, blue by ImageNet's mean and deviation. `drop_path` is the share of images that skip
    the last block in training; it grows linearly from none at the first.
    Blocks: stem, block1 to block4; block2 to block4 begin with their downsampling.
    """
    import keras

    def normalized(x: Any, name: str) -> Any:
        return keras.layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)

    inputs = image_input(size)
    x = three_channels(
        inputs,
        [1 / deviation for deviation in IMAGENET_DEVIATION],
        [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)],
    )
    x = keras.layers.Conv2D(_STAGES[0][1], 4, 4, name="convnext_tiny_stem_conv")(x)
    x = normalized(x, "convnext_tiny_stem_layernorm")
    total, done = sum(blocks for blocks, _ in _STAGES), 0
    for stage, (blocks, channels) in enumerate(_STAGES):
        if stage:
            x = normalized(x, f"convnext_tiny_downsampling_layernorm_{stage - 1}")
            x = keras.layers.Conv2D(channels, 2, 2, name=f"convnext_tiny_downsampling_conv_{stage - 1}")(x)
        for block in range(blocks):
            name, entry = f"convnext_tiny_stage_{stage}_block_{block}", x
            x = keras.layers.DepthwiseConv2D(7, padding="same", name=f"{name}_depthwise_conv")(x)
            x = normalized(x, f"{name}_layernorm")
            x = keras.layers.Dense(4 * channels, name=f"{name}_pointwise_conv_1")(x)
            x = keras.layers.Activation("gelu", name=f"{name}_gelu")(x)
            x = keras.layers.Dense(channels, name=f"{name}_pointwise_conv_2")(x)
            x = keras.layers.DepthwiseConv2D(
                1,
                use_bias=False,
                depthwise_initializer=keras.initializers.Constant(_LAYER_SCALE),
                name=f"{name}_layer_scale",
            )(x)
            rate = drop_path * done / (total - 1)
            if rate:
                x = keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}_stochastic_depth")(x)
            x = keras.layers.Add(name=f"{name}_add")([entry, x])
            done += 1
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(x)
    x = normalized(x, "features")
    return with_scores(inputs, x, findings, dropout=dropout, name="convnext-tiny")
