"""From a run to a model package: float16 weights, a threshold from the tune part, figures of what is released."""

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_node.findings.monitoring.reference import encode_reference
from cxr_node.imaging import PreprocessSpec
from cxr_node.inference import Engine, IntendedUse, Manifest, ModelPackage, OperatingPoint, load_package
from cxr_node.inference.package import ARCHITECTURE, GOLDEN, MANIFEST, MODEL_CARD, REFERENCE, WEIGHTS
from trainer import metrics
from trainer.augment import Augment
from trainer.cohorts import Cohort
from trainer.config import Config, ConfigError, Training
from trainer.evaluate import TOO_FEW, EvaluationSet, baselines, beside_baseline, evaluation_sets, measure
from trainer.model_card import model_card
from trainer.predictor import Locked, Scores, lock, package_predictor
from trainer.record import AVERAGE, code_state, read_log
from trainer.reference import make_reference
from trainer.targets import used
from trainer.train import build, read_run

LARGEST_PACKAGE = 10 * 1000 * 1000
GOLDEN_CASES = 3
SHADOW = "shadow.json"


class ExportError(Exception):
    """The run cannot be released: says what was found and what was expected."""


def export(
    config: Config, run: Path, cohort: Cohort, to: Path, *, version: str, despite_gate: str = ""
) -> ModelPackage:
    """Write the package ``to/NAME`` and return it, loaded and verified.

    The order matters: the weights are cast to float16 first; calibration and threshold come from the tune part,
    scored by the node's engine on those weights; only then is the test part looked at.

    Raises
    ------
    ExportError
        The configuration has no words for a package, the weights do not fit float16, the package is above 10 MB, or
        the gate is not passed: the lower limit of the AUC must lie above the best trivial baseline. `despite_gate`
        gives a reason to release it all the same; it stands in the manifest and on the card.
    ConfigError
        The run was made with other settings.
    """
    if not config.package.get("intended_use"):
        raise ExportError(f"{config.path}: expected a table [package] that states the intended use, found none")
    record = read_run(run)
    _check_same(config, record)
    cohort = used(config, cohort)
    with tempfile.TemporaryDirectory(prefix="cxr-train-export-") as scratch:
        draft = _draft(config, run, Path(scratch), record, version)
        model = package_predictor(draft)
        tune = model.score(cohort.part("tune"))
        locked = lock(tune, config.operating_point, cohort.name)
        test = model.score(cohort.part("test"))
        figures = _figures(config, locked, cohort, tune, test, despite_gate)
        manifest = replace(
            draft.manifest,
            operating_points={finding: item.point for finding, item in locked.items()},
            calibration={
                finding: {"slope": item.slope, "intercept": item.intercept} for finding, item in locked.items()
            },
            figures=figures,
            limitations=tuple(config.package["limitations"]),
        )
        gate = figures["criteria"][0]
        if not gate["passed"] and not despite_gate:
            raise ExportError(f"{config.name}: {gate['says']}: found {gate['found']:.4f}, not released")
        inputs = golden_inputs(config.spec)
        np.savez_compressed(draft.path / GOLDEN, inputs=inputs, scores=model.forward(inputs))
        reference = make_reference(manifest, model.forward, cohort.part("tune"), cohort.name)
        (draft.path / REFERENCE).write_text(encode_reference(reference), "utf-8")
        (draft.path / MODEL_CARD).write_text(model_card(manifest), "utf-8")
        manifest = replace(manifest, files=_hashes(draft.path))
        _write_manifest(draft.path, manifest)
        size = sum(file.stat().st_size for file in draft.path.iterdir())
        if size > LARGEST_PACKAGE:
            raise ExportError(f"{config.name}: expected at most {LARGEST_PACKAGE} bytes, found {size}")
        folder = to / config.name
        to.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(draft.path, folder)
    return load_package(folder)


