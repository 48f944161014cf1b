"""What a model package says its scores and its images looked like on the day of release: `reference.json`.

Made by `cxr-train reference` from the tune part, with the node's own gate, preprocessing and engine. It describes the
images that the operating point was set on. It is no picture of a hospital: in most cohorts the finding is enriched, so
a site's scores lie elsewhere from its first day, and alarms are set on the site's own beginning instead.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cxr_node.findings.monitoring.histogram import Bins, Histogram

SCHEMA = 1


def _steps(low: float, step: float, number: int) -> tuple[float, ...]:
    return tuple(round(low + step * index, 6) for index in range(number))


# What is watched of an image, in this order everywhere. The first four are of its header, the others of its pixels:
# mean and standard deviation of the gray values, and how sure the look at the pixels is that it is an upright chest.
MEASURES: dict[str, Bins] = {
    "age": Bins(edges=(1, 2, 3, 4, 5, 6, 10, 18, 30, 40, 50, 60, 70, 80, 90)),
    "sex": Bins(names=("F", "M")),
    "view": Bins(names=("PA", "AP")),
    "modality": Bins(names=("CR", "DX")),
    "mean-gray": Bins(edges=_steps(0.1, 0.025, 33)),
    "contrast": Bins(edges=_steps(0.05, 0.0125, 25)),
    "upright": Bins(edges=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)),
}
PROBABILITY = Bins(edges=_steps(0.025, 0.025, 39))


@dataclass(frozen=True)
class Measures:
    """What is watched of one image; None or an empty word where it is not known.

    `age_years` in completed years; `mean_gray` and `contrast` (standard deviation) of gray values in [0, 1]; `upright`
    the share that the look at the pixels gives to an upright chest, None where it did not come that far.
    """

    age_years: float | None = None
    sex: str = ""
    view: str = ""
    modality: str = ""
    mean_gray: float | None = None
    contrast: float | None = None
    upright: float | None = None

    def of(self, measure: str) -> float | str | None:
        """Return the value of one of `MEASURES`."""
        values: dict[str, float | str | None] = {
            "age": self.age_years,
            "sex": self.sex,
            "view": self.view,
            "modality": self.modality,
            "mean-gray": self.mean_gray,
            "contrast": self.contrast,
            "upright": self.upright,
        }
        return values[measure]


@dataclass(frozen=True)
class ScoreReference:
    """The calibrated probabilities of one finding, and how many of the images were flagged."""

    histogram: Histogram
    mean: float
    deviation: float
    flagged: int
    of: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ScoreReference":
        made = cls(
            Histogram.from_json(value["histogram"]),
            float(value["mean"]),
            float(value["deviation"]),
            int(value["flagged"]),
            int(value["of"]),
        )
        if not 0 <= made.flagged <= made.of or not (math.isfinite(made.mean) and made.deviation >= 0):
            raise ValueError(f"expected flagged <= of, a mean and a deviation, found {dict(value)}")
        return made

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "histogram": self.histogram.to_json()}


@dataclass(frozen=True)
class Inverted:
    """The same images with black and white exchanged: how many the look at the pixels excluded, and what the model
    would have said of all of them had it not."""

    images: int
    excluded: int
    scores: Mapping[str, ScoreReference] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The contents of `reference.json`.

    `source` is the sentence that says which images; `cases_sha256` is the hash of that part in the record of the run.
    `excluded` counts, by reason, images that the look at the pixels excluded; they are in no histogram of `measures`
    and none of `scores`. A measure that the cohort's tables do not tell has all its images under `unknown`.
    """

    source: str
    cases_sha256: str
    images: int
    excluded: Mapping[str, int]
    measures: Mapping[str, Histogram]
    scores: Mapping[str, ScoreReference]
    inverted: Inverted

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads back to an equal value."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "cases_sha256": self.cases_sha256,
            "images": self.images,
            "excluded": dict(self.excluded),
            "measures": {name: item.to_json() for name, item in self.measures.items()},
            "scores": {finding: item.to_json() for finding, item in self.scores.items()},
            "inverted": {
                "images": self.inverted.images,
                "excluded": self.inverted.excluded,
                "scores": {finding: item.to_json() for finding, item in self.inverted.scores.items()},
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Reference":
        """Build from parsed JSON; KeyError, TypeError or ValueError tell what is wrong with it."""
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema: expected {SCHEMA}, found {value['schema']}")
        unknown = sorted(set(value["measures"]) - set(MEASURES))
        if unknown:
            raise ValueError(f"measures: expected some of {', '.join(MEASURES)}, found {unknown[0]}")
        inverted = value["inverted"]
        return cls(
            source=str(value["source"]),
            cases_sha256=str(value["cases_sha256"]),
            images=int(value["images"]),
            excluded={str(reason): int(count) for reason, count in value["excluded"].items()},
            measures={name: Histogram.from_json(item) for name, item in value["measures"].items()},
            scores={finding: ScoreReference.from_json(item) for finding, item in value["scores"].items()},
            inverted=Inverted(
                int(inverted["images"]),
                int(inverted["excluded"]),
                {finding: ScoreReference.from_json(item) for finding, item in inverted["scores"].items()},
            ),
        )


def encode_reference(reference: Reference) -> str:
    """Return the text of `reference.json`: the same value gives the same bytes."""
    return json.dumps(reference.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
