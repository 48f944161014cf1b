"""Makes the SavedModel and the LiteRT model of a package, and holds one against the other. Loads TensorFlow.

`serve` runs in a process of its own.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.conversions import (
    MODEL_FILE,
    PARITY_TOLERANCE,
    Parity,
    check_inputs,
    write_statement,
)
from cxr_node.inference.network import build_network, load_tensorflow
from cxr_node.inference.package import ModelPackage, load_package
from cxr_node.inference.runners import CPU, LITERT, SAVED_MODEL, LiteRtRunner, SavedModelRunner


def convert(package: ModelPackage, cache_dir: Path) -> None:
    """Make both forms under other names and rename them, so that none is ever seen half written.

    Raises
    ------
    PackageError
        The network cannot be built. A network that only LiteRT cannot compute is no error: the statement says so.
    """
    target = cache_dir / package.digest
    target.mkdir(parents=True, exist_ok=True)
    for entry in target.iterdir():
        if entry.name not in (SAVED_MODEL, LITERT):  # left by an earlier release, or by a conversion that was killed
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    with tempfile.TemporaryDirectory(prefix=".made-", dir=target) as scratch:
        saved, lite = Path(scratch) / SAVED_MODEL, Path(scratch) / LITERT
        module = export(package, saved)
        write_statement(saved)
        lite.mkdir()
        parity, reference = _litert(package, module, saved, lite)
        write_statement(lite, parity, reference)
        for made in (saved, lite):
            shutil.rmtree(target / made.name, ignore_errors=True)
            made.rename(target / made.name)


def export(package: ModelPackage, folder: Path) -> Any:
    """Write the SavedModel of a package and return the module that it was made of."""
    tensorflow = load_tensorflow()
    module, model = _traced(package)
    rows, columns = package.manifest.preprocess.size
    tensorflow.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})

    @tensorflow.function(input_signature=[tensorflow.TensorSpec((1, rows, columns, 1), tensorflow.float32, "images")])
    def one(images: Any) -> Any:
        return model(images, training=False)

    module.one = one  # after saving: LiteRT's form, of one image, which XNNPACK takes as a whole
    return module


def traced(package: ModelPackage) -> Any:
    """Return the module that `export` would write, for who wants its scores and not the file."""
    return _traced(package)[0]


def _traced(package: ModelPackage) -> tuple[Any, Any]:
    tensorflow = load_tensorflow()
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
    return module, model


def _litert(
    package: ModelPackage, module: Any, saved: Path, folder: Path
) -> tuple[Parity, tuple[tuple[float, ...], ...]]:
    """Convert and compare; the model file is written only where the scores agree."""
    inputs = check_inputs(package)
    expected = SavedModelRunner(saved, CPU).run(inputs)
    reference = tuple(tuple(float(score) for score in row) for row in expected)
    try:
        tensorflow = load_tensorflow()
        converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
            [module.one.get_concrete_function()], module
        )
        with contextlib.redirect_stdout(sys.stderr):  # standard output is what `serve` answers on
            model = bytes(converter.convert())
        found = LiteRtRunner(model).run(inputs)
    except Exception as error:  # noqa: BLE001  # whatever the converter says, the SavedModel serves
        return Parity(None, len(inputs), reason=f"it cannot be converted ({type(error).__name__})"), reference
    parity = compare(found, expected)
    if parity.agrees:
        (folder / MODEL_FILE).write_bytes(model)
    return parity, reference


def compare(found: np.ndarray, expected: np.ndarray, tolerance: float = PARITY_TOLERANCE) -> Parity:
    """Hold LiteRT's scores, (n, findings), against those of the SavedModel; NaN does not agree."""
    if found.shape != expected.shape:
        return Parity(None, len(expected), tolerance, f"its output is {found.shape}, not {expected.shape}")
    largest = float(np.abs(found - expected).max())
    if largest <= tolerance:
        return Parity(largest, len(expected), tolerance)
    reason = f"its scores differ by {largest:.2g} from those of the SavedModel, at most {tolerance:g} is allowed"
    return Parity(largest if np.isfinite(largest) else None, len(expected), tolerance, reason)


def convert_verified(path: Path, digest: str, cache_dir: Path) -> str:
    """Convert the package of a folder, if it is still the one of this digest; return why not, "" where it is done."""
    try:
        package = load_package(path)
        if package.digest != digest:
            raise PackageError(f"{path}: expected the package {digest[:12]}, found {package.digest[:12]}")
        convert(package, cache_dir)
    except PackageError as error:
        return str(error)
    return ""


def serve() -> int:
    """Convert what standard input asks for, an object of JSON a line with `path`, `digest` and `cache_dir`, until it
    ends; answer each with a line, an object with the key `error`, empty where it is done. See `converter`."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # a conversion needs no GPU, and must not take its memory
    for line in sys.stdin:
        asked = json.loads(line)
        reason = convert_verified(Path(asked["path"]), asked["digest"], Path(asked["cache_dir"]))
        sys.stdout.write(json.dumps({"error": reason}) + "\n")
        sys.stdout.flush()
    os._exit(0)  # taking TensorFlow apart would take seconds
