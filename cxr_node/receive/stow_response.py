"""What STOW-RS answers: a status for the request, and for each instance that it is kept or why not."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from cxr_node.receive.part10 import has_uid_form
from cxr_node.receive.statuses import OUT_OF_RESOURCES, SUCCESS

STORED, SOME_STORED, NONE_STORED, BUSY = 200, 202, 409, 503
RETRY_AFTER_S = 60
MEDIA_TYPE = "application/dicom+json"


@dataclass(frozen=True)
class Outcome:
    """What became of one instance; the UIDs as it gave them, `status` as C-STORE would have answered."""

    sop_class_uid: str
    sop_instance_uid: str
    status: int

    @property
    def is_stored(self) -> bool:
        return self.status == SUCCESS


def status_of(outcomes: Sequence[Outcome]) -> int:
    """Return the HTTP status of a request with at least one instance. Source: DICOM PS3.18 10.5.3.1."""
    stored = [outcome.is_stored for outcome in outcomes]
    if all(stored):
        return STORED
    if any(stored):
        return SOME_STORED
    return BUSY if all(outcome.status == OUT_OF_RESOURCES for outcome in outcomes) else NONE_STORED


def body_of(outcomes: Iterable[Outcome]) -> str:
    """Return the Store Instances Response Module as DICOM JSON.

    No Retrieve URL: the node serves no WADO-RS. An instance whose UIDs did not read is told of by its reason alone.

    Source: DICOM PS3.18 10.5.3.2 and I.
    """
    response = Dataset()
    stored: list[Dataset] = []
    failed: list[Dataset] = []
    others: list[Dataset] = []
    for outcome in outcomes:
        item = Dataset()
        is_named = has_uid_form(outcome.sop_class_uid) and has_uid_form(outcome.sop_instance_uid)
        if is_named:
            item.ReferencedSOPClassUID = outcome.sop_class_uid
            item.ReferencedSOPInstanceUID = outcome.sop_instance_uid
        if outcome.is_stored:
            stored.append(item)
            continue
        item.FailureReason = outcome.status
        (failed if is_named else others).append(item)
    if failed:
        response.FailedSOPSequence = failed
    if stored:
        response.ReferencedSOPSequence = stored
    if others:
        response.OtherFailuresSequence = others
    return json.dumps(response.to_json_dict())
