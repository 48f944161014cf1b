"""Claim a job, run it, settle it. The only place that acts on an error's disposition.

A module is loaded when it is first asked for: who gives or reads signs of life need not load a database library.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_node.work.decision import Drop, Fail, Retry, decide
    from cxr_node.work.worker import Handler, Outcome, Settlement, Worker

__all__ = ["Drop", "Fail", "Handler", "Outcome", "Retry", "Settlement", "Worker", "decide"]

_DECISION = ("Drop", "Fail", "Retry", "decide")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "decision" if name in _DECISION else "worker"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
