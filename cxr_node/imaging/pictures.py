"""PNG and JPEG pictures, as far as their first bytes tell: what they are, and how large, before anything is decoded."""

import struct
from pathlib import Path

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.description import MAXIMUM_PIXELS

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PICTURE_SIGNATURES = (PNG, JPEG)
# Start of Frame of every JPEG process; DHT, JPG and DAC lie between them. Source: ITU-T T.81 table B.1.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def is_picture(path: Path) -> bool:
    """Whether the file begins as a PNG or a JPEG does; the name is not asked."""
    with path.open("rb") as handle:
        start = handle.read(8)
    return start.startswith(PICTURE_SIGNATURES)


def check_picture_size(data: bytes) -> tuple[int, int]:
    """Return the (rows, columns) that a PNG or JPEG states.

    Raises
    ------
    UnreadablePixels
        It states none, or more pixels than any radiograph has: a few bytes would decode to gigabytes.

    Source: PNG (ISO/IEC 15948) 11.2.2 IHDR, ITU-T T.81 B.2.2 (SOF).
    """
    try:
        rows, columns = _png_size(data) if data.startswith(PNG) else _jpeg_size(data)
    except (struct.error, IndexError) as error:
        raise UnreadablePixels("the picture ends before it says how large it is") from error
    if rows < 1 or columns < 1:
        raise UnreadablePixels(f"the picture has {rows} rows and {columns} columns")
    if rows * columns > MAXIMUM_PIXELS:
        raise UnreadablePixels(f"the picture has {columns} x {rows} pixels, more than {MAXIMUM_PIXELS / 1e6:g} million")
    return rows, columns


def _png_size(data: bytes) -> tuple[int, int]:
    name, columns, rows = struct.unpack_from(">4sII", data, len(PNG) + 4)
    if name != b"IHDR":
        raise UnreadablePixels("the picture does not begin with the header of a PNG")
    return rows, columns


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        marker, code = data[at], data[at + 1]
        if marker != 0xFF:
            raise UnreadablePixels("the picture has no JPEG marker where one must be")
        if code == 0xFF:  # a fill byte
            at += 1
        elif code in _JPEG_FRAMES:
            rows, columns = struct.unpack_from(">HH", data, at + 5)
            return rows, columns
        elif code == 0xDA or code == 0xD9:
            raise UnreadablePixels("the picture has no JPEG frame header before its first scan")
        else:
            at += 2 if code == 0x01 or 0xD0 <= code <= 0xD7 else 2 + struct.unpack_from(">H", data, at + 2)[0]
