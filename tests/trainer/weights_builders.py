"""Writes files as torch writes them, without torch, and a DenseNet-121 in NumPy to compare networks with."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np

STORAGES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage"}


class Storage:
    """Stands for torch's storage in a pickle: written as a persistent id."""

    def __init__(self, key, size, kind="FloatStorage"):
        self.key, self.size, self.kind = key, size, kind


class Tensor:
    def __init__(self, storage, offset, shape, stride):
        self.arguments = (storage, offset, shape, stride, False, OrderedDict())


class Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class WithSource(Global):
    """A class as the old format keeps it in a network that was saved whole: with its source code."""


class Call:
    """A global that the pickle calls with arguments."""

    def __init__(self, kind, *arguments):
        self.kind, self.arguments = kind, arguments


class Network:
    """An object of another library, as a pickle keeps it: its class by name, and its attributes."""

    def __init__(self, kind, attributes):
        self.kind, self.attributes = kind, attributes


class Writer(pickle._Pickler):
    """Writes the globals that torch would, without torch."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.size, None)
        if isinstance(obj, WithSource):
            return ("module", Global(obj.module, obj.name), "models.py", "class DenseNet: ...")
        return None

    def save_global_by_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_tensor(self, obj):
        self.save_global_by_name(Global("torch._utils", "_rebuild_tensor_v2"))
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    def save_network(self, obj):
        self.save(obj.kind)
        self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
        self.save(obj.attributes)
        self.write(pickle.BUILD)

    def save_call(self, obj):
        self.save(obj.kind)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    dispatch = {  # noqa: RUF012  # as the base class has it
        **pickle._Pickler.dispatch,
        Global: save_global_by_name,
        Tensor: save_tensor,
        Network: save_network,
        Call: save_call,
    }


def torch_file(state, keys, payload):
    """The bytes of torch's old format."""
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state, keys):
        Writer(file, 2).dump(value)
    return file.getvalue() + payload


def storage_bytes(values, dtype="<f4"):
    return len(values).to_bytes(8, "little") + np.asarray(values, dtype).tobytes()


def stored(arrays):
    """Return (tensors, storages by key) of arrays by name: what a pickle says of them, and their bytes."""
    tensors, storages = {}, {}
    for number, (name, value) in enumerate(arrays.items()):
        kind, strides = STORAGES[value.dtype.str[1:]], tuple(step // value.itemsize for step in value.strides)
        tensors[name] = Tensor(Storage(str(number), value.size, kind), 0, value.shape, strides)
        storages[str(number)] = value.ravel(order="K")
    return OrderedDict(tensors), storages


def old_format(content, storages):
    payload = b"".join(storage_bytes(value.ravel(), value.dtype) for value in storages.values())
    return torch_file(content, list(storages), payload)


def zip_format(content, storages, byteorder=b"little"):
    """The bytes of torch's format since 1.6."""
    file, pickled = io.BytesIO(), io.BytesIO()
    Writer(pickled, 2).dump(content)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickled.getvalue())
        archive.writestr("model/byteorder", byteorder)
        for key, value in storages.items():
            archive.writestr(f"model/data/{key}", value.tobytes())
        archive.writestr("model/version", b"3\n")
    return file.getvalue()


def network_of(tensors, kind, **attributes):
    """Return a network saved whole: modules within modules, parameters and buffers apart."""
    root: dict = {"tensors": {}, "modules": {}}
    for name, tensor in tensors.items():
        at = root
        *path, last = name.split(".")
        for part in path:
            at = at["modules"].setdefault(part, {"tensors": {}, "modules": {}})
        at["tensors"][last] = tensor

    def made(node, kind, **attributes):
        buffers = {name: tensor for name, tensor in node["tensors"].items() if name.startswith("running")}
        return Network(
            kind,
            {
                "training": False,
                "_parameters": OrderedDict((key, node["tensors"][key]) for key in node["tensors"].keys() - buffers),
                "_buffers": OrderedDict(buffers),
                "_modules": OrderedDict(
                    (name, made(module, Global("torch.nn.modules.container", "Sequential")))
                    for name, module in node["modules"].items()
                ),
                **attributes,
            },
        )

    return made(root, kind, **attributes)


