"""multipart/related bodies of DICOM files, part by part to disk: no part is ever whole in memory."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from cxr_node.errors import BadMultipart

DICOM = "application/dicom"
_LONGEST_BOUNDARY = 250  # RFC 2046 5.1.1 says 70; Orthanc writes 147
_MAXIMUM_HEADERS = 16
_LONGEST_HEADER = 4096


@dataclass(frozen=True)
class Part:
    """One part. Names of headers are in lower case; `path` is its file, which whoever takes the part removes."""

    headers: Mapping[str, str]
    path: Path

    @property
    def media_type(self) -> str:
        """What it says it is, without parameters, in lower case; empty where it says nothing."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_content_type(content_type: str) -> tuple[str, dict[str, str]]:
    """Return the media type and its parameters: keys, type and the parameter `type` in lower case."""
    name, options = parse_options_header(content_type)
    values = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in options.items()}
    values["type"] = values.get("type", "").lower()
    return name.decode("latin-1").lower(), values


class PartsToFiles:
    """Takes a body in pieces of any size and hands each part over as a file, in order.

    Parameters
    ----------
    boundary : of the Content-Type
    new_path : returns a path for the next part
    take : is given each part once its last byte is written
    maximum_parts : more are an error

    Raises
    ------
    BadMultipart
        By the constructor, `write` and `finish`: the bytes are no multipart body, or not a whole one.
    OSError
        By `write`: a file cannot be written.

    Source: RFC 2046 5.1, RFC 2387.
    """

    def __init__(
        self,
        boundary: str,
        new_path: Callable[[], Path],
        take: Callable[[Part], None],
        *,
        maximum_parts: int = 100_000,
    ) -> None:
        if not 0 < len(boundary) <= _LONGEST_BOUNDARY:
            raise BadMultipart(f"expected a boundary of 1 to {_LONGEST_BOUNDARY} characters, found {len(boundary)}")
        self._new_path, self._take, self._maximum_parts = new_path, take, maximum_parts
        self.parts = 0
        self._is_over = False
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=_MAXIMUM_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadMultipart("the body is no multipart/related as its boundary announces") from error

    def finish(self) -> None:
        """Say that the body has ended."""
        if not self._is_over:
            raise BadMultipart("the body ends before its closing boundary")

    def close(self) -> None:
        """Remove the file of a part that did not end; fit to be called in any state, more than once."""
        file, path, self._file, self._path = self._file, self._path, None, None
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk, told already: what is left in the buffer goes with it
                file.close()
        if path is not None:
            path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self.parts += 1
        if self.parts > self._maximum_parts:
            raise BadMultipart(f"more than {self._maximum_parts} parts in one body")
        self._headers = {}

    def _end_header(self) -> None:
        name, value = self._name.decode("latin-1").strip().lower(), self._value.decode("latin-1").strip()
        self._headers[name] = value
        self._name.clear()
        self._value.clear()

    def _open(self) -> None:
        self._path = self._new_path()
        self._file = self._path.open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None
        self._file.write(memoryview(data)[start:end])

    def _end(self) -> None:
        if self._file is None or self._path is None:
            raise BadMultipart("a part without an end of its headers")
        self._file.close()
        path, self._file, self._path = self._path, None, None
        self._take(Part(self._headers, path))

    def _finish(self) -> None:
        self._is_over = True
