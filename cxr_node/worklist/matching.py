"""C-FIND: does an item match the keys of an identifier, and what of it is returned. Datasets in, datasets out.

Source: DICOM PS3.4 C.2.2.2 (matching), K.4.1.1 (Modality Worklist), CC.2.8 (Unified Procedure Step).
"""

import re
import unicodedata
from collections.abc import Container, Iterator
from datetime import UTC, datetime, timedelta, timezone
from datetime import tzinfo as TimeZone
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag

UTF_8 = "ISO_IR 192"

# They say how to read the identifier, and match nothing.
_NO_KEYS = frozenset({Tag("SpecificCharacterSet"), Tag("QueryRetrieveLevel"), Tag("TimezoneOffsetFromUTC")})
_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_RANGE_VRS = frozenset({"DA", "TM", "DT"})
_EARLIEST = {"DA": "00000101", "TM": "000000.000000", "DT": "00000101000000.000000"}
_LATEST = {"DA": "99991231", "TM": "235959.999999", "DT": "99991231235959.999999"}
# The two elements of a start are one time where both are given as ranges: from the 5th, 10:00 to the 7th, 18:00.
# Source: PS3.4 table K.6-1, Scheduled Procedure Step Start Date. Other pairs need a negotiation (PS3.4 C.3.1.1).
_COMBINED = {Tag("ScheduledProcedureStepStartDate"): Tag("ScheduledProcedureStepStartTime")}
_NUMBER_VRS = frozenset({"DS", "IS", "FD", "FL", "SL", "SS", "UL", "US", "SV", "UV"})
_EMPTY_VALUE = '""'  # PS3.4 C.2.2.2.7: matches an attribute without a value
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")
_DT_VALUE = re.compile(r"(?P<value>\d{4,14}(?:\.\d{1,6})?)(?P<offset>[+-](?:0\d|1[0-4])[0-5]\d(?=$|-))?")


def repair_text(identifier: Dataset) -> None:
    """Take text without Specific Character Set for UTF-8 where it is valid UTF-8; changes `identifier`.

    Tools send what the terminal gave them and name no character set; read by the default repertoire, no name outside
    ASCII would ever match. Source: PS3.5 6.1.2.1 allows ASCII only there, so nothing valid is changed.
    """
    if identifier.get("SpecificCharacterSet"):
        return
    for element in identifier:
        if element.VR == "SQ":
            for item in element.value:
                repair_text(item)
        elif element.VR in _TEXT_VRS and not element.is_empty:
            texts = [_as_utf_8(text) for text in _texts(element)]
            element.value = texts if len(texts) > 1 else texts[0]


def matches(keys: Dataset, item: Dataset, zone: TimeZone) -> bool:
    """Whether `item` fits every key of the identifier `keys`.

    An empty key matches all, two double quotes match an attribute without a value. A key that `item` does not have at
    all is one that this SCP does not support, and is ignored, as the standard wants it; an attribute that is there and
    empty matches no value.

    Parameters
    ----------
    zone : of the dates and times in `item`; a DT key with an offset of its own is converted to it
    """
    combined = {tag for pair in _combined_ranges(keys, item) for tag in pair}
    return all(
        _fits(key, item[key.tag], zone) for key in _keys(keys) if key.tag in item and key.tag not in combined
    ) and all(_combined_fits(keys, item, *pair) for pair in _combined_ranges(keys, item))


def zone_of(keys: Dataset) -> TimeZone | None:
    """Return the time zone that the identifier's dates and times are in, None where it names none.

    Raises
    ------
    ValueError
        (0008,0201) Timezone Offset From UTC is no offset. Source: PS3.4 CC.2.8.1.3.1, PS3.3 C.12.1.1.8.
    """
    value = keys.get("TimezoneOffsetFromUTC")
    if value is None or not str(value).strip():
        return None
    found = _OFFSET.fullmatch(str(value).strip())
    if found is None:
        raise ValueError("(0008,0201) Timezone Offset From UTC is no offset such as +0100")
    sign = -1 if found[1] == "-" else 1
    return timezone(sign * timedelta(hours=int(found[2]), minutes=int(found[3])))


