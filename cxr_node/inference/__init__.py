"""Model packages and the engine that runs them. TensorFlow is loaded when an engine is made, not by importing this."""

from cxr_node.inference.engine import Engine
from cxr_node.inference.golden import check_golden, golden_difference
from cxr_node.inference.package import (
    BUILTIN,
    IntendedUse,
    Manifest,
    ModelPackage,
    OperatingPoint,
    find_package,
    load_package,
    package_folders,
    probability,
)
from cxr_node.inference.saliency import occlusion_sensitivity

__all__ = [
    "BUILTIN",
    "Engine",
    "IntendedUse",
    "Manifest",
    "ModelPackage",
    "OperatingPoint",
    "check_golden",
    "find_package",
    "golden_difference",
    "load_package",
    "occlusion_sensitivity",
    "package_folders",
    "probability",
]
