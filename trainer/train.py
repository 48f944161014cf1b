"""Training, from top to bottom: cases to arrays, start weights, steps, and after every epoch a checkpoint.

Only Keras is used, no TensorFlow of its own, so that another Keras backend trains as well.
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.imaging import preprocess, radiograph_from_picture_file
from trainer.architectures import ARCHITECTURES, start_from
from trainer.augment import augmented
from trainer.calibration import logistic_fit
from trainer.cohorts import COHORTS, PARTS, Case, Cohort, without_broken
from trainer.config import Config
from trainer.metrics import auc
from trainer.weights import start_weights

CHECKPOINT = "checkpoint.npz"
AVERAGE = "average.npz"
RUN = "run.json"
LOG = "log.csv"


def train(config: Config, data: Path, out: Path, *, resume: bool = True) -> Path:
    """Train and return the run's folder.

    `out` gets ``run.json`` (what was trained from what), ``log.csv`` (a row for each epoch), ``checkpoint.npz`` (to go
    on from, with the optimizer) and ``average.npz`` (what is released: the averaged weights of one epoch, see
    `Training.keep`).
    """
    import keras

    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(config.training.seed)
    cohort = COHORTS[config.cohort](data)
    train_cases, broken = without_broken(cohort.part("train"))
    tune_cases, broken_tune = without_broken(cohort.part("tune"))
    start = start_weights(config.training.weights)
    record = run_record(config, cohort, start.source, start.sha256, (*broken, *broken_tune))
    _write_json(out / RUN, record)

    originals = [model_input(case.path, config) for case in train_cases]
    again = [model_input(case.again, config) if case.again else None for case in train_cases]
    labels = np.array([case.taught(config.finding) for case in train_cases], np.float32)
    weights = case_weights(train_cases, config)
    tune_inputs = np.stack([model_input(case.path, config) for case in tune_cases])[..., np.newaxis]
    tune_labels = np.array([case.labels[config.finding] for case in tune_cases])

    model = ARCHITECTURES[config.architecture](config.spec.size, (config.finding,), dropout=config.training.dropout)
    start_from(model, start)
    if config.training.freeze_normalisation:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    steps_per_epoch = math.ceil(len(labels) / config.training.batch)
    steps = steps_per_epoch * config.training.epochs
    optimizer = keras.optimizers.AdamW(
        config.training.learning_rate, weight_decay=config.training.weight_decay, global_clipnorm=1.0
    )
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(optimizer, loss=keras.losses.BinaryCrossentropy(label_smoothing=config.training.label_smoothing))
    optimizer.build(model.trainable_variables)
    if config.training.probe and not (resume and (out / CHECKPOINT).is_file()):
        start_head_from_probe(model, originals, labels, weights, config.training.probe)
        probed = auc(tune_labels, predict(model, tune_inputs))
        _write_npz(out / AVERAGE, _numbered(model.get_weights()))
        _append_csv(out / LOG, _log_row(0, math.nan, tune_labels, predict(model, tune_inputs), 0.0))
        print(f"{config.name}: last layer from a probe, tune_auc {probed:.5f}", flush=True)
    average = model.get_weights()
    first = 0
    if resume and (out / CHECKPOINT).is_file():
        first, average = _restore(model, optimizer, out / CHECKPOINT)
        print(f"{config.name}: going on after epoch {first}", flush=True)

    for epoch in range(first, config.training.epochs):
        began = time.monotonic()
        losses = []
        batches = _batches(originals, again, labels, weights, config, epoch)
        for step, (inputs, targets, sample_weights) in enumerate(batches, start=epoch * steps_per_epoch):
            optimizer.learning_rate = learning_rate(step, steps, config)
            losses.append(float(model.train_on_batch(inputs, targets, sample_weight=sample_weights)))
            if step % 4 == 3:
                # The average starts as the ImageNet weights: early on it must follow faster than it will later.
                keep = min(config.training.average**4, (1 + step / 4) / (10 + step / 4))
                for index, value in enumerate(model.get_weights()):
                    average[index] += (1 - keep) * (value - average[index])
            if step % 10 == 0:
                done = step - epoch * steps_per_epoch + 1
                print(
                    f"\r{config.name} epoch {epoch + 1}/{config.training.epochs} step {done}/{steps_per_epoch} "
                    f"loss {np.mean(losses[-20:]):.4f} {(time.monotonic() - began) / done:.2f} s/step ",
                    end="",
                    flush=True,
                )
        live = model.get_weights()
        model.set_weights(average)
        scores = predict(model, tune_inputs)
        model.set_weights(live)
        row = _log_row(epoch + 1, float(np.mean(losses)), tune_labels, scores, time.monotonic() - began)
        best = max((float(past["tune_auc"]) for past in read_log(out)), default=0.0)
        if config.training.keep == "last" or row["tune_auc"] >= best:
            _write_npz(out / AVERAGE, _numbered(average))
        _save(model, optimizer, average, epoch + 1, out)
        _append_csv(out / LOG, row)
        print(f"\n{config.name}: " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return out


def start_head_from_probe(
    model: Any, images: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray, ridge: float
) -> None:
    """Set the last layer to the logistic regression on the features of the images as they are."""
    import keras

    features_of = keras.Model(model.input, model.get_layer("features").output)
    features = np.concatenate(
        [
            np.asarray(features_of.predict_on_batch(np.stack(images[start : start + 32])[..., np.newaxis]))
            for start in range(0, len(images), 32)
        ]
    )
    center, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    beta = logistic_fit((features - center) / spread, np.nan_to_num(labels), weights, ridge=ridge)
    kernel = beta[1:] / spread
    model.get_layer("scores").set_weights([kernel[:, np.newaxis], np.array([beta[0] - center @ kernel])])


def _log_row(epoch: int, loss: float, labels: np.ndarray, scores: np.ndarray, seconds: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": "" if math.isnan(loss) else round(loss, 5),
        "tune_auc": round(auc(labels, scores), 5),
        "tune_mean_score_present": round(float(scores[labels == 1].mean()), 4),
        "tune_mean_score_absent": round(float(scores[labels == 0].mean()), 4),
        "seconds": round(seconds, 1),
    }


def _numbered(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{index:04d}": value for index, value in enumerate(arrays)}


def model_input(path: Path, config: Config) -> np.ndarray:
    """Return (rows, columns) float32: a picture by the one way to a model's input."""
    return preprocess(radiograph_from_picture_file(path), config.spec)[..., 0]