def values_of(keys: Dataset, keyword: str) -> list[str]:
    """Return the values of a key that is neither universal nor has wildcards; none otherwise."""
    if keyword not in keys or keys[keyword].is_empty:
        return []
    values = _texts(keys[keyword])
    return [] if any(not value or "*" in value or "?" in value or value == _EMPTY_VALUE for value in values) else values


def has_unsupported_keys(keys: Dataset, supported: Container[BaseTag]) -> bool:
    """Whether the identifier holds a key that items do not have: answered with Pending 0xFF01 instead of 0xFF00."""
    return any(key.tag not in supported for key in _keys(keys))


def answer(keys: Dataset, item: Dataset, zone: TimeZone) -> Dataset:
    """Return the attributes of `item` that `keys` asks for; those it does not have are left out.

    Specific Character Set is always there, asked for or not: without it a reader turns a name outside ASCII into
    question marks.
    """
    found = _reduced(keys, item, zone)
    found.SpecificCharacterSet = UTF_8
    return found


def _reduced(keys: Dataset, item: Dataset, zone: TimeZone) -> Dataset:
    found = Dataset()
    for key in _keys(keys):
        if key.tag not in item:
            continue
        element = item[key.tag]
        wanted = key.value[0] if key.VR == "SQ" and key.value and len(key.value[0]) else None
        if element.VR != "SQ" or wanted is None:
            found[key.tag] = element
            continue
        items = [_reduced(wanted, part, zone) for part in element.value if matches(wanted, part, zone)]
        found[key.tag] = DataElement(key.tag, "SQ", DicomSequence(items))
    return found


def _keys(keys: Dataset) -> Iterator[DataElement]:
    return (key for key in keys if key.tag not in _NO_KEYS and key.tag.element != 0 and not key.tag.is_private)


def _fits(key: DataElement, element: DataElement, zone: TimeZone) -> bool:
    if element.VR == "SQ":
        wanted = key.value[0] if key.VR == "SQ" and key.value else Dataset()
        if _is_universal(wanted):
            return True
        return any(matches(wanted, item, zone) for item in element.value)
    if key.is_empty or key.VR == "SQ":
        return True
    wanted_values = _texts(key)
    if all(value in ("", "*") for value in wanted_values):
        return True
    if wanted_values == [_EMPTY_VALUE]:
        return all(not value.strip() for value in _texts(element))
    found_values = _texts(element)
    return any(_value_fits(element.VR, wanted, found, zone) for wanted in wanted_values for found in found_values)


def _is_universal(keys: Dataset) -> bool:
    return all(_is_universal(key.value[0]) if key.VR == "SQ" and key.value else key.is_empty for key in _keys(keys))


def _value_fits(vr: str, wanted: str, found: str, zone: TimeZone) -> bool:
    if vr == "PN":
        return _name_fits(wanted, found)
    if vr in _RANGE_VRS:
        return bool(found) and _range_fits(vr, wanted, found, zone)
    if vr in _WILDCARD_VRS:
        return _like(_normal(wanted), _normal(found))
    if vr in _NUMBER_VRS:
        return _number(wanted) == _number(found)
    return wanted.strip() == found.strip()


def _number(value: str) -> float | str:
    """The number, so that 4 and 4.0 are the same; the text where it is none."""
    try:
        return float(value)
    except ValueError:
        return value.strip()


def _name_fits(wanted: str, found: str) -> bool:
    """Compare person names without regard to case, component group by component group.

    A key with one group is held against each group of the name; one with ``=`` against the group in the same place.
    """
    groups = [_normal_name(group) for group in found.split("=")]
    keys = [_normal_name(group) for group in wanted.split("=")]
    if len(keys) == 1:
        return any(_like(keys[0], group) for group in groups)
    groups += [""] * (len(keys) - len(groups))
    return all(_like(key, group) for key, group in zip(keys, groups, strict=False) if key)


def _range_fits(vr: str, wanted: str, found: str, zone: TimeZone) -> bool:
    """Compare dates and times; ``a-b``, ``a-`` and ``-b`` are ranges with both ends included.

    A value with less precision stands for all it covers: 2026 is the whole year.
    """
    low, high = _bounds(vr, wanted, zone)
    at = _plain(vr, found, zone)
    return low <= at + _EARLIEST[vr][len(at) :] and at + _LATEST[vr][len(at) :] <= high


