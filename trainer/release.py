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

from cxr_node.imaging import PreprocessSpec
from cxr_node.inference import Engine, IntendedUse, Manifest, ModelPackage, OperatingPoint, load_package, probability
from cxr_node.inference.package import ARCHITECTURE, GOLDEN, MANIFEST, MODEL_CARD, WEIGHTS
from trainer import metrics
from trainer.architectures import ARCHITECTURES
from trainer.augment import Augment
from trainer.calibration import platt
from trainer.cohorts import COHORTS, Cohort
from trainer.config import Config, ConfigError, Training
from trainer.evaluate import EvaluationSet, Scored, baselines, evaluation_sets, measure, score_cases
from trainer.model_card import model_card
from trainer.train import AVERAGE, RUN, code_state, predict, read_log

LARGEST_PACKAGE = 10 * 1000 * 1000
GOLDEN_CASES = 3


class ReleaseError(Exception):
    """The run cannot be released: says what was found and what was expected."""


def release(config: Config, run: Path, data: Path, to: Path, *, version: str) -> ModelPackage:
    """Write the package ``to/NAME`` and return it, loaded and verified.

    The order matters: the weights are cast to float16 first; calibration and threshold come from the tune part,
    scored by the node's engine on those weights; only then is the test part looked at.

    Raises
    ------
    ReleaseError
        The run was made with other settings, its weights do not fit float16, or the package is above 10 MB.
    """
    record = json.loads((run / RUN).read_text("utf-8"))
    _check_same(config, record)
    cohort = COHORTS[config.cohort](data)
    with tempfile.TemporaryDirectory(prefix="cxr-train-release-") as scratch:
        draft = _draft(config, run, Path(scratch), record, version)
        engine = Engine(draft)
        tune = score_cases(engine, cohort.part("tune"))
        manifest = _locked(config, draft.manifest, tune)
        test = score_cases(engine, cohort.part("test"))
        manifest = replace(
            manifest,
            figures=_figures(config, manifest, cohort, tune, test, draft, run),
            limitations=tuple(config.package["limitations"]),
        )
        inputs = golden_inputs(config.spec)
        np.savez_compressed(draft.path / GOLDEN, inputs=inputs, scores=engine.scores(inputs))
        (draft.path / MODEL_CARD).write_text(model_card(manifest), "utf-8")
        manifest = replace(manifest, files=_hashes(draft.path))
        _write_manifest(draft.path, manifest)
        size = sum(file.stat().st_size for file in draft.path.iterdir())
        if size > LARGEST_PACKAGE:
            raise ReleaseError(f"{config.name}: expected at most {LARGEST_PACKAGE} bytes, found {size}")
        folder = to / config.name
        to.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(draft.path, folder)
    return load_package(folder)


def write_network(model: Any, folder: Path) -> None:
    """Write ``architecture.json`` and ``weights.npz`` of a Keras model, weights as float16.

    Raises
    ------
    ReleaseError
        A weight is above what float16 holds.
    """
    arrays = {}
    for index, (variable, value) in enumerate(zip(model.weights, model.get_weights(), strict=True)):
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise ReleaseError(f"{variable.path}: {np.abs(value).max():g} does not fit float16")
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
    used = {
        **record["config"],
        "training": {**asdict(Training(epochs=0)), **record["config"]["training"]},
        "augment": {**asdict(Augment()), **record["config"]["augment"]},
    }
    used = json.loads(json.dumps(used))
    for name, now in (
        ("training", asdict(config.training)),
        ("augment", asdict(config.augment)),
        ("preprocess", config.spec.to_json()),
        ("architecture", config.architecture),
    ):
        if used[name] != json.loads(json.dumps(now)):
            raise ConfigError(f"{config.path}: {name} is {now}, the run was made with {used[name]}")


