"""An HL7 v2 message with orders, read: who sent it, and what was ordered.

Where a value stands, in the order of precedence:

| value | stands in |
|---|---|
| priority | TQ1-9, OBR-27.6, ORC-7.6, OBR-5; the first that is a known code; of several the most urgent |
| accession number | IPC-1, OBR-18, ORC-3, OBR-3. Never OBR-20: by IHE that is the Scheduled Procedure Step ID |
| Study Instance UID | IPC-3, ZDS-1 |
| requested procedure | IPC-2, OBR-19 |
| patient ID and issuer | PID-3.1 and PID-3.4.1, of the repetition typed MR, PI or PT, else of the first |

Sources: HL7 v2.5.1 chapter 4; IHE RAD TF-2 4.2 to 4.4 (ORM, ZDS), 4.4 with OMI (IPC).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import hl7
from hl7.exceptions import HL7Exception

from cxr_node.findings.priority import rank_of
from cxr_node.orders.priority import read_priority
from storage.orders import ACTIVE, CANCELED, HL7, Order

MESSAGE_TYPES = {"ORM": "O01", "OMI": "O23", "OMG": "O19"}
# HL7 table 0119: what the order is now.
CONTROL_CODES = {
    **dict.fromkeys(("NW", "XO", "XX", "XR", "SC", "SN", "SS", "OK", "RE", "RO", "RP", "RU", "PA", "CH", "NA"), ACTIVE),
    **dict.fromkeys(("CA", "OC", "CR", "DC", "OD", "DR"), CANCELED),
}
_CANCELED_STATUS = ("CA", "DC")  # ORC-5, HL7 table 0038
_CHARACTER_SETS = {
    "": "utf-8",
    "ASCII": "utf-8",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    **{f"8859/{number}": f"iso8859-{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
_FALLBACK = "iso8859-1"  # of a message that names no character set: any byte decodes
_UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*")
_PATIENT_ID_TYPES = ("MR", "PI", "PT")
_LONGEST_VALUE = 256


@dataclass(frozen=True)
class Rejection:
    """Why a message cannot be read: code of HL7 table 0357, what was found and expected, and where. Free of values."""

    code: str
    message: str
    segment: str = "MSH"
    field: int = 0


@dataclass(frozen=True)
class Header:
    """What an acknowledgement takes over from MSH."""

    separator: str = "|"
    encoding_characters: str = "^~\\&"
    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    message_type: str = ""
    trigger: str = ""
    control_id: str = ""
    processing_id: str = "P"
    version: str = "2.5"
    character_set: str = ""
    encoding: str = "utf-8"


def decode(body: bytes) -> tuple[Header, str] | Rejection:
    """Read MSH and return it with the text, segments ended by carriage returns."""
    body = body.lstrip(b"\r\n\xef\xbb\xbf")
    if body[:3] != b"MSH" or len(body) < 9:
        return Rejection("100", "the message does not begin with MSH, four encoding characters and fields")
    separator = body[3:4].decode("latin-1")
    fields = re.split(rb"[\r\n]", body, maxsplit=1)[0].decode("latin-1").split(separator)
    values = dict(enumerate(fields, start=1))  # MSH-1 is the separator itself, so fields[1] is MSH-2
    encoding_characters = values.get(2, "")
    if separator.isalnum() or len(encoding_characters) not in (4, 5) or len(set(encoding_characters)) < 4:
        return Rejection("102", "MSH-2 is not of four different encoding characters", "MSH", 2)
    component, repetition = encoding_characters[0], encoding_characters[1]
    types = [*values.get(9, "").split(component), "", ""]
    character_set = values.get(18, "").split(repetition)[0].strip().upper()
    header = Header(
        separator=separator,
        encoding_characters=encoding_characters,
        sending_application=values.get(3, "")[:_LONGEST_VALUE],
        sending_facility=values.get(4, "")[:_LONGEST_VALUE],
        receiving_application=values.get(5, "")[:_LONGEST_VALUE],
        receiving_facility=values.get(6, "")[:_LONGEST_VALUE],
        message_type=types[0].strip()[:8],
        trigger=types[1].strip()[:8],
        control_id=values.get(10, "").strip()[:_LONGEST_VALUE],
        processing_id=values.get(11, "")[:8] or "P",
        version=values.get(12, "").split(component)[0].strip()[:8] or "2.5",
        character_set=character_set[:32],
        encoding=_CHARACTER_SETS.get(character_set, "utf-8"),
    )
    return header, _text(body, header)


def _text(body: bytes, header: Header) -> str:
    try:
        text = body.decode(header.encoding)
    except UnicodeDecodeError:
        # What orders are matched by is ASCII nearly always; a name in an undeclared character set stops no STAT order.
        text = body.decode(_FALLBACK)
    return re.sub(r"\r\n|\n", "\r", text).strip("\r") + "\r"


def read_orders(header: Header, text: str) -> tuple[Order, ...] | Rejection:
    """Return the orders of a message, at least one."""
    if header.message_type not in MESSAGE_TYPES:
        return Rejection("200", "MSH-9.1 is no order message; expected ORM, OMI or OMG", "MSH", 9)
    if header.trigger not in ("", MESSAGE_TYPES[header.message_type]):
        return Rejection("201", "MSH-9.2 is no trigger of this message type; expected O01, O23 or O19", "MSH", 9)
    if header.character_set not in _CHARACTER_SETS:
        return Rejection("102", "MSH-18 names a character set that is not read here", "MSH", 18)
    if not header.control_id:
        return Rejection("101", "MSH-10 Message Control ID is empty", "MSH", 10)
    try:
        message = hl7.parse(text)
        segments = [_Segment.of(segment, header) for segment in message if str(segment).strip()]
    except (HL7Exception, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Rejection("100", "the message does not read as HL7 version 2")
    patient = next((segment for segment in segments if segment.name == "PID"), None)
    groups = list(_groups(segments))
    if not groups:
        return Rejection("100", "the message holds no ORC segment", "ORC")
    found: list[Order] = []
    for group in groups:
        order = _order(group, patient, len(found))
        if isinstance(order, Rejection):
            return order
        found.append(order)
    return _with_own_keys(found)


@dataclass(frozen=True)
class _Segment:
    name: str
    fields: tuple[str, ...]
    header: Header

    @classmethod
    def of(cls, segment: Any, header: Header) -> "_Segment":
        fields = tuple(str(item) for item in segment)
        return cls(fields[0].strip(), fields, header)

    def repetitions(self, number: int) -> list[str]:
        raw = self.fields[number] if number < len(self.fields) else ""
        return raw.split(self.header.encoding_characters[1])

    def value(self, number: int, component: int = 1, subcomponent: int = 1, repetition: int = 0) -> str:
        """Return a value, unescaped; empty where it is absent, or the two quotes that delete it."""
        raw = self.repetitions(number)
        text = raw[repetition] if repetition < len(raw) else ""
        characters = self.header.encoding_characters
        for separator, place in ((characters[0], component), (characters[3], subcomponent)):
            parts = text.split(separator)
            text = parts[place - 1] if place <= len(parts) else ""
        text = self._unescaped(text).strip()[:_LONGEST_VALUE]
        return "" if text == '""' else text

    def _unescaped(self, text: str) -> str:
        component, repetition, escape, subcomponent = tuple(self.header.encoding_characters)[:4]
        named = {
            "F": self.header.separator,
            "S": component,
            "R": repetition,
            "E": escape,
            "T": subcomponent,
        }
        pattern = f"{re.escape(escape)}([FSRET]){re.escape(escape)}"
        return re.sub(pattern, lambda match: named[match[1]], text)


@dataclass
class _Group:
    orc: _Segment
    obr: _Segment | None = None
    timings: list[_Segment] = field(default_factory=list)
    procedures: list[_Segment] = field(default_factory=list)
    zds: _Segment | None = None


def _groups(segments: Sequence[_Segment]) -> Iterator[_Group]:
    """Yield ORC, OBR and what belongs to them; several OBR share an ORC, and ZDS ends all since the last one."""
    groups: list[_Group] = []
    without_study: list[_Group] = []
    for segment in segments:
        last = groups[-1] if groups else None
        if segment.name == "ORC":
            groups.append(_Group(segment))
            without_study.append(groups[-1])
        elif last is None:
            continue
        elif segment.name == "OBR":
            if last.obr is not None:
                last = _Group(last.orc, timings=list(last.timings))
                groups.append(last)
                without_study.append(last)
            last.obr = segment
        elif segment.name == "TQ1":
            last.timings.append(segment)
        elif segment.name == "IPC":
            last.procedures.append(segment)
        elif segment.name == "ZDS":
            for group in without_study:
                group.zds = segment
            without_study = []
    yield from groups


def _order(group: _Group, patient: _Segment | None, place: int) -> Order | Rejection:
    orc, obr = group.orc, group.obr
    control = orc.value(1).upper()
    if not control:
        return Rejection("101", f"ORC-1 Order Control of order {place + 1} is empty", "ORC", 1)
    if control not in CONTROL_CODES:
        return Rejection("103", f"ORC-1 of order {place + 1} is no order control code that is read here", "ORC", 1)
    is_canceled = CONTROL_CODES[control] == CANCELED or orc.value(5).upper() in _CANCELED_STATUS
    procedure = group.procedures[0] if group.procedures else None
    accession = _first((procedure, 1), (obr, 18), (orc, 3), (obr, 3))
    study = next((uid for uid in (_uid(procedure, 3), _uid(group.zds, 1)) if uid), "")
    placer, filler = _first((orc, 2), (obr, 2)), _first((orc, 3), (obr, 3))
    numbers = [_numbered(orc, 2), _numbered(obr, 2), _numbered(orc, 3), _numbered(obr, 3), accession, study]
    key = next((number for number in numbers if number), "")
    if not key:
        message = f"order {place + 1} has no placer or filler number, accession number or study"
        return Rejection("101", message, "ORC", 2)
    priority_text = _priority(group)
    patient_id, issuer = _patient(patient)
    return Order(
        source=HL7,
        order_key="|".join((orc.header.sending_application, orc.header.sending_facility, key)),
        accession_number=accession,
        patient_id=patient_id,
        issuer_of_patient_id=issuer,
        study_instance_uid=study,
        placer_order_number=placer,
        filler_order_number=filler,
        requested_procedure_id=_first((procedure, 2), (obr, 19)),
        priority=read_priority(priority_text),
        priority_text=priority_text,
        status=CANCELED if is_canceled else ACTIVE,
    )


def _with_own_keys(found: Sequence[Order]) -> tuple[Order, ...]:
    """Several procedures may be ordered under one number: each is an order."""
    seen: dict[str, int] = {}
    named = []
    for order in found:
        seen[order.order_key] = seen.get(order.order_key, 0) + 1
        number = seen[order.order_key]
        named.append(order if number == 1 else _renamed(order, f"{order.order_key}#{number}"))
    return tuple(named)


def _renamed(order: Order, key: str) -> Order:
    return replace(order, order_key=key)


def _first(*places: tuple[_Segment | None, int]) -> str:
    return next((text for segment, number in places if segment is not None and (text := segment.value(number))), "")


def _numbered(segment: _Segment | None, number: int) -> str:
    """Return an order number with who gave it: two systems count alike."""
    if segment is None or not segment.value(number):
        return ""
    return "^".join(part for part in (segment.value(number), segment.value(number, 2)) if part)


def _uid(segment: _Segment | None, number: int) -> str:
    text = segment.value(number) if segment is not None else ""
    return text if len(text) <= 64 and _UID_FORM.fullmatch(text) else ""


def _priority(group: _Group) -> str:
    """Return the priority as it was written, of the first place that holds a known one; else what stands first."""
    obr = group.obr
    places = [
        [timing.value(9, repetition=index) for timing in group.timings for index in range(len(timing.repetitions(9)))],
        [obr.value(27, 6, repetition=index) for index in range(len(obr.repetitions(27)))] if obr is not None else [],
        [group.orc.value(7, 6, repetition=index) for index in range(len(group.orc.repetitions(7)))],
        [obr.value(5)] if obr is not None else [],
    ]
    for texts in places:
        known = [text for text in texts if read_priority(text)]
        if known:
            return max(known, key=lambda text: rank_of(read_priority(text)))
    return next((text for texts in places for text in texts if text), "")


def _patient(segment: _Segment | None) -> tuple[str, str]:
    if segment is None:
        return "", ""
    found = [
        (segment.value(3, 5, repetition=index), segment.value(3, 1, repetition=index), segment.value(3, 4, 1, index))
        for index in range(len(segment.repetitions(3)))
    ]
    named = [item for item in found if item[1]]
    chosen = next((item for item in named if item[0].upper() in _PATIENT_ID_TYPES), named[0] if named else ("", "", ""))
    return chosen[1], chosen[2]
