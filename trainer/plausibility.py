"""Train and measure the network of `cxr_node.imaging.plausibility`.

``python -m trainer.plausibility --data DIR --out cxr_node/imaging`` (three minutes on two cores): trains on the train
parts of the cohorts, writes ``plausibility.npz`` (weights) and ``plausibility.json`` (what it was made from, and the
rates measured through `implausible` itself on the test parts, with counts and Wilson 95 % intervals). The thresholds
stand in `cxr_node.imaging.plausibility`; the tune parts show how far above them real chests lie.
"""

import argparse
import csv
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import Radiograph, implausible, plausibility, radiograph_from_dicom_file
from cxr_node.imaging.plausibility import CLASSES, LEAST_NAMED, LEAST_UPRIGHT, OTHER, SIZE, UPRIGHT, shares, thumbnail
from cxr_node.imaging.radiograph import radiograph_from_picture_file
from trainer import drawn
from trainer.cohorts import COHORTS
from trainer.metrics import wilson

SEED = 1
EXAMPLES = 120_000
EPOCHS = 10
BATCH = 256
OTHER_SHARE, SPOILED_SHARE, AS_IT_IS_SHARE = 0.22, 0.2, 0.3
_WORKING_SIDE = 64

TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda gray: gray,
    "inverted": lambda gray: np.float32(1) - gray,
    "upside down": lambda gray: gray[::-1],
    "half a turn": lambda gray: np.rot90(gray, 2),
    "a quarter left": np.rot90,
    "a quarter right": lambda gray: np.rot90(gray, -1),
}

Groups = dict[str, list[Path]]


def gather(data: Path) -> dict[str, Groups]:
    """Return the pictures of each part, by cohort and view; a patient is in one part only.

    The 64-pixel NIH pictures follow their patient's part in the cohort, or the official list.
    """
    parts: dict[str, Groups] = {"train": {}, "tune": {}, "test": {}}
    part_of_patient: dict[str, str] = {}
    for key, cohort in COHORTS.items():
        for case in cohort(data).cases:
            if key == "nih":
                part_of_patient.setdefault(case.patient, case.part)
            if case.part in parts:
                parts[case.part].setdefault(f"{key} {case.view}", []).append(case.path)
    with gzip.open(data / "metadata" / "test_list.txt.gz", "rt") as lines:
        official = set(lines.read().split())
    with (data / "cxr14-64" / "labels.csv").open() as table:
        rows = list(csv.DictReader(table))
    official_patients = {row["Patient ID"] for row in rows if row["Image Index"] in official}
    for row in rows:
        part = part_of_patient.get(f"nih-{int(row['Patient ID'])}", "train")
        part = "test" if row["Patient ID"] in official_patients else part
        if part in parts:
            suffix = "" if part == "train" else " 64 px"
            parts[part].setdefault(f"nih {row['View Position']}{suffix}", []).append(data / "cxr14-64" / row["file"])
    return parts


