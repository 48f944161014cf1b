"""TFRecord files, read for where each record lies: a frame's length is followed, the pictures are left alone.

A frame is the length (8 bytes, little endian), its checksum (4), the data, and the data's checksum (4).
Source: https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LENGTH = struct.Struct("<QI")
_CHECKSUM_BYTES = 4
# A record is a picture and its labels; a length above this is no record's, and must not be allocated.
LARGEST_RECORD = 64 << 20


@dataclass(frozen=True)
class Record:
    """The data of one frame and the byte of the file that it starts at."""

    offset: int
    data: bytes


class BrokenRecords(Exception):
    """A file's frames cannot be followed any further; says where and why."""


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, one at a time.

    The length's checksum is tested, as a wrong length would make nonsense of all that follows. The data's is not: in
    Python it would take longer than reading the cohort; data that is damaged shows where it is parsed or decoded.

    Raises
    ------
    BrokenRecords
        A frame is damaged or the file ends inside one: nothing after it can be found.
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        offset = 0
        number = 0
        while header := file.read(_LENGTH.size):
            where = f"record {number} at byte {offset}"
            if len(header) < _LENGTH.size:
                raise BrokenRecords(f"{where}: expected {_LENGTH.size} bytes of length, found {len(header)}")
            length, checksum = _LENGTH.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                raise BrokenRecords(f"{where}: the checksum of its length is wrong")
            if length > LARGEST_RECORD:
                raise BrokenRecords(f"{where}: expected at most {LARGEST_RECORD} bytes, found the length {length}")
            data = file.read(length + _CHECKSUM_BYTES)
            if len(data) < length + _CHECKSUM_BYTES:
                raise BrokenRecords(f"{where}: expected {length + _CHECKSUM_BYTES} bytes, found {len(data)}")
            yield Record(offset + _LENGTH.size, data[:length])
            offset += _LENGTH.size + length + _CHECKSUM_BYTES
            number += 1


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TFRecords keep it, rotated and offset. Sources: RFC 3720 B.4; the format's page."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
