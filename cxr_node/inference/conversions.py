"""The cache of conversions: what was made of a package once, bound to its digest, with a digest of its own.

``cache_dir/<package digest>/savedmodel`` and ``…/litert`` each hold files and `made.json`: their SHA-256, the libraries
that made them, and for LiteRT how far its scores are from those of the SavedModel. A folder that does not verify is
made anew; the digests find damage, not malice: who can write there can write `made.json` too.
"""

import contextlib
import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.converter import Converter
from cxr_node.inference.package import GOLDEN, ModelPackage
from cxr_node.inference.runners import LITERT, SAVED_MODEL

MADE = "made.json"
MODEL_FILE = "model.tflite"
PARITY_TOLERANCE = 1e-4  # on scores; LiteRT and the SavedModel differ by some 1e-7 where all is well
RANDOM_INPUTS = 8
FORM = "1"  # of what `convert` makes: another number, and every node makes its conversions anew
LONGEST_S = 1800.0  # a slow machine needs a minute; a process that hangs must not hold a start for ever
_SEED = 20260101
_COARSE = 8  # fields a side of the coarse random images

Report = Callable[..., None]  # report(event, **detail), as a structured logger takes it


@dataclass(frozen=True)
class Parity:
    """How far LiteRT's scores are from those of the SavedModel, on the golden and on random inputs.

    `reason` is empty where they agree, else says why LiteRT does not serve.
    """

    largest_difference: float | None
    inputs: int
    tolerance: float = PARITY_TOLERANCE
    reason: str = ""

    @property
    def agrees(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Made:
    """A folder of the cache that verified. `reference` holds the SavedModel's scores of `check_inputs`."""

    folder: Path
    files: Mapping[str, str]
    parity: Parity | None
    reference: tuple[tuple[float, ...], ...]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, verified once more: what is used is what was looked at.

        Raises
        ------
        PackageError
            The file is gone or was altered since.
        """
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise PackageError(f"{self.folder / name}: expected a converted model, found none") from error
        if hashlib.sha256(data).hexdigest() != self.files[name]:
            raise PackageError(f"{self.folder / name}: expected SHA-256 {self.files[name]}, the file was altered")
        return data


def ensure(package: ModelPackage, cache_dir: Path, form: str, report: Report) -> Made:
    """Return the conversion, made where it is not there, is damaged, or is another release's of a library.

    One process makes it, others that want it wait.

    Parameters
    ----------
    form : SAVED_MODEL or LITERT; both are made at once
    report : told `package_conversion_started`, `package_converted` and `conversion_damaged`

    Raises
    ------
    PackageError
        The package cannot be converted; says why.
    """
    folder = cache_dir / package.digest
    cache_dir.mkdir(parents=True, exist_ok=True)
    found = look(folder / form, report)
    if found is not None:
        return found
    with _alone(cache_dir):
        found = look(folder / form, None)
        if found is not None:
            return found  # another process has made it meanwhile
        named = {"package": package.manifest.name, "package_digest": package.digest[:12]}
        report("package_conversion_started", **named)
        _make(package, cache_dir)
        report("package_converted", **named)
        found = look(folder / form, None)
    if found is None:
        raise PackageError(f"package {package.manifest.name}: its conversion does not verify: {folder / form}")
    return found


def is_made(package: ModelPackage, cache_dir: Path) -> bool:
    """Whether there is a conversion of the installed libraries; its bytes are not looked at."""
    return all(_statement(cache_dir / package.digest / form) is not None for form in (SAVED_MODEL, LITERT))


def look(folder: Path, report: Report | None) -> Made | None:
    """Return what lies in a folder of the cache, None where it does not verify."""
    stated = _statement(folder)
    if stated is None:
        return None
    try:
        made = Made(
            folder,
            dict(stated["files"]),
            None if stated["parity"] is None else Parity(**stated["parity"]),
            tuple(tuple(float(score) for score in row) for row in stated["reference"]),
        )
        problem = _damage(made)
    except (KeyError, TypeError, ValueError, AttributeError):
        problem = f"{folder / MADE} does not read"
    if problem:
        if report is not None:
            report("conversion_damaged", reason=problem)
        return None
    return made


def write_statement(folder: Path, parity: Parity | None = None, reference: tuple[tuple[float, ...], ...] = ()) -> None:
    """Write `made.json` over what lies in the folder."""
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    value = {
        "versions": _versions(),
        "files": files,
        "parity": None if parity is None else asdict(parity),
        "reference": reference,
    }
    (folder / MADE).write_text(json.dumps(value, indent=1), "utf-8")


def check_inputs(package: ModelPackage) -> np.ndarray:
    """Return what parity is measured on, (n, rows, columns, 1): golden inputs, then noise, then coarse fields."""
    rows, columns = package.manifest.preprocess.size
    rng = np.random.default_rng(_SEED)
    noise = rng.random((RANDOM_INPUTS // 2, rows, columns, 1), np.float32)
    coarse = np.empty_like(noise)
    down, right = np.arange(rows) * _COARSE // rows, np.arange(columns) * _COARSE // columns
    for image in coarse:
        image[..., 0] = rng.random((_COARSE, _COARSE), np.float32)[down][:, right]
    parts = [noise, coarse]
    if GOLDEN in package.manifest.files:
        with contextlib.suppress(OSError, KeyError, ValueError), np.load(package.path / GOLDEN) as stored:
            golden = stored["inputs"].astype(np.float32)
            if golden.shape[1:] == noise.shape[1:]:
                parts.insert(0, golden)
    return np.concatenate(parts)


def _make(package: ModelPackage, cache_dir: Path) -> None:
    """Convert: here where TensorFlow is loaded already, else in a process of its own, so that it leaves with it."""
    if "tensorflow" in sys.modules:
        from cxr_node.inference.convert import convert

        convert(package, cache_dir)
        return
    reason = _converter.convert(package.path, package.digest, cache_dir, LONGEST_S)
    if reason:
        raise PackageError(f"package {package.manifest.name}: it cannot be converted: {reason}")


_converter = Converter()


def _statement(folder: Path) -> dict[str, Any] | None:
    try:
        stated = json.loads((folder / MADE).read_bytes())
    except (OSError, ValueError):
        return None
    return stated if isinstance(stated, dict) and stated.get("versions") == _versions() else None


def _damage(made: Made) -> str:
    """Return what is wrong with the files, empty where nothing is."""
    present = {
        str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file() and path.name != MADE
    }
    if present != set(made.files):
        return f"{made.folder} holds {len(present)} files, {len(made.files)} were made"
    for name, expected in made.files.items():
        with (made.folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                return f"{made.folder / name} was altered"
    return ""


def _versions() -> dict[str, str]:
    found = {"form": FORM, "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in ("tensorflow", "keras", "ai-edge-litert"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@contextlib.contextmanager
def _alone(cache_dir: Path) -> Iterator[None]:
    with (cache_dir / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
