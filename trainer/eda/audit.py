"""What a model could learn instead of anatomy, and what it could have seen before: shortcuts, overlap, duplicates."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from trainer.cohorts import PARTS
from trainer.eda.pictures import Measured
from trainer.eda.table import OLDEST_YEARS, Columns
from trainer.metrics import auc, delong

FLAG = 0.6  # a lower limit above it says that the feature alone tells the label
FEWEST = 10
_MOST_NAMED = 20


def overlap(columns: Columns) -> dict[str, Any]:
    """Return how many patients stand in two parts, and how many groups of the same pixels do."""
    frame = columns.frame
    result: dict[str, Any] = {}
    for key, column in (("patients", "patient"), ("duplicate_groups", "group")):
        members = {
            part: set(frame.loc[(frame.part == part) & (frame[column] != ""), column].unique()) for part in PARTS
        }
        result[key] = {
            f"{first} and {second}": len(members[first] & members[second]) for first, second in combinations(PARTS, 2)
        }
    return result


def declared_duplicates(columns: Columns) -> dict[str, Any]:
    """Return the groups of the same pixels that the cohort's table declares."""
    group = columns.frame.group
    sizes = group[group != ""].value_counts()
    sizes = sizes[sizes > 1]
    return {"groups": len(sizes), "images": int(sizes.sum())}


def same_bytes(found: Sequence[Measured]) -> dict[str, Any]:
    """Return pictures of the sample that are the same byte for byte, and whether patients, parts or labels differ."""
    by_digest: dict[str, list[Measured]] = defaultdict(list)
    for item in found:
        by_digest[item.sha256].append(item)
    groups = [members for members in by_digest.values() if len(members) > 1]
    learned = [[item for item in members if item.case.part != "apart"] for members in groups]
    return {
        "pictures": len(found),
        "groups": len(groups),
        "images": sum(len(members) for members in groups),
        "over_patients": sum(len({item.case.patient for item in members}) > 1 for members in groups),
        "over_parts": sum(len({item.case.part for item in members}) > 1 for members in learned),
        "other_labels": sum(len({tuple(sorted(m.case.labels.items())) for m in members}) > 1 for members in groups),
        "named": [[item.case.identifier for item in members] for members in groups[:_MOST_NAMED]],
    }


def table_shortcuts(columns: Columns) -> list[dict[str, Any]]:
    """Return the AUC of what the table tells, against the main labels and what other readers said.

    Images that are used for nothing (`apart`) are left out where there are others.
    """
    frame = columns.frame
    used = (frame.part != "apart").to_numpy()
    used = used if used.any() else np.ones(len(frame), bool)
    age = frame.age.where((frame.age >= 0) & (frame.age <= OLDEST_YEARS))
    features: dict[str, np.ndarray] = {
        "view": frame.view.map({"AP": 1.0, "PA": 0.0}).to_numpy(float),
        "age": age.to_numpy(float),
        "sex": frame.sex.map({"M": 1.0, "F": 0.0}).to_numpy(float),
        "follow_up": frame.follow_up.to_numpy(float),
        "original_size": (frame["rows"] * frame["columns"]).to_numpy(float),
        "pixel_spacing": frame.spacing.to_numpy(float),
    }
    rows = []
    for name, label in _labels(columns).items():
        for feature, values in features.items():
            rows.append(shortcut(feature, name, values[used], label[used]))
        rows.append(_identity(name, frame.source[used], label[used]))
    return rows


def picture_shortcuts(columns: Columns, found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the AUC of what a picture tells without its anatomy, on the sample."""
    used = [item for item in found if item.case.part != "apart"] or list(found)
    features = {
        "file_size": [float(item.file_bytes) for item in used],
        "picture_size": [float(item.rows * item.columns) for item in used],
        "aspect_ratio": [item.columns / item.rows for item in used],
        "mean_gray": [item.mean for item in used],
        "contrast": [item.deviation for item in used],
        "sharpness": [item.sharpness for item in used],
        "border": [item.border for item in used],
    }
    rows = []
    for name in _labels(columns):
        key = name.removesuffix(" (reader)")
        where = "references" if name != key else "labels"
        label = np.array([getattr(item.case, where).get(key, np.nan) for item in used], float)
        for feature, values in features.items():
            rows.append(shortcut(feature, name, np.array(values), label))
    return rows


def shortcut(feature: str, label: str, values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the AUC of a feature (n,) against a label (n,), turned so that it is at least one half.

    Without an AUC where the feature is always the same or a class has fewer than ten images; flagged where DeLong's
    lower limit is above 0.6.
    """
    row: dict[str, Any] = {"feature": feature, "label": label}
    known = ~np.isnan(values) & ~np.isnan(labels)
    values, labels = values[known], labels[known]
    present, absent = int((labels == 1).sum()), int((labels == 0).sum())
    row |= {"present": present, "absent": absent}
    if min(present, absent) < FEWEST:
        return {**row, "not_run": f"too few: {present} with and {absent} without, {FEWEST} of each needed"}
    if float(values.min()) == float(values.max()):
        return {**row, "not_run": "the same for every image"}
    sign = 1.0 if auc(labels, values) >= 0.5 else -1.0
    found = delong(labels, sign * values)
    return {
        **row,
        "higher_means": "present" if sign > 0 else "absent",
        "auc": found.to_json(),
        "flagged": bool(found.low > FLAG),
    }


def _identity(name: str, source: pd.Series, labels: np.ndarray) -> dict[str, Any]:
    """Return the AUC of knowing only which data set an image came from: its share of present there is the score."""
    known = ~np.isnan(labels)
    shares = pd.Series(labels[known]).groupby(source[known].to_numpy()).transform("mean").to_numpy(float)
    values = np.full(len(labels), np.nan)
    values[known] = shares
    if source.nunique() < 2:
        values[known] = 0.0
    return shortcut("data_set", name, values, labels)


def _labels(columns: Columns) -> dict[str, np.ndarray]:
    """The main labels, and readers that saw enough; a reader's name says that it is one."""
    chosen = {name: columns.labels[name] for name in columns.main}
    for name, values in columns.references.items():
        if min((values == 1).sum(), (values == 0).sum()) >= 30:
            chosen[f"{name} (reader)"] = values
    return chosen
