"""The acceptance table: which instances the models are meant for, as one list that gate, labelling and tests share.

A rule looks at the header and returns an `Exclusion` or nothing. Rules run in the order of `ACCEPTANCE`; the first that
objects is the reason given. What a rule does where its attribute is missing stands in `when_missing`, in both profiles.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from cxr_node.findings import ACCEPTANCE_RULES, MINIMUM_SIZE, AcceptanceRule, Exclusion

Profile = Literal["triage", "research"]

MODALITIES = ("CR", "DX")
FRONTAL = ("PA", "AP")
CHEST_WORDS = frozenset({"CHEST", "THORAX"})
# PS3.16 CID 4009 and its SRT and SNM3 predecessors.
CHEST_CODES = frozenset(
    {("816094009", "SCT"), ("51185008", "SCT"), ("43799004", "SCT"), ("T-D3000", "SRT"), ("T-D3000", "SNM3")}
)
# PS3.16 CID 4010, likewise.
VIEW_CODES = {
    ("272479007", "SCT"): "PA",
    ("R-10214", "SRT"): "PA",
    ("R-10214", "SNM3"): "PA",
    ("399348003", "SCT"): "AP",
    ("R-10206", "SRT"): "AP",
    ("R-10206", "SNM3"): "AP",
}

SOP_CLASSES: dict[Profile, tuple[str, ...]] = {
    "triage": (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation),
    "research": (
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        SecondaryCaptureImageStorage,
    ),
}


@dataclass(frozen=True)
class Rule(AcceptanceRule):
    """A row of the labelling, and how it looks at a header."""

    check: Callable[[Dataset, Profile], Exclusion | None]

    def exclusion(self, message: str, value: object = "") -> Exclusion:
        """Make this rule's exclusion."""
        return Exclusion(self.reason, message, self.attribute, shown(value))


