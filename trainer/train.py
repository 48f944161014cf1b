"""Training, from top to bottom: cases to arrays, start weights, steps, and after every epoch a checkpoint."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.architectures import ARCHITECTURES, start_from
from trainer.calibration import logistic_fit
from trainer.cohorts import Cohort, CohortError
from trainer.config import Config, ConfigError
from trainer.distribute import distribution
from trainer.inputs import Batches, Inputs, prepare
from trainer.metrics import auc
from trainer.record import (
    AVERAGE,
    CHECKPOINT,
    LOG,
    RUN,
    append_log,
    numbered,
    read_log,
    run_record,
    write_json,
    write_npz,
)
from trainer.targets import chosen_cases, labels_of, make_batches
from trainer.weights import start_weights

Predict = Callable[[np.ndarray], np.ndarray]


def train(
    config: Config, cohort: Cohort, out: Path, *, resume: bool = True, cache: Path | None = None, threads: int = 2
) -> Path:
    """Train and return the run's folder.

    `out` gets ``run.json`` (what was trained from what), ``log.csv`` (a row for each epoch), ``checkpoint.npz`` (to go
    on from, with the optimizer) and ``average.npz`` (what is released: the averaged weights of one epoch, see
    `Training.keep`). `cache` keeps decoded pictures, by default ``cache`` beside `out`, so that runs share them.

    Raises
    ------
    CohortError
        A part has no case with a label.
    ConfigError, WeightsError, DistributionError
        What was asked for cannot be had.
    """
    import keras

    before = keras.config.dtype_policy()
    # The whole process has one precision: what is scored after a run must not inherit the run's.
    keras.config.set_dtype_policy(config.training.precision)
    try:
        return _train(config, cohort, out, resume, cache, threads)
    finally:
        keras.config.set_dtype_policy(before)


def _train(config: Config, cohort: Cohort, out: Path, resume: bool, cache: Path | None, threads: int) -> Path:
    import keras

    settings = config.training
    where = distribution(settings.distribute)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    cache = cache or out.parent / "cache"
    shown, tuned = chosen_cases(config, cohort)
    inputs = prepare(shown, config.spec, cache, "train part", threads=threads)
    tune = prepare(tuned, config.spec, cache, "tune part", threads=threads)
    for part, found in (("train", inputs), ("tune", tune)):
        if not found.cases:
            raise CohortError(f"{config.cohort}: expected labelled pictures in the {part} part, found none")
    start = start_weights(settings.weights, config.architecture)
    batches = make_batches(config, inputs, cache, threads, out.parent)
    tune_labels = labels_of(tune.cases, config.findings)

    with where.scope():
        model = build(config)
        start_from(model, start, config.findings)
        freeze_layers(model, config)
        optimizer = keras.optimizers.AdamW(
            settings.learning_rate, weight_decay=settings.weight_decay, global_clipnorm=1.0
        )
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        from trainer.loss import WeightedCrossentropy

        model.compile(optimizer, loss=WeightedCrossentropy(len(config.findings), settings.label_smoothing))
        # compile wraps it where the precision needs a scaled loss.
        optimizer = model.optimizer
        optimizer.build(model.trainable_variables)
    step, forward = where.stepper(model, settings.batch), where.predictor(model)
    going_on = resume and (out / CHECKPOINT).is_file()
    if where.chief and not going_on:
        (out / LOG).unlink(missing_ok=True)
        record = run_record(config, cohort, start.source, start.sha256, (*inputs.problems, *tune.problems))
        write_json(out / RUN, {**record, "parameters": int(model.count_params())})
    if settings.probe and not going_on:
        start_head_from_probe(model, batches, settings.probe)
        scores = predict(forward, tune)
        if where.chief:
            write_npz(out / AVERAGE, numbered(model.get_weights()))
            append_log(out, log_row(0, math.nan, math.nan, tune_labels, scores, 0.0))
        print(f"{config.name}: last layers from a probe, tune AUC {mean_auc(tune_labels, scores):.5f}", flush=True)
    average = model.get_weights()
    first = 0
    if going_on:
        first, average = _restore(model, optimizer, out / CHECKPOINT)
        print(f"{config.name}: going on after epoch {first}", flush=True)
    history = [float(row["tune_auc"]) for row in read_log(out)]

    steps = batches.steps * settings.epochs
    for epoch in range(first, settings.epochs):
        if _waited_enough(history, settings.patience):
            print(f"{config.name}: no better tune AUC for {settings.patience} epochs, stopped", flush=True)
            break
        began = time.monotonic()
        losses = []
        rate = 0.0
        for done, (images, targets) in enumerate(batches.epoch(epoch, share=where.share, threads=threads), start=1):
            number = epoch * batches.steps + done - 1
            rate = learning_rate(number, steps, config)
            optimizer.learning_rate = rate
            losses.append(step(images, targets))
            if number % 4 == 3:
                # The average starts as the start weights: early on it must follow faster than it will later.
                keep = min(settings.average**4, (1 + number / 4) / (10 + number / 4))
                for index, value in enumerate(model.get_weights()):
                    average[index] += (1 - keep) * (value - average[index])
            if done % 10 == 0 or done == batches.steps:
                seconds = (time.monotonic() - began) / done
                print(
                    f"\r{config.name} epoch {epoch + 1}/{settings.epochs} step {done}/{batches.steps} "
                    f"loss {np.mean(losses[-20:]):.4f} {seconds:.2f} s/step, "
                    f"{settings.batch / seconds:.0f} images/s, {seconds * (batches.steps - done):.0f} s left ",
                    end="",
                    flush=True,
                )
        live = model.get_weights()
        model.set_weights(average)
        scores = predict(forward, tune)
        model.set_weights(live)
        row = log_row(epoch + 1, float(np.mean(losses)), rate, tune_labels, scores, time.monotonic() - began)
        if where.chief:
            if settings.keep == "last" or row["tune_auc"] >= max(history, default=0.0):
                write_npz(out / AVERAGE, numbered(average))
            _save(model, optimizer, average, epoch + 1, out)
            append_log(out, row)
        history.append(row["tune_auc"])
        print(f"\n{config.name}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return out


def build(config: Config) -> Any:
    """Return the configuration's network, not yet started from any weights.

    Raises
    ------
    ConfigError
        The architecture is not in the table.
    """
    if config.architecture not in ARCHITECTURES:
        raise ConfigError(
            f"{config.path}: model.architecture: expected one of {', '.join(ARCHITECTURES)}, "
            f"found {config.architecture!r}"
        )
    return ARCHITECTURES[config.architecture](config.spec.size, config.findings, dropout=config.training.dropout)


def freeze_layers(model: Any, config: Config) -> None:
    """Freeze what the configuration names: a block and all before it, normalisation statistics."""
    import keras

    if config.training.freeze:
        from trainer.architectures import freeze

        freeze(model, config.training.freeze)
    if config.training.freeze_normalisation:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False


def start_head_from_probe(model: Any, batches: Batches, ridge: float) -> None:
    """Set the last layer to logistic regressions on the features of the pictures as they are."""
    import keras

    inputs = batches.inputs
    features_of = keras.Model(model.input, model.get_layer("features").output)
    features = np.concatenate(
        [
            np.asarray(features_of.predict_on_batch(inputs.images(start, start + 32)))
            for start in range(0, len(inputs), 32)
        ]
    )
    features = features.reshape(len(features), -1)
    center, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    head = model.get_layer("scores")
    kernel, bias = (np.array(value) for value in head.get_weights())
    for index in range(kernel.shape[1]):
        beta = logistic_fit(
            (features - center) / spread, batches.targets[:, index], batches.weights[:, index], ridge=ridge
        )
        kernel[:, index] = beta[1:] / spread
        bias[index] = beta[0] - center @ kernel[:, index]
    head.set_weights([kernel, bias])


def mean_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean AUC over the findings that have both classes; NaN where none has."""
    values = [
        auc(labels[known, index], scores[known, index])
        for index in range(labels.shape[1])
        for known in [~np.isnan(labels[:, index])]
    ]
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def log_row(
    epoch: int, loss: float, rate: float, labels: np.ndarray, scores: np.ndarray, seconds: float
) -> dict[str, Any]:
    """Return an epoch's row: tune figures are those of the averaged weights."""
    known = ~np.isnan(labels)
    inside = np.clip(scores, 1e-7, 1 - 1e-7)
    entropy = -np.where(labels == 1, np.log(inside), np.log(1 - inside))
    return {
        "epoch": epoch,
        "loss": "" if math.isnan(loss) else round(loss, 5),
        "tune_loss": round(float(entropy[known].mean()), 5),
        "tune_auc": round(mean_auc(labels, scores), 5),
        "tune_mean_score_present": round(float(scores[labels == 1].mean()), 4),
        "tune_mean_score_absent": round(float(scores[labels == 0].mean()), 4),
        "learning_rate": "" if math.isnan(rate) else float(f"{rate:.4g}"),
        "seconds": round(seconds, 1),
    }


