"""Where a score comes from, for quality assurance only: maps never leave the trainer."""

from typing import Any

import numpy as np


def smooth_gradients(
    model: Any, image: np.ndarray, finding: int, *, repeats: int = 16, noise: float = 0.05, seed: int = 1
) -> np.ndarray:
    """Return (rows, columns) in [0, 1]: how strongly each pixel moves the finding's score.

    The mean absolute gradient over noisy copies of the image, blurred to the size of what a network can resolve.
    Source: SmoothGrad, Smilkov et al. 2017.

    Parameters
    ----------
    image : (rows, columns) float32 in [0, 1], the model's input
    """
    import cv2
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    noisy = image[np.newaxis] + rng.normal(0, noise, (repeats, *image.shape))
    inputs = tf.constant(noisy[..., np.newaxis].astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        scores = tf.clip_by_value(model(inputs, training=False)[:, finding], 1e-6, 1 - 1e-6)
        # A saturated sigmoid has no gradient left; its logit has.
        value = tf.reduce_sum(tf.math.log(scores) - tf.math.log(1 - scores))
    gradient = np.abs(np.asarray(tape.gradient(value, inputs)))[..., 0].mean(axis=0)
    blurred = cv2.GaussianBlur(gradient.astype(np.float32), (0, 0), max(1.0, image.shape[0] / 32))
    highest = float(np.percentile(blurred, 99.5))
    result: np.ndarray = np.clip(blurred / highest, 0, 1) if highest > 0 else blurred
    return result
