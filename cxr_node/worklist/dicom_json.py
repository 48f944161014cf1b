"""DICOM JSON over HTTP: media types, bodies and query parameters, in and out.

Source: DICOM PS3.18 8.3.4 (search parameters), 8.7 (media types), F.2 (DICOM JSON Model).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

MEDIA_TYPE = "application/dicom+json"
_TAKEN = frozenset({MEDIA_TYPE, "application/json"})
_WANTED = _TAKEN | {"*/*", "application/*"}
MOST_BODY_BYTES = 1_000_000
MOST_RESULTS = 1000

_NO_ATTRIBUTES = frozenset({"includefield", "fuzzymatching", "limit", "offset", "accept", "charset"})
_ALL = "all"


@dataclass(frozen=True)
class Search:
    """A search as it was asked for. `fields` is None for all attributes."""

    keys: Dataset
    fields: frozenset[BaseTag] | None
    limit: int
    offset: int
    fuzzy: bool


def check_accept(request: Request) -> None:
    """Raise 406 where the client takes no DICOM JSON: XML, the other form of the standard, is not made here."""
    accept = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if not kinds & _WANTED:
        raise HTTPException(406, f"only {MEDIA_TYPE} is made here")


async def read_dataset(request: Request, *, optional: bool = False) -> Dataset:
    """Return the dataset of a request's body: one, alone or in an array.

    Raises
    ------
    HTTPException
        415 for another media type, 413 for a body that is too large, 400 for one that is no DICOM JSON of one dataset.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise HTTPException(413, f"a body may have {MOST_BODY_BYTES} bytes")
    if optional and not body.strip():
        return Dataset()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TAKEN:
        raise HTTPException(415, f"expected {MEDIA_TYPE}, found {kind[:80] or 'no content type'}")
    try:
        found = json.loads(body)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, dict):
            raise ValueError("not one dataset")
        dataset = Dataset.from_json(found, _no_bulk_data)
        for _ in dataset.iterall():  # values are decoded when they are looked at
            pass
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HTTPException(400, "the body is no DICOM JSON of one work item") from error
    return dataset


def search(request: Request) -> Search:
    """Read the query parameters of a search.

    Raises
    ------
    HTTPException
        400 for a parameter that is none.
    """
    keys = Dataset()
    fields: set[BaseTag] | None = set()
    for name, value in request.query_params.multi_items():
        lowered = name.lower()
        if lowered == "includefield":
            for part in value.split(","):
                if part.strip().lower() == _ALL:
                    fields = None
                elif fields is not None:
                    fields.add(_path(part.strip())[0])
        elif lowered not in _NO_ATTRIBUTES:
            add_key(keys, name, value)
    parameters = request.query_params
    return Search(
        keys=keys,
        fields=None if fields is None else frozenset(fields),
        limit=min(_number(parameters.get("limit"), "limit", MOST_RESULTS), MOST_RESULTS),
        offset=_number(parameters.get("offset"), "offset", 0),
        fuzzy=parameters.get("fuzzymatching", "").lower() == "true",
    )


def add_key(keys: Dataset, name: str, value: str) -> None:
    """Add one ``attribute=value``; a dotted name reaches into a sequence, a comma separates the UIDs of a list.

    Source: PS3.18 8.3.4.1.
    """
    path = _path(name)
    target = keys
    for tag in path[:-1]:
        if tag not in target:
            target.add_new(tag, "SQ", [Dataset()])
        target = target[tag].value[0]
    vr = _vr(path[-1], name)
    if vr == "SQ":
        raise HTTPException(400, f"{name[:80]}: a sequence is searched by an attribute in it")
    try:
        target.add_new(path[-1], vr, value.split(",") if vr == "UI" and "," in value else value)
    except (ValueError, TypeError) as error:
        raise HTTPException(400, f"{name[:80]}: the value is none of its kind ({vr})") from error


def to_json(datasets: Iterable[Dataset]) -> bytes:
    """Return DICOM JSON of the datasets, always an array."""
    found: list[dict[str, Any]] = [dataset.to_json_dict(suppress_invalid_tags=True) for dataset in datasets]
    return json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


def _path(name: str) -> list[BaseTag]:
    return [_tag(part, name) for part in name.split(".")]


def _tag(part: str, name: str) -> BaseTag:
    tag = tag_for_keyword(part)
    if tag is not None:
        return Tag(tag)
    if len(part) == 8:
        try:
            return Tag(int(part, 16))
        except ValueError:
            pass
    raise HTTPException(400, f"{name[:80]} is no attribute and no parameter of this search")


def _vr(tag: BaseTag, name: str) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError as error:
        raise HTTPException(400, f"{name[:80]} is no attribute of the standard") from error


def _number(value: str | None, name: str, default: int) -> int:
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise HTTPException(400, f"{name}: expected a number, found {value[:20]!r}")
    return int(value)


def _no_bulk_data(_tag: str, _vr: str, _uri: str) -> None:
    raise ValueError("bulk data has no place in a work item")
