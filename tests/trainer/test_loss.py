"""The loss against a sum written out by hand."""

import numpy as np
import pytest


@pytest.mark.requirement("SRS-TRN-009")
def test_the_loss_is_the_weighted_mean_and_an_unknown_label_has_no_gradient():
    import tensorflow as tf

    from trainer.loss import WeightedCrossentropy

    rng = np.random.default_rng(0)
    labels, weights = (rng.random((5, 3)) < 0.5).astype(np.float32), rng.uniform(0, 2, (5, 3)).astype(np.float32)
    weights[2] = 0
    scores = tf.Variable(rng.uniform(0.05, 0.95, (5, 3)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = WeightedCrossentropy(3, smoothing=0.1)(np.concatenate([labels, weights], axis=1), scores)
    smooth = labels * 0.9 + 0.05
    value = scores.numpy()
    expected = np.mean(weights * -(smooth * np.log(value) + (1 - smooth) * np.log(1 - value)))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    gradient = tape.gradient(loss, scores).numpy()
    assert np.all(gradient[2] == 0)
    assert np.all(gradient[0] != 0)
