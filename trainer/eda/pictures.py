"""What pictures say apart from anatomy: gray values, sharpness, borders, bytes. Each picture is read once."""

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cxr_node.errors import UnreadablePixels
from trainer.cohorts import Case

BINS = 64
FEWEST = 10
# Darker than this in the mean, an outermost row or column is border and no air.
_BLACK = 0.02
THUMBNAIL = 192


@dataclass(frozen=True)
class Measured:
    """What was read from one picture; `shares` (BINS,) is its gray histogram, summing to 1.

    `file_bytes` is the size of the picture as stored; `sharpness` the logarithm of the variance of the Laplacian;
    `border` the share of the picture that is black border.
    """

    case: Case
    file_bytes: int
    sha256: str
    rows: int
    columns: int
    mean: float
    deviation: float
    shares: np.ndarray
    sharpness: float
    border: float


def sample(cases: Sequence[Case], pictures: int, seed: int, finding: str) -> tuple[tuple[Case, ...], str]:
    """Return which pictures are looked at, and the sentence that says how they were chosen.

    All when they are few. A quarter has the finding as far as there are so many: of a rare one, a plain sample
    would show a handful.
    """
    if pictures >= len(cases):
        return tuple(cases), f"All {len(cases)} pictures."
    if pictures <= 0:
        return (), "No pictures were asked for."
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cases))
    has = np.array([cases[index].labels.get(finding) == 1 for index in order])
    wanted = min(int(has.sum()), pictures // 4)
    first = order[has][:wanted]
    taken = set(first.tolist())
    rest = [index for index in order.tolist() if index not in taken][: pictures - len(first)]
    chosen = sorted([*first.tolist(), *rest])
    return tuple(cases[index] for index in chosen), (
        f"{len(chosen)} of {len(cases)} pictures, drawn by seed {seed}: {wanted} of those with "
        f"{finding.replace('_', ' ')}, the others from all."
    )


def measured(cases: Sequence[Case]) -> tuple[list[Measured], list[str]]:
    """Read the pictures; return what was measured, in their order, and a sentence for each that cannot be read."""
    found: list[Measured] = []
    problems: list[str] = []
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        for result in pool.map(_measure, cases, chunksize=1):
            if isinstance(result, Measured):
                found.append(result)
            else:
                problems.append(result)
    return found, problems


def _measure(case: Case) -> Measured | str:
    try:
        content = case.content()
        gray = case.radiograph().grayscale
    except (UnreadablePixels, OSError, cv2.error) as error:
        return f"{case.identifier}: {error}"
    histogram, _ = np.histogram(gray, BINS, (0, 1))
    return Measured(
        case,
        len(content),
        hashlib.sha256(content).hexdigest(),
        gray.shape[0],
        gray.shape[1],
        float(gray.mean()),
        float(gray.std()),
        histogram / gray.size,
        math.log10(float(cv2.Laplacian(gray, cv2.CV_32F).var()) + 1e-9),
        border(gray),
    )


def border(gray: np.ndarray) -> float:
    """Return the share of a picture, (rows, columns) in [0, 1], that is black border at its four sides."""
    bright_rows = np.flatnonzero(gray.mean(axis=1) > _BLACK)
    bright_columns = np.flatnonzero(gray.mean(axis=0) > _BLACK)
    if not len(bright_rows) or not len(bright_columns):
        return 1.0
    inner = (bright_rows[-1] - bright_rows[0] + 1) * (bright_columns[-1] - bright_columns[0] + 1)
    return 1 - float(inner) / gray.size


def groups(found: Sequence[Measured], findings: Sequence[str]) -> list[dict[str, Any]]:
    """Return gray values, sharpness and border of images by finding, view and source; "too few" below ten.

    `histogram` is the mean of the images' own histograms, so that a large picture counts no more than a small one.
    """
    kinds: list[tuple[str, str, list[Measured]]] = [("all", "all images", list(found))]
    if "abnormal" in findings:
        kinds.append(("health", "healthy", [item for item in found if item.case.labels.get("abnormal") == 0]))
        kinds.append(("health", "disease", [item for item in found if item.case.labels.get("abnormal") == 1]))
    else:
        known = [item for item in found if item.case.labels]
        healthy = [item for item in known if all(value == 0 for value in item.case.labels.values())]
        sick = [item for item in known if any(value == 1 for value in item.case.labels.values())]
        kinds += [("health", "healthy", healthy), ("health", "disease", sick)]
    for name in findings:
        if name != "abnormal":
            kinds.append(("finding", name, [item for item in found if item.case.labels.get(name) == 1]))
    for kind in ("view", "source"):
        values = sorted({getattr(item.case, kind) for item in found} - {""})
        kinds += [(kind, value, [item for item in found if getattr(item.case, kind) == value]) for value in values]
    return [_group(*entry) for entry in kinds if entry[2]]


def _group(kind: str, name: str, members: list[Measured]) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": kind, "name": name, "images": len(members)}
    if len(members) < FEWEST:
        return {**entry, "too_few": f"{len(members)} images, {FEWEST} needed"}
    means = np.array([item.mean for item in members])
    shares = np.mean([item.shares for item in members], axis=0)
    centers = (np.arange(BINS) + 0.5) / BINS
    pixel_mean = float((shares * centers).sum())
    return {
        **entry,
        "mean_gray": round(float(means.mean()), 4),
        "mean_gray_sd": round(float(means.std(ddof=1)), 4),
        "pixel_sd": round(math.sqrt(float((shares * (centers - pixel_mean) ** 2).sum())), 4),
        "sharpness": _median([item.sharpness for item in members]),
        "border": _median([item.border for item in members]),
        "file_bytes": _median([float(item.file_bytes) for item in members]),
        "histogram": [round(float(share), 6) for share in shares],
    }


def _median(values: Sequence[float]) -> dict[str, float]:
    quarter, median, three = np.percentile(values, [25, 50, 75])
    return {
        "quartile_1": round(float(quarter), 4),
        "median": round(float(median), 4),
        "quartile_3": round(float(three), 4),
    }


def picture_sizes(found: Sequence[Measured]) -> list[dict[str, int]]:
    """Return the commonest sizes of the pictures as stored."""
    sizes, tally = np.unique([(item.rows, item.columns) for item in found], axis=0, return_counts=True)
    order = np.lexsort((sizes[:, 1], sizes[:, 0], -tally))[:12]
    return [
        {"rows": int(sizes[place][0]), "columns": int(sizes[place][1]), "images": int(tally[place])} for place in order
    ]


def thumbnails(cases: Sequence[Case], most: int) -> tuple[list[np.ndarray], list[str]]:
    """Return up to `most` pictures as squares with their captions; what cannot be read is passed over."""
    images: list[np.ndarray] = []
    captions: list[str] = []
    for case in cases:
        if len(images) == most:
            break
        try:
            gray = case.radiograph().grayscale
        except (UnreadablePixels, OSError, cv2.error):
            continue
        scale = THUMBNAIL / max(gray.shape)
        size = (max(1, round(gray.shape[1] * scale)), max(1, round(gray.shape[0] * scale)))
        small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
        square = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)
        top, left = (THUMBNAIL - small.shape[0]) // 2, (THUMBNAIL - small.shape[1]) // 2
        square[top : top + small.shape[0], left : left + small.shape[1]] = small
        images.append(square)
        captions.append(f"{case.identifier}\n{' '.join(filter(None, (case.view, case.sex)))}")
    return images, captions
