"""Destination `stow-rs`: stores the bytes as they are by DICOMweb, and understands the answer.

Source: DICOM PS3.18 10.5 (Store transaction), annex F (JSON model), PS3.19 A.1 (XML model).
"""

import json
import re
import secrets
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cxr_node.deliver.association import takes_none
from cxr_node.deliver.c_store import classes_of
from cxr_node.deliver.http import Answer, Web
from cxr_node.deliver.objects import Sent, Shelf, StoredObject, bytes_of
from cxr_node.deliver.statuses import DUPLICATE_SOP_INSTANCE, SOP_CLASS_NOT_SUPPORTED, storage_failure
from cxr_node.errors import DeliveryError
from cxr_node.settings import Destination, Settings

JSON = "application/dicom+json"
_REFERENCED_SOP, _FAILED_SOP = "00081199", "00081198"
_INSTANCE_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"
_STORED = (200, 201, 202)
_NO_SERVICE = (400, 404, 405, 406, 501)


@dataclass(frozen=True)
class StoreAnswer:
    """What the answer says of one instance; both None where it says nothing of it."""

    is_stored: bool | None = None
    reason: int | None = None  # of a failure or a warning


class StowRs:
    """Stores at one DICOMweb service, one request an object.

    The report goes in the richest SR class that the service takes; it is asked class by class, for HTTP knows no
    negotiation.
    """

    def __init__(self, destination: Destination, *, settings: Settings, shelf: Shelf) -> None:
        self._web = Web.to(destination, settings)
        self._shelf = shelf

    def send(self, stored: StoredObject) -> Sent:
        """Send and wait for the answer.

        Returns
        -------
        Sent
            Also where the service answered with a warning, or that it has the object already (0x0111).

        Raises
        ------
        Unreachable, AssociationRefused, NotNegotiated, Refused
            A failure reason means what the status of C-STORE means; for the rest see `Web.failure`.
        StorageUnavailable
            The node's own file cannot be read.
        """
        classes = classes_of(stored)
        for sop_class_uid in classes:
            item = self._shelf.twin(stored, sop_class_uid)
            answer = self._store(item)
            said = read_store_answer(answer, item.sop_instance_uid)
            if said.is_stored is False:
                if said.reason == SOP_CLASS_NOT_SUPPORTED:
                    continue
                if said.reason == DUPLICATE_SOP_INSTANCE:
                    return _sent(item, f"failure reason 0x{DUPLICATE_SOP_INSTANCE:04X}: it has the object already")
                if said.reason is not None:
                    raise storage_failure(f"{self._web.where} answered STOW-RS", said.reason)
            if answer.status not in _STORED or said.is_stored is False:
                raise self._web.failure(answer, "STOW-RS")
            if said.reason:
                return _sent(item, f"stored with warning, reason 0x{said.reason:04X}")
            if answer.status == 202 and said.is_stored is None:
                return _sent(item, "answered 202 and does not say what became of the object")
            return _sent(item, "")
        raise takes_none(self._web.where, classes)

    def test(self) -> str:
        """Return a sentence on what would keep objects from getting there, empty where nothing does.

        A search for one study, which any DICOMweb service answers; where it offers no search, what it says of itself
        at the address that objects are posted to. Nothing is stored.
        """
        try:
            answer = self._web.ask("GET", "/studies", params={"limit": "1"}, headers={"Accept": JSON})
            if answer.status in _NO_SERVICE:
                offered = self._web.ask("OPTIONS", "/studies")
                if offered.status < 300 and "POST" in str(offered.headers.get("allow", "")).upper():
                    return ""
                return f"{self._web.where} answered with {answer.status}: no DICOMweb is served at this address"
            if answer.status not in (200, 204):
                return str(self._web.failure(answer, "QIDO-RS"))
            if answer.status == 200 and not answer.media_type.endswith(("json", "xml", "multipart/related")):
                kind = answer.media_type if re.fullmatch(r"[a-z0-9.+/-]{1,60}", answer.media_type) else "something"
                return f"{self._web.where} answers a search with {kind}: it is no DICOMweb service; check url"
        except DeliveryError as error:
            return str(error)
        return ""

    def _store(self, item: StoredObject) -> Answer:
        data = bytes_of(item)
        boundary = secrets.token_hex(16)
        while boundary.encode() in data:
            boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        return self._web.ask(
            "POST",
            "/studies",
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": JSON,
            },
            content=head + data + f"\r\n--{boundary}--\r\n".encode(),
        )


def read_store_answer(answer: Answer, sop_instance_uid: str) -> StoreAnswer:
    """Return what the body says of the instance; a body in no form of the standard says nothing."""
    for tag, is_stored, reason_tag in (
        (_FAILED_SOP, False, _FAILURE_REASON),
        (_REFERENCED_SOP, True, _WARNING_REASON),
    ):
        for item in _items(answer, tag):
            if item.get(_INSTANCE_UID, "").strip(" \0") == sop_instance_uid:
                reason = item.get(reason_tag, "")
                return StoreAnswer(is_stored, int(reason) if reason.isdecimal() else None)
    return StoreAnswer()


def _sent(item: StoredObject, reason: str) -> Sent:
    return Sent(item.sop_class_uid, item.sop_instance_uid, reason)


def _items(answer: Answer, tag: str) -> Iterator[dict[str, str]]:
    """Yield the items of a sequence, each as first values by tag."""
    body = answer.body.lstrip()
    if body.startswith((b"{", b"[")):
        yield from _json_items(body, tag)
    elif body.startswith(b"<") and b"<!DOCTYPE" not in body:  # one that declares entities is none of the standard's
        yield from _xml_items(body, tag)


def _json_items(body: bytes, tag: str) -> Iterator[dict[str, str]]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return
    for dataset in found if isinstance(found, list) else [found]:
        for item in _values(dataset, tag):
            if isinstance(item, dict):
                yield {key.upper(): str(values[0]) for key in item if (values := _values(item, key))}


def _values(dataset: Any, tag: str) -> list[Any]:
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _xml_items(body: bytes, tag: str) -> Iterator[dict[str, str]]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return
    for sequence in root:
        if _name(sequence) != "DicomAttribute" or sequence.get("tag", "").upper() != tag:
            continue
        for item in sequence:
            if _name(item) == "Item":
                yield {
                    attribute.get("tag", "").upper(): (value.text or "").strip()
                    for attribute in item
                    for value in attribute
                    if _name(value) == "Value" and value.get("number", "1") == "1"
                }


def _name(element: ElementTree.Element) -> str:
    """Name without namespace, which servers write or leave out."""
    return element.tag.rpartition("}")[2]
