"""Reads tensors that torch saved, without torch and without running anything.

The old format is five pickles (magic number, version, machine, tensors without their numbers, keys of the storages),
then each storage as an 8-byte count and its numbers. Since torch 1.6 a file is a zip with one pickle, ``data.pkl``,
and each storage as a member ``data/KEY``. A pickle is a program: this reader builds tensors and plain values, stands a
hollow `_Inert` in for the parts of a network that was saved whole, and refuses a pickle that names anything else.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from trainer.weights.values import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("u1"),
}
# Modules of networks that are saved whole; their classes are never loaded, only their attributes kept.
_NETWORKS = ("torch.nn.", "torchvision.models.", "torchxrayvision.models")
_BROKEN = (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class TorchFile:
    """Tensors by name, with and without the prefixes of what held them, and what else the file told.

    `attributes` are the plain values (numbers, strings, lists of these) beside the tensors: of a checkpoint's dict, or
    of a network that was saved whole, such as the names of its outputs.
    """

    tensors: dict[str, np.ndarray]
    attributes: dict[str, Any]


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict, a checkpoint that holds one, or a whole network, by name.

    Raises
    ------
    WeightsError
        Another format, a pickle that names more than tensors and layers need, or storages that do not fit the tensors.
    """
    return read_torch_file(data).tensors


def read_torch_file(data: bytes) -> TorchFile:
    """Return the tensors of a file as `read_torch` does, and the plain values beside them. Raises as it does."""
    content, storages = _read_zip(data) if data.startswith(b"PK\x03\x04") else _read_old(data)
    attributes: dict[str, Any] = {}
    state = content
    # A checkpoint keeps the state dict beside the epoch and the optimizer's state.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict | _Inert):
            attributes.update(_plain(state))
            state = state[key]
    if isinstance(state, _Inert):
        attributes.update(_plain(state.attributes))
        state = _state_dict(state)
    if not isinstance(state, dict):
        raise WeightsError(f"expected a state dict of torch, found {type(state).__name__}")
    tensors = {str(name): value.read(storages) for name, value in state.items() if isinstance(value, _Tensor)}
    if not tensors:
        raise WeightsError("expected tensors in the state dict, found none")
    return TorchFile(tensors, attributes)


def _read_old(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
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
    except _BROKEN as error:
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
    return state, storages


def _read_zip(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise WeightsError(f"expected one data.pkl in torch's zip format, found {len(pickles)}")
            folder = pickles[0].removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
                raise WeightsError("expected little-endian numbers, found big-endian")
            unpickler = _RestrictedUnpickler(io.BytesIO(archive.read(pickles[0])))
            state = unpickler.load()
            storages = {}
            for key, (dtype, size) in unpickler.storages.items():
                content = archive.read(f"{folder}data/{key}")
                if len(content) != size * dtype.itemsize:
                    raise WeightsError(f"storage {key}: expected {size} numbers, found {len(content)} bytes")
                storages[key] = np.frombuffer(content, dtype)
    except (zipfile.BadZipFile, *_BROKEN) as error:
        raise WeightsError(f"expected a state dict in torch's zip format, found: {error}") from error
    return state, storages


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
        # A stride of 0 repeats numbers: a file of a few bytes could ask for any amount of memory.
        size = math.prod(self.shape)
        if storage is None or not 0 <= self.offset <= last < storage.size or not 0 < size <= storage.size:
            raise WeightsError(f"a tensor of {self.shape} reaches outside storage {self.key}")
        steps = [step * storage.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, steps, writeable=False).copy()


class _Inert:
    """Stands for an object of another library: keeps its attributes, does nothing."""

    attributes: dict[str, Any]

    # Not in __init__, which a pickle need not call.
    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        inert = super().__new__(cls)
        inert.attributes = {}
        return inert

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state


def _state_dict(network: _Inert, prefix: str = "") -> dict[str, Any]:
    """Return what torch's `state_dict` would: parameters and buffers, by path."""
    state: dict[str, Any] = {}
    for part in ("_parameters", "_buffers"):
        state.update({f"{prefix}{name}": value for name, value in (network.attributes.get(part) or {}).items()})
    for name, module in (network.attributes.get("_modules") or {}).items():
        if isinstance(module, _Inert):
            state.update(_state_dict(module, f"{prefix}{name}."))
    return state


def _plain(values: dict[Any, Any]) -> dict[str, Any]:
    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, str | int | float)

    return {key: value for key, value in values.items() if isinstance(key, str) and plain(value)}


def _rebuild_tensor(storage: str, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(str(storage), int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows an ordered dict, tensors and their storages; a network's classes are hollow; everything else is refused."""

    _GLOBALS: dict[tuple[str, str], Callable[..., Any] | str] = {  # noqa: RUF012  # a constant table
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        # Best losses and scores in checkpoints; their values are not needed.
        ("numpy", "dtype"): _Inert,
        ("numpy.core.multiarray", "scalar"): _Inert,
        ("numpy._core.multiarray", "scalar"): _Inert,
        **{("torch", name): name for name in _DTYPES},
    }

    def __init__(self, file: IO[bytes]) -> None:
        # As torch reads: checkpoints of Python 2 keep their names as bytes.
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, tuple[np.dtype[Any], int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._GLOBALS:
            return self._GLOBALS[module, name]
        if module.startswith(_NETWORKS):
            return _Inert
        raise WeightsError(f"the pickle names {module}.{name}: refused, weights need no such thing")

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, *rest = pid
        if kind == "module":
            # A network's class and its source code, which the old format keeps beside it.
            return storage
        if kind != "storage" or storage not in _DTYPES or len(rest) < 2:
            raise WeightsError(f"expected a storage of {', '.join(_DTYPES)}, found {kind!r} {storage!r}")
        self.storages[str(key)] = (_DTYPES[str(storage)], int(rest[1]))
        return str(key)
