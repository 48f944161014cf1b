"""A tiny model package with hand-made weights, for tests that need any package and no good one."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_node.imaging import PreprocessSpec
from cxr_node.inference import IntendedUse, Manifest, ModelPackage, OperatingPoint, load_package


def make_manifest(**changes: object) -> Manifest:
    """A manifest that is complete and right but for `changes`."""
    manifest = Manifest(
        name="tiny",
        version="1.0.0",
        title="A tiny network for tests",
        findings=("pneumonia",),
        intended_use=IntendedUse((18, 120), ("PA", "AP"), ("CR", "DX"), ("CHEST",)),
        preprocess=PreprocessSpec((16, 12)),
        operating_points={"pneumonia": OperatingPoint("test", 0.5, 0.9, 0.8, "drawn by hand, n = 0")},
        calibration={"pneumonia": {"slope": 1.5, "intercept": -0.25}},
        architecture="tiny",
        training={},
        figures={},
        limitations=("It knows nothing.",),
        files={"architecture.json": "0" * 64, "weights.npz": "0" * 64},
    )
    return replace(manifest, **changes)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the true hashes of the files that lie there."""
    files = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(replace(manifest, files=files).to_json()), "utf-8")


@pytest.fixture(scope="session")
def tiny_network():
    """A network with every kind of layer that could make a score depend on its batch."""
    import keras

    keras.utils.set_random_seed(7)
    inputs = keras.Input((16, 12, 1), name="images")
    x = keras.layers.Conv2D(8, 3, 2, "same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="scores")(x))
    for variable in model.weights:
        if "moving_variance" not in variable.path:
            variable.assign(variable + np.random.default_rng(1).normal(0, 0.5, variable.shape))
    return model


@pytest.fixture
def tiny_package(tmp_path: Path, tiny_network) -> Callable[..., ModelPackage]:
    """Return a function that writes the tiny package, with changes to its manifest, and loads it."""
    from trainer.export import write_network

    def make(**changes: object) -> ModelPackage:
        manifest = make_manifest(**changes)
        folder = tmp_path / "packages" / manifest.name
        folder.mkdir(parents=True)
        write_network(tiny_network, folder)
        write_manifest(folder, manifest)
        return load_package(folder)

    return make
