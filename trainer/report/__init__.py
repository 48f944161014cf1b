"""Figures, reports and slides from the JSON of other steps; nothing here measures anything."""

from typing import Any

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: who only draws a figure needs no PDF library, and the exploration draws too.
    if name == "write_report":
        from trainer.report.write import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
