"""Runs a model package: Keras builds the network once, a SavedModel signature serves it ever after."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.package import ARCHITECTURE, WEIGHTS, ModelPackage

# A batch above this gains nothing on two cores and only costs memory.
LARGEST_BATCH = 32
_COMPLETE = "complete"


class Engine:
    """The network of a package, ready to score.

    The SavedModel is exported once into ``cache_dir/<digest>``; another process that finds it there starts without
    building the network. The folder is made under another name and renamed, so that it is never seen half written.

    Parameters
    ----------
    package : verified, see `load_package`
    cache_dir : None makes a folder of its own, deleted once the graph is loaded
    """

    def __init__(self, package: ModelPackage, *, cache_dir: Path | None = None) -> None:
        tensorflow = _tensorflow()
        self.package = package
        self._tensorflow = tensorflow
        # Logical names of devices hold no model, and this text reaches logs and the health page.
        self.device = "GPU" if tensorflow.config.list_physical_devices("GPU") else "CPU"
        self._batch = LARGEST_BATCH
        if cache_dir is not None:
            folder = cache_dir / package.digest
            if not (folder / _COMPLETE).is_file():
                cache_dir.mkdir(parents=True, exist_ok=True)
                _export_once(package, folder)
            self._module = tensorflow.saved_model.load(str(folder))
        else:
            with tempfile.TemporaryDirectory(prefix="cxr-node-model-") as scratch:
                folder = Path(scratch) / package.digest
                _export_once(package, folder)
                self._module = tensorflow.saved_model.load(str(folder))
        self._serve = self._module.signatures["serving_default"]

    def warm(self) -> None:
        """Score one black image, so that the first study does not pay for tracing and memory."""
        rows, columns = self.package.manifest.preprocess.size
        self.scores(np.zeros((1, rows, columns, 1), np.float32))

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """Return the network's scores, before calibration.

        Where the GPU's memory does not take the batch, it is halved, and stays so for later calls.

        Parameters
        ----------
        batch : (n, rows, columns, 1) float32 in [0, 1], from `imaging.preprocess` with the package's spec

        Returns
        -------
        (n, findings) float32 in [0, 1], columns in the order of `manifest.findings`
            An image's score does not depend on its neighbours in the batch by more than 1e-5.

        Raises
        ------
        PackageError
            The batch does not have the shape that the package states, or the network gives something else than
            one score per finding, or no number.
        """
        manifest = self.package.manifest
        expected = (*manifest.preprocess.size, 1)
        if batch.ndim != 4 or batch.shape[1:] != expected:
            raise PackageError(f"package {manifest.name}: expected inputs (n, {expected}), found {batch.shape}")
        results = np.empty((len(batch), len(manifest.findings)), np.float32)
        start = 0
        while start < len(batch):
            part = np.ascontiguousarray(batch[start : start + self._batch], dtype=np.float32)
            try:
                output = self._serve(images=self._tensorflow.constant(part))["scores"].numpy()
            except self._tensorflow.errors.ResourceExhaustedError:
                if len(part) == 1:
                    raise
                self._batch = max(1, len(part) // 2)
                continue
            if output.shape != (len(part), len(manifest.findings)):
                raise PackageError(
                    f"package {manifest.name}: expected {len(manifest.findings)} scores per image, "
                    f"found an output of {output.shape}"
                )
            results[start : start + len(part)] = output
            start += len(part)
        if not np.isfinite(results).all():
            raise PackageError(f"package {manifest.name}: expected scores in [0, 1], found one that is no number")
        return results


def build_network(package: ModelPackage) -> Any:
    """Return the Keras model of a package with its weights cast to float32.

    Raises
    ------
    PackageError
        The weights do not fit the architecture: names the array, its shape and the shape expected.
    """
    _tensorflow()
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


def _export_once(package: ModelPackage, folder: Path) -> None:
    """Write the SavedModel beside `folder` and rename it; a process that was faster has written the same."""
    tensorflow = _tensorflow()
    model = build_network(package)
    rows, columns = package.manifest.preprocess.size

    @tensorflow.function(
        input_signature=[tensorflow.TensorSpec((None, rows, columns, 1), tensorflow.float32, "images")]
    )
    def serve(images: Any) -> dict[str, Any]:
        return {"scores": model(images, training=False)}

    module = tensorflow.Module()
    module.model_variables = [variable.value for variable in model.variables]
    module.serve = serve
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        tensorflow.saved_model.save(module, str(made), signatures={"serving_default": serve})
        (made / _COMPLETE).touch()
        if folder.exists() and not (folder / _COMPLETE).is_file():
            shutil.rmtree(folder)  # left by something other than us: ours is complete before it has this name
        try:
            made.rename(folder)
        except OSError:
            if not (folder / _COMPLETE).is_file():
                raise


def _tensorflow() -> Any:
    """Import TensorFlow, quiet and with threads for the cores that this process may use."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import tensorflow

    try:
        # One image at a time keeps the cores busy inside an operation; a second pool would only compete.
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        # macOS knows no affinity.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        tensorflow.config.threading.set_intra_op_parallelism_threads(cores)
        for device in tensorflow.config.list_physical_devices("GPU"):
            # A second process, a shadow model's say, must find memory too.
            tensorflow.config.experimental.set_memory_growth(device, True)
    except RuntimeError:
        pass  # TensorFlow already runs in this process, with the threads it was started with
    return tensorflow
