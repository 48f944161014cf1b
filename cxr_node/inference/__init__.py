"""Model packages and the engine that runs them. TensorFlow is loaded when an engine needs it, not by importing this.

Each name is loaded when it is first asked for: who reads a manifest needs no NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_node.inference.engine import Choice, Engine
    from cxr_node.inference.golden import check_golden, golden_difference
    from cxr_node.inference.package import (
        BUILTIN,
        GOLDEN,
        IntendedUse,
        Manifest,
        ModelPackage,
        OperatingPoint,
        find_package,
        load_package,
        package_folders,
        probability,
    )
    from cxr_node.inference.runners import CPU, GPU
    from cxr_node.inference.saliency import occlusion_sensitivity

_FROM = {
    "engine": ("Choice", "Engine"),
    "golden": ("check_golden", "golden_difference"),
    "package": (
        "BUILTIN",
        "GOLDEN",
        "IntendedUse",
        "Manifest",
        "ModelPackage",
        "OperatingPoint",
        "find_package",
        "load_package",
        "package_folders",
        "probability",
    ),
    "runners": ("CPU", "GPU"),
    "saliency": ("occlusion_sensitivity",),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}

__all__ = [
    "BUILTIN",
    "CPU",
    "GOLDEN",
    "GPU",
    "Choice",
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
