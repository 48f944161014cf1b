"""What an HL7 acknowledgement says. Its free text is kept with the message and never shown: it may quote a patient.

Source: HL7 v2.5.1 2.9.2 and 2.9.3 (acknowledgement), 2.15.5 ERR, 2.15.8 MSA; tables 0008 and 0357.
"""

import re
from dataclasses import dataclass

import hl7

_CODE = re.compile(r"[A-Za-z0-9._-]{1,20}")

# Table 0357, the codes that a receiver may get over: a duplicate key, a lock, an error of its own.
PASSING = frozenset({"206", "207"})
MEANINGS = {
    "100": "segment sequence error",
    "101": "required field missing",
    "102": "data type error",
    "103": "table value not found",
    "200": "unsupported message type",
    "201": "unsupported event code",
    "202": "unsupported processing id",
    "203": "unsupported version id",
    "204": "unknown key identifier",
    "205": "duplicate key identifier",
    "206": "application record locked",
    "207": "application internal error",
}


@dataclass(frozen=True)
class Acknowledgement:
    """MSA-1, MSA-2, and the codes of errors that were told (ERR-3, ERR-1 of older versions, MSA-6)."""

    code: str
    control_id: str
    errors: tuple[str, ...] = ()

    @property
    def may_pass(self) -> bool:
        return any(error in PASSING for error in self.errors)

    @property
    def told(self) -> str:
        """Return the error codes with their meanings: `, error 101 (required field missing)`; empty without any."""
        named = [f"{code} ({MEANINGS[code]})" if code in MEANINGS else code for code in self.errors]
        return f", error {', '.join(named)}" if named else ""


def decode(data: bytes) -> str:
    """Return the text of a message; one that is not UTF-8 is of an older system, Latin-1 then."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_acknowledgement(text: str) -> Acknowledgement | None:
    """Return what the message acknowledges, None where it is no acknowledgement."""
    try:
        message = hl7.parse(text.replace("\r\n", "\r").replace("\n", "\r").strip("\r ") + "\r")
        answers = message.segments("MSA")
    except (hl7.HL7Exception, KeyError, IndexError, ValueError):
        return None
    code, control_id = _field(answers[0], 1), _field(answers[0], 2)
    if not re.fullmatch(r"[AC][AER]", code):
        return None
    errors = [_component(_field(answers[0], 6))]
    try:
        for segment in message.segments("ERR"):
            errors += [_component(_field(segment, 3)), _old(_field(segment, 1))]
    except KeyError:
        pass
    return Acknowledgement(code, control_id, tuple(dict.fromkeys(item for item in errors if _CODE.fullmatch(item))))


def _field(segment: hl7.Segment, number: int) -> str:
    try:
        return str(segment[number]).strip()
    except IndexError:
        return ""


def _component(field: str) -> str:
    return field.partition("~")[0].partition("^")[0].strip()


def _old(field: str) -> str:
    """Return the code of ERR-1 (ELD): its fourth component, whose first part it is."""
    parts = field.partition("~")[0].split("^")
    return parts[3].partition("&")[0].strip() if len(parts) > 3 else ""
