"""Reads DenseNet-121 as radiograph projects save it with torch, into our `densenet121` with equal outputs.

Two layouts are known. CheXNet (github.com/arnoweng/CheXNet and what followed it): keys under
``module.densenet121.features``, in old files with dots in the layers' names (``norm.1``), a classifier of 14 findings,
three channels by ImageNet's mean and deviation. TorchXRayVision: keys under ``features``, a classifier of 18 findings,
one channel in [-1024, 1024]; such files are whole networks, of which only numbers are read. Any other classifier, such
as the 1000 classes of torchvision's ImageNet weights, is read too, but none of its outputs has a finding.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.weights.keras_file import FINDINGS
from trainer.weights.torch_file import read_torch_file
from trainer.weights.values import WeightsError

LAYERS = (6, 12, 24, 16)
_NORMALISED = ("weight", "bias", "running_mean", "running_var")

# The order of the outputs; source: CLASS_NAMES of CheXNet's model.py.
CHEXNET_FINDINGS = (
    "atelectasis",
    "cardiomegaly",
    "effusion",
    "infiltration",
    "mass",
    "nodule",
    "pneumonia",
    "pneumothorax",
    "consolidation",
    "edema",
    "emphysema",
    "fibrosis",
    "pleural_thickening",
    "hernia",
)
# Source: default_pathologies of torchxrayvision's datasets.py.
XRAYVISION_FINDINGS = (
    "atelectasis",
    "consolidation",
    "infiltration",
    "pneumothorax",
    "edema",
    "emphysema",
    "fibrosis",
    "effusion",
    "pneumonia",
    "pleural_thickening",
    "cardiomegaly",
    "nodule",
    "mass",
    "hernia",
    "lung_lesion",
    "fracture",
    "lung_opacity",
    "enlarged_cardiomediastinum",
)
# Of (channels, outputs).
_LAYOUTS = {(3, 14): ("chexnet", CHEXNET_FINDINGS), (1, 18): ("xrayvision", XRAYVISION_FINDINGS)}
_INPUTS = {
    3: "three channels, (gray - mean) / deviation of ImageNet, made of gray in [0, 1] by the layer input_scale",
    1: "one channel in [-1024, 1024], that is 2048 * gray - 1024: input_scale makes 2 * gray - 1, and the first "
    "convolution is multiplied by 1024, which is exact; zero padding stays where it was, at middle gray",
}


@dataclass(frozen=True)
class TorchDenseNet:
    """A DenseNet-121 read from torch, in our names, axes and input convention.

    `findings` has a name for each output, "" where the network never learned it or its name is not known.
    `operating_points` are the thresholds that TorchXRayVision keeps with a network, empty for others; its own outputs
    are bent so that these thresholds lie at 0.5, ours are the plain sigmoid.
    """

    layout: str
    tensors: dict[str, np.ndarray]
    findings: tuple[str, ...]
    channels: int
    operating_points: tuple[float, ...]


def is_densenet(tensors: dict[str, np.ndarray]) -> bool:
    """Say whether the names are torch's for a DenseNet, under whatever prefix."""
    return any(name.endswith("features.conv0.weight") for name in tensors)