def shadow(new: ModelPackage, old: ModelPackage, cohort: Cohort) -> dict[str, Any]:
    """Return how a package stands to the one it replaces, on the tune part: flags that change, and paired figures.

    Raises
    ------
    ExportError
        The two have no finding in common.
    """
    models = [package_predictor(package) for package in (new, old)]
    shared = [finding for finding in new.manifest.findings if finding in old.manifest.findings]
    if not shared:
        raise ExportError(
            f"--shadow: expected a package for {', '.join(new.manifest.findings)}, "
            f"found one for {', '.join(old.manifest.findings)}"
        )
    cases = used(models[0].config, cohort).part("tune")
    scored = [model.score(cases) for model in models]
    result: dict[str, Any] = {
        "new": {"name": new.manifest.name, "version": new.manifest.version, "digest": new.digest},
        "old": {"name": old.manifest.name, "version": old.manifest.version, "digest": old.digest},
        "says": "On the tune part: both packages as they would run, each at its own operating point.",
        "findings": {},
    }
    for finding in shared:
        labels = np.array([case.labels.get(finding, math.nan) for case in scored[0].cases])
        known = ~np.isnan(labels)
        labels = labels[known]
        probabilities = [
            model.locked[finding].probabilities(scores.of(finding))[known]
            for model, scores in zip(models, scored, strict=True)
        ]
        flags = [
            values >= model.locked[finding].point.threshold for values, model in zip(probabilities, models, strict=True)
        ]
        difference = metrics.delong_difference(labels, *probabilities)
        result["findings"][finding] = {
            "images": len(labels),
            "flagged_by_both": int((flags[0] & flags[1]).sum()),
            "flagged_by_new_only": int((flags[0] & ~flags[1]).sum()),
            "flagged_by_old_only": int((~flags[0] & flags[1]).sum()),
            "flagged_by_neither": int((~flags[0] & ~flags[1]).sum()),
            "present_flagged_by_old_only": int((~flags[0] & flags[1] & (labels == 1)).sum()),
            "auc_new": round(metrics.auc(labels, probabilities[0]), 4),
            "auc_old": round(metrics.auc(labels, probabilities[1]), 4),
            "auc_difference": {key: round(value, 4) for key, value in asdict(difference).items()},
            "correct_calls_p": round(metrics.mcnemar(flags[0] == (labels == 1), flags[1] == (labels == 1)), 4),
        }
    return result


def write_network(model: Any, folder: Path) -> None:
    """Write ``architecture.json`` and ``weights.npz`` of a Keras model, weights as float16.

    Raises
    ------
    ExportError
        A weight is above what float16 holds.
    """
    arrays = {}
    for index, (variable, value) in enumerate(zip(model.weights, model.get_weights(), strict=True)):
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(f"{variable.path}: {np.abs(value).max():g} does not fit float16")
        arrays[f"{index:04d}"] = half
    np.savez_compressed(folder / WEIGHTS, **arrays)
    (folder / ARCHITECTURE).write_text(json.dumps(json.loads(model.to_json()), indent=1) + "\n", "utf-8")


def golden_inputs(spec: PreprocessSpec) -> np.ndarray:
    """Return (3, rows, columns, 1) drawn by a formula: two dark lungs on a bright body, each time a little otherwise.

    No image of a person. Values are whole 255ths, so that every machine draws the same.
    """
    rows, columns = spec.size
    y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    images = []
    for case in range(GOLDEN_CASES):
        rng = np.random.default_rng(1000 + case)
        image = 0.75 - 0.25 * np.abs(x - 0.5)
        for side in (0.3, 0.7):
            center, width, height = side + rng.uniform(-0.02, 0.02), rng.uniform(0.1, 0.14), rng.uniform(0.25, 0.32)
            image -= 0.5 * np.exp(-((((x - center) / width) ** 2 + ((y - 0.45) / height) ** 2) ** 2))
        # The second and third have a growing haze in one lung.
        image += 0.2 * case * np.exp(-(((x - 0.32) / 0.1) ** 2 + ((y - 0.6) / 0.12) ** 2))
        image += 0.03 * np.sin(40 * np.pi * y + 4 * x)
        images.append(np.round(np.clip(image, 0, 1) * 255) / 255)
    return np.stack(images)[..., np.newaxis].astype(np.float32)


def _check_same(config: Config, record: Mapping[str, Any]) -> None:
    """Words of a package may be mended after training; what the network was trained with may not.

    A setting that did not exist when the run was made must have its default.
    """
    used_then = {
        **record["config"],
        "training": {**asdict(Training(epochs=0)), **record["config"]["training"]},
        "augment": {**asdict(Augment()), **record["config"]["augment"]},
    }
    used_then = json.loads(json.dumps(used_then))
    for name, now in (
        ("training", asdict(config.training)),
        ("augment", asdict(config.augment)),
        ("preprocess", config.spec.to_json()),
        ("architecture", config.architecture),
        ("findings", config.findings),
        ("sources", config.sources),
    ):
        if used_then[name] != json.loads(json.dumps(now)):
            raise ConfigError(f"{config.path}: {name} is {now}, the run was made with {used_then[name]}")


