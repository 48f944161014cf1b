"""The model card: the manifest in words, for the person who decides whether to use the model."""

from collections.abc import Mapping
from typing import Any

from cxr_node.inference import Manifest

_WARNING = "**Research prototype. Not cleared or approved for clinical use. It never says that disease is absent.**"


def model_card(manifest: Manifest) -> str:
    """Return the card as Markdown; every figure in it is the manifest's."""
    finding = manifest.findings[0]
    point = manifest.operating_points[finding]
    use, training, figures = manifest.intended_use, manifest.training, manifest.figures
    low, high = use.age_years
    ages = f"{low:g} years and older" if high >= 120 else f"{low:g} to {high:g} years"
    lines = [
        f"# {manifest.title}",
        "",
        f"`{manifest.name}` {manifest.version}. {_WARNING}",
        "",
        "## Intended use",
        "",
        f"- Finding: {', '.join(manifest.findings)}; computer-aided triage of frontal chest radiographs",
        f"- Age: {ages}. View: {', '.join(use.views)}. Modality: {', '.join(use.modalities)}. "
        f"Body part: {', '.join(use.body_parts)}",
        "- Any other image is excluded with a reason, not scored",
        "",
        "## Limits",
        "",
        *[f"- {sentence}" for sentence in manifest.limitations],
        "",
        "## Model",
        "",
        f"{manifest.architecture}, one score for each finding, started from {training['start_weights']['source']}. "
        f"Input {manifest.preprocess.size[0]} x {manifest.preprocess.size[1]}"
        + (
            f", by way of {manifest.preprocess.intermediate[0]} x {manifest.preprocess.intermediate[1]}"
            if manifest.preprocess.intermediate
            else ""
        )
        + ", aspect ratio not kept, gray values in [0, 1]. Weights as float16.",
        "",
        "## Learned from",
        "",
        f"{training['cohort']['title']}. {training['cohort']['split_rule']}",
        "",
        "| part | images | patients | with the finding | without |",
        "|---|---|---|---|---|",
        *[
            f"| {name} | {part['images']} | {part['patients']} | {part['present']} | {part['absent']} |"
            for name, part in training["cohort"]["parts"].items()
        ],
        "",
        "## Operating point",
        "",
        f"A study is flagged from a probability of {point.threshold:.4f} on. On the tune part: sensitivity "
        f"{point.sensitivity:.3f}, specificity {point.specificity:.3f} ({point.source}). Probabilities are calibrated "
        "for a population in which half of the images show the finding.",
        "",
        "## Measured",
        "",
        f"Figures {figures['measured']}.",
        "",
        "| cases | images | present / absent | AUC | sensitivity | specificity |",
        "|---|---|---|---|---|---|",
    ]
    for name, item in {"tune": figures["tune"], **figures["test"]}.items():
        lines.append(_row(name, item))
        for split in ("view", "source", "subset"):
            lines += [_row(f"{name}, {key}", part) for key, part in item.get("subgroups", {}).get(split, {}).items()]
    lines += ["", *[f"- {name}: {item['says']}" for name, item in {"tune": figures["tune"], **figures["test"]}.items()]]
    main = figures["baselines"]["set"]
    measured = figures["test"][main]
    before, after = measured["calibration"]["before"], measured["calibration"]["after"]
    lines += [
        "",
        f"On {main}: accuracy {_estimate(measured['accuracy'])}, AUC by patient bootstrap "
        f"{_estimate(measured['auc_patient_bootstrap'])}, Brier score {after['brier']:.3f}, expected calibration error "
        f"{after['expected_calibration_error']:.3f} (before calibration {before['expected_calibration_error']:.3f}).",
        "",
        f"Without looking at anatomy, on {main}:",
        "",
        "| baseline | AUC | this model among cases alike to it | |",
        "|---|---|---|---|",
        *[
            f"| {name} | {_estimate(item['auc'])} | "
            f"{_estimate(item['model_within_fifths']) if 'model_within_fifths' in item else '–'} | {item['says']} |"
            for name, item in figures["baselines"].items()
            if name != "set"
        ],
        "",
        "Among cases alike: the model's AUC over pairs of cases that lie in the same fifth of the baseline's scores, "
        "where the baseline has next to nothing left to tell.",
        "",
        "Set beforehand, and what came of it:",
        "",
        *[
            f"- {item['says']}: {'met' if item['passed'] else 'NOT MET'} ({item['found']:.3f})"
            + (f". Released all the same: {item['released_despite']}" if "released_despite" in item else "")
            for item in figures["criteria"]
        ],
        "",
        "Predictive values at other prevalences, hashes of data and code, and the training log are in `manifest.json`.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, item: Mapping[str, Any]) -> str:
    cells = [_estimate(item[key]) if key in item else "–" for key in ("auc", "sensitivity", "specificity")]
    return f"| {name} | {item['images']} | {item['present']} / {item['absent']} | {' | '.join(cells)} |"


def _estimate(item: Mapping[str, Any]) -> str:
    return f"{item['value']:.3f} ({item['low']:.3f} to {item['high']:.3f})"
