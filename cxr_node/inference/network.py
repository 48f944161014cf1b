"""The Keras network of a package, and TensorFlow as this node wants it, imported no sooner than it is needed."""

import json
import os
from typing import Any

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.devices import cores
from cxr_node.inference.package import ARCHITECTURE, WEIGHTS, ModelPackage


def build_network(package: ModelPackage) -> Any:
    """Return the Keras model of a package with its weights cast to float32.

    Raises
    ------
    PackageError
        The weights do not fit the architecture: names the array, its shape and the shape expected.
    """
    load_tensorflow()
    import keras

    architecture = package.path / ARCHITECTURE
    try:
        model = keras.models.model_from_json(architecture.read_text("utf-8"))
    except (ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise PackageError(f"{architecture}: expected a Keras architecture, found: {error}") from error
    path = package.path / WEIGHTS
    # Pickled arrays could run code; the trainer writes none.
    with np.load(path, allow_pickle=False) as stored:
        if len(stored.files) != len(model.weights):
            raise PackageError(f"{path}: expected {len(model.weights)} arrays, found {len(stored.files)}")
        for index, variable in enumerate(model.weights):
            name = f"{index:04d}"
            if name not in stored.files or stored[name].shape != tuple(variable.shape):
                found = stored[name].shape if name in stored.files else "none"
                raise PackageError(
                    f"{path}: expected {name} of {tuple(variable.shape)} ({variable.path}), found {found}"
                )
            variable.assign(stored[name].astype(np.float32))
    return model


def load_tensorflow() -> Any:
    """Import TensorFlow, quiet and with threads for the cores that this process may use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import tensorflow

    try:
        # One image at a time keeps the cores busy inside an operation; a second pool would only compete.
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        tensorflow.config.threading.set_intra_op_parallelism_threads(cores())
        for device in tensorflow.config.list_physical_devices("GPU"):
            # A second process, a shadow model's say, must find memory too.
            tensorflow.config.experimental.set_memory_growth(device, True)
    except RuntimeError:
        pass  # TensorFlow already runs in this process, with the threads it was started with
    return tensorflow
