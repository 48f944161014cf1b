"""The golden inputs of a package: does its network still give the scores that it was released with?"""

import numpy as np

from cxr_node.errors import PackageError
from cxr_node.inference.engine import Engine
from cxr_node.inference.package import GOLDEN, GOLDEN_TOLERANCE, ModelPackage


def golden_difference(package: ModelPackage, engine: Engine) -> float:
    """Return the largest absolute difference between the scores of the golden inputs now and as released.

    Raises
    ------
    PackageError
        The package has no golden inputs under the protection of its manifest, or they are not what they must be.
    """
    path = package.path / GOLDEN
    if GOLDEN not in package.manifest.files:
        raise PackageError(f"{path}: expected golden inputs that the manifest lists, found none")
    try:
        with np.load(path, allow_pickle=False) as stored:
            inputs, expected = stored["inputs"].astype(np.float32), stored["scores"]
    except (OSError, KeyError, ValueError) as error:
        raise PackageError(f"{path}: expected arrays inputs and scores, found: {error}") from error
    if expected.shape != (len(inputs), len(package.manifest.findings)) or not len(inputs):
        raise PackageError(f"{path}: expected a score per input and finding, found {expected.shape}")
    return float(np.abs(engine.scores(inputs) - expected).max())


def check_golden(package: ModelPackage, engine: Engine) -> None:
    """Raise PackageError where the scores differ by more than the tolerance; NaN differs too."""
    found = golden_difference(package, engine)
    if not found <= GOLDEN_TOLERANCE:
        raise PackageError(
            f"package {package.manifest.name}: scores of the golden inputs differ by {found:.2g}, "
            f"expected at most {GOLDEN_TOLERANCE:g}"
        )
