"""UIDs that follow from content: the same analysis has the same UID wherever and whenever it is made."""

import hashlib
import uuid

from cxr_node.findings import StudyOutcome


def derived_uid(*parts: str) -> str:
    """Return ``2.25.`` and a UUID made of the parts' SHA-256. Source: DICOM PS3.5 B.2."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def analysis_key(outcome: StudyOutcome, revision: int) -> str:
    """Return the text that tells one analysis from another: study, sources, models, parameters, what came of it."""
    lines = [outcome.study_instance_uid, str(revision)]
    for item in sorted(outcome.images, key=lambda item: item.image.sop_instance_uid):
        lines.append(f"{item.image.sop_instance_uid} {item.image.sop_class_uid} {item.image.series_instance_uid}")
        lines += [
            f"{score.finding} {score.model} {score.model_version} {score.model_digest} {score.operating_point} "
            f"{score.threshold!r} {score.probability!r}"
            for score in item.scores
        ]
        if item.exclusion is not None:
            lines.append(item.exclusion.reason)
    return "\n".join(lines)
