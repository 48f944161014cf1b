"""The model card of each released package as XML, in CHAI's Applied Model Card v0.2.

Figures come from the package's records, sentences that no record holds from `regulatory/chai/card.toml`. A card that
does not have the fields of the form is not made: `gather` raises.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from regulatory.chai import FIELDS, NAMESPACE, ROOT, Field, check
from regulatory.figures import Figure, Material, RawFile
from regulatory.sources.cohorts import explored
from regulatory.sources.records import Released, released
from trainer.report.forest import GROUPS
from trainer.report.words import count, decimal, mapping, number, plain

WORDS = "regulatory/chai/card.toml"
USE = "regulatory/intended_use.toml"
_MARKED = "[[not]]"

Card = dict[str, Any]


class CardError(Exception):
    """A card lacks a field of the form or has one that is none; says which."""


def gather(root: Path) -> Material:
    """Return a file for each package and the number of fields that each was checked for.

    Raises
    ------
    CardError
        A card is not of the form.
    """
    words = tomllib.loads((root / WORDS).read_text("utf-8"))
    use = tomllib.loads((root / USE).read_text("utf-8"))
    cohorts = {cohort.name: cohort.words for cohort in explored(root)}
    files = []
    for package in released(root):
        text = xml(card(package, words, use, cohorts))
        problems = check(text)
        if problems:
            raise CardError(f"{package.name}: {problems[0]}")
        files.append(
            RawFile(
                f"07_model/{package.name}_card.xml",
                text,
                f"{package.manifest_path}, {package.run_path}, {package.evaluation_path}, {WORDS}, {USE}",
                f"{package.train_command}; {package.export_command}; {package.evaluate_command}",
            )
        )
    fields = sum(1 for field in _leaves(FIELDS) if field.required)
    shown = Figure(
        "card.fields",
        fields,
        count(fields),
        "regulatory/chai/__init__.py:FIELDS",
        says="fields of the CHAI Applied Model Card that must be there, and are checked for",
    )
    return Material(figures=(shown,), files=tuple(files))


def card(package: Released, words: Mapping[str, str], use: Mapping[str, Any], cohorts: Mapping[str, Any]) -> Card:
    """Return the card as values inside values, by the names of the form."""
    filled = _filled(package, words, cohorts)
    manifest, device = package.manifest, use["device"]
    metrics = {
        name: {
            "MetricGoal": filled[f"{key}_goal"],
            "Results": {"MetricResult": list(results)},
            "Interpretation": filled[f"{key}_interpretation"],
            "TestType": filled["test_type"],
            "TestingDataDescription": _testing_data(package),
            "ValidationProcessAndJustification": filled[f"{key}_process"],
        }
        for name, key, results in (
            ("UsefulnessUsabilityEfficacy", "efficacy", _main_results(package)),
            ("FairnessEquity", "fairness", _group_results(package)),
            ("SafetyReliability", "safety", _other_results(package)),
        )
    }
    return {
        "BasicInfo": {
            "ModelName": f"{manifest['name']}: {manifest['title']}",
            "ModelDeveloper": filled["developer"],
            "DeveloperContact": filled["contact"],
        },
        "ReleaseInfo": {
            "ReleaseStage": filled["stage"],
            "ReleaseDate": filled["release_date"],
            "ReleaseVersion": str(manifest["version"]),
            "GlobalAvailability": filled["availability"],
            "RegulatoryApproval": filled["regulatory"],
        },
        "ModelSummary": {
            "Summary": f"{manifest['title']}. Purpose: {device['purpose']}. It never says that disease is absent.",
            "Keywords": {"Keyword": ["chest radiograph", "triage", "worklist priority", *manifest["findings"][:1]]},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": f"{manifest['title']}: {device['purpose']}. {_sentence(device['setting'])}",
            "PrimaryIntendedUsers": _sentence(device["users"]),
            "HowToUse": filled["how_to_use"],
            "TargetedPatientPopulation": _population(package),
            "CautionedOutOfScopeSettings": " ".join(_unmarked(use["contraindication"])),
        },
        "Warnings": {
            "KnownRisksAndLimitations": "\n".join(f"- {line}" for line in manifest["limitations"]),
            "KnownBiasesOrEthicalConsiderations": filled["biases"],
            "ClinicalRiskLevel": filled["risk_level"],
        },
        "TrustIngredients": {
            "AISystemFacts": {
                "OutcomesAndOutputs": filled["outputs"],
                "ModelType": filled["model_type"],
                "InputDataSource": filled["input_source"],
                "OutputAndInputDataTypes": filled["data_types"],
                "DevelopmentDataCharacterization": _development_data(package),
                "BiasMitigationApproaches": filled["bias_mitigation"],
                "OngoingMaintenance": filled["maintenance"],
                "Security": filled["security"],
                "Transparency": filled["transparency"],
            },
            "TransparencyInformation": {
                "FundingSource": filled["funding"],
                "ThirdPartyInformation": filled["third_parties"],
                "StakeholdersConsulted": filled["stakeholders"],
            },
        },
        "KeyMetrics": metrics,
        "Resources": {
            "EvaluationReferences": "08_validation/report.md of the same regulatory file",
            "ClinicalTrial": filled["trial"],
            "PeerReviewedPublications": filled["publications"],
            "PatientConsentOrDisclosure": filled["consent"],
        },
        "Bibliography": _bibliography(
            filled["citation"], str(mapping(package.run.get("cohort")).get("name", "cohort"))
        ),
    }


def xml(values: Card) -> str:
    """Return a card as XML, its elements in the order of the form.

    Raises
    ------
    CardError
        The card has an element that the form has not.
    """
    root = ElementTree.Element(ROOT, {"xmlns": NAMESPACE})
    _append(root, values, FIELDS, ROOT)
    ElementTree.indent(root, "  ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _append(element: ElementTree.Element, values: Card, fields: tuple[Field, ...], where: str) -> None:
    unknown = sorted(set(values) - {field.name for field in fields})
    if unknown:
        raise CardError(f"{where} has no element {unknown[0]}")
    for field in fields:
        if field.name not in values:
            continue
        found = values[field.name]
        for value in found if isinstance(found, list) else [found]:
            child = ElementTree.SubElement(element, field.name)
            if field.inside:
                _append(child, value, field.inside, f"{where}/{field.name}")
            else:
                child.text = str(value)


def _leaves(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        if field.inside:
            yield from _leaves(field.inside)
        else:
            yield field


def _filled(package: Released, words: Mapping[str, str], cohorts: Mapping[str, Any]) -> dict[str, str]:
    """Return every sentence with its names in braces filled in."""
    manifest, run = package.manifest, package.run
    cohort = cohorts.get(str(mapping(run.get("cohort")).get("name")), {})
    use = manifest["intended_use"]
    criteria = package.criteria
    gate = criteria[0] if criteria else {}
    despite = gate.get("released_despite")
    facts = {
        "threshold": decimal(package.point["threshold"], 4),
        "finding": package.finding.replace("_", " "),
        "architecture": str(manifest["architecture"]),
        "parameters": count(run.get("parameters")),
        "start": plain(mapping(run.get("start_weights")).get("source")),
        "cohort": str(mapping(run.get("cohort")).get("title", package.absent)),
        "citation": str(cohort.get("citation", package.absent)),
        "consent": str(cohort.get("consent", package.absent)),
        "views": ", ".join(use["views"]),
        "modalities": ", ".join(use["modalities"]),
        "body_parts": ", ".join(use["body_parts"]),
        "size": " x ".join(str(side) for side in manifest["preprocess"]["size"]),
        "subgroups": _measured_groups(package),
        "criteria": "; ".join(row["says"] for row in criteria) or package.absent,
        "met": f"{sum(row['passed'] for row in criteria)} of {len(criteria)}",
        "gate": f"The gate was not met, and the package was released because {despite}." if despite else "",
    }
    filled = {key: " ".join(sentence.format_map(facts).split()) for key, sentence in words.items()}
    return {**filled, "citation": facts["citation"]}


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _unmarked(entries: Any) -> Iterator[str]:
    """Yield the sentences without marks: what the lint lets pass in a sentence with "not" it would find in a card."""
    yield from (entry["text"] for entry in entries if _MARKED not in entry["text"])


def _population(package: Released) -> str:
    low, high = package.manifest["intended_use"]["age_years"]
    ages = f"{low:g} years and older" if high >= 120 else f"{low:g} to {high:g} years"
    return (
        f"Patients of {ages} with a frontal chest radiograph. Others are excluded by age, view, modality or body part."
    )


def _development_data(package: Released) -> str:
    cohort = mapping(package.run.get("cohort"))
    parts = "; ".join(
        f"{name}: {count(part['images'])} images of {count(part['patients'])} patients, {count(part['present'])} with "
        f"and {count(part['absent'])} without the finding"
        for name, part in mapping(cohort.get("parts")).items()
    )
    return f"{cohort.get('title', package.absent)}. {parts}. {cohort.get('split_rule', '')}"


def _testing_data(package: Released) -> str:
    item = mapping(package.sets.get(package.main_set))
    if not item:
        return f"{package.main_set}: {package.why_not or package.absent}"
    return (
        f"{package.main_set}: {count(item['images'])} images of {count(item['patients'])} patients, "
        f"{count(item['present'])} with the finding. {item['says']}"
    )


def _result(label: str, value: Any) -> Card | None:
    """Return a figure with its interval, or None where it was not measured."""
    found = mapping(value)
    figures = [number(found.get(key)) for key in ("value", "low", "high")]
    if any(figure is None for figure in figures):
        return None
    # As a share of one, like every figure of this file.
    return {
        "Label": label,
        "ValueJson": json.dumps(
            {"kind": "estimate_ci", "estimate": figures[0], "lower": figures[1], "upper": figures[2], "level": 95}
        ),
    }


def _results(package: Released, rows: Iterator[tuple[str, Any]]) -> Iterator[Card]:
    found = [result for label, value in rows if (result := _result(label, value))]
    why = package.why_not or "nothing of the kind was measured"
    yield from found or [{"Label": why, "ValueJson": json.dumps({"kind": "single", "value": package.absent})}]


def _main_results(package: Released) -> Iterator[Card]:
    item = mapping(package.sets.get(package.main_set))
    keys = ("auc", "sensitivity", "specificity", "accuracy", "average_precision")
    rows = ((f"{key.replace('_', ' ')} on {package.main_set}", item.get(key)) for key in keys)
    yield from _results(package, rows)


def _groups(package: Released) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group, members in mapping(mapping(package.sets.get(package.main_set)).get("subgroups")).items():
        for member, entry in mapping(members).items():
            yield f"{GROUPS.get(group, group)} {member.replace('_', ' ')}", mapping(entry)


def _measured_groups(package: Released) -> str:
    entries = [entry for _, entry in _groups(package)]
    return f"{sum('auc' in entry for entry in entries)} of {len(entries)}" if entries else package.absent


def _group_results(package: Released) -> Iterator[Card]:
    keys = ("auc", "sensitivity", "specificity")
    rows = (
        (f"{key} on {package.main_set}, {name}", entry.get(key)) for name, entry in _groups(package) for key in keys
    )
    yield from _results(package, rows)


def _other_results(package: Released) -> Iterator[Card]:
    others = {name: item for name, item in package.sets.items() if name not in (package.main_set, "tune")}
    others |= {f"another population ({name})": item for name, item in package.cross.items()}
    keys = ("auc", "sensitivity", "specificity")
    rows = ((f"{key} on {name}", item.get(key)) for name, item in others.items() for key in keys)
    yield from _results(package, rows)


def _bibliography(citation: str, name: str) -> str:
    """Return the cohort's citation as BibTeX, as the form asks for."""
    return f"@misc{{{name},\n  title = {{{citation}}}\n}}"


__all__ = ["CardError", "card", "gather", "xml"]
