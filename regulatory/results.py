"""The form of `evaluation.json`: what every page about data, models and validation is made from.

`python -m regulatory.results` writes `regulatory/results.schema.json` (JSON Schema); a test holds the two together and
every committed evaluation to both. A key that may be missing could not be measured, and a page prints "not measured".
Beyond the form, figures of one set have to agree: counts with the confusion matrix, an estimate with its interval.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from regulatory.lock import ROOT

SCHEMA_FILE = "regulatory/results.schema.json"
Proportion = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
# The printed four decimals of an estimate and of its limits are rounded each by itself.
_ROUNDING = 1e-4


class ResultsError(Exception):
    """A results file is not of the form, or its figures contradict one another; names file, key and what is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Strict):
    """A figure with its 95 % interval and the images it rests on."""

    value: Proportion
    low: Proportion | None = None
    high: Proportion | None = None
    n: Count

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.low is not None and self.value < self.low - _ROUNDING:
            raise ValueError(f"value {self.value} is below its lower limit {self.low}")
        if self.high is not None and self.value > self.high + _ROUNDING:
            raise ValueError(f"value {self.value} is above its upper limit {self.high}")
        return self


class Confusion(_Strict):
    true_positive: Count
    false_positive: Count
    true_negative: Count
    false_negative: Count


class PredictiveValues(_Strict):
    ppv: Proportion | None = None
    npv: Proportion | None = None


class Bin(_Strict):
    """Images of one band of probability: how many, their mean probability, how often the finding is there."""

    n: Count
    mean: Proportion | None = None
    frequency: Proportion | None = None


class Calibration(_Strict):
    slope: float | None = None
    intercept: float | None = None
    brier: Proportion
    expected_calibration_error: Proportion
    bins: list[Bin]


class BeforeAfter(_Strict):
    before: Calibration
    after: Calibration


class _Counts(_Strict):
    images: Count
    patients: Count
    present: Count
    absent: Count
    base_rate: Proportion | None = None

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if self.present + self.absent != self.images:
            raise ValueError(f"{self.present} with and {self.absent} without the finding are not {self.images} images")
        if self.patients > self.images:
            raise ValueError(f"{self.patients} patients have {self.images} images")
        return self


class _AtThreshold(_Counts):
    confusion: Confusion | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    accuracy: Estimate | None = None
    precision: Estimate | None = None
    f1: Proportion | None = None
    auc: Estimate | None = None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        found = self.confusion
        if found is None:
            return self
        if found.true_positive + found.false_negative != self.present:
            raise ValueError(f"the confusion matrix does not hold the {self.present} images with the finding")
        if found.true_negative + found.false_positive != self.absent:
            raise ValueError(f"the confusion matrix does not hold the {self.absent} images without the finding")
        if self.sensitivity and abs(self.sensitivity.value - found.true_positive / self.present) > _ROUNDING:
            raise ValueError(f"sensitivity {self.sensitivity.value} is not that of the confusion matrix")
        if self.specificity and abs(self.specificity.value - found.true_negative / self.absent) > _ROUNDING:
            raise ValueError(f"specificity {self.specificity.value} is not that of the confusion matrix")
        return self


class Subgroup(_AtThreshold):
    """A part of a set; `too_few` says why it was named and not measured."""

    too_few: str | None = None


class Histogram(_Strict):
    edges: list[float]
    present: list[Count]
    absent: list[Count]


class DecisionPoint(_Strict):
    threshold: Proportion
    model: float
    all: float


class SetFigures(_AtThreshold):
    """What was measured on one set; `says` is whose images and whose labels."""

    says: str
    confusion: Confusion
    auc_patient_bootstrap: Estimate | None = None
    average_precision: Estimate | None = None
    predictive_values: dict[str, PredictiveValues] | None = None
    calibration: BeforeAfter | None = None
    roc: list[tuple[Proportion, Proportion]] | None = None
    precision_recall: list[tuple[Proportion, Proportion]] | None = None
    decision_curve: list[DecisionPoint] | None = None
    decision_curve_prevalence: Proportion | None = None
    histogram: Histogram | None = None
    subgroups: dict[str, dict[str, Subgroup]] | None = None


class Baseline(_Strict):
    """A trivial predictor, and the model among the images that it takes for alike."""

    says: str
    auc: Estimate
    model_within_fifths: Estimate | None = None
    baseline_within_fifths: Estimate | None = None


class Criterion(_Strict):
    says: str
    found: float
    passed: bool
    released_despite: str | None = None


class OperatingPoint(_Strict):
    rule: str
    threshold: Proportion
    sensitivity: Proportion | None = None
    specificity: Proportion | None = None
    source: str


class LinearCalibration(_Strict):
    slope: float
    intercept: float


class Part(_Strict):
    """A part of the cohort; a part that was not looked at has no hash."""

    images: Count
    patients: Count
    present: Count
    absent: Count
    sha256: str | None = None


class CohortRecord(_Strict):
    name: str
    title: str
    split_rule: str
    parts: dict[str, Part]
    problems: list[str]


class Model(_Strict):
    name: str
    kind: Literal["package", "run"]
    architecture: str
    parameters: Count
    sha256: str
    size: tuple[int, int]
    intermediate: tuple[int, int] | None = None


class Evaluation(_Strict):
    """One model measured on one part of its cohort."""

    format: Literal["cxr-train evaluation 1"] = Field(alias="schema")
    model: Model
    cohort: CohortRecord
    part: Literal["tune", "test"]
    finding: str
    operating_point: OperatingPoint
    calibration: LinearCalibration
    training: dict[str, Any]
    sets: dict[str, SetFigures]
    main_set: str
    baselines: dict[str, Baseline]
    cross_population: dict[str, SetFigures]
    not_run: list[str]
    criteria: list[Criterion]
    measured_with: dict[str, Any]

    @model_validator(mode="after")
    def _names(self) -> Self:
        if self.main_set not in self.sets:
            raise ValueError(f"main_set {self.main_set!r} is not one of the sets {', '.join(self.sets)}")
        return self


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return an evaluation as its JSON holds it, once it has been found to be of the form.

    Raises
    ------
    ResultsError
        The file is no JSON, lacks a key, has one that is not known, or its figures contradict one another.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        Evaluation.model_validate(found)
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path.name}: expected JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ResultsError(f"{path.parent.name}/{path.name}: {where}: {first['msg']}") from error
    return dict(found)


def may_be_missing() -> tuple[str, ...]:
    """Return the keys of a set that an evaluation may lack: a page prints "not measured" for each."""
    return tuple(name for name, field in SetFigures.model_fields.items() if not field.is_required())


def schema() -> str:
    """Return the form as JSON Schema, as `regulatory/results.schema.json` holds it."""
    return json.dumps(Evaluation.model_json_schema(by_alias=True), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    (ROOT / SCHEMA_FILE).write_text(schema(), "utf-8")
    sys.stdout.write(f"{SCHEMA_FILE}\n")