def shown(value: object) -> str:
    """A header value as it may be printed: short, one line, printable."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)[:64]


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if value is None:
        return ""
    if not isinstance(value, str):
        value = "\\".join(str(part) for part in value) if hasattr(value, "__iter__") else str(value)
    return value.strip().upper()


def _integer(header: Dataset, keyword: str) -> int | None:
    try:
        return int(header[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None


def _codes(header: Dataset, keyword: str) -> list[tuple[str, str]]:
    items = header.get(keyword) or []
    return [(_text(item, "CodeValue"), _text(item, "CodingSchemeDesignator")) for item in items]


def _check_sop_class(header: Dataset, profile: Profile) -> Exclusion | None:
    found = str(header.get("SOPClassUID") or "")
    if found in SOP_CLASSES[profile]:
        return None
    rule = RULES["sop-class"]
    name = getattr(header.get("SOPClassUID"), "name", found) or "no SOP class"
    if found == DigitalXRayImageStorageForProcessing:
        return rule.exclusion(
            "an image For Processing has not been rendered for reading; send the one For Presentation", name
        )
    return rule.exclusion(f"{name} is not an image class that the models are meant for", name)


def _check_modality(header: Dataset, _: Profile) -> Exclusion | None:
    found = _text(header, "Modality")
    if found in MODALITIES:
        return None
    return RULES["modality"].exclusion(f"Modality is {shown(found) or 'absent'}, expected CR or DX", found)


def _check_body_part(header: Dataset, _: Profile) -> Exclusion | None:
    found = _text(header, "BodyPartExamined")
    if CHEST_WORDS.intersection(re.split(r"[^A-Z]+", found)):
        return None
    if not found and CHEST_CODES.intersection(_codes(header, "AnatomicRegionSequence")):
        return None
    return RULES["body-part"].exclusion(f"Body Part Examined is {shown(found) or 'absent'}, expected CHEST", found)


def view_of(header: Dataset, profile: Profile) -> tuple[str, str]:
    """Return the view and the attribute it was taken from; the view is empty where no attribute tells it."""
    found = _text(header, "ViewPosition")
    if found:
        return found, "(0018,5101) View Position"
    for code in _codes(header, "ViewCodeSequence"):
        if code in VIEW_CODES:
            return VIEW_CODES[code], "(0054,0220) View Code Sequence"
    if profile == "research" and _text(header, "PatientPosition"):
        return _text(header, "PatientPosition"), "(0018,5100) Patient Position"
    return "", "(0018,5101) View Position"


def _check_view(header: Dataset, profile: Profile) -> Exclusion | None:
    found, attribute = view_of(header, profile)
    if found in FRONTAL:
        return None
    message = f"{attribute.partition(' ')[2]} is {shown(found) or 'absent'}, expected PA or AP"
    return Exclusion("view", message, attribute, shown(found))


def _check_samples(header: Dataset, _: Profile) -> Exclusion | None:
    found = _text(header, "PhotometricInterpretation")
    if found in ("MONOCHROME1", "MONOCHROME2") and _integer(header, "SamplesPerPixel") in (None, 1):
        return None
    return RULES["photometric"].exclusion(
        f"Photometric Interpretation is {shown(found) or 'absent'}, expected MONOCHROME1 or MONOCHROME2", found
    )


def _check_frames(header: Dataset, _: Profile) -> Exclusion | None:
    found = _integer(header, "NumberOfFrames")
    if found in (0, 1) or (found is None and not _text(header, "NumberOfFrames")):
        return None
    value = found if found is not None else _text(header, "NumberOfFrames")
    return RULES["frames"].exclusion(f"the image has {shown(value)} frames, expected one", value)


def _check_size(header: Dataset, _: Profile) -> Exclusion | None:
    rows, columns = _integer(header, "Rows"), _integer(header, "Columns")
    if rows is not None and columns is not None and min(rows, columns) >= MINIMUM_SIZE:
        return None
    return RULES["size"].exclusion(
        f"the image has {rows} rows and {columns} columns, expected at least {MINIMUM_SIZE} of each",
        f"{rows} x {columns}",
    )


def _check_bits(header: Dataset, _: Profile) -> Exclusion | None:
    found = _integer(header, "BitsStored")
    if found is not None and 8 <= found <= 16:
        return None
    return RULES["bits"].exclusion(
        f"Bits Stored is {found if found is not None else 'absent'}, expected 8 to 16", found
    )


# How each rule of the labelling looks at a header; a rule without its check does not import.
_CHECKS: dict[str, Callable[[Dataset, Profile], Exclusion | None]] = {
    "sop-class": _check_sop_class,
    "modality": _check_modality,
    "body-part": _check_body_part,
    "view": _check_view,
    "photometric": _check_samples,
    "frames": _check_frames,
    "size": _check_size,
    "bits": _check_bits,
}

ACCEPTANCE: tuple[Rule, ...] = tuple(
    Rule(rule.reason, rule.attribute, rule.accepts, rule.when_missing, _CHECKS[rule.reason])
    for rule in ACCEPTANCE_RULES
)

RULES = {rule.reason: rule for rule in ACCEPTANCE}


def judge_header(header: Dataset, profile: Profile) -> Exclusion | None:
    """Return the first rule's objection, or None where the header describes an image the models may be meant for."""
    for rule in ACCEPTANCE:
        exclusion = rule.check(header, profile)
        if exclusion is not None:
            return exclusion
    return None


@dataclass(frozen=True)
class Verdict:
    """What one rule says of a header. `value` is what it found; `exclusion` None where the rule does not object."""

    rule: Rule
    value: str
    exclusion: Exclusion | None


def trace_header(header: Dataset, profile: Profile) -> tuple[Verdict, ...]:
    """Return every rule's verdict in the order of `ACCEPTANCE`, also those after the first that objects.

    The first objection is what `judge_header` returns.
    """
    verdicts = []
    for rule in ACCEPTANCE:
        exclusion = rule.check(header, profile)
        verdicts.append(Verdict(rule, exclusion.value if exclusion else _found(rule, header, profile), exclusion))
    return tuple(verdicts)


def _found(rule: Rule, header: Dataset, profile: Profile) -> str:
    """The value that a rule accepted."""
    if rule.reason == "sop-class":
        return shown(getattr(header.get("SOPClassUID"), "name", ""))
    if rule.reason == "view":
        view, attribute = view_of(header, profile)
        return shown(f"{view}, from {attribute}")
    if rule.reason == "size":
        return f"{_integer(header, 'Rows')} x {_integer(header, 'Columns')}"
    group, element = rule.attribute[1:10].split(",")
    found = header.get((int(group, 16), int(element, 16)))
    if rule.reason == "body-part" and (found is None or not found.value):
        return "a chest code in (0008,2218) Anatomic Region Sequence"
    return shown(found.value if found is not None else "")
