"""The objects received of a study, each with what the analysis made of it."""

from dataclasses import dataclass
from typing import Any, Literal

from pydicom.uid import UID
from sqlalchemy.engine import Connection

from cxr_node.findings import ACCEPTANCE_RULES
from cxr_node.worklist.listing import Entry
from cxr_node.worklist.web.present import shown
from storage import instances, results
from storage.instances import Instance

_ACCEPTS = {rule.reason: rule.accepts for rule in ACCEPTANCE_RULES}


@dataclass(frozen=True)
class Excluded:
    """Why an image was not analysed. `attribute` names tag and attribute; `accepts` is empty where no rule of the
    acceptance table objected."""

    reason: str
    message: str
    attribute: str
    value: str
    accepts: str


@dataclass(frozen=True)
class ReceivedObject:
    """One received object.

    `kind` is an image, a result object of the node that came back, another object under a known SOP Instance UID
    (neither is analysed), or no image at all. `scores` are as analyze wrote them; an image without scores and without
    `excluded` is in no result yet.
    """

    instance: Instance
    kind: Literal["image", "own", "conflict", "other"]
    sop_class: str
    transfer_syntax: str
    scores: tuple[dict[str, Any], ...] = ()
    excluded: Excluded | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_preview(self) -> bool:
        """Whether it is worth asking for a preview: whether it has one is known once it is decoded."""
        return self.kind != "other"


def received(connection: Connection, entry: Entry) -> list[ReceivedObject]:
    """Return everything received of a study and still kept, images first, each in the order of arrival."""
    uid = entry.study.study_instance_uid
    own = results.object_uids(connection, uid)
    analysed = {image["sop_instance_uid"]: image for image in entry.of_outcome("images")}
    found = [_object(item, own, analysed) for item in instances.of_study(connection, uid)]
    return sorted(found, key=lambda item: ("image", "conflict", "own", "other").index(item.kind))


def exclusion_of(value: dict[str, Any]) -> Excluded:
    """Return an exclusion as analyze wrote it, with what would have been accepted."""
    return Excluded(
        reason=shown(value["reason"]),
        message=shown(value["message"]),
        attribute=shown(value["attribute"]),
        value=shown(value["value"]),
        accepts=_ACCEPTS.get(value["reason"], ""),
    )


def _object(instance: Instance, own: frozenset[str], analysed: dict[str, dict[str, Any]]) -> ReceivedObject:
    from cxr_node.imaging import is_image  # brings the codecs, which the list need not wait for

    kind: Literal["image", "own", "conflict", "other"] = "image"
    if not is_image(instance.sop_class_uid):
        kind = "other"
    elif instance.sop_instance_uid in own:
        kind = "own"
    elif instance.variant:
        kind = "conflict"
    outcome = analysed.get(instance.sop_instance_uid, {}) if kind == "image" else {}
    excluded = outcome.get("exclusion")
    return ReceivedObject(
        instance=instance,
        kind=kind,
        sop_class=shown(UID(instance.sop_class_uid).name),
        transfer_syntax=shown(UID(instance.transfer_syntax_uid).name),
        scores=tuple(outcome.get("scores") or ()),
        excluded=exclusion_of(excluded) if excluded else None,
        notes=tuple(shown(str(note)) for note in outcome.get("notes") or ()),
    )
