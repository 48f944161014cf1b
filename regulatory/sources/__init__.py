"""Where the regulatory file's figures come from: each topic's module with one `gather(root) -> Material`.

A source reads committed files and constants in code only: no training, no network, no git, no time of day.
"""

import importlib
from pathlib import Path

from regulatory.figures import Gather, Material


def _of(topic: str) -> Gather:
    """Return `gather` of regulatory/sources/TOPIC.py, imported when asked: one page needs not every library."""

    def gather(root: Path) -> Material:
        return importlib.import_module(f"regulatory.sources.{topic}").gather(root)

    return gather


# Written out, one line for each module in this folder that gathers; a test holds the two together.
SOURCES: dict[str, Gather] = {
    "product": _of("product"),
    "conformance": _of("conformance"),
    "intended_use": _of("intended_use"),
    "device": _of("device"),
    "plan": _of("plan"),
    "usability": _of("usability"),
    "crosswalk": _of("crosswalk"),
    "triage": _of("triage"),
    "notification": _of("notification"),
    "pccp": _of("pccp"),
    "monitoring": _of("monitoring"),
    "orphans": _of("orphans"),
    "trace": _of("trace"),
    "risk": _of("risk"),
    "software": _of("software"),
    "architecture": _of("architecture"),
    "security": _of("security"),
    "cohorts": _of("cohorts"),
    "cohorts_leaks": _of("cohorts_leaks"),
    "models": _of("models"),
    "cards": _of("cards"),
    "validation": _of("validation"),
    "validation_tables": _of("validation_tables"),
    "drawings": _of("drawings"),
    "drawings_cohorts": _of("drawings_cohorts"),
}
