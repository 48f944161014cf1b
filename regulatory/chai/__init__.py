"""The CHAI Applied Model Card v0.2 as a list of fields: to write a card in their order, and to check one.

The Coalition for Health AI publishes the card as an XML schema (https://mc.chai.org/v0.2/schema.xsd). That file is not
kept here (regulatory/decisions/0026); `FIELDS` restates which elements it has, in which order, and which may be absent.
`python -m regulatory.chai CARD.xml --schema schema.xsd` validates a card by the schema itself, for who has it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
ROOT = "AppliedModelCard"


@dataclass(frozen=True)
class Field:
    """An element of the card: text where it has no `inside`, else those elements in this order."""

    name: str
    inside: tuple["Field", ...] = ()
    required: bool = True
    many: bool = False


def _fields(*names: str) -> tuple[Field, ...]:
    """Return text fields; a name that ends in a question mark may be absent."""
    return tuple(Field(name.rstrip("?"), required=not name.endswith("?")) for name in names)


_RESULT = Field("MetricResult", _fields("Label", "ValueJson"), many=True)
_METRIC = (
    Field("MetricGoal"),
    Field("Results", (_RESULT,)),
    *_fields("Interpretation", "TestType", "TestingDataDescription", "ValidationProcessAndJustification"),
)

FIELDS: tuple[Field, ...] = (
    Field("BasicInfo", _fields("ModelName", "ModelDeveloper", "DeveloperContact")),
    Field(
        "ReleaseInfo",
        (
            *_fields("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability"),
            Field("EHRCompatibility", (Field("EHR", required=False, many=True),), required=False),
            Field("RegulatoryApproval", required=False),
        ),
    ),
    Field("ModelSummary", (Field("Summary"), Field("Keywords", (Field("Keyword", required=False, many=True),)))),
    Field(
        "UsesAndDirections",
        _fields(
            "IntendedUseAndWorkflow",
            "PrimaryIntendedUsers",
            "HowToUse",
            "TargetedPatientPopulation",
            "CautionedOutOfScopeSettings",
        ),
    ),
    Field("Warnings", _fields("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel")),
    Field(
        "TrustIngredients",
        (
            Field(
                "AISystemFacts",
                _fields(
                    "OutcomesAndOutputs",
                    "ModelType",
                    "FoundationModels?",
                    "InputDataSource",
                    "OutputAndInputDataTypes",
                    "DevelopmentDataCharacterization",
                    "BiasMitigationApproaches",
                    "OngoingMaintenance",
                    "Security?",
                    "Transparency?",
                ),
            ),
            Field(
                "TransparencyInformation", _fields("FundingSource", "ThirdPartyInformation?", "StakeholdersConsulted")
            ),
        ),
    ),
    Field(
        "KeyMetrics",
        tuple(Field(name, _METRIC) for name in ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")),
    ),
    Field(
        "Resources",
        _fields(
            "EvaluationReferences?",
            "ClinicalTrial?",
            "PeerReviewedPublications",
            "ReimbursementStatus?",
            "PatientConsentOrDisclosure",
        ),
    ),
    Field("Bibliography"),
)


def check(card: str) -> list[str]:
    """Return what is wrong with a card in XML: elements that lack, are unknown, out of order, empty or no JSON."""
    try:
        root = ElementTree.fromstring(card)
    except ElementTree.ParseError as error:
        return [f"not XML: {error}"]
    if root.tag != f"{{{NAMESPACE}}}{ROOT}":
        return [f"expected the element {ROOT} of {NAMESPACE}, found {root.tag}"]
    return list(_problems(root, FIELDS, ROOT))


def _problems(element: ElementTree.Element, fields: tuple[Field, ...], where: str) -> Iterator[str]:
    names = [child.tag.removeprefix(f"{{{NAMESPACE}}}") for child in element]
    known = [field.name for field in fields]
    unknown = sorted(set(names) - set(known))
    if unknown:
        yield f"{where}: unknown element {unknown[0]}"
    places = [known.index(name) for name in names if name in known]
    if places != sorted(places):
        yield f"{where}: elements out of order: {', '.join(names)}"
    for field in fields:
        found = [child for child, name in zip(element, names, strict=True) if name == field.name]
        if field.required and not found:
            yield f"{where}: expected the element {field.name}, found none"
        if len(found) > 1 and not field.many:
            yield f"{where}: {field.name} stands there {len(found)} times"
        for child in found:
            inner = f"{where}/{field.name}"
            if field.inside:
                yield from _problems(child, field.inside, inner)
            elif len(child):
                yield f"{inner}: expected text, found elements"
            elif not (child.text or "").strip():
                yield f"{inner}: empty"
            elif field.name == "ValueJson":
                yield from _value_problems(child.text or "", inner)


def _value_problems(text: str, where: str) -> Iterator[str]:
    """A value is an estimate inside its interval, or a single value."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        yield f"{where}: expected JSON: {error}"
        return
    kinds = {"single": {"value"}, "estimate_ci": {"estimate", "lower", "upper", "level"}}
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in kinds:
        yield f"{where}: expected the kind {' or '.join(kinds)}, found {kind!r}"
    elif not kinds[kind] <= set(value):
        yield f"{where}: {kind} needs {', '.join(sorted(kinds[kind] - set(value)))}"
    elif kind == "estimate_ci" and not value["lower"] <= value["estimate"] <= value["upper"]:
        yield f"{where}: {value['estimate']} is outside of {value['lower']} to {value['upper']}"
