"""Training, from top to bottom: cases to arrays, start weights, steps, and after every epoch a checkpoint."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.architectures import ARCHITECTURES, start_from
from trainer.calibration import logistic_fit
from trainer.cohorts import Case, Cohort, CohortError
from trainer.config import Config, ConfigError, fold_of
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


def used(config: Config, cohort: Cohort) -> Cohort:
    """Return the cohort with the sources that the configuration uses."""
    if not config.sources:
        return cohort
    known = {case.source for case in cohort.cases}
    missing = sorted(set(config.sources) - known)
    if missing:
        raise ConfigError(f"{config.path}: sources: expected some of {', '.join(sorted(known))}, found {missing[0]}")
    return replace(cohort, cases=tuple(case for case in cohort.cases if case.source in config.sources))


def chosen_cases(config: Config, cohort: Cohort) -> tuple[list[Case], list[Case]]:
    """Return the train and the tune cases that have a label for any of the findings, without the fold left out."""

    def labelled(cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if any(not math.isnan(case.labels.get(f, math.nan)) for f in config.findings)]

    shown, fold = labelled(cohort.part("train")), fold_of(config)
    if fold is not None:
        shown = [case for case in shown if patient_fold(case, fold[1]) != fold[0]]
    return shown, labelled(cohort.part("tune"))


def patient_fold(case: Case, folds: int) -> int:
    """Return the case's fold, from 0: by patient, or by the group of equal pictures where it has one."""
    key = case.duplicate_group or case.patient
    return int.from_bytes(hashlib.sha256(f"fold {key}".encode()).digest()[:8], "big") % folds


def labels_of(cases: Sequence[Case], findings: Sequence[str]) -> np.ndarray:
    """Return (n, findings) float32: 1 present, 0 absent, NaN unknown."""
    return np.array(
        [[case.labels.get(finding, math.nan) for finding in findings] for case in cases], np.float32
    ).reshape(len(cases), len(findings))


def make_batches(config: Config, inputs: Inputs, cache: Path, threads: int, runs: Path) -> Batches:
    """Return the train part as batches: labels, or labels mixed with what teachers say, and their weights."""
    settings = config.training
    labels = labels_of(inputs.cases, config.findings)
    weights = np.stack(
        [case_weights(inputs.cases, labels[:, index], settings.balance) for index in range(len(config.findings))],
        axis=1,
    )
    balanced = settings.sampling == "balanced"
    targets = np.nan_to_num(labels)
    for index, finding in enumerate(config.findings):
        taught = taught_scores(config, finding, inputs.cases, runs)
        known = ~np.isnan(taught) & ~np.isnan(labels[:, index])
        targets[known, index] = (1 - settings.teach) * targets[known, index] + settings.teach * taught[known]
    with_other = [index for index, case in enumerate(inputs.cases) if case.again is not None]
    others = [
        replace(case, path=case.again, span=None, again=None, identifier=f"{case.identifier} again")
        for case in (inputs.cases[index] for index in with_other)
        if case.again is not None
    ]
    again = prepare(others, config.spec, cache, "other copies", threads=threads) if others else None
    if again is not None:
        decoded = {case.identifier for case in again.cases}
        with_other = [i for i in with_other if f"{inputs.cases[i].identifier} again" in decoded]
    return Batches(
        inputs=inputs,
        targets=targets,
        weights=np.where(np.isnan(labels), 0, 1).astype(np.float32) if balanced else weights,
        augment=config.augment,
        batch=settings.batch,
        seed=settings.seed,
        mixup=settings.mixup,
        chance=weights.max(axis=1).astype(np.float64) if balanced else None,
        again=again,
        again_of=np.array(with_other) if again is not None else None,
    )


def taught_scores(config: Config, finding: str, cases: Sequence[Case], runs: Path) -> np.ndarray:
    """Return (n,) the mean score of the teachers that were not shown the case, NaN where every one was.

    Raises
    ------
    ConfigError
        A teacher's run is not there or has another finding.
    """
    total, count = np.zeros(len(cases)), np.zeros(len(cases))
    for name in config.training.teachers:
        from trainer.predictor import run_predictor

        teacher = run_predictor(runs / name)
        if finding not in teacher.config.findings:
            found = ", ".join(teacher.config.findings)
            raise ConfigError(f"{config.path}: teacher {name}: expected a run for {finding}, found one for {found}")
        fold = fold_of(teacher.config)
        unseen = [index for index, case in enumerate(cases) if fold and patient_fold(case, fold[1]) == fold[0]]
        scores = teacher.score([cases[index] for index in unseen]).of(finding)
        total[unseen] += scores
        count[unseen] += 1
    return np.divide(total, count, out=np.full(len(cases), np.nan), where=count > 0)


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


def case_weights(cases: Sequence[Case], labels: np.ndarray, balance: Sequence[str]) -> np.ndarray:
    """Return a weight for each case, mean 1, so that in every group of `balance` present and absent weigh the same.

    A case without a label weighs nothing.
    """
    groups = [tuple(getattr(case, key) for key in balance) for case in cases]
    cells = [(group, label >= 0.5) for group, label in zip(groups, labels, strict=True)]
    known = ~np.isnan(labels)
    in_group = Counter(group for group, is_known in zip(groups, known, strict=True) if is_known)
    in_cell = Counter(cell for cell, is_known in zip(cells, known, strict=True) if is_known)
    weights = np.array(
        [
            in_group[cell[0]] / (2 * in_cell[cell]) if is_known else 0.0
            for cell, is_known in zip(cells, known, strict=True)
        ]
    )
    # A cell of a handful must not carry a group: no case counts more than five others.
    weights = np.minimum(weights, 5.0)
    return (weights / weights[known].mean()).astype(np.float32) if known.any() else np.zeros(len(cases), np.float32)


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
