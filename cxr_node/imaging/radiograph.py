"""The value that both readers end in, a DICOM file's and a cohort picture's."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.pictures import PICTURE_SIGNATURES, check_picture_size


@dataclass(frozen=True)
class Radiograph:
    """A decoded image as a reader sees it.

    `grayscale` is (rows, columns) float32 in [0, 1], black 0, C-contiguous.
    """

    grayscale: np.ndarray

    def __post_init__(self) -> None:
        if self.grayscale.ndim != 2 or self.grayscale.dtype != np.float32:
            raise UnreadablePixels(
                f"a radiograph is (rows, columns) float32, found {self.grayscale.shape} {self.grayscale.dtype}"
            )

    @property
    def rows(self) -> int:
        return int(self.grayscale.shape[0])

    @property
    def columns(self) -> int:
        return int(self.grayscale.shape[1])


def radiograph_from_picture(data: bytes) -> Radiograph:
    """Decode a PNG or JPEG of a cohort (8 or 16 bit, gray or colour) as the full range of its bit depth.

    Raises
    ------
    UnreadablePixels
        The bytes are no picture that OpenCV decodes, or state more pixels than any radiograph has.
    """
    if not data:  # OpenCV raises its own error on nothing
        raise UnreadablePixels("expected a PNG or JPEG picture, found an empty file")
    if data.startswith(PICTURE_SIGNATURES):
        check_picture_size(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:  # larger than OpenCV's own limit, in a format that is none of the two
        raise UnreadablePixels("expected a PNG or JPEG picture, found bytes that do not decode as one") from error
    if pixels is None:
        raise UnreadablePixels("expected a PNG or JPEG picture, found bytes that do not decode as one")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadablePixels(f"expected a picture of 8 or 16 bits per sample, found {pixels.dtype}")
    full = np.float32(255 if pixels.dtype == np.uint8 else 65535)
    return Radiograph(np.asarray(pixels, np.float32) / full)


def radiograph_from_picture_file(path: Path) -> Radiograph:
    """Read a PNG or JPEG file; see `radiograph_from_picture`."""
    return radiograph_from_picture(path.read_bytes())
