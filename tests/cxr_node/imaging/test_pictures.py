"""What a picture's first bytes tell of it, and that a bomb is refused before it is decoded."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging import is_picture, radiograph_from_picture
from cxr_node.imaging.pictures import check_picture_size

pytestmark = pytest.mark.requirement("SRS-DRP-003")


def make_png(rows: int, columns: int) -> bytes:
    """A PNG that states a size; its pixels are a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_jpeg(rows: int, columns: int) -> bytes:
    """A real JPEG with another size written into its frame header."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(data)


@pytest.mark.parametrize("make", [make_png, make_jpeg])
def test_a_picture_of_50_000_by_50_000_is_refused_from_its_header(make):
    """A few bytes would decode to gigabytes."""
    with pytest.raises(UnreadablePixels, match=r"50000 x 50000 pixels, more than 40 million"):
        radiograph_from_picture(make(50_000, 50_000))


@pytest.mark.parametrize(("extension", "shape"), [(".png", (20, 31)), (".jpg", (33, 17))])
def test_the_size_is_that_of_the_decoded_picture(extension, shape):
    """The check must not refuse, or wave through, another size than the decoder sees."""
    data = cv2.imencode(extension, np.zeros(shape, np.uint8))[1].tobytes()
    assert check_picture_size(data) == shape == radiograph_from_picture(data).grayscale.shape


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x10" + b"J" * 20,
        b"\xff\xd8\xff\xda\x00\x02",
        b"\xff\xd8" + b"\xff" * 50,
        make_png(0, 5),
    ],
)
def test_a_header_that_breaks_off_is_a_reason_and_no_crash(data):
    """Every upload is somebody's first three bytes."""
    with pytest.raises(UnreadablePixels):
        radiograph_from_picture(data)


def test_a_picture_is_known_by_its_first_bytes(tmp_path):
    """Names lie."""
    (tmp_path / "a.dcm").write_bytes(make_png(3, 3))
    (tmp_path / "b.png").write_bytes(b"hello")
    assert is_picture(tmp_path / "a.dcm")
    assert not is_picture(tmp_path / "b.png")
