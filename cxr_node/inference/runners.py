"""What computes a network: TensorFlow's SavedModel on CPU or GPU, or LiteRT on CPU. `Engine` chooses among them.

A runner takes (n, rows, columns, 1) float32 and gives (n, findings) float32. It may be called from several threads.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cxr_node.errors import CxrNodeError, PackageError
from cxr_node.inference.devices import cores
from cxr_node.inference.network import load_tensorflow

CPU, GPU = "CPU", "GPU"
SAVED_MODEL, LITERT = "savedmodel", "litert"
# Interpreters that are kept: one for the studies' thread, one for the work beside them.
_KEPT = 2

_greeting = threading.Lock()
_has_greeted = False


class OutOfMemory(CxrNodeError):
    """The device's memory does not take the batch."""


class DeviceLost(CxrNodeError):
    """The device cannot be used, or no longer."""


class Runner(Protocol):
    """Computes one network on one device."""

    name: str
    device: str

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs of all images.

        Raises
        ------
        OutOfMemory, DeviceLost
        """
        ...


class SavedModelRunner:
    """TensorFlow's `serving_default` signature. Loads TensorFlow.

    On a GPU batches are filled up to a power of two, so that the shapes that `Engine.warm` has seen are all there are:
    a new shape makes the GPU's libraries choose their algorithms anew, which takes longer than the padding.

    Parameters
    ----------
    folder : the SavedModel
    device : CPU or GPU

    Raises
    ------
    DeviceLost
        A GPU is asked for, and TensorFlow finds none or cannot load the network there.
    PackageError
        The folder holds no SavedModel that loads.
    """

    name = SAVED_MODEL

    def __init__(self, folder: Path, device: str) -> None:
        self._tensorflow = tensorflow = load_tensorflow()
        self.device = device
        if device == GPU and not self.sees_gpu():
            raise DeviceLost("TensorFlow finds no GPU that it can use")
        try:
            with tensorflow.device(self._place()):
                self._module = tensorflow.saved_model.load(str(folder))
            self._serve = self._module.signatures["serving_default"]
        except tensorflow.errors.OpError as error:
            if device == GPU:
                raise DeviceLost(f"the network cannot be loaded there ({type(error).__name__})") from error
            raise PackageError(f"{folder}: expected a SavedModel, found one that does not load") from error
        except (OSError, KeyError) as error:
            raise PackageError(f"{folder}: expected a SavedModel, found one that does not load") from error

    def sees_gpu(self) -> bool:
        """Whether TensorFlow has a GPU in this process."""
        return bool(self._tensorflow.config.list_physical_devices("GPU"))

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs of all images, in one call."""
        tensorflow, count = self._tensorflow, len(images)
        padded = filled(images) if self.device == GPU else images
        try:
            with tensorflow.device(self._place()):
                output: np.ndarray = self._serve(images=tensorflow.constant(padded))["scores"].numpy()
        except tensorflow.errors.ResourceExhaustedError as error:
            raise OutOfMemory(f"a batch of {count} images does not fit into memory ({self.device})") from error
        except (
            tensorflow.errors.InternalError,
            tensorflow.errors.UnknownError,
            tensorflow.errors.UnavailableError,
            tensorflow.errors.AbortedError,
            tensorflow.errors.FailedPreconditionError,
        ) as error:
            if self.device != GPU:
                raise
            raise DeviceLost(f"it failed while it computed ({type(error).__name__})") from error
        return output[:count]

    def _place(self) -> str:
        # Without a GPU in the process, soft placement takes what there is; the name must exist in any case.
        return "/GPU:0" if self.device == GPU and self.sees_gpu() else "/CPU:0"


class UnsavedRunner(SavedModelRunner):
    """The function of a SavedModel as it was traced, on the CPU, where nobody keeps the file: to write and to read it
    takes longer than to make it.

    Parameters
    ----------
    module : see `convert.traced`
    """

    def __init__(self, module: Any) -> None:
        self._tensorflow = load_tensorflow()
        self.device = CPU
        self._module = module
        with self._tensorflow.device(self._place()):
            self._serve = module.serve.get_concrete_function()


class LiteRtRunner:
    """LiteRT's interpreter with XNNPACK, one image at a time: a batch gains nothing on a CPU, and costs memory.

    An interpreter is no object for two threads at once, so each call has one of its own; two are kept.

    Parameters
    ----------
    model : the bytes of the converted model. Not its path: a file mapped into memory would change the network of a
        running node together with the file
    threads : of XNNPACK; None: as many as this process has cores

    Raises
    ------
    PackageError
        They are no model that LiteRT can run.
    """

    name = LITERT
    device = CPU

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self._model = model
        self._threads = threads or cores()
        self._lock = threading.Lock()
        self._free: list[Any] = [self._make()]

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs of all images, one after the other."""
        with self._lock:
            interpreter = self._free.pop() if self._free else None
        interpreter = interpreter or self._make()
        place = interpreter.get_input_details()[0]["index"]
        found = interpreter.get_output_details()[0]
        outputs = np.empty((len(images), *found["shape"][1:]), np.float32)
        for index in range(len(images)):
            interpreter.set_tensor(place, images[index : index + 1])
            interpreter.invoke()
            outputs[index] = interpreter.get_tensor(found["index"])[0]
        with self._lock:
            if len(self._free) < _KEPT:
                self._free.append(interpreter)
        return outputs

    def _make(self) -> Any:
        try:
            from ai_edge_litert.interpreter import Interpreter

            with _json_lines_only():
                interpreter = Interpreter(model_content=self._model, num_threads=self._threads)
                interpreter.allocate_tensors()
        except (ImportError, ValueError, RuntimeError) as error:
            raise PackageError(f"LiteRT does not load the converted model ({type(error).__name__})") from error
        return interpreter


@contextlib.contextmanager
def _json_lines_only() -> Iterator[None]:
    """Let pass only what is a line of the node's log: LiteRT greets on standard error, the first time in a process.

    What other threads log meanwhile comes after the block.
    """
    global _has_greeted
    with _greeting:
        if _has_greeted:
            yield
            return
        _has_greeted = True
        try:
            kept = os.dup(2)
        except OSError:  # closed: nobody reads it
            yield
            return
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)
                caught.seek(0)
                for line in caught:
                    if line.startswith(b"{"):
                        os.write(2, line)


def filled(images: np.ndarray) -> np.ndarray:
    """Return the batch with black images behind it, up to the next power of two."""
    missing = batch_sizes(len(images))[-1] - len(images)
    if missing == 0:
        return images
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the powers of two up to the first that is not below `largest`."""
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)
