r"""HL7 version 2 encoding: values into fields, DICOM names, dates and times into HL7's.

Source: HL7 v2.5.1 chapter 2, 2.7 (escape sequences), 2A.88 XPN, 2A.87 XCN, 2A.22 DTM; DICOM PS3.5 6.2 (PN, DA, TM).
"""

import re
from datetime import datetime

ENCODING = "^~\\&"
_ESCAPES = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"}
_DATE = re.compile(r"\d{4}(\d{2}(\d{2})?)?")
_DATE_TIME = re.compile(r"(\d{8})((?:\d{2}){0,3})(?:\.\d*)?")


def escape(text: str) -> str:
    """Return a value as it stands in a field: separators and line ends as escape sequences, so that nothing a sender
    wrote begins another field or segment."""
    return "".join(
        _ESCAPES.get(sign) or (f"\\X{ord(sign):02X}\\" if ord(sign) < 0x20 or ord(sign) == 0x7F else sign)
        for sign in text
    )


def _components(group: str) -> list[str]:
    """Return family, given, middle, prefix and suffix of a DICOM component group."""
    parts = [part.strip() for part in group.split("^")[:5]]
    return parts + [""] * (5 - len(parts))


def _person(group: str) -> list[str]:
    """Return family, given, further, suffix, prefix: HL7 has the last two the other way round."""
    family, given, middle, prefix, suffix = (escape(part) for part in _components(group))
    return [family, given, middle, suffix, prefix]


def xpn(name: str) -> str:
    """Return a DICOM person name as XPN, one repetition for each component group; name type L, legal name.

    Where there are several groups XPN-8 tells them apart: A alphabetic, I ideographic, P phonetic.
    """
    groups = [(group, code) for group, code in zip(name.split("="), "AIP", strict=False) if group.strip(" ^")]
    several = len(groups) > 1 or any(code != "A" for _, code in groups)
    return "~".join("^".join([*_person(group), "", "L", *([code] if several else [])]) for group, code in groups)


def xcn(name: str) -> str:
    """Return a DICOM person name as XCN without an identifier, its first component group only."""
    group = name.split("=")[0]
    return "^".join(["", *_person(group)]).rstrip("^") if group.strip(" ^") else ""


def date(value: str) -> str:
    """Return a DICOM date as DT; empty where it is none."""
    return value if _DATE.fullmatch(value) else ""


def time(value: str) -> str:
    """Return a time as DTM: an ISO 8601 one in UTC with its offset, a DICOM date and time run together without; empty
    where it is neither."""
    if found := _DATE_TIME.fullmatch(value):
        return found[1] + found[2]
    try:
        return datetime.fromisoformat(value).strftime("%Y%m%d%H%M%S%z")
    except ValueError:
        return ""


FORMS = {"xpn": xpn, "xcn": xcn, "date": date, "time": time}