def predict(model: Any, inputs: np.ndarray, batch: int = 64) -> np.ndarray:
    """Return the scores (n,) of a network with one finding, in its present state."""
    parts = [model.predict_on_batch(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
    return np.concatenate([np.asarray(part) for part in parts])[:, 0]


def learning_rate(step: int, steps: int, config: Config) -> float:
    """A linear warm-up, then a half cosine down to a hundredth."""
    warm = max(1, int(config.training.warmup * steps))
    if step < warm:
        return config.training.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return config.training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def case_weights(cases: Sequence[Case], config: Config) -> np.ndarray:
    """Return a weight for each case, mean 1, so that in every group of `balance` present and absent weigh the same.

    A case without a label weighs nothing.
    """
    labels = np.array([case.taught(config.finding) for case in cases])
    groups = [tuple(getattr(case, key) for key in config.training.balance) for case in cases]
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
    return (weights / weights[known].mean()).astype(np.float32)


def _batches(
    originals: Sequence[np.ndarray],
    again: Sequence[np.ndarray | None],
    labels: np.ndarray,
    weights: np.ndarray,
    config: Config,
    epoch: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield an epoch's batches, made a few ahead by a thread; the same for the same seed and epoch."""
    settings = config.training
    order = np.random.default_rng((settings.seed, epoch)).permutation(len(labels))
    # The last batch is filled up from the front: a batch of a few would upset the normalisation.
    order = np.concatenate([order, order[: -len(order) % settings.batch]])

    def make(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((settings.seed, epoch, index))
        chosen = order[index * settings.batch : (index + 1) * settings.batch]
        images = []
        for case in chosen:
            other = again[case]
            image = other if other is not None and rng.random() < 0.5 else originals[case]
            images.append(augmented(image, config.augment, rng))
        inputs = np.stack(images)[..., np.newaxis].astype(np.float32)
        targets, sample_weights = np.nan_to_num(labels[chosen]), weights[chosen]
        if settings.mixup:
            drawn = float(rng.beta(settings.mixup, settings.mixup))
            share = np.float32(max(drawn, 1 - drawn))
            inputs = share * inputs + (1 - share) * inputs[::-1]
            targets = share * targets + (1 - share) * targets[::-1]
            sample_weights = share * sample_weights + (1 - share) * sample_weights[::-1]
        return inputs, targets[:, np.newaxis], sample_weights

    with ThreadPoolExecutor(1) as pool:
        indices = iter(range(len(order) // settings.batch))
        ahead = [pool.submit(make, index) for _, index in zip(range(4), indices, strict=False)]
        while ahead:
            yield ahead.pop(0).result()
            following = next(indices, None)
            if following is not None:
                ahead.append(pool.submit(make, following))


def run_record(
    config: Config, cohort: Cohort, weights_source: str, weights_sha256: str, problems: Sequence[str]
) -> dict[str, Any]:
    """Return what a reader needs to know, and to train the same again: configuration, data, start, code, machine."""
    parts = {}
    for part in PARTS:
        cases = cohort.part(part)
        parts[part] = {
            "images": len(cases),
            "patients": len({case.patient for case in cases}),
            "present": sum(case.labels[config.finding] == 1 for case in cases),
            "absent": sum(case.labels[config.finding] == 0 for case in cases),
            "sha256": cases_sha256(cases),
        }
    return {
        "config": {
            "file": config.path.name,
            "sha256": hashlib.sha256(config.path.read_bytes()).hexdigest(),
            "training": asdict(config.training),
            "augment": asdict(config.augment),
            "preprocess": config.spec.to_json(),
            "architecture": config.architecture,
        },
        "cohort": {
            "name": cohort.name,
            "title": cohort.title,
            "split_rule": cohort.split_rule,
            "parts": parts,
            "problems": [*cohort.problems, *problems],
        },
        "start_weights": {"source": weights_source, "sha256": weights_sha256},
        "code": code_state(),
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
            **_versions("numpy", "keras", "tensorflow", "jax", "opencv-python-headless"),
        },
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cases_sha256(cases: Sequence[Case]) -> str:
    """Return one SHA-256 over identifiers, labels and bytes of all cases, in the order of their identifiers."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.identifier):
        digest.update(f"{case.identifier} {sorted(case.labels.items())} ".encode())
        digest.update(hashlib.sha256(case.path.read_bytes()).digest())
    return digest.hexdigest()


def code_state() -> dict[str, str]:
    """Return the commit, where there is one, and a SHA-256 over the sources that training and preprocessing run."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("trainer", "cxr_node/imaging"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
        revision = commit.stdout.strip() if commit.returncode == 0 else ""
    except OSError:
        revision = ""
    return {"commit": revision, "sources_sha256": digest.hexdigest()}


def _save(model: Any, optimizer: Any, average: Sequence[np.ndarray], epoch: int, out: Path) -> None:
    state = {f"weight-{index:04d}": value for index, value in enumerate(model.get_weights())}
    state |= {f"average-{index:04d}": value for index, value in enumerate(average)}
    state |= {f"optimizer-{index:04d}": np.asarray(value) for index, value in enumerate(optimizer.variables)}
    _write_npz(out / CHECKPOINT, {"epoch": np.array(epoch), **state})


def _restore(model: Any, optimizer: Any, path: Path) -> tuple[int, list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as stored:
        names = sorted(stored.files)
        model.set_weights([stored[name] for name in names if name.startswith("weight-")])
        for variable, name in zip(
            optimizer.variables, [name for name in names if name.startswith("optimizer-")], strict=True
        ):
            variable.assign(stored[name])
        return int(stored["epoch"]), [stored[name].copy() for name in names if name.startswith("average-")]


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_suffix(".new.npz")
    np.savez(temporary, allow_pickle=False, **arrays)
    temporary.replace(path)  # a stop in the middle leaves the last epoch's file


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log, one for each epoch."""
    if not (run / LOG).is_file():
        return []
    with (run / LOG).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _append_csv(path: Path, row: dict[str, Any]) -> None:
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)
