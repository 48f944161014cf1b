"""What a run is shown: which cases, what is taught of each finding, and how much it weighs."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainer.cohorts import Case, Cohort
from trainer.config import Config, ConfigError, fold_of
from trainer.inputs import Batches, Inputs, prepare


def used(config: Config, cohort: Cohort) -> Cohort:
    """Return the cohort with the sources that the configuration uses."""
    if not config.sources:
        return cohort
    known = {case.source for case in cohort.cases}
    missing = sorted(set(config.sources) - known)
    if missing:
        raise ConfigError(f"{config.path}: sources: expected some of {', '.join(sorted(known))}, found {missing[0]}")
    return replace(cohort, cases=tuple(case for case in cohort.cases if case.source in config.sources))


def chosen_cases(config: Config, cohort: Cohort) -> tuple[list[Case], list[Case]]:
    """Return the train and the tune cases that have a label for any of the findings, without the fold left out."""

    def labelled(cases: Sequence[Case]) -> list[Case]:
        return [case for case in cases if any(not math.isnan(case.labels.get(f, math.nan)) for f in config.findings)]

    shown, fold = labelled(cohort.part("train")), fold_of(config)
    if fold is not None:
        shown = [case for case in shown if patient_fold(case, fold[1]) != fold[0]]
    return shown, labelled(cohort.part("tune"))


def patient_fold(case: Case, folds: int) -> int:
    """Return the case's fold, from 0: by patient, or by the group of equal pictures where it has one."""
    key = case.duplicate_group or case.patient
    return int.from_bytes(hashlib.sha256(f"fold {key}".encode()).digest()[:8], "big") % folds


def labels_of(cases: Sequence[Case], findings: Sequence[str]) -> np.ndarray:
    """Return (n, findings) float32: 1 present, 0 absent, NaN unknown."""
    return np.array(
        [[case.labels.get(finding, math.nan) for finding in findings] for case in cases], np.float32
    ).reshape(len(cases), len(findings))


def make_batches(config: Config, inputs: Inputs, cache: Path, threads: int, runs: Path) -> Batches:
    """Return the train part as batches: labels, or labels mixed with what teachers say, and their weights."""
    settings = config.training
    labels = labels_of(inputs.cases, config.findings)
    weights = np.stack(
        [case_weights(inputs.cases, labels[:, index], settings.balance) for index in range(len(config.findings))],
        axis=1,
    )
    balanced = settings.sampling == "balanced"
    targets = np.nan_to_num(labels)
    for index, finding in enumerate(config.findings):
        taught = taught_scores(config, finding, inputs.cases, runs)
        known = ~np.isnan(taught) & ~np.isnan(labels[:, index])
        targets[known, index] = (1 - settings.teach) * targets[known, index] + settings.teach * taught[known]
    with_other = [index for index, case in enumerate(inputs.cases) if case.again is not None]
    others = [
        replace(case, path=case.again, span=None, again=None, identifier=f"{case.identifier} again")
        for case in (inputs.cases[index] for index in with_other)
        if case.again is not None
    ]
    again = prepare(others, config.spec, cache, "other copies", threads=threads) if others else None
    if again is not None:
        decoded = {case.identifier for case in again.cases}
        with_other = [i for i in with_other if f"{inputs.cases[i].identifier} again" in decoded]
    return Batches(
        inputs=inputs,
        targets=targets,
        weights=np.where(np.isnan(labels), 0, 1).astype(np.float32) if balanced else weights,
        augment=config.augment,
        batch=settings.batch,
        seed=settings.seed,
        mixup=settings.mixup,
        chance=weights.max(axis=1).astype(np.float64) if balanced else None,
        again=again,
        again_of=np.array(with_other) if again is not None else None,
    )


def taught_scores(config: Config, finding: str, cases: Sequence[Case], runs: Path) -> np.ndarray:
    """Return (n,) the mean score of the teachers that were not shown the case, NaN where every one was.

    Raises
    ------
    ConfigError
        A teacher's run is not there or has another finding.
    """
    total, count = np.zeros(len(cases)), np.zeros(len(cases))
    for name in config.training.teachers:
        from trainer.predictor import run_predictor

        teacher = run_predictor(runs / name)
        if finding not in teacher.config.findings:
            found = ", ".join(teacher.config.findings)
            raise ConfigError(f"{config.path}: teacher {name}: expected a run for {finding}, found one for {found}")
        fold = fold_of(teacher.config)
        unseen = [index for index, case in enumerate(cases) if fold and patient_fold(case, fold[1]) == fold[0]]
        scores = teacher.score([cases[index] for index in unseen]).of(finding)
        total[unseen] += scores
        count[unseen] += 1
    return np.divide(total, count, out=np.full(len(cases), np.nan), where=count > 0)


def case_weights(cases: Sequence[Case], labels: np.ndarray, balance: Sequence[str]) -> np.ndarray:
    """Return a weight for each case, mean 1, so that in every group of `balance` present and absent weigh the same.

    A case without a label weighs nothing.
    """
    groups = [tuple(getattr(case, key) for key in balance) for case in cases]
    cells = [(group, label >= 0.5) for group, label in zip(groups, labels, strict=True)]
    known = ~np.isnan(labels)
    in_group = Counter(group for group, is_known in zip(groups, known, strict=True) if is_known)
    in_cell = Counter(cell for cell, is_known in zip(cells, known, strict=True) if is_known)
    weights = np.array(
        [
            in_group[cell[0]] / (2 * in_cell[cell]) if is_known else 0.0
            for cell, is_known in zip(cells, known, strict=True)
        ]
    )
    # A cell of a handful must not carry a group: no case counts more than five others.
    weights = np.minimum(weights, 5.0)
    return (weights / weights[known].mean()).astype(np.float32) if known.any() else np.zeros(len(cases), np.float32)
