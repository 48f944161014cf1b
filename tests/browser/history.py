"""Eight weeks of a department in bulk: what its charts are drawn from."""

from datetime import timedelta

import numpy as np

from cxr_node.cli.phantom import ROWS
from storage.tables import instances, predictions, results, studies
from tests.department import DIGEST, Department

DAYS = 56
REASONS = ("view", "body-part", "age", "looks-unlike-a-chest")


def live_through(department: Department) -> None:
    """Add the studies of the past; they left the worklist."""
    rng = np.random.default_rng(3)
    rows: dict[str, list[dict[str, object]]] = {"studies": [], "instances": [], "results": [], "predictions": []}
    noon = department.clock.now
    for day in range(1, DAYS + 1):
        at_day = noon - timedelta(days=day)
        for number in range(int(rng.poisson(8 if at_day.weekday() >= 5 else 34))):
            at = at_day + timedelta(hours=float(rng.normal(0, 3)))
            _study(rows, f"2.25.{day}{number:04}", at, rng)
    with department.database.begin() as connection:
        for table in (studies, instances, results, predictions):
            connection.execute(table.insert(), rows[table.name])


def _study(rows: dict[str, list[dict[str, object]]], uid: str, at: object, rng: np.random.Generator) -> None:
    excluded = rng.random() < 0.12
    probability = float(rng.beta(1.1, 5))
    flagged = not excluded and probability >= 0.5
    done = at + timedelta(seconds=float(rng.lognormal(-0.7, 0.3)))  # type: ignore[operator]
    status = "not_analysed" if excluded else "analysed"
    verdict = "" if rng.random() < 0.4 else ("agree" if rng.random() < (0.8 if flagged else 0.93) else "disagree")
    reason = REASONS[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))]
    number = len(rows["instances"]) + 1000
    rows["studies"].append(
        {
            "study_instance_uid": uid,
            "patient_name": "Past^Pat",
            "modality": "DX",
            "status": status,
            "flagged": flagged,
            "effective_priority": "HIGH" if flagged else "ROUTINE",
            "ordered_priority": "ROUTINE",
            "revision": 1,
            "calling_ae_title": ("CR_ROOM_1", "DX_WARD")[number % 2],
            "notified_at": done,
            "first_received_at": at,
            "last_received_at": at,
            "retired_at": at,
            "verdict": verdict,
        }
    )
    rows["instances"].append(
        {
            "id": number,
            "sop_instance_uid": f"{uid}.1",
            "series_instance_uid": f"{uid}.0",
            "study_instance_uid": uid,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "variant": 0,
            "size": 2 * ROWS * ROWS,
            "location": f"gone/{uid}.dcm",
            "calling_ae_title": "CR_ROOM_1",
            "called_ae_title": "CXR_NODE",
            "peer_address": "10.0.0.11",
            "association_id": "past",
            "received_at": at,
        }
    )
    exclusion = {"sop_instance_uid": f"{uid}.1", "reason": reason, "message": reason, "attribute": "", "value": ""}
    outcome = {"images": [], "findings": [], "exclusions": [exclusion] if excluded else [], "shadow": [], "notes": []}
    rows["results"].append(
        {
            "study_instance_uid": uid,
            "revision": 1,
            "created_at": done,
            "status": status,
            "flagged": flagged,
            "ai_priority": "HIGH" if flagged else "",
            "outcome": outcome,
        }
    )
    if not excluded:
        rows["predictions"].append(
            {
                "instance_id": number,
                "model_digest": DIGEST,
                "finding": "pneumonia",
                "model": "pneumonia-adult",
                "model_version": "1.0.0",
                "score": probability,
                "probability": probability,
                "created_at": done,
            }
        )