class ReferenceDenseNet:
    """DenseNet-121 as torch computes it, in float64 NumPy: (channels, rows, columns), names of torchvision.

    Source: torchvision's densenet.py; BatchNorm2d eps 1e-5, MaxPool2d(3, 2, padding=1) pads with minus infinity,
    AvgPool2d(2, 2) without padding, no bias in convolutions, ReLU after norm5 and before the mean.
    """

    LAYERS = (6, 12, 24, 16)

    def __init__(self, channels, outputs, rng):
        self.tensors: dict[str, np.ndarray] = {}
        self.rng, self.channels, self.outputs = rng, channels, outputs

    def draw(self, image):
        """Draw all weights; the statistics are near those of the image, so that a signal passes all layers."""
        self.drawing = True
        self(image)
        self.drawing = False
        # As torch saves them.
        self.tensors = {name: value.astype(np.float32) for name, value in self.tensors.items()}
        return self

    def __call__(self, image):
        """Return the logits (outputs,) of an image (channels, rows, columns)."""
        x = self.convolved(image, "features.conv0", 64, 7, 2, 3)
        x = np.maximum(self.normalized(x, "features.norm0"), 0)
        x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        x = windows(x, 3, 2).max(axis=(3, 4))
        for block, layers in enumerate(self.LAYERS, start=1):
            for layer in range(1, layers + 1):
                name = f"features.denseblock{block}.denselayer{layer}"
                new = np.maximum(self.normalized(x, f"{name}.norm1"), 0)
                new = self.convolved(new, f"{name}.conv1", 128, 1, 1, 0)
                new = np.maximum(self.normalized(new, f"{name}.norm2"), 0)
                new = self.convolved(new, f"{name}.conv2", 32, 3, 1, 1)
                x = np.concatenate([x, new])
            if block < 4:
                x = np.maximum(self.normalized(x, f"features.transition{block}.norm"), 0)
                x = self.convolved(x, f"features.transition{block}.conv", len(x) // 2, 1, 1, 0)
                x = windows(x, 2, 2).mean(axis=(3, 4))
        x = np.maximum(self.normalized(x, "features.norm5"), 0).mean(axis=(1, 2))
        if self.drawing:
            self.tensors["classifier.weight"] = self.rng.normal(0, 0.01, (self.outputs, len(x)))
            self.tensors["classifier.bias"] = self.rng.normal(0, 0.5, self.outputs)
        return self.tensors["classifier.weight"].astype(float) @ x + self.tensors["classifier.bias"]

    def convolved(self, x, name, filters, side, stride, padding):
        if self.drawing:
            shape = (filters, len(x), side, side)
            self.tensors[f"{name}.weight"] = self.rng.normal(0, np.sqrt(2 / (len(x) * side**2)), shape)
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        return np.einsum(
            "crsij,fcij->frs", windows(x, side, stride), self.tensors[f"{name}.weight"].astype(float), optimize=True
        )

    def normalized(self, x, name):
        if self.drawing:
            near = self.rng.uniform(0.8, 1.2, len(x))
            drawn = (near, self.rng.normal(0, 0.2, len(x)), x.mean((1, 2)) * near, x.var((1, 2)) * near + 0.1)
            for part, value in zip(("weight", "bias", "running_mean", "running_var"), drawn, strict=True):
                self.tensors[f"{name}.{part}"] = value
        weight, bias, mean, variance = (
            self.tensors[f"{name}.{part}"].astype(float)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def windows(x, side, stride):
    """Return (channels, rows, columns, side, side) of (channels, rows, columns)."""
    return np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::stride, ::stride]
