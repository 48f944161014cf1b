"""Changes to bytes that know what the bytes are: lengths, value representations, items of a PDU, fields of HL7.

Each takes bytes and a source of chance and returns other bytes; the same seed gives the same bytes.
"""

import random
import struct
from collections.abc import Callable, Sequence

Mutator = Callable[[bytes, random.Random], bytes]

EDGES = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65534, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
VRS = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV ZZ".split()
)
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
HOSTILE = (
    b"",
    b"\x00",
    b"\xff" * 64,
    b"A" * 70,
    b"A" * 5000,
    b"../../../../etc/passwd",
    b"<script>alert(1)</script>",
    b"\x1b$B\x1b(J\x1b)I\xb1",
    b"1.2." + b"9" * 70,
    b"1..2",
    b"-1",
    b"1e308",
    b"NaN",
    b"99999999999999999999",
    b"\\" * 40,
    b"^" * 40,
    b"%s%n{}",
    "İ́\u202e\ud7ff".encode(),
)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Change one to eight bits anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    """Leave out the end, or a piece in the middle."""
    if not data:
        return data
    start = rng.randrange(len(data))
    return data[:start] if rng.random() < 0.5 else data[:start] + data[start + rng.randint(1, 64) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    """Put a piece in twice."""
    if not data:
        return data
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 256))
    return data[:end] + data[start:end] + data[end:]


def set_edge(data: bytes, rng: random.Random) -> bytes:
    """Write a number from the edge of its range, of 2 or 4 bytes, in either order."""
    form = rng.choice(["<H", ">H", "<I", ">I"])
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    at = rng.randrange(len(data) - size + 1)
    return data[:at] + struct.pack(form, rng.choice(EDGES) & (2 ** (8 * size) - 1)) + data[at + size :]


BYTES: Sequence[Mutator] = (flip_bits, cut, repeat, set_edge)


def elements(data: bytes, start: int) -> list[tuple[int, int, int]]:
    """Return (offset, offset of the value, end) of each element of an Explicit VR Little Endian dataset, as far as its
    lengths make sense; sequences of undefined length are entered."""
    found, at = [], start
    while at + 8 <= len(data):
        vr = data[at + 4 : at + 6]
        if data[at : at + 2] == b"\xfe\xff":  # item and delimiters: tag and length only
            found.append((at, at + 8, at + 8))
            at += 8
            continue
        if vr in LONG_VRS:
            if at + 12 > len(data):
                break
            value, length = at + 12, struct.unpack_from("<I", data, at + 8)[0]
        else:
            value, length = at + 8, struct.unpack_from("<H", data, at + 6)[0]
        if length == 0xFFFFFFFF:
            found.append((at, value, value))
            at = value
            continue
        if value + length > len(data):
            break
        found.append((at, value, value + length))
        at = value + length
    return found


def _dataset_start(data: bytes) -> int:
    return 132 if data[128:132] == b"DICM" else 0


def change_value(data: bytes, rng: random.Random) -> bytes:
    """Give an element another value, its length right: only the value is wrong."""
    found = [item for item in elements(data, _dataset_start(data)) if data[item[0] : item[0] + 2] != b"\xfe\xff"]
    if not found:
        return flip_bits(data, rng)
    start, _, end = rng.choice(found)
    new = rng.choice(HOSTILE) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 2, 4, 8, 63, 64, 65)))
    new += b" " * (len(new) % 2)
    is_long = data[start + 4 : start + 6] in LONG_VRS
    head = data[start : start + 6] + (b"\0\0" + struct.pack("<I", len(new)) if is_long else struct.pack("<H", len(new)))
    return data[:start] + head + new + data[end:]


def change_length(data: bytes, rng: random.Random) -> bytes:
    """Lie about an element's length."""
    found = elements(data, _dataset_start(data))
    if not found:
        return set_edge(data, rng)
    start, value, _ = rng.choice(found)
    if value - start == 12 or data[start : start + 2] == b"\xfe\xff":
        return data[: value - 4] + struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF) + data[value:]
    return data[: value - 2] + struct.pack("<H", rng.choice(EDGES) & 0xFFFF) + data[value:]


def change_vr(data: bytes, rng: random.Random) -> bytes:
    """Say that an element's value is of another kind."""
    found = [item for item in elements(data, _dataset_start(data)) if data[item[0] : item[0] + 2] != b"\xfe\xff"]
    if not found:
        return flip_bits(data, rng)
    start, _, _ = rng.choice(found)
    return data[: start + 4] + rng.choice(VRS) + data[start + 6 :]


