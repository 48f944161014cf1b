"""A small cohort of drawn pictures in the form of the real one, and a small network to learn it."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

COLUMNS = ["split", "label", "file", "subtype", "patient", "duplicate_group", "native", "width", "height"]


def draw(path: Path, haze: bool, rng: np.random.Generator) -> None:
    """Write a picture of two dark ovals; with haze, one of them is bright."""
    y, x = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 48), indexing="ij")
    image = np.full((48, 48), 0.7)
    for side in (0.3, 0.7):
        depth = 0.15 if haze and side == 0.3 else 0.5
        image -= depth * np.exp(-((((x - side) / 0.15) ** 2 + ((y - 0.5) / 0.3) ** 2) ** 2))
    image += rng.normal(0, 0.03, image.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), (np.clip(image, 0, 1) * 255).astype(np.uint8))


def write_kermany(data: Path, rows: list[dict[str, str]]) -> None:
    """Write a cohort in the form of the Kermany one from (split, label, file, patient) and what else is given."""
    rng = np.random.default_rng(0)
    folder = data / "kermany"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({"native": "0", **row})
            draw(folder / row["split"] / row["label"] / row["file"], row["label"] == "PNEUMONIA", rng)


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn cohort: 56 children to learn from, 24 to test on."""
    data = tmp_path_factory.mktemp("data")
    rows = []
    for split, first, count in (("train", 100, 28), ("test", 1, 12)):
        for number in range(first, first + count):
            rows.append(
                {"split": split, "label": "NORMAL", "file": f"IM-{number:04d}.png", "patient": f"IM-{number:04d}"}
            )
            rows.append(
                {
                    "split": split,
                    "label": "PNEUMONIA",
                    "file": f"person{number}_virus_1.png",
                    "patient": f"person{number}",
                    "subtype": "virus",
                }
            )
    write_kermany(data, rows)
    return data


@pytest.fixture(scope="session")
def drawn_cohort(drawn_data: Path):
    """The drawn cohort, read."""
    from trainer.cohorts import COHORTS

    return COHORTS["kermany"](drawn_data)


CONFIG = """
cohort = "kermany"
[model]
architecture = "tiny"
finding = "pneumonia"
size = [24, 24]
[training]
epochs = 2
batch = 8
learning_rate = 0.01
mixup = 0.0
dropout = 0.0
weights = "none"
seed = 5
[operating_point]
sensitivity = 0.9
[package]
name = "drawn"
title = "Haze in drawn pictures"
limitations = ["It was never shown a radiograph."]
[package.intended_use]
age_years = [1, 5]
views = ["AP"]
modalities = ["DX"]
body_parts = ["CHEST"]
[[package.criteria]]
figure = "auc"
at_least = 1.1
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "drawn.toml"
    path.write_text(CONFIG, "utf-8")
    return path


def tiny(size, findings, *, dropout=0.0):
    """A network that learns drawn haze in seconds."""
    import keras

    inputs = keras.Input((*size, 1), name="images")
    x = keras.layers.Conv2D(8, 5, 2, "same", activation="relu")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.8)(x)
    x = keras.layers.Conv2D(8, 3, 2, "same", activation="relu")(x)
    x = keras.layers.Flatten(name="features")(x)
    outputs = keras.layers.Dense(len(findings), activation="sigmoid", name="scores")(x)
    return keras.Model(inputs, outputs, name="tiny")


@pytest.fixture(scope="session", autouse=True)
def tiny_architecture():
    """Put the tiny network into the table for these tests."""
    from trainer.architectures import ARCHITECTURES

    ARCHITECTURES["tiny"] = tiny
    yield
    del ARCHITECTURES["tiny"]
