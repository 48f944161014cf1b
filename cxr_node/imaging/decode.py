"""Stored values from any transfer syntax that a PACS sends. Sources: DICOM PS3.5 8 and annex A, PS3.3 C.7.6.3."""

from io import BytesIO

import cv2
import gdcm
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.codestream import Codestream, read_codestream
from cxr_node.imaging.description import UNCONVERTIBLE, PixelDescription, describe_pixels, name

# Which library decodes what, the fastest of those measured. There is no second choice: the others hold the same codec
# (OpenJPEG, CharLS), and GDCM ends the whole process on some corrupt JPEG codestreams, so that it decodes only what
# nothing else here can. Pillow is libjpeg-turbo, as OpenCV is, which reads the cohorts' JPEG pictures: the same bytes
# give the same values in both.
DECODERS: dict[UID, str] = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",  # 8 bits per sample; for 12 see _extended
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
}
LOSSLESS = frozenset(
    {JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL, RLELossless}
)
WITH_RESOLUTIONS = frozenset({JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})

# No codec makes an image larger than this many times its pixels: what is longer is no image.
_LARGEST_EXPANSION = 2

_UNDECODABLE = (
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


def stored_values(dataset: Dataset, target: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the pixels of a single-frame, single-sample image.

    Parameters
    ----------
    dataset : read for the Image Pixel Module, the transfer syntax and Pixel Data
    target : (rows, columns) that the image will be shrunk to
        JPEG 2000 is then decoded at the lowest of its own resolutions that has at least twice as many rows and
        columns, which takes a quarter of the time or less; tests state how far the shrunk picture may differ. Full
        resolution where None, with any other transfer syntax, with Pixel Padding (an exact value, which a lower
        resolution would blur), and where the reduced decode fails.

    Returns
    -------
    (rows, columns) uint8, int8, uint16 or int16
        Within the range of Bits Stored: bits beyond it (overlays of old devices) are cleared, overshoot of a lossy
        codec is clipped. It may be a read-only view of the dataset's bytes.

    Raises
    ------
    UnreadablePixels
        Absent, contradictory, too large, of several frames or samples, or not decodable; the attribute is named.
    """
    description = describe_pixels(dataset)
    syntax = _transfer_syntax(dataset)
    if syntax in DECODERS:
        return _encapsulated(dataset, description, syntax, target)
    return _native(dataset, description, syntax)


def _transfer_syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID") or "")) if meta is not None else UID("")
    if not syntax:
        implicit, little = dataset.original_encoding
        if implicit is False and little is not None:
            return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        return ImplicitVRLittleEndian
    if syntax not in DECODERS and (not syntax.is_transfer_syntax or syntax.is_private or syntax.is_compressed):
        raise UnreadablePixels(f"{name('TransferSyntaxUID')} is {syntax}, which is not decoded here")
    return syntax


def _native(dataset: Dataset, description: PixelDescription, syntax: UID) -> np.ndarray:
    data = _pixel_bytes(dataset)
    row = description.columns * description.bytes_allocated
    expected = description.rows * row
    # A surplus of less than a row is padding; a row or more contradicts Rows and Columns.
    if not expected <= len(data) < expected + max(row, 2):
        raise UnreadablePixels(
            f"{name('PixelData')} has {len(data)} bytes, expected {expected} for {description.rows} x "
            f"{description.columns} pixels of {description.bits_allocated} bits"
        )
    sample = np.dtype(f"{'i' if description.signed else 'u'}{description.bytes_allocated}")
    if syntax.is_little_endian:
        pixels = np.frombuffer(data, sample.newbyteorder("<"), count=description.rows * description.columns)
    elif description.bytes_allocated == 1 and dataset["PixelData"].VR == "OW":
        # The bytes of a word change places in Big Endian. Source: PS3.5 8.1.1, 7.3.
        words = np.frombuffer(data, "u2", count=len(data) // 2).byteswap()
        pixels = words.view(sample)[: description.rows * description.columns]
    else:
        pixels = np.frombuffer(data, sample.newbyteorder(">"), count=description.rows * description.columns)
    pixels = pixels.astype(sample, copy=False).reshape(description.rows, description.columns)
    return _within_bits_stored(pixels, description)


def _encapsulated(
    dataset: Dataset, description: PixelDescription, syntax: UID, target: tuple[int, int] | None
) -> np.ndarray:
    frame = _frame(dataset, description)
    codestream = read_codestream(frame) if syntax != RLELossless else None
    if codestream is not None:
        _check_codestream(codestream, description)
    low, high = description.extremes
    if codestream is not None and target is not None and "PixelPaddingValue" not in dataset:
        reduced = _reduced(frame, codestream, description, syntax, target)
        if reduced is not None:
            return np.clip(reduced, low, high)
    pixels = _full(dataset, frame, codestream, description, syntax)
    return _within_bits_stored(pixels, description) if syntax in LOSSLESS else np.clip(pixels, low, high)


def _frame(dataset: Dataset, description: PixelDescription) -> bytes:
    data = _pixel_bytes(dataset)
    most = _LARGEST_EXPANSION * description.rows * description.columns * description.bytes_allocated + (1 << 16)
    if len(data) > most:
        raise UnreadablePixels(
            f"{name('PixelData')} has {len(data)} compressed bytes, expected at most {most} for "
            f"{description.rows} x {description.columns} pixels"
        )
    try:
        offsets = parse_basic_offsets(data)
        if len(offsets) > 1:
            raise UnreadablePixels(f"{name('PixelData')} holds {len(offsets)} frames, expected 1")
        return next(generate_frames(data, number_of_frames=1))
    except (*_UNDECODABLE, StopIteration) as error:
        raise UnreadablePixels(f"{name('PixelData')} is not divided into fragments as PS3.5 A.4 tells") from error


def _check_codestream(codestream: Codestream, description: PixelDescription) -> None:
    """Refuse, before it is decoded, an image that is not what the dataset says: a bomb, or another picture."""
    found, expected = (codestream.rows, codestream.columns), (description.rows, description.columns)
    if found != expected:
        raise UnreadablePixels(
            f"the codestream in {name('PixelData')} is {found[0]} x {found[1]}, expected {name('Rows')} {expected[0]} "
            f"x {name('Columns')} {expected[1]}"
        )
    if codestream.samples != 1:
        raise UnreadablePixels(f"the codestream in {name('PixelData')} has {codestream.samples} components, expected 1")
    if codestream.precision > description.bits_allocated:
        raise UnreadablePixels(
            f"the codestream in {name('PixelData')} has {codestream.precision} bits per sample, more than "
            f"{name('BitsAllocated')} {description.bits_allocated}"
        )


def _full(
    dataset: Dataset, frame: bytes, codestream: Codestream | None, description: PixelDescription, syntax: UID
) -> np.ndarray:
    try:
        if syntax == JPEGExtended12Bit and codestream is not None and codestream.precision > 8:
            pixels = _extended(frame, codestream, description)
        else:
            pixels, _ = get_decoder(syntax).as_array(dataset, index=0, raw=True, decoding_plugin=DECODERS[syntax])
    except _UNDECODABLE as error:
        raise UnreadablePixels(
            f"{name('PixelData')} of {syntax.name} does not decode ({type(error).__name__})"
        ) from error
    if pixels.shape != (description.rows, description.columns):
        raise UnreadablePixels(
            f"{name('PixelData')} of {syntax.name} decodes to {pixels.shape}, expected {name('Rows')} "
            f"{description.rows} x {name('Columns')} {description.columns}"
        )
    return pixels


def _extended(frame: bytes, codestream: Codestream, description: PixelDescription) -> np.ndarray:
    """Decode JPEG Extended of 12 bits with GDCM, which pydicom's plug-ins refuse."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((codestream.columns, codestream.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2"))
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    # The precision of the codestream, not Bits Stored: GDCM masks to it, and where a lossy codec overshoots 10 bits of
    # 12, white would turn black. `stored_values` clips instead.
    precision = codestream.precision
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, precision, precision - 1, int(description.signed)))
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(data, np.int16 if description.signed else np.uint16).reshape(codestream.rows, -1)


