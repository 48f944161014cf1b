"""The stage that looks at images: gate, pixels, models, study outcome, report. See `stage.run_analyze`.

Loaded piece by piece: a process that reads images needs neither database nor engine.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_node.analyze.acceptance import ACCEPTANCE, Rule, judge_header
    from cxr_node.analyze.analyzer import Analyzer
    from cxr_node.analyze.stage import load_packages, run_analyze

_MODULES = {
    "ACCEPTANCE": "acceptance",
    "Analyzer": "analyzer",
    "Rule": "acceptance",
    "judge_header": "acceptance",
    "load_packages": "stage",
    "run_analyze": "stage",
}

__all__ = ["ACCEPTANCE", "Analyzer", "Rule", "judge_header", "load_packages", "run_analyze"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
