"""Read-back: asks a destination by C-FIND or QIDO-RS whether it holds an object, and of which SOP class and study."""

import json
import time
from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from cxr_node.deliver.association import Line
from cxr_node.deliver.http import Answer, Web
from cxr_node.deliver.statuses import OUT_OF_RESOURCES, SUCCESS, meaning
from cxr_node.deliver.verdict import QUERY, Found, Held, Sought, Verdict, of_query
from cxr_node.errors import Refused
from cxr_node.imaging.references import uid_in

FIND = StudyRootQueryRetrieveInformationModelFind
_PENDING = (0xFF00, 0xFF01)
_CANCELED = 0xFE00
_ENOUGH = 50  # answers to a query for one instance: this peer does not match by it
_NOT_OFFERED = (400, 404, 405, 406, 501)


def by_c_find(association: Association, line: Line, sought: Sought) -> Verdict:
    """Look for the object with its whole address, then by its UID alone: a peer may keep another object under that UID
    in another study.

    Raises
    ------
    NoAnswer, Refused
        The peer may be able to tell later.

    Source: DICOM PS3.4 C.4.1, C.6.2.
    """
    addressed = _identifier(sought)
    held, failure = _find(association, line, addressed, sought.sop_instance_uid)
    if failure is not None:
        return Verdict(Found.NO_WAY, QUERY, f"{line.where} answered C-FIND with 0x{failure:04X}, {meaning(failure)}")
    if held is None and association.is_established:
        addressed.StudyInstanceUID = addressed.SeriesInstanceUID = ""
        held, _ = _find(association, line, addressed, sought.sop_instance_uid)  # many peers refuse such a query
        if held is not None and not held.study_instance_uid and held.sop_class_uid == sought.sop_class_uid:
            held = None  # nothing says that it is another
    return of_query(line.where, sought, held)


def by_qido_rs(web: Web, sought: Sought) -> Verdict:
    """Look for the object with its whole address, then by its UID alone.

    Raises
    ------
    Unreachable, AssociationRefused, Refused
        See `Web.ask` and `Web.failure`.

    Source: DICOM PS3.18 10.6.
    """
    path = f"/studies/{sought.study_instance_uid}/series/{sought.series_instance_uid}/instances"
    held = None
    for place in (path, "/instances"):
        answer = web.ask(
            "GET",
            place,
            params={"SOPInstanceUID": sought.sop_instance_uid, "includefield": "00080016"},
            headers={"Accept": "application/dicom+json"},
        )
        if answer.status in _NOT_OFFERED:
            if place == path and not _offers_search(web):
                return Verdict(Found.NO_WAY, QUERY, f"{web.where} offers no search: it answers {answer.status}")
            continue  # 404 for a study that it does not know, or no search without a study
        if answer.status not in (200, 204):
            raise web.failure(answer, "QIDO-RS")
        found = _instances(answer)
        if found is None:
            return Verdict(Found.NO_WAY, QUERY, f"{web.where} answers QIDO-RS in a form that the node does not read")
        held = next((item for item in found if item.sop_instance_uid == sought.sop_instance_uid), None)
        if held is not None:
            break
    return of_query(web.where, sought, held)


def _identifier(sought: Sought) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = sought.study_instance_uid
    identifier.SeriesInstanceUID = sought.series_instance_uid
    identifier.SOPInstanceUID = sought.sop_instance_uid
    identifier.SOPClassUID = ""
    return identifier


def _find(
    association: Association, line: Line, identifier: Dataset, sop_instance_uid: str
) -> tuple[Held | None, int | None]:
    """Return what has this UID, and the failure status of a peer that cannot answer such a query."""
    line.check(association, "C-FIND")
    started = time.monotonic()
    held, count = None, 0
    for status, match in association.send_c_find(identifier, FIND):
        if "Status" not in status:
            raise line.no_answer("C-FIND", time.monotonic() - started)
        if status.Status in _PENDING:
            count += 1
            if count == _ENOUGH:
                association.send_c_cancel(1, query_model=FIND)
            if match is not None and uid_in(match, "SOPInstanceUID") == sop_instance_uid:
                held = Held(sop_instance_uid, uid_in(match, "SOPClassUID"), uid_in(match, "StudyInstanceUID"))
        elif status.Status & 0xFF00 == OUT_OF_RESOURCES:
            raise Refused(f"{line.where} answered C-FIND with 0x{status.Status:04X}, out of resources", status.Status)
        elif status.Status not in (SUCCESS, _CANCELED):
            return held, int(status.Status)
    return held, None


def _offers_search(web: Web) -> bool:
    answer = web.ask("GET", "/studies", params={"limit": "1"}, headers={"Accept": "application/dicom+json"})
    return answer.status in (200, 204)


def _instances(answer: Answer) -> list[Held] | None:
    if answer.status == 204 or not answer.body.strip():
        return []
    try:
        items = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return list(_held(items)) if isinstance(items, list) else None


def _held(items: list[Any]) -> Iterator[Held]:
    for item in items:
        if isinstance(item, dict):
            uids = [_first(item, tag) for tag in ("00080018", "00080016", "0020000D")]
            yield Held(*uids)


def _first(item: dict[str, Any], tag: str) -> str:
    element = item.get(tag) or item.get(tag.lower())
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip(" \0") if isinstance(values, list) and values else ""