def _reduced(
    frame: bytes, codestream: Codestream, description: PixelDescription, syntax: UID, target: tuple[int, int]
) -> np.ndarray | None:
    """Decode JPEG 2000 at a lower resolution; None where that is of no use or fails. Source: ITU-T T.800 B.5."""
    if syntax not in WITH_RESOLUTIONS or codestream.signed or description.signed:
        return None
    levels = 0
    while codestream.rows >> (levels + 1) >= 2 * target[0] and codestream.columns >> (levels + 1) >= 2 * target[1]:
        levels += 1
    # Some encoders' tiles defeat a higher reduction (RG1_J2KI.dcm: 2); the next lower one is still faster than none.
    for reduction in range(levels, 0, -1):
        try:
            with Image.open(BytesIO(frame), formats=["JPEG2000"]) as picture:
                picture.reduce = reduction  # type: ignore[method-assign, assignment]  # a plain attribute of this format
                picture.load()
                pixels = np.asarray(picture)
        except _UNDECODABLE:
            continue
        expected = tuple(-(-side >> reduction) for side in (codestream.rows, codestream.columns))
        if pixels.shape != expected or pixels.dtype not in (np.uint8, np.uint16):
            return None
        # Pillow scales a precision of 9 to 16 bits up to 16, without rounding.
        shift = 16 - codestream.precision if pixels.dtype == np.uint16 else 0
        pixels = (pixels >> shift).astype(np.uint8 if description.bytes_allocated == 1 else np.uint16, copy=False)
        return _centred(pixels, reduction, codestream)
    return None


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


def _pixel_bytes(dataset: Dataset) -> bytes:
    try:
        data = dataset["PixelData"].value
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name('PixelData')} does not read") from error
    if not data:
        raise UnreadablePixels(f"{name('PixelData')} is empty")
    return bytes(data)


def _within_bits_stored(pixels: np.ndarray, description: PixelDescription) -> np.ndarray:
    """Move Bits Stored down to bit 0, and clear or sign-extend the bits above. Source: PS3.5 8.1.1, PS3.3 C.7.6.3."""
    low, high = description.extremes
    unsigned = np.dtype(f"u{description.bytes_allocated}")
    shift = description.high_bit + 1 - description.bits_stored
    if not shift and (description.bits_stored == description.bits_allocated or _lies_within(pixels, low, high)):
        return pixels
    above = description.bits_allocated - description.high_bit - 1
    # Up to the top of the cell, and down again: the second shift fills with the sign where there is one.
    moved = (pixels.view(unsigned) << above).view(pixels.dtype)
    return np.asarray(moved >> (above + shift))


def _lies_within(pixels: np.ndarray, low: int, high: int) -> bool:
    return bool(pixels.max() <= high) and (low == 0 or bool(pixels.min() >= low))
