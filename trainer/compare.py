"""The ladder: trained networks, trivial baselines and what others published, in one table on one set of cases."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import metrics
from trainer.cohorts import Cohort, Part
from trainer.config import ConfigError
from trainer.evaluate import at_threshold, baselines, evaluation_sets
from trainer.predictor import Predictor, Scores, lock
from trainer.record import cohort_record, environment, write_json
from trainer.targets import used

SCHEMA = "cxr-train comparison 1"
COMPARISON = "comparison.json"
PUBLISHED = Path(__file__).resolve().parent / "published.toml"


@dataclass(frozen=True)
class _Rung:
    """A row that was scored here: probabilities of the set's cases and the threshold locked beforehand."""

    name: str
    kind: str
    says: str
    architecture: str
    parameters: int
    probabilities: np.ndarray
    threshold: float


def compare(
    models: Sequence[Predictor],
    cohort: Cohort,
    out: Path,
    *,
    part: Part = "test",
    finding: str = "",
    set_name: str = "",
) -> dict[str, Any]:
    """Score all models on the same cases; write and return ``comparison.json``. The first model is the one judged.

    Every threshold, also that of a baseline, is locked on the tune part by the first model's rule. The gate is passed
    when the lower limit of the first model's AUC lies above the AUC of the best trivial baseline.

    Raises
    ------
    ConfigError
        No model, a model without the finding, or no set of that name.
    """
    if not models:
        raise ConfigError("compare: expected at least one run or package, found none")
    first = models[0]
    finding = finding or first.findings[0]
    for model in models:
        if finding not in model.findings:
            found = ", ".join(model.findings)
            raise ConfigError(f"{model.name}: expected a model for {finding}, found one for {found}")
    cohort = used(first.config, cohort)
    rungs: list[_Rung] = []
    tune_cases, cases, labels, chosen_name, says = None, None, None, "", ""
    for model in models:
        tune = model.score(cohort.part("tune"))
        settled = model.locked or lock(tune, first.config.operating_point, cohort.name)
        scored = tune if part == "tune" else model.score(cohort.part(part))
        sets = {item.name: item for item in evaluation_sets(cohort, scored, finding, part)}
        item = sets.get(set_name or next(iter(sets)))
        if item is None:
            raise ConfigError(f"--set: expected one of {', '.join(sets)}, found {set_name}")
        if cases is not None and [case.identifier for case in cases] != [c.identifier for c in item.scored.cases]:
            raise ConfigError(f"{model.name}: expected to score the same cases as {first.name}, found others")
        cases, labels, chosen_name, says = item.scored.cases, item.labels, item.name, item.says
        tune_cases = tune.cases
        locked = settled[finding]
        rungs.append(
            _Rung(
                model.name,
                "ours",
                f"{model.kind}, input {model.spec.size[0]} x {model.spec.size[1]}",
                model.architecture,
                model.parameters,
                locked.probabilities(item.scored.of(finding)),
                locked.point.threshold,
            )
        )
    assert cases is not None
    assert labels is not None
    assert tune_cases is not None
    rungs += _baseline_rungs(first, cohort, cases, tune_cases, finding)
    patients = [case.patient for case in cases]
    rows = [_row(rung, labels, patients) for rung in rungs]
    record = {
        "schema": SCHEMA,
        "title": f"{finding} on {cohort.title}",
        "set": chosen_name,
        "says": says,
        "finding": finding,
        "cohort": cohort_record(cohort, finding, (), {"tune", part}),
        "rows": [*rows, *published_rows(cohort.name, finding)],
        "paired": [pair for rung in rungs[1:] for pair in _paired(rungs[0], rung, labels)],
        "gate": _gate(rows),
        "measured_with": environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / COMPARISON, record)
    return record


def _baseline_rungs(
    first: Predictor, cohort: Cohort, cases: Sequence[Any], tune_cases: Sequence[Any], finding: str
) -> list[_Rung]:
    """Return the trivial baselines, each with a threshold from the tune part by the same rule as the models'."""
    train = cohort.part("train")
    guessed = {guess.name: guess for guess in baselines(train, tune_cases, finding)}
    rungs = []
    for guess in baselines(train, cases, finding):
        probabilities, threshold = guess.probabilities, 0.5
        if guess.name != "always-positive" and guess.name in guessed:
            values = np.clip(guessed[guess.name].probabilities, 1e-6, 1 - 1e-6)[:, np.newaxis]
            known = [finding in case.labels for case in tune_cases]
            tune = Scores(tuple(tune_cases), (finding,), values).chosen(known)
            try:
                settled = lock(tune, first.config.operating_point, cohort.name)[finding]
            except ValueError:
                continue  # it points the wrong way on the tune part: nobody would use it
            probabilities = settled.probabilities(np.clip(probabilities, 1e-6, 1 - 1e-6))
            threshold = settled.point.threshold
        rungs.append(_Rung(guess.name, "baseline", guess.says, "", 0, probabilities, threshold))
    return rungs


def _row(rung: _Rung, labels: np.ndarray, patients: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": rung.name, "kind": rung.kind, "says": rung.says}
    if rung.architecture:
        row |= {"architecture": rung.architecture, "parameters": rung.parameters}
    row["auc"] = metrics.delong(labels, rung.probabilities).to_json()
    rng = np.random.default_rng(1)
    row["average_precision"] = metrics.bootstrap(
        metrics.average_precision, labels, rung.probabilities, patients, rng, 500
    ).to_json()
    figures = at_threshold(labels, rung.probabilities, rung.threshold)
    return row | {key: figures[key] for key in ("accuracy", "sensitivity", "specificity", "f1") if key in figures}


def _paired(first: _Rung, other: _Rung, labels: np.ndarray) -> list[dict[str, Any]]:
    difference = metrics.delong_difference(labels, first.probabilities, other.probabilities)
    right = [(rung.probabilities >= rung.threshold) == (labels == 1) for rung in (first, other)]
    return [
        {
            "a": first.name,
            "b": other.name,
            "figure": "auc",
            "difference": round(difference.value, 4),
            "low": round(difference.low, 4),
            "high": round(difference.high, 4),
            "p": float(f"{difference.p:.3g}"),
            "test": "DeLong, paired",
        },
        {
            "a": first.name,
            "b": other.name,
            "figure": "accuracy",
            "difference": round(float(right[0].mean() - right[1].mean()), 4),
            "p": float(f"{metrics.mcnemar(right[0], right[1]):.3g}"),
            "test": "McNemar, exact",
        },
    ]


def _gate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = max((row for row in rows if row["kind"] == "baseline"), key=lambda row: row["auc"]["value"])
    low = rows[0]["auc"]["low"]
    return {
        "model": rows[0]["name"],
        "says": "lower limit of the 95 % interval of the AUC above the AUC of the best trivial baseline",
        "found": low,
        "best_baseline": {"name": best["name"], "auc": best["auc"]["value"]},
        "passed": bool(low > best["auc"]["value"]),
    }


def published_rows(cohort: str, finding: str) -> list[dict[str, Any]]:
    """Return what others reported for the cohort and finding, as they reported it: other splits, other thresholds."""
    table = tomllib.loads(PUBLISHED.read_text("utf-8"))["row"]
    rows = []
    for row in table:
        if row["cohort"] != cohort or row["finding"] != finding:
            continue
        figures = {key: {"value": row[key]} for key in ("auc", "accuracy", "sensitivity", "specificity") if key in row}
        rows.append(
            {"name": row["name"], "kind": "published", "says": row["says"], "source": row["source"], **figures}
            | ({"f1": row["f1"]} if "f1" in row else {})
        )
    return rows
