"""What differs between two packages, whether the plan allows it, and whether the threshold is the package's own.

All from the manifests: no model is run here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cxr_node.inference import Manifest
from trainer.pccp.plan import Change, Plan

# Told by every release, and no change of the device: when and with what it was written.
_ALWAYS = ("version", "training.code", "training.environment", "training.released_with")
_SOURCE = re.compile(r"tune part of cohort (\S+), (\d+) images of (\d+) patients \((\d+) with the finding\)")
_ABSENT = object()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of the manifest, dotted, whose values differ; as deep as both are tables."""
    return tuple(key for key in _differing(old, new) if not _below(key, _ALWAYS))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        mine, other = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if mine == other:
            continue
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            yield from _differing(mine, other, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def allowed_by(plan: Plan, differing: tuple[str, ...]) -> tuple[Change | None, tuple[str, ...]]:
    """Return the narrowest change of the plan that covers all differences, or None and the keys that stand outside.

    The keys returned with None are those outside the change that covers most.
    """
    if not differing:
        return None, ()
    outside = {
        change.id: tuple(key for key in differing if not _below(key, change.touches) or _meets(key, change.keeps))
        for change in plan.changes
    }
    covering = [change for change in plan.changes if not outside[change.id]]
    if covering:
        return min(covering, key=lambda change: len(change.touches)), ()
    return None, min(outside.values(), key=len)


def _below(key: str, tops: tuple[str, ...]) -> bool:
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def _meets(key: str, kept: tuple[str, ...]) -> bool:
    """Whether the key is a kept one, lies below it, or holds it."""
    return any(key == top or key.startswith(f"{top}.") or top.startswith(f"{key}.") for top in kept)


def threshold_faults(old: Manifest, new: Manifest) -> tuple[str, ...]:
    """Return why the threshold of NEW cannot be taken for one that was locked on its own tune part; empty if it can.

    The operating point says on which part of which cohort it was settled; that must be the tune part that the record
    of training counts, with the sensitivity and specificity measured there by these weights. New weights with the old
    calibration and threshold have a threshold that was carried over.
    """
    faults = []
    finding = new.findings[0]
    point = new.operating_points[finding]
    cohort = new.training.get("cohort", {})
    part = cohort.get("parts", {}).get("tune", {})
    match = _SOURCE.match(point.source)
    if match is None:
        faults.append(
            f"operating_points.{finding}.source: expected 'tune part of cohort NAME, N images of N patients "
            f"(N with the finding)', found {point.source!r}"
        )
    else:
        said = (match[1], *(int(match[group]) for group in (2, 3, 4)))
        counted = (cohort.get("name"), part.get("images"), part.get("patients"), part.get("present"))
        if said != counted:
            faults.append(f"operating_points.{finding}.source names {said}, the record of training counts {counted}")
    tune = new.figures.get("tune", {})
    for name in ("sensitivity", "specificity"):
        measured = _measured(tune, name)
        stated = getattr(point, name)
        if measured is None or abs(measured - stated) > 1e-4:
            told = "nothing" if measured is None else f"{measured:.4f}"
            faults.append(f"operating_points.{finding}.{name} is {stated}, figures.tune measured {told}")
    if _weights(old) != _weights(new) and finding in old.operating_points:
        carried = old.operating_points[finding].threshold == point.threshold
        if carried and old.calibration.get(finding) == new.calibration.get(finding):
            faults.append(
                f"the weights are new, calibration and threshold {point.threshold} are those of {old.version}: "
                "they were carried over"
            )
    return tuple(faults)


def _measured(tune: Mapping[str, Any], name: str) -> float | None:
    """Return the share by the counts of the tune part; a part too small for an interval has counts all the same."""
    counts = tune.get("confusion", {})
    right, wrong = ("true_positive", "false_negative") if name == "sensitivity" else ("true_negative", "false_positive")
    known = [counts.get(key) for key in (right, wrong)]
    if None in known or not sum(known):
        return None
    return float(known[0] / sum(known))


def retrained(old: Manifest, new: Manifest) -> bool:
    """Return whether the weights differ."""
    return _weights(old) != _weights(new)


def _weights(manifest: Manifest) -> str:
    return manifest.files["weights.npz"]


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version for comparison; parts that are no number count as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
