"""The HL7 template of a site: which message, which fields, which codes, and for which studies.

A template is read and checked whole when the node starts; from then on a message is made of a notice and the template
alone, so that the same notice makes the same bytes. The built-in one, `templates/oru_r01.toml`, tells the format.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from cxr_node.deliver.hl7_text import ENCODING, FORMS, date, escape, time
from cxr_node.errors import SettingsError
from cxr_node.findings import OrderedPriority
from cxr_node.findings.priority import rank_of
from cxr_node.reporting import Notice

BUILT_IN = "oru_r01.toml"
ALWAYS, FLAGGED, RAISED = "always", "flagged", "raised"
CHARACTER_SET = "UNICODE UTF-8"  # table 0211

_MESSAGE = {
    "type": r"[A-Z0-9]{3}\^[A-Z0-9]{3}(\^[A-Z0-9_]{3,7})?",
    "version": r"2\.[1-9](\.[0-9])?",
    "processing_id": r"[PDT]",
    "sending_application": r".*",
    "sending_facility": r".*",
    "receiving_application": r".*",
    "receiving_facility": r".*",
}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TRAILING = re.compile(r"\^+(?=~|$)")  # components at the end of a field or repetition that have no value
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_DERIVED = ("control_id", "notice_uid", "study_date_time", "triage")
_TRIAGE = ("FLAGGED", "NOT_FLAGGED", "NOT_ANALYSED", "FAILED")
_PRIORITIES = tuple(str(item) for item in OrderedPriority)
# What a map over these has to have an answer to.
_VALUES_OF = {"triage": _TRIAGE, "effective": _PRIORITIES, "ordered": _PRIORITIES, "ai": _PRIORITIES}
KNOWN = tuple(sorted({item.name for item in fields(Notice) if item.name not in ("images", "flagged")} | set(_DERIVED)))


@dataclass(frozen=True)
class Template:
    """A template that was checked. `fields` of a segment are by number; of `message` by the names of `[message]`."""

    source: str
    when: str
    message: Mapping[str, str]
    segments: tuple[tuple[str, Mapping[int, str]], ...]
    maps: Mapping[str, Mapping[str, str]]

    @property
    def message_type(self) -> str:
        return self.message["type"]

    def leaves_out(self, notice: Notice) -> str:
        """Return why a study is none that the template sends, empty where it is one."""
        if self.when == FLAGGED and not notice.flagged:
            return "not sent: the study is not flagged, and the template sends flagged ones only"
        if self.when == RAISED and rank_of(notice.effective) <= rank_of(notice.ordered):
            return "not sent: the priority is as ordered, and the template sends raised ones only"
        return ""

    def render(self, notice: Notice) -> str:
        """Return the message, segments ended by CR."""
        values = _values(notice)

        def fill(text: str) -> str:
            filled, found = _fill(text, values, self.maps)
            return "" if _PLACEHOLDER.search(text) and not found else _TRAILING.sub("", filled)

        head = [
            "MSH",
            ENCODING,
            *(
                fill(self.message[key])
                for key in ("sending_application", "sending_facility", "receiving_application", "receiving_facility")
            ),
            time(notice.created_at),
            "",
            self.message_type,
            control_id(notice),
            self.message["processing_id"],
            self.message["version"],
            *[""] * 5,
            CHARACTER_SET,
        ]
        lines = ["|".join(head)]
        for name, numbered in self.segments:
            row = [fill(numbered.get(number, "")) for number in range(1, max(numbered, default=0) + 1)]
            lines.append("|".join([name, *row]).rstrip("|"))
        return "".join(f"{line}\r" for line in lines)


def control_id(notice: Notice) -> str:
    """Return MSH-10: 20 characters that stand for this notice and no other, always the same."""
    return hashlib.sha256(notice.uid.encode("ascii")).hexdigest()[:20].upper()


def load_template(path: Path | None) -> Template:
    """Read a template, the built-in one where `path` is None.

    Raises
    ------
    SettingsError
        Names file and line or key, what was found and what was expected.
    """
    if path is None:
        text = resources.files("cxr_node.deliver").joinpath("templates", BUILT_IN).read_text(encoding="utf-8")
        return parse_template(text, BUILT_IN)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"HL7 template {path}: cannot be read: {why}") from error
    return parse_template(text, str(path))


def parse_template(text: str, source: str) -> Template:
    """Check a template's text; see `load_template`."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"HL7 template {source}: is not valid TOML: {error}") from error
    check = _Check(source, text)
    check.keys("", found, {"when", "message", "map", "segment"})
    when = found.get("when", ALWAYS)
    if when not in (ALWAYS, FLAGGED, RAISED):
        raise check.error("when", f'expected "{ALWAYS}", "{FLAGGED}" or "{RAISED}", found {when!r}')
    message = check.message(found.get("message"))
    maps = check.maps(found.get("map", {}))
    segments = check.segments(found.get("segment"))
    for key, value in message.items():
        if key != "type":
            check.placeholders(f"message.{key}", value, maps)
    for position, (name, numbered) in enumerate(segments, start=1):
        for number, value in numbered.items():
            check.placeholders(f"segment {position} ({name}), field {number}", value, maps)
    return Template(source, when, message, segments, maps)


