"""The cohorts, one module each; every one is split by patient into train, tune and test."""

from collections.abc import Callable
from pathlib import Path

from trainer.cohorts.case import PARTS, Case, Cohort, CohortError, Part, check_split, decoded, without_broken
from trainer.cohorts.folder import folder
from trainer.cohorts.kermany import kermany
from trainer.cohorts.nih import nih
from trainer.cohorts.nih_table import NIH_FINDINGS
from trainer.cohorts.rsna import rsna

COHORTS: dict[str, Callable[[Path], Cohort]] = {
    "folder": folder,
    "kermany": kermany,
    "nih": nih,
    "rsna": rsna,
}

__all__ = [
    "COHORTS",
    "NIH_FINDINGS",
    "PARTS",
    "Case",
    "Cohort",
    "CohortError",
    "Part",
    "check_split",
    "decoded",
    "without_broken",
]