def _draft(config: Config, run: Path, scratch: Path, record: Mapping[str, Any], version: str) -> ModelPackage:
    """Write a package that scores as the released one will, and knows no threshold yet."""
    model = ARCHITECTURES[config.architecture](config.spec.size, (config.finding,), dropout=config.training.dropout)
    with np.load(run / AVERAGE, allow_pickle=False) as stored:
        model.set_weights([stored[name] for name in sorted(stored.files)])
    folder = scratch / config.name
    folder.mkdir()
    write_network(model, folder)
    inputs = golden_inputs(config.spec)
    before = predict(model, inputs)
    use = config.package["intended_use"]
    manifest = Manifest(
        name=config.name,
        version=version,
        title=str(config.package["title"]),
        findings=(config.finding,),
        intended_use=IntendedUse(
            (float(use["age_years"][0]), float(use["age_years"][1])),
            tuple(use["views"]),
            tuple(use["modalities"]),
            tuple(use["body_parts"]),
        ),
        preprocess=config.spec,
        operating_points={config.finding: OperatingPoint("draft", 0.5, math.nan, math.nan, "not locked")},
        calibration={config.finding: {"slope": 1.0, "intercept": 0.0}},
        architecture=config.architecture,
        training={**record, "log": read_log(run), "released_with": code_state()},
        figures={},
        limitations=(),
        files=_hashes(folder),
    )
    _write_manifest(folder, manifest)
    package = load_package(folder)
    change = float(np.abs(Engine(package).scores(inputs)[:, 0] - before).max())
    if change > 0.02:
        raise ReleaseError(f"{config.name}: float16 changes a score by {change:.4f}, more than 0.02")
    return package


def _locked(config: Config, manifest: Manifest, tune: Scored) -> Manifest:
    """Return the manifest with calibration and threshold from the tune part."""
    labels = np.array([case.labels[config.finding] for case in tune.cases])
    slope, intercept = platt(labels, tune.scores)
    calibrated = replace(
        manifest, calibration={config.finding: {"slope": round(slope, 6), "intercept": round(intercept, 6)}}
    )
    probabilities = np.array([probability(calibrated, config.finding, float(score)) for score in tune.scores])
    threshold = round(metrics.threshold_for_sensitivity(labels, probabilities, config.sensitivity), 6)
    point = OperatingPoint(
        name=f"tune-sensitivity-{config.sensitivity:g}",
        threshold=threshold,
        sensitivity=round(metrics.sensitivity(labels, probabilities, threshold).value, 4),
        specificity=round(metrics.specificity(labels, probabilities, threshold).value, 4),
        source=(
            f"tune part of cohort {config.cohort}, {len(labels)} images of "
            f"{len({case.patient for case in tune.cases})} patients ({int(labels.sum())} with the finding): the "
            f"highest threshold with a sensitivity of at least {config.sensitivity:g} there"
        ),
    )
    return replace(calibrated, operating_points={config.finding: point})


def _figures(
    config: Config, manifest: Manifest, cohort: Cohort, tune: Scored, test: Scored, draft: ModelPackage, run: Path
) -> dict[str, Any]:
    finding = config.finding
    sets = evaluation_sets(cohort, test, finding)
    main = sets[0]
    figures: dict[str, Any] = {
        "measured": "on the released float16 weights through the node's engine; threshold and calibration from the "
        "tune part only; AUC by DeLong (logit) and by a bootstrap over patients, proportions by Wilson, 95 % intervals",
        "tune": measure(
            replace(
                main,
                name="tune",
                says="Used to lock calibration and threshold: not an independent figure.",
                scored=tune,
                labels=np.array([case.labels[finding] for case in tune.cases]),
            ),
            manifest,
            finding,
        ),
        "test": {item.name: measure(item, manifest, finding) for item in sets},
        "baselines": {"set": main.name, **baselines(cohort, main, finding)},
        "sample": _sample(main, manifest, finding),
    }
    best = max(
        value["auc"]["value"] if isinstance(value["auc"], dict) else value["auc"]
        for key, value in figures["baselines"].items()
        if key != "set"
    )
    low = figures["test"][main.name]["auc"]["low"]
    figures["criteria"] = [
        {
            "says": f"AUC on {main.name}: lower limit of the 95 % interval above the best baseline ({best:.3f})",
            "found": low,
            "passed": bool(low > best),
        }
    ]
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


def _sample(item: EvaluationSet, manifest: Manifest, finding: str) -> list[dict[str, Any]]:
    """Return twelve cases of a set with their probabilities, chosen by hash, for those who have the images to check."""
    chosen: list[int] = []
    for label in (0, 1):
        of_label = [index for index in range(len(item.labels)) if item.labels[index] == label]
        of_label.sort(key=lambda index: hashlib.sha256(item.scored.cases[index].identifier.encode()).hexdigest())
        chosen += of_label[:6]
    return [
        {
            "case": item.scored.cases[index].identifier,
            "label": int(item.labels[index]),
            "probability": round(probability(manifest, finding, float(item.scored.scores[index])), 5),
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