@dataclass(frozen=True)
class _Check:
    source: str
    text: str

    def error(self, key: str, problem: str, near: str = "") -> SettingsError:
        line = next((at for at, row in enumerate(self.text.splitlines(), start=1) if near and near in row), 0)
        where = f", line {line}" if line else ""
        return SettingsError(f"HL7 template {self.source}{where}: {key}: {problem}")

    def keys(self, prefix: str, found: Mapping[str, Any], known: set[str]) -> None:
        for key in found:
            if key not in known:
                raise self.error(f"{prefix}{key}", f"unknown key, expected one of {', '.join(sorted(known))}", key)

    def message(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict):
            raise self.error("message", "expected a section [message]")
        self.keys("message.", found, set(_MESSAGE))
        known: dict[str, str] = {"processing_id": "P", "version": "2.5.1", **{k: "" for k in _MESSAGE if "_app" in k}}
        known |= {key: "" for key in _MESSAGE if key.endswith("_facility")} | found
        for key, form in _MESSAGE.items():
            value = known.get(key)
            if not isinstance(value, str) or not re.fullmatch(form, value):
                expected = {
                    "type": "a message type such as ORU^R01^ORU_R01",
                    "version": "a version such as 2.5.1",
                    "processing_id": "P, D or T",
                }.get(key, "text on one line")
                raise self.error(f"message.{key}", f"expected {expected}, found {value!r}", key)
        return known

    def maps(self, found: Any) -> dict[str, dict[str, str]]:
        if not isinstance(found, dict):
            raise self.error("map", "expected sections [map.NAME]")
        for name, table in found.items():
            if name in FORMS:
                raise self.error(f"map.{name}", f"{name} is a form of HL7; give the map another name", f"map.{name}")
            if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
                raise self.error(f"map.{name}", 'expected lines such as HIGH = "A"', f"map.{name}")
            for key, value in table.items():
                self.literal(f"map.{name}.{key}", value)
        return found

    def segments(self, found: Any) -> tuple[tuple[str, dict[int, str]], ...]:
        if not isinstance(found, list) or not found:
            raise self.error("segment", "expected at least one [[segment]]")
        return tuple(self._segment(position, item) for position, item in enumerate(found, start=1))

    def _segment(self, position: int, item: Any) -> tuple[str, dict[int, str]]:
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or not _SEGMENT.fullmatch(name):
            raise self.error(f"segment {position}", f"id: expected a segment such as OBX, found {name!r}")
        if name == "MSH":
            raise self.error(f"segment {position}", "MSH is made of the section [message]")
        numbered: dict[int, str] = {}
        for key, value in item.items():
            if key == "id":
                continue
            if not key.isdecimal() or not 1 <= int(key) <= 99:
                raise self.error(f"segment {position} ({name})", f"expected field numbers as keys, found {key!r}", key)
            if not isinstance(value, str):
                raise self.error(f"segment {position} ({name}), field {key}", f"expected text, found {value!r}")
            self.literal(f"segment {position} ({name}), field {key}", value)
            numbered[int(key)] = value
        return name, numbered

    def literal(self, key: str, value: str) -> None:
        if any(ord(sign) < 0x20 or sign == "|" for sign in _PLACEHOLDER.sub("", value)):
            raise self.error(key, f"a field holds no | and no line end, found {value!r}")

    def placeholders(self, key: str, value: str, maps: Mapping[str, Mapping[str, str]]) -> None:
        left = _PLACEHOLDER.sub("", value)
        if "{" in left or "}" in left:
            raise self.error(key, f"a brace without its partner in {value!r}", value)
        for inside in _PLACEHOLDER.findall(value):
            name, bar, form = inside.partition("|")
            if name not in KNOWN:
                raise self.error(
                    key, f"unknown placeholder {{{inside}}}, known are {', '.join(KNOWN)}", f"{{{inside}}}"
                )
            if bar and form not in FORMS and form not in maps:
                known = ", ".join([*FORMS, *maps])
                raise self.error(key, f"{{{inside}}}: unknown form or map {form!r}, known are {known}", f"{{{inside}}}")
            missing = [item for item in _VALUES_OF.get(name, ()) if form in maps and item not in maps[form]]
            if missing:
                raise self.error(
                    f"map.{form}", f"{key} needs it for {', '.join(missing)}, which it does not have", f"map.{form}"
                )


def _values(notice: Notice) -> dict[str, str]:
    """Return what each placeholder stands for, not yet escaped."""
    found: dict[str, str] = {}
    for item in fields(Notice):
        value = getattr(notice, item.name)
        if isinstance(value, tuple):
            value = ", ".join(str(part) for part in value)
        found[item.name] = str(value)
    found["control_id"] = control_id(notice)
    found["notice_uid"] = notice.uid
    found["study_date_time"] = time(notice.study_date + notice.study_time) or date(notice.study_date)
    found["triage"] = "FLAGGED" if notice.flagged else _UNFLAGGED.get(notice.status, "NOT_ANALYSED")
    return found


# A status that a newer node may know is not taken for an analysis that found nothing.
_UNFLAGGED = {"analysed": "NOT_FLAGGED", "not_analysed": "NOT_ANALYSED", "failed": "FAILED"}


def _fill(text: str, values: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]) -> tuple[str, bool]:
    """Return the field with its placeholders filled, and whether any of them had a value."""
    parts = list(_parts(text, values, maps))
    filled = "".join(part for part, _ in parts)
    return filled, any(part and is_value for part, is_value in parts)


def _parts(text: str, values: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, bool]]:
    at = 0
    for found in _PLACEHOLDER.finditer(text):
        yield text[at : found.start()], False
        at = found.end()
        name, _, form = found[1].partition("|")
        value = values[name]
        if not form:
            yield escape(value), True
        elif form in FORMS:
            yield FORMS[form](value), True
        else:
            yield maps[form].get(value, "" if value in ("", *_VALUES_OF.get(name, ())) else escape(value)), True
    yield text[at:], False
