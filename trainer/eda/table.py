"""A cohort's table as columns, and what it says without a single picture: vectorised, for more than 100,000 rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trainer.cohorts import PARTS, Case, Cohort
from trainer.metrics import wilson

OLDEST_YEARS = 120  # above is a typing error of the source
_AGE_EDGES = tuple(range(0, 125, 5))
_MOST_SIZES = 12


@dataclass(frozen=True)
class Columns:
    """What `Case` holds, by column; a row each, `cases` in the same order.

    `labels` and `references` map a name to (n,) float: 1 present, 0 absent, NaN unknown.
    """

    frame: pd.DataFrame
    labels: dict[str, np.ndarray]
    references: dict[str, np.ndarray]
    pictures: int

    @classmethod
    def of(cls, cohort: Cohort) -> "Columns":
        rows = cohort.rows
        frame = pd.DataFrame(
            {
                "patient": [case.patient for case in rows],
                "part": [case.part for case in rows],
                "age": np.array([case.age for case in rows], float),
                "sex": [case.sex for case in rows],
                "view": [case.view for case in rows],
                "source": [case.source for case in rows],
                "subset": [case.subset for case in rows],
                "group": [case.duplicate_group for case in rows],
                "follow_up": np.array([case.follow_up for case in rows], float),
                "rows": np.array([case.original_size[0] if case.original_size else math.nan for case in rows], float),
                "columns": np.array(
                    [case.original_size[1] if case.original_size else math.nan for case in rows], float
                ),
                "spacing": np.array([case.pixel_spacing_mm for case in rows], float),
            }
        )
        findings = cohort.findings or tuple(dict.fromkeys(name for case in rows for name in case.labels))
        names = tuple(dict.fromkeys(name for case in rows for name in case.references))
        return cls(
            frame,
            {name: _column(rows, "labels", name) for name in findings},
            {name: _column(rows, "references", name) for name in names},
            len(cohort.cases),
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings proper: ``abnormal`` is the sum of the others where there are others."""
        return tuple(name for name in self.labels if name != "abnormal") or tuple(self.labels)

    @property
    def main(self) -> tuple[str, ...]:
        """The labels that models are made for, or the first few where a cohort has others."""
        return tuple(name for name in ("pneumonia", "abnormal") if name in self.labels) or tuple(self.labels)[:3]


def _column(cases: Sequence[Case], attribute: str, name: str) -> np.ndarray:
    return np.array([getattr(case, attribute).get(name, math.nan) for case in cases], float)


def counts(columns: Columns) -> dict[str, Any]:
    """Return images and patients, over all and by part, source and subset."""
    frame = columns.frame
    return {
        "images": len(frame),
        "with_picture": columns.pictures,
        "without_picture": len(frame) - columns.pictures,
        "patients": int(frame.patient.nunique()),
        "parts": {part: _images_and_patients(frame[frame.part == part]) for part in PARTS},
        "sources": {str(key): _images_and_patients(group) for key, group in frame.groupby("source")},
        "subsets": {str(key) or "not given": _images_and_patients(group) for key, group in frame.groupby("subset")},
    }


def prevalence(columns: Columns) -> dict[str, Any]:
    """Return for every label its counts and Wilson interval, over all and by part."""
    result: dict[str, Any] = {}
    for name, values in columns.labels.items():
        entry = _share(values)
        entry["parts"] = {
            part: _share(values[mask])
            for part in PARTS
            if (mask := (columns.frame.part == part).to_numpy()).any() and (~np.isnan(values[mask])).any()
        }
        result[name] = entry
    return result


def co_occurrence(columns: Columns) -> dict[str, Any]:
    """Return how often two findings stand together, and their phi, over the images where both are known.

    phi is the correlation of two yes-or-no labels; null where one of them never varies.
    """
    names = columns.findings
    matrix = np.column_stack([columns.labels[name] for name in names])
    known = (~np.isnan(matrix)).astype(float)
    present = np.where(np.isnan(matrix), 0.0, matrix)
    n = known.T @ known
    both = present.T @ present
    only_row = present.T @ known  # row's finding present, column's known
    only_column = known.T @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = both / n - (only_row / n) * (only_column / n)
        spread = np.sqrt(only_row / n * (1 - only_row / n) * only_column / n * (1 - only_column / n))
        phi = np.where(spread > 0, covariance / spread, np.nan)
    return {
        "findings": list(names),
        "counts": both.astype(int).tolist(),
        "phi": [[None if math.isnan(value) else round(float(value), 4) for value in row] for row in phi],
    }


def comorbidity(columns: Columns, finding: str = "pneumonia") -> dict[str, Any] | None:
    """Return which other findings images with the finding have, beside how often images without it have them."""
    others = [name for name in columns.findings if name != finding]
    if finding not in columns.labels or not others:
        return None
    has, lacks = columns.labels[finding] == 1, columns.labels[finding] == 0
    other = np.column_stack([columns.labels[name] == 1 for name in others])
    return {
        "finding": finding,
        "present": int(has.sum()),
        "alone": int((has & ~other.any(axis=1)).sum()),
        "with": {
            name: {
                "images": int((has & other[:, index]).sum()),
                "share": wilson(int((has & other[:, index]).sum()), int(has.sum())).to_json(),
                "share_without": wilson(int((lacks & other[:, index]).sum()), int(lacks.sum())).to_json(),
            }
            for index, name in enumerate(others)
        },
    }


