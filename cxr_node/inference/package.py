"""A model package on disk: its manifest, and the proof that no file of it was altered. Loads no TensorFlow.

A package is a folder NAME with

| file | holds |
|---|---|
| `manifest.json` | everything below, and the SHA-256 of every other file |
| `architecture.json` | the Keras configuration of the network |
| `weights.npz` | its weights as float16, `0000`, `0001`, … in the order of `model.weights` |
| `golden.npz` | `inputs` (3, rows, columns, 1) drawn by a formula, and their `scores`: a self-test agrees within 1e-3 |
| `README.md` | the model card |
| `reference.json` | what images and scores of the tune part looked like, for monitoring; packages of old have none |
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_node.errors import PackageError
from cxr_node.findings import FINDINGS
from cxr_node.findings.monitoring.reference import Reference
from cxr_node.imaging import PreprocessSpec

BUILTIN = Path(__file__).resolve().parent.parent / "packages"
MANIFEST = "manifest.json"
ARCHITECTURE = "architecture.json"
WEIGHTS = "weights.npz"
GOLDEN = "golden.npz"
MODEL_CARD = "README.md"
REFERENCE = "reference.json"
REQUIRED_FILES = (ARCHITECTURE, WEIGHTS)
GOLDEN_TOLERANCE = 1e-3

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# A score of exactly 0 or 1 has no logit; float32 sigmoids reach both.
_SCORE_MARGIN = 1e-7


@dataclass(frozen=True)
class IntendedUse:
    """Which images the model was made for. Outside it an image is excluded, never scored.

    `age_years` holds the lowest and the highest age in completed years, both included: (1, 5) ends on the day before
    the sixth birthday.
    """

    age_years: tuple[float, float]
    views: tuple[str, ...]
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the calibrated probability, and what it was measured to do.

    `source` is the sentence that says on which part of which cohort, and on how many images.
    """

    name: str
    threshold: float
    sensitivity: float
    specificity: float
    source: str


@dataclass(frozen=True)
class Manifest:
    """What describes the weights and travels with them.

    `calibration` maps a finding to `slope` and `intercept` on the logit of the score. `training` tells cohort, split,
    hashes, seed and code; `figures` what was measured, on which cases, with confidence intervals; `limitations` are
    sentences for the person who decides whether to use the model. `files` maps every other file to its SHA-256.
    """

    name: str
    version: str
    title: str
    findings: tuple[str, ...]
    intended_use: IntendedUse
    preprocess: PreprocessSpec
    operating_points: Mapping[str, OperatingPoint]
    calibration: Mapping[str, Mapping[str, float]]
    architecture: str
    training: Mapping[str, Any]
    figures: Mapping[str, Any]
    limitations: tuple[str, ...]
    files: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back to an equal value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """Build from parsed JSON; KeyError, TypeError or ValueError tell what is wrong with it."""
        use = value["intended_use"]
        low, high = (float(bound) for bound in use["age_years"])
        manifest = cls(
            name=str(value["name"]),
            version=str(value["version"]),
            title=str(value["title"]),
            findings=tuple(value["findings"]),
            intended_use=IntendedUse(
                (low, high), tuple(use["views"]), tuple(use["modalities"]), tuple(use["body_parts"])
            ),
            preprocess=PreprocessSpec.from_json(value["preprocess"]),
            operating_points={
                finding: OperatingPoint(
                    str(point["name"]),
                    float(point["threshold"]),
                    float(point["sensitivity"]),
                    float(point["specificity"]),
                    str(point["source"]),
                )
                for finding, point in value["operating_points"].items()
            },
            calibration={
                finding: {"slope": float(line["slope"]), "intercept": float(line["intercept"])}
                for finding, line in value["calibration"].items()
            },
            architecture=str(value["architecture"]),
            training=value["training"],
            figures=value["figures"],
            limitations=tuple(value["limitations"]),
            files=dict(value["files"]),
        )
        _check(manifest)
        return manifest


@dataclass(frozen=True)
class ModelPackage:
    """A package whose files were all found as the manifest lists them.

    `digest` is the SHA-256 of the manifest's bytes; as the manifest lists the SHA-256 of every other file, it names
    the whole package.
    """

    manifest: Manifest
    path: Path
    digest: str


