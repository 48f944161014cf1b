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
_WITHOUT_SEGMENT = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # no marker at all, TEM, RSTn, SOI, EOI
_CODING_STYLE, _START_OF_TILE = 0x52, 0x90
_MOST_TILES = 65_535  # a tile's number has 16 bits; a decoder would make a row of its table for every one


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
    resolutions: int = 0  # JPEG 2000: how often rows and columns can be halved
    reversible: bool = False  # JPEG 2000: the 5-3 wavelet of whole numbers


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
    """Source: ITU-T T.800 A.5.1 (SIZ), A.6.1 (COD), B.3 (tiles)."""
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 8)
    tile_columns, tile_rows, tile_left, tile_top = struct.unpack_from(">4L", frame, start + 24)
    samples, depth, every_column, every_row = struct.unpack_from(">HBBB", frame, start + 40)
    if not (tile_columns and tile_rows and tile_left <= left < right and tile_top <= top < bottom):
        raise UnreadablePixels("(7FE0,0010) Pixel Data has a JPEG 2000 codestream whose tiles do not cover its image")
    tiles = -(-(right - tile_left) // tile_columns) * -(-(bottom - tile_top) // tile_rows)
    if tiles > _MOST_TILES:
        raise UnreadablePixels(
            f"(7FE0,0010) Pixel Data has a JPEG 2000 codestream of {tiles} tiles, expected at most {_MOST_TILES}"
        )
    if (every_column, every_row) != (1, 1):
        raise UnreadablePixels(
            "(7FE0,0010) Pixel Data has a JPEG 2000 codestream with a sample for every "
            f"{every_column} x {every_row} pixels, expected 1 x 1"
        )
    resolutions, reversible, first_tile = _coding_style(frame, start)
    _check_tiles(frame, first_tile, tiles)
    return Codestream(
        bottom - top, right - left, samples, (depth & 0x7F) + 1, bool(depth & 0x80), resolutions, reversible
    )


def _coding_style(frame: bytes, start: int) -> tuple[int, bool, int]:
    """Return decomposition levels, whether the wavelet is reversible, and where the first tile-part begins."""
    at, resolutions, reversible = start + 2, 0, False
    while True:
        marker, code, length = struct.unpack_from(">BBH", frame, at)
        if marker != 0xFF or length < 2:
            raise UnreadablePixels("(7FE0,0010) Pixel Data has no JPEG 2000 marker where one must be")
        if code == _START_OF_TILE:
            return resolutions, reversible, at
        if code == _CODING_STYLE:
            resolutions, reversible = frame[at + 9], frame[at + 13] == 1
        at += 2 + length


def _check_tiles(frame: bytes, at: int, tiles: int) -> None:
    """Refuse a codestream without one of its tiles: a decoder would fill it with gray. Source: ITU-T T.800 A.4.2."""
    seen = set()
    while frame[at : at + 2] == bytes((0xFF, _START_OF_TILE)):
        number, length = struct.unpack_from(">HL", frame, at + 4)
        seen.add(number)
        if length == 0:  # to the end of the codestream
            break
        if length < 14 or at + length > len(frame):
            raise UnreadablePixels("(7FE0,0010) Pixel Data ends within a tile of its JPEG 2000 codestream")
        at += length
    if seen != set(range(tiles)):
        raise UnreadablePixels(
            f"(7FE0,0010) Pixel Data has {len(seen)} tiles of a JPEG 2000 codestream, expected {tiles}"
        )