def drop_or_move(data: bytes, rng: random.Random) -> bytes:
    """Leave an element out, put it in twice, or put it elsewhere."""
    found = elements(data, _dataset_start(data))
    if len(found) < 3:
        return cut(data, rng)
    start, _, end = rng.choice(found)
    piece, rest = data[start:end], data[:start] + data[end:]
    kind = rng.randrange(3)
    if kind == 0:
        return rest
    if kind == 1:
        return data[:end] + piece + data[end:]
    other = rng.choice(found)[0]
    return rest[:other] + piece + rest[other:]


def nest(data: bytes, rng: random.Random) -> bytes:
    """Put sequences in sequences, deeper than anybody means it."""
    depth = rng.choice((1, 5, 50, 500, 3000))
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth if rng.random() < 0.7 else b""
    found = elements(data, _dataset_start(data))
    at = rng.choice(found)[0] if found else 0
    return data[:at] + opened + closed + data[at:]


DATASETS: Sequence[Mutator] = (*BYTES, change_value, change_value, change_length, change_vr, drop_or_move, nest)


def pdus(stream: bytes) -> list[bytes]:
    """Return the protocol data units of a stream, as far as their lengths make sense."""
    found, at = [], 0
    while at + 6 <= len(stream):
        length = struct.unpack_from(">I", stream, at + 2)[0]
        found.append(stream[at : at + 6 + length])
        at += 6 + length
    return found


def change_pdu(stream: bytes, rng: random.Random) -> bytes:
    """Give one unit another type, another length, another context, another control byte; or change its place."""
    units = pdus(stream)
    if not units:
        return flip_bits(stream, rng)
    at = rng.randrange(len(units))
    unit = bytearray(units[at])
    kind = rng.randrange(8)
    if kind == 0:
        unit[0] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 0x16, 0xFF))
    elif kind == 1:
        unit[2:6] = struct.pack(">I", rng.choice(EDGES) & 0xFFFFFFFF)
    elif kind == 2 and len(unit) >= 12:
        unit[6:10] = struct.pack(">I", rng.choice(EDGES) & 0xFFFFFFFF)
    elif kind == 3 and len(unit) >= 12:
        unit[10] = rng.choice((0, 1, 2, 3, 5, 127, 254, 255))
    elif kind == 4 and len(unit) >= 12:
        unit[11] = rng.randrange(256)
    elif kind == 5:
        units.insert(rng.randrange(len(units) + 1), bytes(unit))
    elif kind == 6:
        units.pop(at)
        return b"".join(units)
    else:
        units.insert(rng.randrange(len(units)), units.pop(at))
        return b"".join(units)
    units[at] = bytes(unit)
    return b"".join(units)


def change_item(stream: bytes, rng: random.Random) -> bytes:
    """Change a sub-item of the association request: its type, its length, its text."""
    units = pdus(stream)
    if not units or units[0][:1] != b"\x01" or len(units[0]) < 80:
        return change_pdu(stream, rng)
    unit = bytearray(units[0])
    at, items = 74, []
    while at + 4 <= len(unit):
        length = struct.unpack_from(">H", unit, at + 2)[0]
        items.append((at, length))
        at += 4 + length
    place, length = rng.choice(items)
    kind = rng.randrange(4)
    if kind == 0:
        unit[place] = rng.randrange(256)
    elif kind == 1:
        unit[place + 2 : place + 4] = struct.pack(">H", rng.choice(EDGES) & 0xFFFF)
    elif kind == 2 and length:
        unit[place + 4 : place + 4 + length] = rng.randbytes(length)
    else:
        unit += bytes(unit[place : place + 4 + length]) * rng.choice((1, 10, 200))
        unit[2:6] = struct.pack(">I", len(unit) - 6)
    return b"".join([bytes(unit), *units[1:]])


PDUS: Sequence[Mutator] = (*BYTES, change_pdu, change_pdu, change_item)


def change_field(data: bytes, rng: random.Random) -> bytes:
    """Give one field of one HL7 segment a hostile value, or take it out."""
    segments = data.split(b"\r")
    at = rng.randrange(len(segments))
    fields = segments[at].split(b"|")
    fields[rng.randrange(len(fields))] = rng.choice(HOSTILE)
    if rng.random() < 0.2:
        fields += [rng.choice(HOSTILE)] * rng.choice((1, 10, 300))
    segments[at] = b"|".join(fields)
    if rng.random() < 0.2:
        segments.insert(rng.randrange(len(segments)), segments[rng.randrange(len(segments))])
    return b"\r".join(segments)


TEXTS: Sequence[Mutator] = (*BYTES, change_field, change_field)


def mutated(data: bytes, rng: random.Random, mutators: Sequence[Mutator]) -> bytes:
    """Return the data after one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(mutators)(data, rng)
    return data
