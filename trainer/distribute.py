"""One training step on one device, on all of this machine's, or on several machines.

| `training.distribute` | where |
|---|---|
| `none` | pure Keras, whichever backend |
| `mirrored` | every GPU of this machine (MirroredStrategy), or its CPU's logical devices where there is none |
| `multi-worker` | the workers that TF_CONFIG names (MultiWorkerMirroredStrategy), each started with the same command |

A step sees the same cases however many share it: each image has its own random generator, and gradients are summed
over the whole batch. Only batch normalisation's statistics differ, as each replica sees its share.
Source: tensorflow.org/guide/distributed_training; TF_CONFIG as TFConfigClusterResolver reads it.
"""

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np


class DistributionError(Exception):
    """The devices or workers asked for are not there, or do not fit the batch; says what was found and expected."""


class Alone:
    """A process with one device, by Keras alone."""

    share = (0, 1)
    chief = True

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def stepper(self, model: Any, batch: int) -> Callable[[np.ndarray, np.ndarray], float]:
        return lambda images, targets: float(model.train_on_batch(images, targets))

    def predictor(self, model: Any) -> Callable[[np.ndarray], np.ndarray]:
        return lambda images: np.asarray(model.predict_on_batch(images))


class Strategy:
    """A `tf.distribute` strategy. `share` is (this worker, workers); `chief` writes the files.

    Keras's own `fit` does not take a multi-worker's batches, so the step is written out here.
    """

    def __init__(self, strategy: Any, worker: int, workers: int) -> None:
        self._strategy = strategy
        self.share = (worker, workers)
        self.chief = worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        scope: contextlib.AbstractContextManager[Any] = self._strategy.scope()
        return scope

    def stepper(self, model: Any, batch: int) -> Callable[[np.ndarray, np.ndarray], float]:
        """Return step(images, targets) -> loss; the arrays are this worker's share of the batch.

        Raises
        ------
        DistributionError
            The batch cannot be dealt out evenly.
        """
        import tensorflow as tf

        strategy, (worker, workers) = self._strategy, self.share
        replicas = strategy.num_replicas_in_sync
        if batch % replicas:
            raise DistributionError(f"training.batch: expected a multiple of the {replicas} replicas, found {batch}")
        each, local = batch // replicas, replicas // workers
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        clipnorm = float(inner.global_clipnorm or np.inf)

        def replica_step(images: Any, targets: Any) -> Any:
            with tf.GradientTape() as tape:
                # Within a strategy Keras divides a loss by the replicas: their sum is the mean over the batch.
                loss = model.loss(targets, model(images, training=True))
                scaled = model.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            # The optimizer would clip each replica's gradients before it sums them: clipped is the sum, as alone.
            context = tf.distribute.get_replica_context()
            summed = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            longest = clipnorm * tf.cast(getattr(model.optimizer, "dynamic_scale", 1.0), tf.float32)
            clipped, _ = tf.clip_by_global_norm(summed, longest)
            each_part = [gradient / replicas for gradient in clipped]
            model.optimizer.apply_gradients(zip(each_part, model.trainable_variables, strict=True))
            return loss

        @tf.function(reduce_retracing=True)
        def step(images: Any, targets: Any) -> Any:
            losses = strategy.run(replica_step, args=(images, targets))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

        def dealt(array: np.ndarray) -> Any:
            def part(context: Any) -> Any:
                first = (context.replica_id_in_sync_group - worker * local) * each
                return tf.constant(array[first : first + each])

            return strategy.experimental_distribute_values_from_function(part)

        return lambda images, targets: float(step(dealt(images), dealt(targets)))

    def predictor(self, model: Any) -> Callable[[np.ndarray], np.ndarray]:
        """Return scores(images); every worker calls it with the same images at the same time."""
        import tensorflow as tf

        forward = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
        return lambda images: np.asarray(forward(tf.constant(images)))


def distribution(choice: str) -> Alone | Strategy:
    """Return where the steps of `training.distribute` run.

    Raises
    ------
    DistributionError
        Another Keras backend than TensorFlow, or no TF_CONFIG that names the workers.
    """
    if choice == "none":
        return Alone()
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise DistributionError(f"training.distribute {choice}: expected the Keras backend tensorflow, found {backend}")
    if choice == "mirrored":
        import tensorflow as tf

        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return Strategy(tf.distribute.MirroredStrategy([device.name for device in devices]), 0, 1)
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])
        workers, worker = cluster["cluster"]["worker"], int(cluster["task"]["index"])
    except (KeyError, ValueError, TypeError) as error:
        raise DistributionError(
            "training.distribute multi-worker: expected the environment variable TF_CONFIG to name the workers, "
            f'{{"cluster": {{"worker": ["host:port", …]}}, "task": {{"type": "worker", "index": 0}}}}, found {error!r}'
        ) from error
    import tensorflow as tf

    return Strategy(tf.distribute.MultiWorkerMirroredStrategy(), worker, len(workers))