def _draft(config: Config, run: Path, scratch: Path, record: Mapping[str, Any], version: str) -> ModelPackage:
    """Write a package that scores as the released one will, and knows no threshold yet."""
    model = build(config)
    with np.load(run / AVERAGE, allow_pickle=False) as stored:
        model.set_weights([stored[name] for name in sorted(stored.files)])
    folder = scratch / config.name
    folder.mkdir()
    write_network(model, folder)
    inputs = golden_inputs(config.spec)
    before = np.asarray(model.predict_on_batch(inputs))
    use = config.package["intended_use"]
    manifest = Manifest(
        name=config.name,
        version=version,
        title=str(config.package["title"]),
        findings=config.findings,
        intended_use=IntendedUse(
            (float(use["age_years"][0]), float(use["age_years"][1])),
            tuple(use["views"]),
            tuple(use["modalities"]),
            tuple(use["body_parts"]),
        ),
        preprocess=config.spec,
        operating_points={
            finding: OperatingPoint("draft", 0.5, math.nan, math.nan, "not locked") for finding in config.findings
        },
        calibration={finding: {"slope": 1.0, "intercept": 0.0} for finding in config.findings},
        architecture=config.architecture,
        training={**record, "log": read_log(run), "released_with": code_state()},
        figures={},
        limitations=(),
        files=_hashes(folder),
    )
    _write_manifest(folder, manifest)
    package = load_package(folder)
    change = float(np.abs(Engine(package).scores(inputs) - before).max())
    if change > 0.02:
        raise ExportError(f"{config.name}: float16 changes a score by {change:.4f}, more than 0.02")
    return package


def _figures(
    config: Config,
    locked: Mapping[str, Locked],
    cohort: Cohort,
    tune: Scores,
    test: Scores,
    despite_gate: str,
) -> dict[str, Any]:
    """Return what the manifest says was measured: of the first finding whole, of others on the main set."""
    finding = config.finding
    sets = evaluation_sets(cohort, test, finding)
    main = sets[0]
    if min((main.labels == 1).sum(), (main.labels == 0).sum()) < TOO_FEW:
        raise ExportError(
            f"{config.name}: expected at least {TOO_FEW} test images with and without {finding}, "
            f"found {int((main.labels == 1).sum())} and {int((main.labels == 0).sum())}"
        )
    figures: dict[str, Any] = {
        "measured": "on the released float16 weights through the node's engine; threshold and calibration from the "
        "tune part only; AUC by DeLong (logit) and by a bootstrap over patients, proportions by Wilson, 95 % intervals",
        "tune": measure(evaluation_sets(cohort, tune, finding, "tune")[0], finding, locked[finding], curves=False),
        "test": {item.name: measure(item, finding, locked[finding], curves=False) for item in sets},
        "baselines": {"set": main.name}
        | {
            guess.name: beside_baseline(main, finding, guess)
            for guess in baselines(cohort.part("train"), main.scored.cases, finding)
        },
        "sample": _sample(main, locked[finding], finding),
    }
    if len(config.findings) > 1:
        figures["other_findings"] = {
            name: measure(evaluation_sets(cohort, test, name)[0], name, locked[name], curves=False)
            for name in config.findings[1:]
        }
    best_name, best = max(
        ((key, value["auc"]["value"]) for key, value in figures["baselines"].items() if key != "set"),
        key=lambda item: item[1],
    )
    low = figures["test"][main.name]["auc"]["low"]
    gate = {
        "says": f"AUC on {main.name}: lower limit of the 95 % interval above the best baseline "
        f"({best_name}, {best:.3f})",
        "found": low,
        "passed": bool(low > best),
    }
    if despite_gate and not gate["passed"]:
        gate["released_despite"] = despite_gate
    figures["criteria"] = [gate]
    for wanted in config.package.get("criteria", []):
        found = figures["test"][main.name][wanted["figure"]]["value"]
        figures["criteria"].append(
            {
                "says": f"{wanted['figure']} on {main.name} at least {wanted['at_least']:g}",
                "found": found,
                "passed": bool(found >= wanted["at_least"]),
            }
        )
    return figures


def _sample(item: EvaluationSet, locked: Locked, finding: str) -> list[dict[str, Any]]:
    """Return twelve cases of a set with their probabilities, chosen by hash, for those who have the images to check."""
    chosen: list[int] = []
    for label in (0, 1):
        of_label = [index for index in range(len(item.labels)) if item.labels[index] == label]
        of_label.sort(key=lambda index: hashlib.sha256(item.scored.cases[index].identifier.encode()).hexdigest())
        chosen += of_label[:6]
    probabilities = locked.probabilities(item.scored.of(finding))
    return [
        {
            "case": item.scored.cases[index].identifier,
            "label": int(item.labels[index]),
            "probability": round(float(probabilities[index]), 5),
        }
        for index in chosen
    ]


def _hashes(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(_without_nan(manifest.to_json()), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN; a figure that could not be had is 0 in a draft and absent from figures."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return 0.0 if isinstance(value, float) and math.isnan(value) else value