def _bounds(vr: str, wanted: str, zone: TimeZone) -> tuple[str, str]:
    if vr == "DT":
        single = _DT_VALUE.fullmatch(wanted)
        # "2026-0500" is the offset of one value, by PS3.4 C.2.2.2.5.3, not a range that ends at year 500.
        start, hyphen, end = (wanted, "", "") if single else _split_dt(wanted)
    else:
        start, hyphen, end = wanted.partition("-")
    if not hyphen:
        end = start
    start, end = _plain(vr, start, zone), _plain(vr, end, zone)
    return start + _EARLIEST[vr][len(start) :], end + _LATEST[vr][len(end) :]


def _combined_ranges(keys: Dataset, item: Dataset) -> Iterator[tuple[BaseTag, BaseTag]]:
    for date, time in _COMBINED.items():
        if all(
            tag in keys and tag in item and not keys[tag].is_empty and "-" in str(keys[tag].value)
            for tag in (date, time)
        ):
            yield date, time


def _combined_fits(keys: Dataset, item: Dataset, date: BaseTag, time: BaseTag) -> bool:
    """Whether the time that date and time are together lies in the range that both ranges are together."""
    first_day, _, last_day = (_plain("DA", part, UTC) for part in str(keys[date].value).partition("-"))
    first_time, _, last_time = (_plain("TM", part, UTC) for part in str(keys[time].value).partition("-"))
    day, clock = (_plain(vr, str(item[tag].value or ""), UTC) for vr, tag in (("DA", date), ("TM", time)))
    if not day:
        return False
    earliest, latest = _EARLIEST["TM"], _LATEST["TM"]
    low = (first_day or _EARLIEST["DA"]) + first_time + earliest[len(first_time) :]
    high = (last_day or _LATEST["DA"]) + last_time + latest[len(last_time) :]
    return low <= day + clock + earliest[len(clock) :] <= high


def _split_dt(wanted: str) -> tuple[str, str, str]:
    if wanted.startswith("-"):
        return "", "-", wanted[1:]
    first = _DT_VALUE.match(wanted)
    if first is None:
        return wanted, "", ""
    rest = wanted[first.end() :]
    return (first.group(0), "-", rest[1:]) if rest.startswith("-") else (wanted, "", "")


def _plain(vr: str, value: str, zone: TimeZone) -> str:
    """Digits without the separators of ACR-NEMA (2026.03.01, 10:15:00), in `zone`."""
    value = value.strip()
    if vr == "DA":
        return value.replace(".", "")
    if vr == "TM":
        return value.replace(":", "")
    found = _DT_VALUE.fullmatch(value)
    if found is None or not found["offset"] or len(found["value"]) < 10:
        return value
    digits = found["value"]
    whole, _, fraction = digits.partition(".")
    offset = found["offset"]
    shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])) * (-1 if offset[0] == "-" else 1)
    try:
        at = datetime.strptime(whole + "0000"[: 14 - len(whole)], "%Y%m%d%H%M%S")  # noqa: DTZ007 offset follows
    except ValueError:
        return digits
    local = (at - shift).replace(tzinfo=UTC).astimezone(zone)
    return local.strftime("%Y%m%d%H%M%S")[: len(whole)] + (f".{fraction}" if fraction else "")


def _like(wanted: str, found: str) -> bool:
    """Match with ``*`` for any run of characters and ``?`` for one, in time that no hostile key can blow up."""
    at = key = 0
    star, resume = -1, 0
    while at < len(found):
        if key < len(wanted) and wanted[key] == "*":
            star, resume = key, at
            key += 1
        elif key < len(wanted) and wanted[key] in ("?", found[at]):
            at, key = at + 1, key + 1
        elif star >= 0:  # let the last star take one character more; earlier ones need not change
            resume += 1
            at, key = resume, star + 1
        else:
            return False
    return all(sign == "*" for sign in wanted[key:])


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _normal_name(group: str) -> str:
    return _normal(group).casefold().rstrip("^ ")


def _as_utf_8(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _texts(element: DataElement) -> list[str]:
    value: Any = element.value
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(part) if part is not None else "" for part in values] or [""]