def import_weights(source: Path, to: Path) -> dict[str, Any]:
    """Write a torch DenseNet-121 as an .npz for ``train --weights``, with a JSON beside it; return what that says.

    Raises
    ------
    WeightsError
        The file cannot be read, is no DenseNet-121, or `to` does not end in .npz.
    """
    if to.suffix != ".npz":
        raise WeightsError(f"{to}: expected a name that ends in .npz")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise WeightsError(f"{source}: expected a file of weights, found none ({error.strerror})") from error
    try:
        network = read_densenet(data)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    to.parent.mkdir(parents=True, exist_ok=True)
    arrays = {**network.tensors, FINDINGS: np.asarray(json.dumps(network.findings))}
    np.savez(to, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    said = {
        "schema": "cxr-train imported weights 1",
        "architecture": "densenet121",
        "layout": network.layout,
        "source": {"file": source.name, "sha256": hashlib.sha256(data).hexdigest()},
        "sha256": hashlib.sha256(to.read_bytes()).hexdigest(),
        "findings": list(network.findings),
        "input": _INPUTS[network.channels],
        "output": "sigmoid of the last layer, not calibrated",
        "operating_points": [point if np.isfinite(point) else None for point in network.operating_points],
        "tensors": len(network.tensors),
        "parameters": int(sum(value.size for value in network.tensors.values())),
    }
    to.with_suffix(".json").write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    return said


def read_densenet(data: bytes) -> TorchDenseNet:
    """Return the DenseNet-121 that torch saved, by our layers' names.

    Raises
    ------
    WeightsError
        A tensor is missing, left over or of another shape than DenseNet-121's.
    """
    file = read_torch_file(data)
    named = {_plain_name(name): value for name, value in file.tensors.items()}
    if len(named) != len(file.tensors):
        raise WeightsError("expected one network, found two tensors of one name under several prefixes")
    points = named.pop("op_threshs", None)
    if points is None:
        kept = file.attributes.get("op_threshs")
        points = np.asarray(kept if isinstance(kept, list | tuple) else (), float)
    taken: set[str] = set()

    def take(name: str) -> np.ndarray:
        if name not in named:
            raise WeightsError(f"expected the tensor {name} of DenseNet-121, found none")
        taken.add(name)
        return named[name].astype(np.float32)

    first = take("features.conv0.weight")
    if first.ndim != 4 or first.shape[1] not in _INPUTS:
        raise WeightsError(f"features.conv0.weight: expected 1 or 3 input channels, found the shape {first.shape}")
    channels = first.shape[1]
    tensors = _first_layers(first)
    for layer, torch in _layers().items():
        if layer.endswith("bn"):
            for index, part in enumerate(_NORMALISED):
                tensors[f"{layer}/{index}"] = take(f"{torch}.{part}")
        elif layer != "conv1_conv":
            tensors[f"{layer}/0"] = np.transpose(take(f"{torch}.weight"), (2, 3, 1, 0))
    classifier = take("classifier.weight")
    tensors.update({"scores/0": classifier.T.copy(), "scores/1": take("classifier.bias")})
    unused = {name for name in named if not name.endswith("num_batches_tracked")} - taken
    if unused:
        raise WeightsError(f"expected DenseNet-121 and nothing else, found {', '.join(sorted(unused)[:5])}")
    _check_shapes(tensors)
    outputs = classifier.shape[0]
    layout, usual = _LAYOUTS.get((channels, outputs), ("other", ("",) * outputs))
    findings = _findings(usual, file.attributes, points)
    return TorchDenseNet(layout, tensors, findings, channels, tuple(float(point) for point in points))


def _plain_name(name: str) -> str:
    """Drop what wraps the network, and the dots and the index of old and wrapped layers' names."""
    name = re.sub(r"^.*?(?=(features|classifier|op_threshs)\b)", "", name)
    name = re.sub(r"\b(norm|conv)\.([12])\b", r"\1\2", name)
    # CheXNet's classifier is a sequence of a linear layer and a sigmoid.
    return re.sub(r"^classifier\.0\.", "classifier.", name)


def _layers() -> dict[str, str]:
    """Return torch's name for each of our layers."""
    layers = {"conv1_conv": "features.conv0", "conv1_bn": "features.norm0"}
    for block, count in enumerate(LAYERS, start=1):
        for layer in range(1, count + 1):
            ours = f"conv{block + 1}_block{layer}"
            theirs = f"features.denseblock{block}.denselayer{layer}"
            layers[f"{ours}_0_bn"], layers[f"{ours}_1_conv"] = f"{theirs}.norm1", f"{theirs}.conv1"
            layers[f"{ours}_1_bn"], layers[f"{ours}_2_conv"] = f"{theirs}.norm2", f"{theirs}.conv2"
        if block < len(LAYERS):
            layers[f"pool{block + 1}_bn"] = f"features.transition{block}.norm"
            layers[f"pool{block + 1}_conv"] = f"features.transition{block}.conv"
    layers["bn"] = "features.norm5"
    return layers


def _first_layers(kernel: np.ndarray) -> dict[str, np.ndarray]:
    """Return the first convolution for three channels, and the scale before it where it is not that of ImageNet."""
    turned = np.transpose(kernel, (2, 3, 1, 0))
    if kernel.shape[1] == 3:
        return {"conv1_conv/0": turned}
    # The whole signal in the first channel. Folding 1024 into the kernel, and not the offset, keeps the zero of the
    # padding: it is a gray of 0.5 for both.
    wide = np.zeros((*turned.shape[:2], 3, turned.shape[3]), np.float32)
    wide[:, :, 0] = turned[:, :, 0] * 1024
    scale, offset = np.zeros((1, 1, 1, 3), np.float32), np.zeros(3, np.float32)
    scale[..., 0], offset[0] = 2, -1
    return {"conv1_conv/0": wide, "input_scale/0": scale, "input_scale/1": offset}


def _check_shapes(tensors: dict[str, np.ndarray]) -> None:
    """DenseNet-169 begins as DenseNet-121 does, DenseNet-161 is wider: say so, rather than leave it to the layers."""
    found = {name: tensors[name].shape for name in ("conv1_conv/0", "conv5_block16_0_bn/0", "bn/0")}
    expected = {"conv1_conv/0": (7, 7, 3, 64), "conv5_block16_0_bn/0": (992,), "bn/0": (1024,)}
    if found != expected:
        raise WeightsError(f"expected the shapes of DenseNet-121 {expected}, found {found}")


def _findings(usual: tuple[str, ...], attributes: dict[str, Any], points: np.ndarray) -> tuple[str, ...]:
    """Return a name for each output: those the file tells, or the usual ones of its layout."""
    told, names = attributes.get("pathologies"), usual
    if isinstance(told, list | tuple) and len(told) == len(usual) and all(isinstance(name, str) for name in told):
        names = tuple(re.sub(r"\W+", "_", name.strip()).lower() for name in told)
    # An output without an operating point was in no cohort this network learned from.
    known = np.isfinite(points) if len(points) == len(names) else np.ones(len(names), bool)
    return tuple(name if learned else "" for name, learned in zip(names, known, strict=True))
