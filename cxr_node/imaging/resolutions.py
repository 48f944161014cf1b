"""JPEG 2000 at a lower resolution: which one, and what makes it stand for the full one. Source: ITU-T T.800."""

from io import BytesIO

import cv2
import numpy as np
from PIL import Image
from pydicom.uid import HTJ2K, JPEG2000, UID, HTJ2KLossless, HTJ2KLosslessRPCL, JPEG2000Lossless

from cxr_node.imaging.codestream import Codestream
from cxr_node.imaging.description import PixelDescription

WITH_RESOLUTIONS = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
# A lower resolution has at least so many times the rows and columns that are wanted. The commonest detector, 3000 x
# 2500, has 1.95 times 320 at a quarter, where decoding takes a small part of the time; the tolerance that tests state
# is kept from 1.9 on, and not at 1.6.
LEAST_FACTOR = 1.9

# What decoders raise on pixels that are none.
UNDECODABLE = (
    RuntimeError,
    ValueError,
    AttributeError,
    TypeError,
    NotImplementedError,
    LookupError,
    OSError,
    EOFError,
    OverflowError,
    Image.DecompressionBombError,
)


def reduced(
    frame: bytes, codestream: Codestream, description: PixelDescription, syntax: UID, target: tuple[int, int]
) -> np.ndarray | None:
    """Decode JPEG 2000 at a lower resolution; None where that is of no use or fails. Source: ITU-T T.800 B.5."""
    if syntax not in WITH_RESOLUTIONS or codestream.signed or description.signed:
        return None
    # Some encoders' tiles defeat a higher reduction (RG1_J2KI.dcm: 2); the next lower one is still faster than none.
    for reduction in range(_reduction(codestream, target), 0, -1):
        try:
            with Image.open(BytesIO(frame), formats=["JPEG2000"]) as picture:
                picture.reduce = reduction  # type: ignore[method-assign, assignment]  # a plain attribute of this format
                picture.load()
                pixels = np.asarray(picture)
        except UNDECODABLE:
            continue
        expected = tuple(-(-side >> reduction) for side in (codestream.rows, codestream.columns))
        if pixels.shape != expected or pixels.dtype not in (np.uint8, np.uint16):
            return None
        values = _unbiased(_centred(_deep(pixels), reduction, codestream), reduction, codestream)
        return values.astype(np.uint8 if description.bytes_allocated == 1 else np.uint16, copy=False)
    return None


def _reduction(codestream: Codestream, target: tuple[int, int]) -> int:
    """Return how often rows and columns are halved."""
    sides = ((codestream.rows, target[0]), (codestream.columns, target[1]))
    reduction = 0
    while reduction < codestream.resolutions and all(
        side >> (reduction + 1) >= LEAST_FACTOR * wanted for side, wanted in sides
    ):
        reduction += 1
    return reduction


def _deep(pixels: np.ndarray) -> np.ndarray:
    """Return the values in the upper of 16 bits; Pillow has them in the upper bits of 8 or 16, without rounding."""
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.uint16) << 8


def _centred(pixels: np.ndarray, reduction: int, codestream: Codestream) -> np.ndarray:
    """Move a lower resolution to where its pixels stand for the area that they cover.

    Its pixel k lies on pixel 2^reduction k of the full image, but a resize takes it for the middle of its area. Left
    as it is, the picture is shifted by up to half a reduced pixel, which makes most of its difference. Source: ITU-T
    T.800 F.3 (the low-pass samples are the even ones).
    """
    step = 2**reduction
    rows, columns = pixels.shape
    scale_y, scale_x = codestream.rows / rows / step, codestream.columns / columns / step
    matrix = np.array(
        [
            [scale_x, 0, (codestream.columns / columns - 1) / 2 / step],
            [0, scale_y, (codestream.rows / rows - 1) / 2 / step],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _unbiased(deep: np.ndarray, reduction: int, codestream: Codestream) -> np.ndarray:
    """Return the values in the lower bits, rounded, without what the wavelet of whole numbers added to them.

    Its rounding makes the low-pass samples too high by a quarter of a stored value on average for each direction and
    level: two gray levels of 255 in an image of 8 bits at an eighth. Source: ITU-T T.800
    annex F (reversible filter 5-3).
    """
    shift = 16 - codestream.precision
    if not shift:
        return deep
    half = 1 << (shift - 1)
    if codestream.reversible:
        deep = cv2.subtract(deep, np.full_like(deep, reduction * half))  # ends at 0
    return np.asarray((deep + np.uint16(half)) >> shift, np.uint16)