def examples(groups: Groups, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return thumbnails (EXAMPLES, 32, 32, 1) float32 and their classes; each group of chests counts the same."""
    chests = {name: [_small(radiograph_from_picture_file(path)) for path in paths] for name, paths in groups.items()}
    pools = list(chests.values())
    every = [chest for pool in pools for chest in pool]
    views = np.empty((EXAMPLES, SIZE, SIZE, 1), np.float32)
    classes = np.empty(EXAMPLES, np.int64)
    for index in range(EXAMPLES):
        if rng.random() < OTHER_SHARE:
            spoil = rng.random() < SPOILED_SHARE
            draw = drawn.DRAWINGS[rng.integers(len(drawn.DRAWINGS))]
            views[index, ..., 0] = thumbnail(drawn.spoiled(rng, every) if spoil else draw(rng))
            classes[index] = OTHER
            continue
        pool = pools[rng.integers(len(pools))]
        view = thumbnail(drawn.varied(rng, pool[rng.integers(len(pool))]))
        wrong = UPRIGHT if rng.random() < AS_IT_IS_SHARE else int(rng.integers(OTHER))
        turned = np.rot90(view, wrong % 4)
        views[index, ..., 0] = -turned if wrong >= 4 else turned
        classes[index] = wrong
    return views, classes


def train(views: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Train the network in Keras; return its weights as float16 by the names that `plausibility.shares` reads."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 1)),
            layers.Conv2D(16, 5, 2, activation="relu", name="conv1"),
            layers.Conv2D(24, 3, 2, activation="relu", name="conv2"),
            layers.Conv2D(32, 3, 1, activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(32, activation="relu", name="dense1"),
            layers.Dropout(0.2),
            layers.Dense(CLASSES, name="dense2"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(views) // BATCH)
    network.compile(
        keras.optimizers.AdamW(rate, weight_decay=1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    network.fit(views, classes, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    named = ("conv1", "conv2", "conv3", "dense1", "dense2")
    return {
        f"{layer}.{kind}": np.asarray(value, np.float16)
        for layer in named
        for kind, value in zip(("kernel", "bias"), network.get_layer(layer).get_weights(), strict=True)
    }


def rate(found: int, total: int) -> dict[str, Any]:
    """Return a share with its count and Wilson 95 % interval."""
    interval = wilson(found, total)
    return {
        "excluded": found,
        "of": total,
        "rate": round(found / total, 4),
        "ci95": [round(interval.low, 4), round(interval.high, 4)],
    }


def measure(paths: Sequence[Path]) -> dict[str, Any]:
    """Count the exclusions of real chests as they are, and of their wrong versions."""
    excluded = dict.fromkeys(TURNS, 0)
    for path in paths:
        gray = radiograph_from_picture_file(path).grayscale
        for name, turn in TURNS.items():
            excluded[name] += implausible(Radiograph(np.ascontiguousarray(turn(gray)))) is not None
    return {name: rate(count, len(paths)) for name, count in excluded.items()}


def measure_drawn(rng: np.random.Generator, each: int = 300) -> dict[str, Any]:
    """Count the exclusions of newly drawn pictures."""
    return {
        draw.__name__.replace("_", " "): rate(
            sum(implausible(Radiograph(np.array(draw(rng), np.float32))) is not None for _ in range(each)), each
        )
        for draw in drawn.DRAWINGS
    }


def measure_files(folder: Path) -> dict[str, str]:
    """Return for each DICOM file what is said of its pixels alone; none of them was trained on."""
    said = {}
    for path in sorted(folder.glob("*.dcm")):
        try:
            exclusion = implausible(radiograph_from_dicom_file(path))
        except UnreadablePixels as error:
            said[path.name] = f"unreadable: {error}"
        else:
            said[path.name] = exclusion.reason if exclusion else "a chest"
    return said


def least_upright(groups: Groups) -> dict[str, list[float]]:
    """Return the five lowest shares of an upright chest that real ones get."""
    return {
        name: sorted(
            round(float(shares(thumbnail(radiograph_from_picture_file(path).grayscale))[UPRIGHT]), 4) for path in paths
        )[:5]
        for name, paths in groups.items()
    }


def main() -> None:
    """Train, measure, write weights and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    parts = gather(arguments.data)
    weights = train(*examples(parts["train"], np.random.default_rng(SEED)))
    target = arguments.out / "plausibility.npz"
    np.savez_compressed(target, **weights)  # type: ignore[arg-type]  # the stub takes the names for options
    plausibility.WEIGHTS = target
    plausibility._weights.cache_clear()
    everything = [path for paths in parts["test"].values() for path in paths]
    report = {
        "made_from": {name: len(paths) for name, paths in parts["train"].items()},
        "made_from_sha256": _digest(path for paths in parts["train"].values() for path in paths),
        "weights_sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "seed": SEED,
        "least_upright": LEAST_UPRIGHT,
        "least_named": LEAST_NAMED,
        "tune": {"lowest shares of an upright chest": least_upright(parts["tune"])},
        "test": {
            "all": measure(everything),
            **{name: measure(paths) for name, paths in parts["test"].items()},
            "newly drawn pictures": measure_drawn(np.random.default_rng(SEED + 1)),
            "dicom files, pixels alone": measure_files(arguments.data / "dicom"),
        },
        "limits": [
            "Lateral radiographs were not at hand: none was trained on or measured.",
            "Train and test parts come from the same two hospitals; from elsewhere there are the DICOM files only.",
            "Real pictures of other body parts are four of the DICOM files; the others are drawn, as those trained on.",
            "A mirrored chest is accepted: situs inversus exists.",
        ],
    }
    (arguments.out / "plausibility.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _small(radiograph: Radiograph) -> np.ndarray:
    return cv2.resize(radiograph.grayscale, (_WORKING_SIDE, _WORKING_SIDE), interpolation=cv2.INTER_AREA)


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
