"""A trained network that can be asked for scores, be it a run's or a released package's, with its operating points."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import PreprocessSpec, preprocess
from cxr_node.inference import Engine, ModelPackage, OperatingPoint, load_package
from cxr_node.inference.network import build_network
from trainer import metrics
from trainer.calibration import logit, platt, sigmoid
from trainer.cohorts import Case
from trainer.config import Config, OperatingPointRule, config_of_run
from trainer.record import AVERAGE, RUN

_BATCH = 32


@dataclass(frozen=True)
class Scores:
    """Cases with the score of each finding, in the same order; `problems` names pictures that could not be read."""

    cases: tuple[Case, ...]
    findings: tuple[str, ...]
    values: np.ndarray  # (n, findings)
    problems: tuple[str, ...] = ()

    def of(self, finding: str) -> np.ndarray:
        """Return (n,) the scores of a finding."""
        column: np.ndarray = self.values[:, self.findings.index(finding)]
        return column

    def chosen(self, keep: Sequence[bool] | np.ndarray) -> "Scores":
        mask = np.asarray(keep, bool)
        return replace(
            self,
            cases=tuple(case for case, kept in zip(self.cases, mask, strict=True) if kept),
            values=self.values[mask],
        )


@dataclass(frozen=True)
class Locked:
    """What the tune part settled for a finding: the line from logit to probability, and the operating point."""

    slope: float
    intercept: float
    point: OperatingPoint

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities, as the node computes them."""
        return sigmoid(self.slope * logit(scores) + self.intercept)


@dataclass(frozen=True)
class Predictor:
    """A network with its name and hash. `locked` is empty until `lock` was called, or the package's own."""

    name: str
    kind: str  # "run" or "package"
    findings: tuple[str, ...]
    spec: PreprocessSpec
    architecture: str
    parameters: int
    sha256: str
    training: dict[str, Any]
    config: Config
    forward: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    network: Callable[[], Any] = field(repr=False)  # makes the Keras model, for saliency
    locked: dict[str, Locked] = field(default_factory=dict)
    criteria: tuple[Mapping[str, Any], ...] = ()  # set beforehand, with what came of them at the release

    def score(self, cases: Sequence[Case]) -> Scores:
        """Score every case by the node's own way from picture to score; a broken picture is left out and named."""
        good: list[Case] = []
        problems: list[str] = []
        parts: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        for case in track(cases, f"{self.name}: scores", transient=True, disable=len(cases) < _BATCH):
            try:
                waiting.append(preprocess(case.radiograph(), self.spec))
            except (UnreadablePixels, OSError) as error:
                problems.append(f"{case.identifier}: {error}")
                continue
            good.append(case)
            if len(waiting) == _BATCH:
                parts.append(self.forward(np.stack(waiting)))
                waiting = []
        if waiting:
            parts.append(self.forward(np.stack(waiting)))
        values = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, len(self.findings)))
        return Scores(tuple(good), self.findings, values, tuple(problems))


def package_predictor(package: ModelPackage) -> Predictor:
    """Return a released package, run by the node's own engine, with its operating points."""
    manifest = package.manifest
    engine = Engine(package)
    locked = {
        finding: Locked(
            manifest.calibration[finding]["slope"],
            manifest.calibration[finding]["intercept"],
            manifest.operating_points[finding],
        )
        for finding in manifest.findings
    }
    training = dict(manifest.training)
    return Predictor(
        name=f"{manifest.name} {manifest.version}",
        kind="package",
        findings=manifest.findings,
        spec=manifest.preprocess,
        architecture=manifest.architecture,
        parameters=int(training.get("parameters", 0)),
        sha256=package.digest,
        training=training,
        config=config_of_run(_with_findings(training, manifest.findings), package.path / "manifest.json"),
        forward=engine.scores,
        network=lambda: build_network(package),
        locked=locked,
        criteria=tuple(manifest.figures.get("criteria", ())),
    )


def run_predictor(run: Path) -> Predictor:
    """Return a run's averaged weights in their network, not locked yet.

    Raises
    ------
    ConfigError
        The folder holds no finished epoch of a run.
    """
    from trainer.train import build, read_run

    record = read_run(run)
    config = config_of_run(record, run / RUN)
    model = build(config)
    with np.load(run / AVERAGE, allow_pickle=False) as stored:
        model.set_weights([stored[name] for name in sorted(stored.files)])
    return Predictor(
        name=run.name,
        kind="run",
        findings=config.findings,
        spec=config.spec,
        architecture=config.architecture,
        parameters=int(model.count_params()),
        sha256=hashlib.sha256((run / AVERAGE).read_bytes()).hexdigest(),
        training=record,
        config=config,
        forward=lambda images: np.asarray(model.predict_on_batch(images)),
        network=lambda: model,
    )


def predictor(path: Path) -> Predictor:
    """Return the predictor of a run's or a package's folder."""
    path = path.resolve()
    return package_predictor(load_package(path)) if (path / "manifest.json").is_file() else run_predictor(path)


def lock(tune: Scores, rule: OperatingPointRule, cohort_name: str) -> dict[str, Locked]:
    """Return calibration and operating point of every finding, from the tune part and from nothing else.

    Raises
    ------
    ValueError
        The tune part lacks a class, or the scores rise where the finding is absent.
    """
    locked = {}
    for finding in tune.findings:
        labels = np.array([case.labels.get(finding, np.nan) for case in tune.cases])
        known = ~np.isnan(labels)
        labels, scores = labels[known], tune.of(finding)[known]
        slope, intercept = (round(value, 6) for value in platt(labels, scores))
        probabilities = sigmoid(slope * logit(scores) + intercept)
        threshold = round(_threshold(rule, labels, probabilities), 6)
        says, name = {
            "target-sensitivity": (
                f"the highest threshold with a sensitivity of at least {rule.sensitivity:g} there",
                f"tune-sensitivity-{rule.sensitivity:g}",
            ),
            "youden": ("the threshold with the greatest sum of sensitivity and specificity there", "tune-youden"),
            "f1": ("the threshold with the greatest F1 there", "tune-f1"),
        }[rule.rule]
        patients = {case.patient for case, is_known in zip(tune.cases, known, strict=True) if is_known}
        locked[finding] = Locked(
            slope,
            intercept,
            OperatingPoint(
                name=name,
                threshold=threshold,
                sensitivity=round(metrics.sensitivity(labels, probabilities, threshold).value, 4),
                specificity=round(metrics.specificity(labels, probabilities, threshold).value, 4),
                source=(
                    f"tune part of cohort {cohort_name}, {len(labels)} images of {len(patients)} patients "
                    f"({int(labels.sum())} with the finding): {says}"
                ),
            ),
        )
    return locked


def _threshold(rule: OperatingPointRule, labels: np.ndarray, probabilities: np.ndarray) -> float:
    if rule.rule == "target-sensitivity":
        return metrics.threshold_for_sensitivity(labels, probabilities, rule.sensitivity)
    if rule.rule == "youden":
        return metrics.youden_threshold(labels, probabilities)
    return metrics.f1_threshold(labels, probabilities)


def _with_findings(training: dict[str, Any], findings: tuple[str, ...]) -> dict[str, Any]:
    """A package released before findings stood in the record gets its manifest's."""
    used = {"findings": list(findings), "sources": [], **training["config"]}
    return {**training, "config": used}
