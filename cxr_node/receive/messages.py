"""The two messages of C-STORE, read and written without pydicom: a hundred bytes each, and every image has both.

Only the request as every sender forms it is read here: one command fragment, each element once, UIDs of digits and
dots, the SOP class of its presentation context. Any other is pynetdicom's, which knows what to answer.

Source: DICOM PS3.7 9.3.1 (messages), 6.3.1 (command sets, Implicit VR Little Endian), PS3.8 9.3.5 (P-DATA-TF),
PS3.10 7.1 (file meta information).
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from cxr_node.receive.contexts import STORAGE_CLASSES

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_UL = struct.Struct("<L")
_PDU = struct.Struct(">BBLLBB")  # type, reserved, length; PDV length, context id, control header
_P_DATA_TF = 4
_COMMAND, _LAST = 1, 2  # bits of the message control header, PS3.8 E.2

_GROUP_LENGTH, _CLASS, _FIELD, _MESSAGE_ID, _ANSWERED_ID = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
_PRIORITY, _DATA_SET_TYPE, _STATUS, _COMMENT, _INSTANCE = 0x0700, 0x0800, 0x0900, 0x0902, 0x1000
_MOVE_ORIGINATOR, _MOVE_MESSAGE_ID = 0x1030, 0x1031
_REQUIRED = frozenset({_CLASS, _FIELD, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE, _INSTANCE})
_ALLOWED = _REQUIRED | {_GROUP_LENGTH, _MOVE_ORIGINATOR, _MOVE_MESSAGE_ID}
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_NO_DATA_SET = 0x0101
_PRIORITIES = (0, 1, 2)

_UID = re.compile(rb"[0-9.]{1,64}")
_CLASSES = frozenset(STORAGE_CLASSES)
_LONGEST_COMMENT = 64  # LO


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE-RQ; the names are those of pynetdicom's primitive."""

    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str
    MessageID: int


@dataclass(frozen=True)
class StoreContext:
    """The presentation context it came in; the names are those of pynetdicom's event."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class StoreEvent:
    """A whole C-STORE request with the file of its dataset; the names are those of pynetdicom's event."""

    assoc: Any
    request: StoreRequest
    context: StoreContext
    dataset_path: Path


def read_store_request(command: bytes, context_id: int, accepted: Mapping[int, Any]) -> tuple[StoreRequest, str] | None:
    """Return the request and the transfer syntax of its dataset; None where it is pynetdicom's to answer.

    Parameters
    ----------
    command : a whole command set
    accepted : the presentation contexts of the association by id
    """
    values = _elements(command)
    if values is None or not _REQUIRED <= values.keys() <= _ALLOWED:
        return None
    numbers = [values[element] for element in (_FIELD, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE)]
    if any(len(number) != _US.size for number in numbers):
        return None
    field, message_id, priority, data_set_type = (_US.unpack(number)[0] for number in numbers)
    if field != _C_STORE_RQ or priority not in _PRIORITIES or data_set_type == _NO_DATA_SET:
        return None
    sop_class, instance = (values[element].rstrip(b"\0 ") for element in (_CLASS, _INSTANCE))
    if not (_UID.fullmatch(sop_class) and _UID.fullmatch(instance)):
        return None
    context = accepted.get(context_id)
    name = sop_class.decode("ascii")
    if context is None or name not in _CLASSES or context.abstract_syntax != name:
        return None
    return StoreRequest(name, instance.decode("ascii"), message_id), str(context.transfer_syntax[0])


def _elements(command: bytes) -> dict[int, bytes] | None:
    """Return the values of group 0 by element; None for anything else than a whole command set, each element once."""
    values: dict[int, bytes] = {}
    start, end = 0, len(command)
    while start < end:
        if start + _ELEMENT.size > end:
            return None
        group, element, length = _ELEMENT.unpack_from(command, start)
        start += _ELEMENT.size
        if group or element in values or start + length > end:
            return None
        values[element] = command[start : start + length]
        start += length
    return values


def write_store_response(
    request: StoreRequest, context_id: int, status: int, comment: str, maximum_length: int
) -> bytes:
    """Return the PDUs of a C-STORE-RSP, as many as the peer's maximum length asks for (0: any length)."""
    elements = [
        (_CLASS, _padded(request.AffectedSOPClassUID.encode("ascii"), b"\0")),
        (_FIELD, _US.pack(_C_STORE_RSP)),
        (_ANSWERED_ID, _US.pack(request.MessageID)),
        (_DATA_SET_TYPE, _US.pack(_NO_DATA_SET)),
        (_STATUS, _US.pack(status)),
        (_COMMENT, _padded(comment.encode("ascii", "replace")[:_LONGEST_COMMENT], b" ")),
        (_INSTANCE, _padded(request.AffectedSOPInstanceUID.encode("ascii"), b"\0")),
    ]
    rest = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in elements if value)
    command = _ELEMENT.pack(0, _GROUP_LENGTH, _UL.size) + _UL.pack(len(rest)) + rest
    room = max(1, maximum_length - 6) if maximum_length else len(command)
    parts = [command[start : start + room] for start in range(0, len(command), room)]
    pdus = []
    for number, part in enumerate(parts, 1):
        control = _COMMAND | (_LAST if number == len(parts) else 0)
        pdus.append(_PDU.pack(_P_DATA_TF, 0, len(part) + 6, len(part) + 2, context_id, control) + part)
    return b"".join(pdus)


def part_10_head(request: StoreRequest, transfer_syntax: str) -> bytes:
    """Return preamble, prefix and file meta information for the dataset of a request."""
    before, after = _constant_parts(request.AffectedSOPClassUID, transfer_syntax)
    meta = before + _explicit(0x0003, b"UI", request.AffectedSOPInstanceUID, b"\0") + after
    return b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0" + _UL.pack(len(meta)) + meta


@lru_cache(256)
def _constant_parts(sop_class: str, transfer_syntax: str) -> tuple[bytes, bytes]:
    version = b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01"
    return (
        version + _explicit(0x0002, b"UI", sop_class, b"\0"),
        _explicit(0x0010, b"UI", transfer_syntax, b"\0")
        + _explicit(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID, b"\0")
        + _explicit(0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION, b" "),
    )


def _explicit(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = _padded(text.encode("ascii"), padding)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _padded(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value