def per_patient(columns: Columns) -> dict[str, Any]:
    """Return distributions: findings of an image, different findings of a patient, images of a patient."""
    names = columns.findings
    # A cohort without labels has images and patients all the same.
    matrix = np.array([columns.labels[name] == 1 for name in names], bool).reshape(len(names), len(columns.frame)).T
    codes, _ = pd.factorize(columns.frame.patient)
    patients = int(codes.max()) + 1 if len(codes) else 0
    ever = np.zeros((patients, len(names)), bool)
    for index in range(len(names)):
        ever[codes[matrix[:, index]], index] = True
    images = np.bincount(codes, minlength=patients)
    return {
        "findings_of_an_image": _tally(matrix.sum(axis=1), 8),
        "findings_of_a_patient": _tally(ever.sum(axis=1), 14),
        "images_of_a_patient": {
            "histogram": _tally(images, 10),
            "mean": round(float(images.mean()), 3) if patients else None,
            "median": float(np.median(images)) if patients else None,
            "most": int(images.max()) if patients else None,
        },
    }


def ages(columns: Columns) -> dict[str, Any]:
    """Return the ages: those above 120 years are counted and are in no other figure."""
    age = columns.frame.age.to_numpy()
    known = age[~np.isnan(age)]
    outliers, sound = known[known > OLDEST_YEARS], known[(known <= OLDEST_YEARS) & (known >= 0)]
    result: dict[str, Any] = {
        "known": len(known),
        "unknown": len(age) - len(known),
        "above_120": len(outliers),
        "values_above_120": {
            f"{value:g}": int(n) for value, n in zip(*np.unique(outliers, return_counts=True), strict=True)
        },
        "below_0": int((known < 0).sum()),
    }
    if len(sound):
        low, median, high = np.percentile(sound, [25, 50, 75])
        result |= {
            "under_18": int((sound < 18).sum()),
            "mean": round(float(sound.mean()), 2),
            "quartiles": [float(low), float(median), float(high)],
            "range": [float(sound.min()), float(sound.max())],
            "histogram": {
                "edges": list(_AGE_EDGES),
                "images": np.histogram(sound, _AGE_EDGES)[0].tolist(),
                **{
                    name: np.histogram(age[(columns.labels[name] == 1) & (age <= OLDEST_YEARS)], _AGE_EDGES)[0].tolist()
                    for name in columns.main
                },
            },
        }
    return result


def by_value(columns: Columns, attribute: str) -> dict[str, Any]:
    """Return for each value of sex or view its images, patients and how often the main labels are present."""
    result = {}
    values = columns.frame[attribute]
    for value in sorted(values.unique(), key=lambda item: (item == "", item)):
        mask = (values == value).to_numpy()
        result[str(value) or "unknown"] = _images_and_patients(columns.frame[mask]) | {
            "present": {name: _share(columns.labels[name][mask]) for name in columns.main}
        }
    return result


def original_sizes(columns: Columns) -> dict[str, Any] | None:
    """Return the sizes as acquired, the commonest by name; None where the cohort has none."""
    frame = columns.frame[["rows", "columns"]].dropna()
    if frame.empty:
        return None
    sizes = frame.value_counts()
    return {
        "known": len(frame),
        "different": len(sizes),
        "commonest": [
            {"rows": int(rows), "columns": int(cols), "images": int(n)}
            for (rows, cols), n in sizes.head(_MOST_SIZES).items()
        ],
        "rows": _spread(frame["rows"].to_numpy()),
        "columns": _spread(frame["columns"].to_numpy()),
    }


def pixel_spacings(columns: Columns) -> dict[str, Any] | None:
    """Return the pixel spacing as acquired, in mm; None where the cohort has none."""
    spacing = columns.frame.spacing.dropna().to_numpy()
    if not len(spacing):
        return None
    edges = np.linspace(float(spacing.min()) - 0.005, float(spacing.max()) + 0.005, 25)
    return {
        **_spread(spacing),
        "histogram": {
            "edges": [round(float(edge), 4) for edge in edges],
            "images": np.histogram(spacing, edges)[0].tolist(),
        },
    }


def _images_and_patients(frame: pd.DataFrame) -> dict[str, int]:
    return {"images": len(frame), "patients": int(frame.patient.nunique())}


def _share(values: np.ndarray) -> dict[str, Any]:
    present, absent = int((values == 1).sum()), int((values == 0).sum())
    entry: dict[str, Any] = {"present": present, "absent": absent, "unknown": int(np.isnan(values).sum())}
    if present + absent:
        entry["prevalence"] = wilson(present, present + absent).to_json()
    return entry


def _tally(values: np.ndarray, most: int) -> dict[str, int]:
    """Count values by name from the least to `most`, and the rest together."""
    tally = np.bincount(np.minimum(values, most + 1), minlength=1)
    named = {str(value): int(n) for value, n in enumerate(tally[: most + 1]) if value >= int(values.min())}
    return named | ({f"{most + 1} or more": int(tally[most + 1])} if len(tally) > most + 1 else {})


def _spread(values: np.ndarray) -> dict[str, Any]:
    low, quarter, median, three, high = np.percentile(values, [0, 25, 50, 75, 100])
    return {
        "known": len(values),
        "least": round(float(low), 4),
        "quartiles": [round(float(value), 4) for value in (quarter, median, three)],
        "most": round(float(high), 4),
    }
