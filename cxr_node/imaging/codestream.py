"""What a compressed image says of itself, read before a decoder is given it: size, samples, precision, and its end."""

import struct
from dataclasses import dataclass

from cxr_node.errors import UnreadablePixels

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_END = b"\xff\xd9"  # End of Image and End of Codestream share a code
_LONGEST_TAIL = 16  # padding after the end marker; some senders write two bytes instead of one
# Start of Frame of every JPEG process and of JPEG-LS; DHT, JPG and DAC lie between them.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_JPEG_LS_FRAME, _HUFFMAN_TABLE, _START_OF_SCAN = 0xF7, 0xC4, 0xDA
_WITHOUT_SEGMENT = frozenset({0x01, *range(0xD0, 0xDA)})  # TEM, RSTn, SOI, EOI


@dataclass(frozen=True)
class Codestream:
    """The frame header of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Source: ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
    """

    rows: int
    columns: int
    samples: int  # components per pixel
    precision: int  # bits per sample, 2 to 38
    signed: bool


def read_codestream(frame: bytes) -> Codestream:
    """Read the frame header.

    Raises
    ------
    UnreadablePixels
        The bytes are no such codestream, or do not reach its end marker: a decoder would fill the rest with gray.
    """
    try:
        found = _read(frame)
    except (struct.error, IndexError) as error:
        raise UnreadablePixels("(7FE0,0010) Pixel Data ends within the frame header of its codestream") from error
    if frame.rfind(_END, max(0, len(frame) - _LONGEST_TAIL)) < 0:
        raise UnreadablePixels("(7FE0,0010) Pixel Data ends before the end marker FFD9 of its codestream")
    return found


def _read(frame: bytes) -> Codestream:
    if frame.startswith(_JPEG):
        return _read_jpeg(frame)
    # Some senders wrap the codestream in a JP2 file, against PS3.5 8.2.4; every decoder here takes it.
    start = frame.find(_JPEG_2000, 0, 4096)
    if start >= 0:
        return _read_jpeg_2000(frame, start)
    raise UnreadablePixels("(7FE0,0010) Pixel Data is no JPEG, JPEG-LS or JPEG 2000 codestream")


def _read_jpeg(frame: bytes) -> Codestream:
    """Walk the marker segments to the first scan: GDCM ends the process where the tables before it are broken."""
    found, tables, at = None, False, 2
    while True:
        marker, code, length = struct.unpack_from(">BBH", frame, at)
        if marker == code == 0xFF:  # fill byte
            at += 1
            continue
        if marker != 0xFF or code in _WITHOUT_SEGMENT or length < 2:
            raise UnreadablePixels("(7FE0,0010) Pixel Data has no JPEG marker where one must be")
        if code in _FRAME_MARKERS:
            if found is not None:
                raise UnreadablePixels("(7FE0,0010) Pixel Data has two JPEG frame headers")
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            found = Codestream(rows, columns, samples, precision, signed=False)
            tables = tables or code == _JPEG_LS_FRAME
        tables = tables or code == _HUFFMAN_TABLE
        if code == _START_OF_SCAN:
            break
        at += 2 + length
    if found is None or not tables:
        raise UnreadablePixels("(7FE0,0010) Pixel Data has no JPEG frame header or no table before its first scan")
    return found


def _read_jpeg_2000(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(bottom - top, right - left, samples, (depth & 0x7F) + 1, signed=bool(depth & 0x80))
