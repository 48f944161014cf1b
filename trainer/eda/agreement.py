"""How a cohort's labels stand to other readers of the same images: the ceiling that label noise puts on a model."""

import math
from typing import Any

import numpy as np

from trainer.eda.table import Columns
from trainer.metrics import wilson

# Which label comes nearest to what a reader was asked.
_PAIRS = {
    "rsna": ("pneumonia", "consolidation", "infiltration", "abnormal"),
    "rsna_abnormal": ("abnormal",),
    "google_airspace_opacity": ("pneumonia", "consolidation", "infiltration", "abnormal"),
    "google_pneumothorax": ("pneumothorax",),
    "google_nodule_or_mass": ("nodule", "mass"),
    "google_fracture": (),  # none of the cohorts' labels asks for it
}
FEWEST = 10


def agreement(columns: Columns) -> list[dict[str, Any]]:
    """Return a row for each pair of label and reader with images that both have; the reader is the reference."""
    rows = []
    for reader, said in columns.references.items():
        wanted = _PAIRS.get(reader, (reader, *columns.main))
        for label in dict.fromkeys(name for name in wanted if name in columns.labels):
            values = columns.labels[label]
            known = ~np.isnan(values) & ~np.isnan(said)
            if known.sum() >= FEWEST:
                rows.append({"label": label, "reader": reader, **compared(values[known] == 1, said[known] == 1)})
    return rows


def compared(label: np.ndarray, reader: np.ndarray) -> dict[str, Any]:
    """Return counts, the label's sensitivity, specificity, PPV and NPV against the reader, and Cohen's kappa.

    Source of kappa: Cohen 1960; null where both always say the same one thing.
    """
    both, neither = int((label & reader).sum()), int((~label & ~reader).sum())
    only_label, only_reader = int((label & ~reader).sum()), int((~label & reader).sum())
    result: dict[str, Any] = {
        "n": len(label),
        "confusion": {
            "true_positive": both,
            "false_positive": only_label,
            "true_negative": neither,
            "false_negative": only_reader,
        },
    }
    for name, part, whole in (
        ("sensitivity", both, both + only_reader),
        ("specificity", neither, neither + only_label),
        ("ppv", both, both + only_label),
        ("npv", neither, neither + only_reader),
    ):
        if whole:
            result[name] = wilson(part, whole).to_json()
    kappa = cohen_kappa(both, only_label, only_reader, neither)
    result["kappa"] = None if math.isnan(kappa) else round(kappa, 4)
    return result


def cohen_kappa(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Return (observed - expected) / (1 - expected) agreement of two readers; NaN where chance alone explains all."""
    n = both + only_first + only_second + neither
    if not n:
        return math.nan
    observed = (both + neither) / n
    expected = ((both + only_first) * (both + only_second) + (neither + only_first) * (neither + only_second)) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan
