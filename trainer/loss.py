"""The loss of several findings, each label with its own weight. Pure Keras."""

import keras
from keras import ops


class WeightedCrossentropy(keras.losses.Loss):
    """Binary cross-entropy over (n, 2 * findings): labels in [0, 1], then the weight of each; 0 is an unknown label.

    The mean goes over all findings, known or not, so a case with one label pulls less than one with fourteen.
    `smoothing` moves labels that far from 0 and 1 (Szegedy et al. 2016, half of it to each side).
    """

    def __init__(self, findings: int, smoothing: float = 0.0) -> None:
        super().__init__(name="weighted_crossentropy")
        self.findings = findings
        self.smoothing = smoothing

    def call(self, y_true, y_pred):  # type: ignore[no-untyped-def]
        """Return (n,) the weighted loss of each case."""
        labels, weights = y_true[:, : self.findings], y_true[:, self.findings :]
        labels = labels * (1 - self.smoothing) + 0.5 * self.smoothing
        scores = ops.clip(ops.cast(y_pred, "float32"), 1e-7, 1 - 1e-7)
        loss = -(labels * ops.log(scores) + (1 - labels) * ops.log(1 - scores))
        return ops.mean(weights * loss, axis=-1)
