"""Reads weights that Keras or this trainer wrote: HDF5 of Keras 3 and Keras 2, .keras, .npz. Builds no model."""

import io
import json
import re
import zipfile
from typing import Any

import numpy as np

from trainer.weights.values import WeightsError

HDF5 = b"\x89HDF\r\n\x1a\n"
FINDINGS = "findings"


def is_keras_2(data: bytes) -> bool:
    """Say whether the bytes are HDF5 as Keras 2 wrote weights, the names of its layers in an attribute."""
    import h5py

    if not data.startswith(HDF5):
        return False
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return "layer_names" in file.get("model_weights", file).attrs
    except OSError as error:
        raise WeightsError(f"expected HDF5, found: {error}") from error


def read_hdf5(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of ``.weights.h5`` or of Keras 2's ``.h5`` as ``layer/index``.

    Keras 3 keeps each layer's variables in a group ``vars`` whose attribute tells the layer's name; a file without
    that attribute cannot be told apart by name. Keras 2 keeps the names in attributes of the groups.

    Raises
    ------
    WeightsError
        The file is no HDF5, holds no layers, or two layers of one name.
    """
    import h5py

    tensors: dict[str, np.ndarray] = {}

    def add(layer: str, index: int, value: Any) -> None:
        if f"{layer}/{index}" in tensors:
            raise WeightsError(f"two layers are named {layer}: expected a name for each")
        tensors[f"{layer}/{index}"] = np.asarray(value)

    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                for layer in map(_text, root.attrs["layer_names"]):
                    names = [_text(name) for name in root[layer].attrs["weight_names"]]
                    owners = [name.split("/")[-2] if "/" in name else layer for name in names]
                    # A network within the network is one layer there, whose weights are named by their own layers.
                    owners = owners if len(set(owners)) > 1 else [layer] * len(owners)
                    for number, (owner, name) in enumerate(zip(owners, names, strict=True)):
                        add(owner, owners[:number].count(owner), root[layer][name])
                return tensors

            def visit(path: str, item: Any) -> None:
                if not isinstance(item, h5py.Group) or not re.search(r"(^|/)vars$", path) or not len(item):
                    return
                if path.startswith("optimizer"):
                    return
                if "name" not in item.attrs:
                    raise WeightsError(f"{path} has no name: expected a file of Keras 3.5 or later, which names layers")
                for index in item:
                    add(_text(item.attrs["name"]), int(index), item[index])

            file.visititems(visit)
    except (OSError, KeyError, ValueError) as error:
        raise WeightsError(f"expected HDF5 as Keras writes it, found: {error}") from error
    if not tensors:
        raise WeightsError("expected layers of Keras in the HDF5 file, found none")
    return tensors


def read_keras(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a ``.keras`` file; its configuration is not read.

    Raises
    ------
    WeightsError
        The zip file holds no ``model.weights.h5``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return read_hdf5(archive.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"expected a .keras file with model.weights.h5, found: {error}") from error


def read_npz(data: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the tensors of an ``.npz``, and the findings of its scores where it names them.

    Raises
    ------
    WeightsError
        The file is not one, or an array in it is no array of numbers.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            tensors = {name: stored[name] for name in stored.files}
        findings = tuple(json.loads(str(tensors.pop(FINDINGS)))) if FINDINGS in tensors else ()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise WeightsError(f"expected an .npz of arrays, found: {error}") from error
    for name, value in tensors.items():
        if value.dtype.kind not in "fiu":
            raise WeightsError(f"{name}: expected numbers, found {value.dtype}")
    return tensors, findings


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
