"""The cohorts, one module each; every one is split by patient into train, tune and test."""

from collections.abc import Callable
from pathlib import Path

from trainer.cohorts.case import PARTS, Case, Cohort, CohortError, Part, check_split, without_broken
from trainer.cohorts.kermany import kermany
from trainer.cohorts.nih import nih

COHORTS: dict[str, Callable[[Path], Cohort]] = {
    "kermany": kermany,
    "nih": nih,
}

__all__ = ["COHORTS", "PARTS", "Case", "Cohort", "CohortError", "Part", "check_split", "without_broken"]
