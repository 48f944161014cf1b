"""A study outcome as JSON and back: what the results table keeps, the API shows and the report is made from."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cxr_node.findings import Exclusion, ImageAnalysis, ImageReference, Score, StudyOutcome


def to_json(outcome: StudyOutcome, shadow: Sequence[Score] = (), notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the outcome as plain values, images in a stable order."""
    return {
        "images": [
            {
                **asdict(analysis.image),
                "scores": [asdict(score) for score in analysis.scores],
                "exclusion": asdict(analysis.exclusion) if analysis.exclusion else None,
                "notes": list(analysis.notes),
            }
            for analysis in outcome.images
        ],
        "findings": [asdict(score) for score in outcome.findings],
        "exclusions": [
            {"sop_instance_uid": analysis.image.sop_instance_uid, **asdict(analysis.exclusion)}
            for analysis in outcome.exclusions
            if analysis.exclusion is not None
        ],
        "shadow": [asdict(score) for score in shadow],
        "notes": list(notes),
    }


def from_json(study_instance_uid: str, value: dict[str, Any]) -> StudyOutcome:
    """Return the outcome that `to_json` wrote."""
    return StudyOutcome(
        study_instance_uid,
        tuple(
            ImageAnalysis(
                ImageReference(image["sop_instance_uid"], image["sop_class_uid"], image["series_instance_uid"]),
                tuple(Score(**score) for score in image["scores"]),
                Exclusion(**image["exclusion"]) if image["exclusion"] else None,
                tuple(image["notes"]),
            )
            for image in value["images"]
        ),
    )
