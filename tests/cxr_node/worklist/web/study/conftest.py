"""A study with a real report, as analyze leaves it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from cxr_node.findings import Exclusion
from cxr_node.reporting import encode
from storage import results, studies
from storage.results import Result
from tests.builders import make_material, make_objects, make_radiograph_dataset
from tests.cxr_node.worklist.conftest import make_score

UID = "1.2.3"
IMAGE = f"{UID}.1"
HAND = Exclusion("body-part", "Body Part Examined is HAND, expected CHEST", "(0018,0015) Body Part Examined", "HAND")


def image_outcome(uid: str = IMAGE, *, flagged: bool = True, exclusion: Exclusion | None = None) -> dict[str, Any]:
    """Return an image as analyze writes it into the outcome."""
    return {
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
        "series_instance_uid": f"{UID}.0",
        "scores": [] if exclusion else [make_score(flagged, 0.9123 if flagged else 0.1877)],
        "exclusion": vars(exclusion) if exclusion else None,
        "notes": [],
    }


@pytest.fixture
def revise(database, services, clock) -> Callable[..., Result]:
    """Return a function that adds a revision with its report to study UID."""

    def add(*images: dict[str, Any], flagged: bool = True, notes: tuple[str, ...] = (), after_s: float = 0.0) -> Result:
        at = clock.now + timedelta(seconds=after_s)
        dataset = make_radiograph_dataset(
            StudyInstanceUID=UID, SOPInstanceUID=IMAGE, PatientName="Doe^Jane", PatientID="P1"
        )
        excluded = [
            {"sop_instance_uid": image["sop_instance_uid"], **image["exclusion"]}
            for image in images
            if image["exclusion"]
        ]
        outcome = {
            "images": list(images),
            "findings": [score for image in images for score in image["scores"]][:1],
            "exclusions": excluded,
            "shadow": [],
            "notes": list(notes),
        }
        with database.begin() as connection:
            result = results.add(
                connection,
                UID,
                status="analysed",
                flagged=flagged,
                ai_priority="HIGH" if flagged else "",
                outcome=outcome,
                now=at,
            )
            report = make_objects(
                make_material(
                    dataset,
                    probability=0.9123 if flagged else 0.1877,
                    revision=result.revision,
                    content_time=at,
                )
            )["sr"]
            results.add_object(
                connection,
                result.id,
                kind="sr",
                sop_class_uid=str(report.SOPClassUID),
                sop_instance_uid=str(report.SOPInstanceUID),
                location=services.files.write_object(str(report.SOPInstanceUID), encode(report)),
                now=at,
            )
            studies.set_outcome(
                connection,
                UID,
                status="analysed",
                flagged=flagged,
                ai_priority="HIGH" if flagged else "",
                effective_priority="HIGH",
                priority_rank=3,
                notified_at=at,
                revision=result.revision,
            )
        return result

    return add


@pytest.fixture
def study(ward, revise) -> str:
    """A flagged study with its report; return its UID."""
    ward.add(UID, status="pending")
    revise(image_outcome())
    return UID
