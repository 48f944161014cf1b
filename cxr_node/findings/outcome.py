"""What came of an image and of a study, as values: complete when made, free of patient identity."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Exclusion:
    """Why an image is outside the intended use, in words a person understands.

    `reason` is the acceptance rule's name (kebab case, stable); `attribute` is e.g. ``(0018,0015) Body Part Examined``;
    `value` is what was found there, empty when absent. None of them identifies a patient.
    """

    reason: str
    message: str
    attribute: str = ""
    value: str = ""


@dataclass(frozen=True)
class ImageReference:
    """An instance as evidence refers to it."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class Score:
    """One finding of one model on one image, held against its operating point.

    `flagged` was decided on the unrounded probability and is kept, so that a printed number never contradicts it.
    """

    finding: str  # a key of FINDINGS
    model: str
    model_version: str
    model_digest: str  # SHA-256 of the package, hex
    probability: float  # in [0, 1], after calibration
    threshold: float  # in [0, 1], on the same scale
    operating_point: str  # name of the operating point
    flagged: bool


@dataclass(frozen=True)
class ImageAnalysis:
    """Scores of an image, or its exclusion; never both, never neither.

    `notes` says which stated rule filled a missing attribute (research profile), one sentence each.
    """

    image: ImageReference
    scores: tuple[Score, ...] = ()
    exclusion: Exclusion | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.scores) == (self.exclusion is not None):
            raise ValueError("an image has scores or an exclusion: exactly one of them")


class StudyStatus(StrEnum):
    """Where a study stands on the worklist."""

    PENDING = "pending"
    ANALYSED = "analysed"
    NOT_ANALYSED = "not_analysed"
    FAILED = "failed"


@dataclass(frozen=True)
class StudyOutcome:
    """All images of a study, and what they say together: per finding and model the maximum over images.

    `notes` are what a reader must know besides, a sentence each without its full stop, free of patient identity.
    """

    study_instance_uid: str
    images: tuple[ImageAnalysis, ...]
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> StudyStatus:
        """ANALYSED as soon as one image was analysed; otherwise NOT_ANALYSED, with every reason."""
        return StudyStatus.ANALYSED if any(image.scores for image in self.images) else StudyStatus.NOT_ANALYSED

    @property
    def flagged(self) -> bool:
        """Whether any image crossed its operating point."""
        return any(score.flagged for image in self.images for score in image.scores)

    @property
    def findings(self) -> tuple[Score, ...]:
        """The highest score of each finding and model over the images, flagged before unflagged."""
        return highest_scores(score for image in self.images for score in image.scores)

    @property
    def exclusions(self) -> tuple[ImageAnalysis, ...]:
        """The images that were not analysed."""
        return tuple(image for image in self.images if image.exclusion is not None)


def highest_scores(scores: Iterable[Score]) -> tuple[Score, ...]:
    """Return per finding and model the score with the highest probability, sorted by finding and model."""
    best: dict[tuple[str, str], Score] = {}
    for score in scores:
        key = (score.finding, score.model)
        if key not in best or (score.flagged, score.probability) > (best[key].flagged, best[key].probability):
            best[key] = score
    return tuple(best[key] for key in sorted(best))
