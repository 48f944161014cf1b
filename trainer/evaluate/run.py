"""An evaluation from end to end: scores, figures of every set, baselines, other population; one JSON beside CSVs."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.imaging import preprocess
from trainer.augment import Augment, augmented
from trainer.cohorts import Cohort, Part
from trainer.evaluate.baselines import baselines
from trainer.evaluate.measure import TOO_FEW, beside_baseline, measure
from trainer.evaluate.saliency import smooth_gradients
from trainer.evaluate.sets import EvaluationSet, evaluation_sets, labelled_set
from trainer.predictor import Locked, Predictor, Scores, lock
from trainer.record import cohort_record, environment, read_log, write_json
from trainer.targets import used

SCHEMA = "cxr-train evaluation 1"
EVALUATION = "evaluation.json"
# The same for every model, whatever it was trained with.
PERTURBATION = Augment(erase=0.0)
FAILURES = 8  # of each kind, the surest


def evaluate(
    model: Predictor,
    cohort: Cohort,
    out: Path,
    *,
    part: Part = "tune",
    finding: str = "",
    other: Cohort | None = None,
    run: Path | None = None,
    pictures: bool = True,
) -> dict[str, Any]:
    """Measure a model on a part of its cohort; write and return ``evaluation.json``.

    Beside it come ``scores-PART.csv`` and, with `pictures`, grids of the surest failures and saliency maps: those show
    cases of the cohort and are not to be published. A run is locked on the tune part first; a package brings its
    own operating point. `other` is another population's cohort, of which the tune part is scored.
    """
    out.mkdir(parents=True, exist_ok=True)
    finding = finding or model.findings[0]
    cohort = used(model.config, cohort)
    tune = model.score(cohort.part("tune"))
    if not model.locked:
        model = replace(model, locked=lock(tune, model.config.operating_point, cohort.name))
    locked = model.locked[finding]
    asked = tune if part == "tune" else model.score(cohort.part(part))
    sets = evaluation_sets(cohort, asked, finding, part)
    measured = {item.name: measure(item, finding, locked) for item in sets}
    measured["tune-perturbed"] = measure(perturbed(model, tune, finding), finding, locked, curves=False)
    if part != "tune":
        measured["tune"] = measure(evaluation_sets(cohort, tune, finding, "tune")[0], finding, locked)
    main = sets[0]
    not_run = [f"{name}: not measured, too few cases" for name, item in measured.items() if "auc" not in item]
    cross: dict[str, Any] = {}
    if other is not None and any(finding in case.labels for case in other.part("tune")):
        scored = model.score([case for case in other.part("tune") if finding in case.labels])
        says = f"The tune part of {other.title}: outside this model's intended use."
        cross[other.name] = measure(labelled_set(other.name, says, scored, finding), finding, locked)
    else:
        not_run.append("cross-population: not run, no other cohort with this finding was given")
    guesses: dict[str, Any] = {}
    if min(measured[main.name]["present"], measured[main.name]["absent"]) >= TOO_FEW:
        for guess in baselines(cohort.part("train"), main.scored.cases, finding):
            guesses[guess.name] = beside_baseline(main, finding, guess)
    record = {
        "schema": SCHEMA,
        "model": {
            "name": model.name,
            "kind": model.kind,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "sha256": model.sha256,
            "size": list(model.spec.size),
            "intermediate": list(model.spec.intermediate) if model.spec.intermediate else None,
        },
        "cohort": cohort_record(cohort, finding, asked.problems, {"tune", part}),
        "part": part,
        "finding": finding,
        "operating_point": {
            "rule": locked.point.name,
            "threshold": locked.point.threshold,
            "sensitivity": locked.point.sensitivity,
            "specificity": locked.point.specificity,
            "source": locked.point.source,
        },
        "calibration": {"slope": locked.slope, "intercept": locked.intercept},
        "training": {
            **{key: value for key, value in model.training.items() if key not in ("cohort", "log")},
            "log": _numbers(model.training.get("log") or (read_log(run) if run else [])),
        },
        "sets": measured,
        "main_set": main.name,
        "baselines": guesses,
        "cross_population": cross,
        "not_run": not_run,
        "criteria": [dict(criterion) for criterion in model.criteria],
        "measured_with": environment(),
    }
    write_json(out / EVALUATION, _without_nan(record))
    write_scores(out / f"scores-{part}.csv", asked, model.locked)
    if pictures:
        _draw_failures(model, main, finding, locked, out)
    return record


def perturbed(model: Predictor, tune: Scores, finding: str) -> EvaluationSet:
    """Return the tune cases scored on pictures that were turned, blurred, noised and exposed otherwise, by a seed.

    Of what a new site brings this is a part that can be had without its images. It is looked at to choose by.
    """
    parts = []
    for start in range(0, len(tune.cases), 32):
        images = [
            augmented(
                preprocess(case.radiograph(), model.spec)[..., 0],
                PERTURBATION,
                np.random.default_rng((1, start + place)),
            )
            for place, case in enumerate(tune.cases[start : start + 32])
        ]
        parts.append(model.forward(np.stack(images)[..., np.newaxis].astype(np.float32)))
    says = (
        "The tune part's pictures, each turned up to 8 degrees, scaled, exposed otherwise, blurred or sharpened, with "
        "noise and JPEG artefacts, by a fixed seed: how much the model leans on what another detector changes."
    )
    scored = replace(tune, values=np.concatenate(parts).astype(np.float64))
    return labelled_set("tune-perturbed", says, scored, finding)


def write_scores(path: Path, scored: Scores, locked: dict[str, Locked]) -> None:
    """Write a row for every case: who, and for each finding label, score and probability."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{finding} {what}" for finding in scored.findings for what in ("label", "score", "probability")]
        writer.writerow(["case", "patient", "view", *columns])
        probabilities = {finding: locked[finding].probabilities(scored.of(finding)) for finding in scored.findings}
        for index, case in enumerate(scored.cases):
            cells: list[Any] = []
            for finding in scored.findings:
                cells += [
                    case.labels.get(finding, ""),
                    f"{scored.of(finding)[index]:.6f}",
                    f"{probabilities[finding][index]:.6f}",
                ]
            writer.writerow([case.identifier, case.patient, case.view, *cells])


def _draw_failures(model: Predictor, item: EvaluationSet, finding: str, locked: Locked, out: Path) -> None:
    from trainer.report.grids import draw_grid, draw_overlays

    probabilities = locked.probabilities(item.scored.of(finding))
    called = probabilities >= locked.point.threshold
    missed = np.flatnonzero((item.labels == 1) & ~called)
    alarms = np.flatnonzero((item.labels == 0) & called)
    kinds = {
        "missed": missed[np.argsort(probabilities[missed])][:FAILURES],
        "false-alarms": alarms[np.argsort(-probabilities[alarms])][:FAILURES],
    }
    network = model.network()
    for name, indices in kinds.items():
        if not len(indices):
            continue
        images = [preprocess(item.scored.cases[index].radiograph(), model.spec)[..., 0] for index in indices]
        captions = [f"{item.scored.cases[index].identifier}\n{probabilities[index]:.3f}" for index in indices]
        draw_grid(images, captions, out / f"{name}.png")
        column = model.findings.index(finding)
        maps = [smooth_gradients(network, image, column) for image in images]
        draw_overlays(images, maps, captions, out / f"{name}-saliency.png")


def _numbers(log: Sequence[dict[str, Any]]) -> list[dict[str, float | None]]:
    return [{key: float(value) if value != "" else None for key, value in row.items()} for row in log]


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that could not be had is left out."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items() if not _is_nan(item)}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
