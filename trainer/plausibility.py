"""Make and measure the templates of `cxr_node.imaging.plausibility`.

``python -m trainer.plausibility --data DIR --out cxr_node/imaging``: mean thumbnails of PA, AP and paediatric chests
from training parts; thresholds are fixed below, chosen on the training parts; rates are measured on images that went
into nothing: NIH patients of the official test list and a third of the others, and the official Kermany test part.
"""

import argparse
import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.imaging import plausibility
from cxr_node.imaging.plausibility import implausible, thumbnail
from cxr_node.imaging.radiograph import Radiograph, radiograph_from_picture_file
from trainer.metrics import wilson

LEAST = 0.32
MARGIN = 0.2
SEED = 1


def _nih(data: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return the template images by view, and the images to measure on."""
    with gzip.open(data / "metadata" / "test_list.txt.gz", "rt") as handle:
        official = {line.strip() for line in handle}
    with (data / "cxr14" / "labels.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    patients = sorted({row["Patient ID"] for row in rows if row["Image Index"] not in official})
    random.Random(SEED).shuffle(patients)
    held = set(patients[: len(patients) // 3]) | {row["Patient ID"] for row in rows if row["Image Index"] in official}
    train: dict[str, list[Path]] = {"PA": [], "AP": []}
    measured = []
    for row in rows:
        path = data / "cxr14" / row["file"]
        if row["Patient ID"] in held:
            measured.append(path)
        else:
            train[row["View Position"]].append(path)
    return train, measured


def _kermany(data: Path) -> tuple[list[Path], list[Path]]:
    with (data / "kermany" / "labels.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    parts: dict[str, list[Path]] = {"train": [], "test": []}
    for row in rows:
        parts[row["split"]].append(data / "kermany" / row["split"] / row["label"] / row["file"])
    return parts["train"][::4], parts["test"]


def _mean(paths: Sequence[Path]) -> np.ndarray:
    total = np.sum([thumbnail(radiograph_from_picture_file(path).grayscale) for path in paths], axis=0)
    total -= total.mean()
    return np.asarray(total / np.linalg.norm(total), np.float32)


def _wrong(gray: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "as it is": gray,
        "inverted": np.float32(1) - gray,
        "upside down": gray[::-1],
        "a quarter left": np.rot90(gray),
        "a quarter right": np.rot90(gray, -1),
    }


def measure(paths: Iterable[Path]) -> dict[str, Any]:
    """Count the exclusions of real chests as they are and of their wrong versions, with Wilson 95 % intervals."""
    counts: dict[str, int] = {}
    total = 0
    for path in paths:
        total += 1
        gray = radiograph_from_picture_file(path).grayscale
        for name, pixels in _wrong(gray).items():
            excluded = implausible(Radiograph(np.ascontiguousarray(pixels))) is not None
            counts[name] = counts.get(name, 0) + excluded
    return {
        name: {
            "excluded": count,
            "of": total,
            "rate": round(count / total, 4),
            "ci95": [round(wilson(count, total).low, 4), round(wilson(count, total).high, 4)],
        }
        for name, count in counts.items()
    }


def main() -> None:
    """Make the templates, measure them, write both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    nih_train, nih_measured = _nih(arguments.data)
    kermany_train, kermany_measured = _kermany(arguments.data)
    groups = {"NIH PA": nih_train["PA"], "NIH AP": nih_train["AP"], "Kermany": kermany_train}
    templates = np.stack([_mean(paths) for paths in groups.values()])
    target = arguments.out / "plausibility.npz"
    np.savez(target, templates=templates, least=LEAST, margin=MARGIN)
    plausibility.TEMPLATES = target
    digest = hashlib.sha256()
    for path in sorted(path for paths in groups.values() for path in paths):
        digest.update(path.read_bytes())
    report = {
        "made_from": {name: len(paths) for name, paths in groups.items()},
        "made_from_sha256": digest.hexdigest(),
        "least": LEAST,
        "margin": MARGIN,
        "measured": {
            "NIH, patients that went into nothing": measure(nih_measured),
            "Kermany, official test part": measure(kermany_measured),
        },
        "not_measured": "lateral radiographs: none at hand",
    }
    (arguments.out / "plausibility.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