def predict(forward: Predict, inputs: Inputs, batch: int = 64) -> np.ndarray:
    """Return the scores (n, findings) of a network in its present state."""
    parts = [forward(inputs.images(start, start + batch)) for start in range(0, len(inputs), batch)]
    return np.concatenate(parts).astype(np.float64)


def learning_rate(step: int, steps: int, config: Config) -> float:
    """A linear warm-up, then a half cosine down to a hundredth."""
    warm = max(1, int(config.training.warmup * steps))
    if step < warm:
        return config.training.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return config.training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _waited_enough(history: Sequence[float], patience: int) -> bool:
    return bool(patience) and len(history) > patience and max(history[-patience:]) <= max(history[:-patience])


def _save(model: Any, optimizer: Any, average: Sequence[np.ndarray], epoch: int, out: Path) -> None:
    state = {f"weight-{index:04d}": value for index, value in enumerate(model.get_weights())}
    state |= {f"average-{index:04d}": value for index, value in enumerate(average)}
    state |= {f"optimizer-{index:04d}": np.asarray(value) for index, value in enumerate(optimizer.variables)}
    write_npz(out / CHECKPOINT, {"epoch": np.array(epoch), **state})


def _restore(model: Any, optimizer: Any, path: Path) -> tuple[int, list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as stored:
        names = sorted(stored.files)
        model.set_weights([stored[name] for name in names if name.startswith("weight-")])
        for variable, name in zip(
            optimizer.variables, [name for name in names if name.startswith("optimizer-")], strict=True
        ):
            variable.assign(stored[name])
        return int(stored["epoch"]), [stored[name].copy() for name in names if name.startswith("average-")]


def read_run(run: Path) -> dict[str, Any]:
    """Return a run's record.

    Raises
    ------
    ConfigError
        The folder holds no finished epoch of a run.
    """
    try:
        record: dict[str, Any] = json.loads((run / RUN).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run / RUN}: expected the record of a run, found none ({error})") from error
    if not (run / AVERAGE).is_file():
        raise ConfigError(f"{run / AVERAGE}: expected the weights of a run, found none: no epoch was finished")
    return record