def load_package(path: Path) -> ModelPackage:
    """Read the manifest and verify the SHA-256 of every file that it lists.

    Raises
    ------
    PackageError
        Names the file, what was found there and what was expected.
    """
    manifest_file = path / MANIFEST
    try:
        data = manifest_file.read_bytes()
    except OSError as error:
        raise PackageError(f"{manifest_file}: expected a manifest, found none ({error.strerror})") from error
    try:
        manifest = Manifest.from_json(json.loads(data))
    except KeyError as error:
        raise PackageError(f"{manifest_file}: expected the key {error}, found none") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise PackageError(f"{manifest_file}: expected a manifest, found one that does not read: {error}") from error
    if path.name != manifest.name:
        raise PackageError(f"{manifest_file}: expected the name of its folder, {path.name}, found {manifest.name}")
    for name, expected in manifest.files.items():
        found = _sha256(path / name)
        if found != expected:
            raise PackageError(f"{path / name}: expected SHA-256 {expected}, found {found}: the file was altered")
    return ModelPackage(manifest, path, hashlib.sha256(data).hexdigest())


def reference_of(package: ModelPackage) -> Reference | None:
    """Return what the package says its images and scores looked like at its release; None where it does not say.

    Raises
    ------
    PackageError
        The file does not read, or tells of findings that the package does not have.
    """
    if REFERENCE not in package.manifest.files:
        return None
    path = package.path / REFERENCE
    try:
        reference = Reference.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise PackageError(f"{path}: expected a file of the package, found none ({error.strerror})") from error
    except KeyError as error:
        raise PackageError(f"{path}: expected the key {error}, found none") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise PackageError(f"{path}: expected a reference, found one that does not read: {error}") from error
    if set(reference.scores) != set(package.manifest.findings):
        raise PackageError(
            f"{path}: expected scores of {', '.join(package.manifest.findings)}, "
            f"found {', '.join(reference.scores) or 'none'}"
        )
    return reference


def package_folders(data_dir: Path) -> tuple[Path, ...]:
    """Return where packages are looked for: the site's own first, then those released with the node."""
    return (data_dir / "packages", BUILTIN)


def find_package(name: str, search: Sequence[Path]) -> ModelPackage:
    """Load the package of that name from the first folder that has it.

    Raises
    ------
    PackageError
        No folder has it (the message lists those that are there), or it does not verify.
    """
    if not _NAME.fullmatch(name):
        raise PackageError(f"expected a package name in lower case letters, digits and '-._', found {name!r}")
    for folder in search:
        if (folder / name).is_dir():
            return load_package(folder / name)
    present = sorted({entry.parent.name for folder in search for entry in folder.glob(f"*/{MANIFEST}")})
    raise PackageError(
        f"no model package {name} in {', '.join(str(folder) for folder in search)}; "
        f"found there: {', '.join(present) or 'none'}"
    )


def probability(manifest: Manifest, finding: str, score: float) -> float:
    """Return the calibrated probability of a score: sigmoid(slope * logit(score) + intercept).

    Raises
    ------
    PackageError
        The score is no number, or the model does not know the finding.
    """
    line = manifest.calibration.get(finding)
    if line is None:
        raise PackageError(f"package {manifest.name}: expected one of {', '.join(manifest.findings)}, found {finding}")
    if not math.isfinite(score):
        raise PackageError(f"package {manifest.name}: expected a score in [0, 1] for {finding}, found {score}")
    inside = min(max(score, _SCORE_MARGIN), 1 - _SCORE_MARGIN)
    logit = line["slope"] * math.log(inside / (1 - inside)) + line["intercept"]
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _check(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        raise ValueError(f"name {manifest.name!r} is not in lower case letters, digits and '-._'")
    if not manifest.findings:
        raise ValueError("findings is empty")
    low, high = manifest.intended_use.age_years
    if not 0 <= low <= high:
        raise ValueError(f"intended_use.age_years {low:g} to {high:g} is no range")
    for finding in manifest.findings:
        if finding not in FINDINGS:
            raise ValueError(f"finding {finding!r} is none of {', '.join(FINDINGS)}")
        point = manifest.operating_points[finding]
        if not 0 < point.threshold < 1:
            raise ValueError(f"operating_points.{finding}.threshold {point.threshold} is not between 0 and 1")
        line = manifest.calibration[finding]
        # A slope of 0 or less would turn the model's order of cases round.
        if not (0 < line["slope"] < math.inf and math.isfinite(line["intercept"])):
            raise ValueError(f"calibration.{finding} {dict(line)} is not a positive slope and a number")
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise ValueError(f"files does not list {name}")
    for name, sha256 in manifest.files.items():
        if Path(name).name != name or name in ("", ".", "..", MANIFEST) or "\\" in name:
            raise ValueError(f"files lists {name!r}, which is no plain file name")
        if not _SHA256.fullmatch(str(sha256)):
            raise ValueError(f"files.{name} is {sha256!r}, no SHA-256 in hex")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PackageError(f"{path}: expected a file of the package, found none ({error.strerror})") from error
