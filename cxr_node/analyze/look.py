"""A look at one file that somebody tries: the node's own gate and preprocessing, and what a person wants to know of it.

Runs in a process of its own, see `apart`; loads no TensorFlow. What comes of it is scored in the stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom.dataset import Dataset

from cxr_node.analyze.acceptance import Profile, shown, trace_header
from cxr_node.analyze.prepare import PIXEL_DATA, Prepared, admit, prepare_radiograph, radiograph_for
from cxr_node.analyze.routing import Route, age_at_study, route, route_stated
from cxr_node.errors import UnreadableDataset, UnreadablePixels
from cxr_node.findings import Exclusion, ImageReference
from cxr_node.imaging import (
    Radiograph,
    implausible,
    is_picture,
    radiograph_from_picture_file,
)
from cxr_node.imaging.opened import open_image
from cxr_node.inference import ModelPackage

LONGEST_SIDE = 640  # of a preview, in pixels
NOT_AN_IMAGE = Exclusion("not-an-image", "the file is no DICOM, PNG or JPEG image")
NOWHERE = ImageReference("", "", "")


@dataclass(frozen=True)
class Looked:
    """What was seen, complete but for the scores.

    `inputs` are by package digest; `facts` are words for people, by name; `trace` is there where it was asked for.
    """

    kind: str  # DICOM, PNG or JPEG; empty where it is none
    exclusion: Exclusion | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    has_preview: bool = False
    trace: Mapping[str, Any] | None = None


def look(
    path: Path,
    preview: Path,
    *,
    population: str,
    profile: Profile,
    packages: Sequence[ModelPackage],
    traced: bool = False,
    full_decode: bool = False,
) -> Looked:
    """Return what the file is and whether a model may look at it; write its preview where the pixels decode.

    Parameters
    ----------
    population : whom a picture without a header was said to show, a key of `POPULATIONS`; empty: nobody said
    traced : also every rule's verdict, the look at the pixels whatever the rules say, and where it would go
    """
    if is_picture(path):
        return _look_at_picture(path, preview, population, packages)
    return _look_at_dataset(path, preview, profile, packages, traced, full_decode)


def _look_at_picture(path: Path, preview: Path, population: str, packages: Sequence[ModelPackage]) -> Looked:
    with path.open("rb") as file:
        kind = "PNG" if file.read(1) == b"\x89" else "JPEG"
    try:
        radiograph = radiograph_from_picture_file(path)
    except UnreadablePixels as error:
        return Looked(kind, Exclusion("unreadable-pixels", str(error)))
    _write_preview(radiograph, preview)
    facts = {"size": f"{radiograph.columns} x {radiograph.rows}"}
    # The pixels first: who tries a holiday picture need not be asked whose chest it shows.
    exclusion = implausible(radiograph)
    routed = exclusion or route_stated(population, packages)
    if isinstance(routed, Exclusion):
        return Looked(kind, routed, facts=facts, has_preview=True)
    prepared = prepare_radiograph(NOWHERE, None, radiograph, routed)
    return Looked(kind, prepared.exclusion, prepared.inputs, prepared.notes, facts, has_preview=True)


def _look_at_dataset(
    path: Path, preview: Path, profile: Profile, packages: Sequence[ModelPackage], traced: bool, full_decode: bool
) -> Looked:
    try:
        found = open_image(path)
    except UnreadableDataset as error:
        if _is_part_10(path):
            return Looked("", Exclusion("unreadable-dataset", str(error)))
        return Looked("", NOT_AN_IMAGE)
    header = found.header
    if not header.get("SOPClassUID") and not _is_part_10(path):
        return Looked("", NOT_AN_IMAGE)  # almost any bytes read as some element
    routed = admit(header, profile, packages)
    radiograph, undecoded = None, ""
    try:
        # Also where a rule objects: a person believes what they can see.
        if isinstance(routed, Exclusion):
            radiograph = found.radiograph()
        else:
            radiograph = radiograph_for(found, routed, full_decode=full_decode)
        _write_preview(radiograph, preview)
    except UnreadablePixels as error:
        undecoded = str(error)
    if isinstance(routed, Exclusion):
        prepared = Prepared(NOWHERE, exclusion=routed)
    elif radiograph is None:
        prepared = Prepared(NOWHERE, exclusion=Exclusion("unreadable-pixels", undecoded, PIXEL_DATA))
    else:
        prepared = prepare_radiograph(NOWHERE, header, radiograph, routed)
    return Looked(
        "DICOM",
        prepared.exclusion,
        prepared.inputs,
        prepared.notes,
        _facts(header, profile),
        _text(header, "StudyInstanceUID"),
        _text(header, "SOPInstanceUID"),
        radiograph is not None,
        _trace(header, radiograph, undecoded, profile, packages) if traced else None,
    )


def _is_part_10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _facts(header: Dataset, profile: Profile) -> dict[str, str]:
    """Nothing that tells who the patient is."""
    found = {
        "class": shown(getattr(header.get("SOPClassUID"), "name", "")),
        "modality": _text(header, "Modality"),
        "body_part": _text(header, "BodyPartExamined"),
        "view": _text(header, "ViewPosition"),
        "size": f"{_text(header, 'Columns')} x {_text(header, 'Rows')}" if "Rows" in header else "",
    }
    age = age_at_study(header, profile)
    if age is not None:
        found["age"] = f"{int(age.years)} years" if age.years >= 1 else "under 1 year"
    return {name: value for name, value in found.items() if value}


def _text(header: Dataset, keyword: str) -> str:
    return shown(header.get(keyword))


def _trace(
    header: Dataset, radiograph: Radiograph | None, undecoded: str, profile: Profile, packages: Sequence[ModelPackage]
) -> dict[str, Any]:
    rules = [
        {
            "reason": verdict.rule.reason,
            "value": verdict.value,
            "objection": verdict.exclusion.message if verdict.exclusion else "",
        }
        for verdict in trace_header(header, profile)
    ]
    routed = route(header, profile, packages)
    seen = implausible(radiograph) if radiograph is not None else None
    return {
        "rules": rules,
        "routing": {
            "age": _facts(header, profile).get("age", ""),
            "models": [package.manifest.name for package in routed.packages] if isinstance(routed, Route) else [],
            "objection": routed.message if isinstance(routed, Exclusion) else "",
            "notes": list(routed.notes) if isinstance(routed, Route) else [],
        },
        "pixels": {
            "looked": radiograph is not None,
            "objection": undecoded if radiograph is None else seen.message if seen else "",
        },
    }


def _write_preview(radiograph: Radiograph, path: Path) -> None:
    scale = min(1.0, LONGEST_SIDE / max(radiograph.rows, radiograph.columns))
    rows, columns = (max(1, round(length * scale)) for length in (radiograph.rows, radiograph.columns))
    small = cv2.resize(radiograph.grayscale, (columns, rows), interpolation=cv2.INTER_AREA)
    encoded, data = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))
    assert encoded
    path.write_bytes(data.tobytes())
