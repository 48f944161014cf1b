"""`cxr-train reference`: what images and scores of the tune part look like, written into a released package.

The tune part and no other: it is what the operating point was set on, and the test part is not looked at for it. The
same images with black and white exchanged go through gate and model as well, so that a site knows what an inverted
detector would look like in its figures.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_node.errors import UnreadablePixels
from cxr_node.findings.monitoring.histogram import Histogram
from cxr_node.findings.monitoring.reference import (
    MEASURES,
    PROBABILITY,
    Inverted,
    Measures,
    Reference,
    ScoreReference,
    encode_reference,
)
from cxr_node.imaging import Radiograph, look_at, preprocess
from cxr_node.inference import Engine, Manifest, ModelPackage, load_package, probability
from cxr_node.inference.package import MANIFEST, REFERENCE
from trainer.cohorts import Case, Cohort
from trainer.config import config_of_run
from trainer.record import cases_sha256
from trainer.targets import used

_BATCH = 32

Forward = Callable[[np.ndarray], np.ndarray]


class NoReference(Exception):
    """The reference cannot be made: says what was found and what was expected."""


@dataclass
class _Pass:
    """Images that the look at the pixels let through, their inputs waiting to be scored."""

    manifest: Manifest
    forward: Forward

    def __post_init__(self) -> None:
        self.images = 0
        self.excluded: Counter[str] = Counter()
        self.measures: list[Measures] = []
        self.scores: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []

    def take(self, radiograph: Radiograph, case: Case, *, despite_gate: bool = False) -> None:
        """Take one image in; with `despite_gate` it is scored whatever the look at its pixels says."""
        self.images += 1
        seen = look_at(radiograph)
        if seen.exclusion is not None:
            self.excluded[seen.exclusion.reason] += 1
            if not despite_gate:
                return
        age = None if math.isnan(case.age) else float(math.floor(case.age))
        self.measures.append(
            Measures(age, case.sex, case.view, "", seen.mean_gray, seen.contrast, seen.upright),
        )
        self._waiting.append(preprocess(radiograph, self.manifest.preprocess))
        if len(self._waiting) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Score what waits."""
        if self._waiting:
            self.scores.append(self.forward(np.stack(self._waiting)))
        self._waiting = []

    def score_references(self) -> dict[str, ScoreReference]:
        """Return the calibrated probabilities of each finding."""
        findings = self.manifest.findings
        rows = np.concatenate(self.scores) if self.scores else np.empty((0, len(findings)))
        made = {}
        for column, finding in enumerate(findings):
            found = [probability(self.manifest, finding, float(score)) for score in rows[:, column]]
            threshold = self.manifest.operating_points[finding].threshold
            made[finding] = ScoreReference(
                Histogram.of(PROBABILITY, found),
                mean=round(float(np.mean(found)), 6) if found else 0.0,
                deviation=round(float(np.std(found, ddof=1)), 6) if len(found) > 1 else 0.0,
                flagged=sum(value >= threshold for value in found),
                of=len(found),
            )
        return made


def make_reference(manifest: Manifest, forward: Forward, cases: Sequence[Case], cohort: str) -> Reference:
    """Return the reference of a package from the tune cases that its operating point was set on.

    `forward` scores (n, rows, columns, 1) inputs as the node's engine does. A picture that cannot be read is left out,
    as it was when the operating point was set.
    """
    plain, inverted = _Pass(manifest, forward), _Pass(manifest, forward)
    for case in cases:
        try:
            radiograph = case.radiograph()
        except (UnreadablePixels, OSError):
            continue
        plain.take(radiograph, case)
        inverted.take(Radiograph(np.ascontiguousarray(1 - radiograph.grayscale)), case, despite_gate=True)
    plain.flush()
    inverted.flush()
    patients = len({case.patient for case in cases})
    return Reference(
        source=f"tune part of cohort {cohort}, {plain.images} images of {patients} patients",
        cases_sha256=cases_sha256(cases),
        images=plain.images,
        excluded=dict(sorted(plain.excluded.items())),
        measures={
            name: Histogram.of(bins, [item.of(name) for item in plain.measures]) for name, bins in MEASURES.items()
        },
        scores=plain.score_references(),
        inverted=Inverted(inverted.images, sum(inverted.excluded.values()), inverted.score_references()),
    )


def add_reference(package: ModelPackage, cohort: Cohort) -> ModelPackage:
    """Write `reference.json` into a package that was released, and list it in the manifest; return it loaded anew.

    Weights, calibration, operating points and figures stay byte for byte what they were; the digest of the package
    changes, as the manifest lists one file more (or another hash).

    Raises
    ------
    NoReference
        The tune part is not the one that the package's operating point was set on.
    """
    manifest = package.manifest
    config = config_of_run(dict(manifest.training), package.path / MANIFEST)
    cases = used(config, cohort).part("tune")
    expected = manifest.training["cohort"]["parts"]["tune"].get("sha256", "")
    found = cases_sha256(cases)
    if found != expected:
        raise NoReference(
            f"{package.path / MANIFEST}: expected the tune part {expected[:12]} that its operating point was set on, "
            f"found {found[:12]} in {cohort.name} ({len(cases)} images)"
        )
    reference = make_reference(manifest, Engine(package).scores, cases, cohort.name)
    text = encode_reference(reference)
    (package.path / REFERENCE).write_text(text, "utf-8")
    path = package.path / MANIFEST
    value = json.loads(path.read_text("utf-8"))
    value["files"] = dict(sorted({**value["files"], REFERENCE: hashlib.sha256(text.encode()).hexdigest()}.items()))
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return load_package(package.path)


def told(package: Path, reference: Reference) -> str:
    """Return the lines that the command prints."""
    lines = [f"{package / REFERENCE}: {reference.source}; {sum(reference.excluded.values())} excluded by their pixels"]
    for finding, item in reference.scores.items():
        lines.append(
            f"{finding}: mean probability {item.mean:.3f}, SD {item.deviation:.3f}, {item.flagged} of {item.of} flagged"
        )
    lines.append(f"inverted: {reference.inverted.excluded} of {reference.inverted.images} excluded by their pixels")
    return "\n".join(lines)
