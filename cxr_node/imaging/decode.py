"""Stored values from any transfer syntax that a PACS sends. Sources: DICOM PS3.5 8 and annex A, PS3.3 C.7.6.3."""

import gdcm
import numpy as np
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
from cxr_node.imaging.resolutions import UNDECODABLE, reduced

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
# No codec makes an image larger than this many times its pixels: what is longer is no image.
_LARGEST_EXPANSION = 2


def stored_values(dataset: Dataset, target: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the pixels of a single-frame, single-sample image.

    Parameters
    ----------
    dataset : read for the Image Pixel Module, the transfer syntax and Pixel Data
    target : (rows, columns) that the image will be shrunk to
        JPEG 2000 is then decoded at the lowest of its resolutions that has about twice the rows and columns, see
        `resolutions`, in a quarter of the time or less; tests state how far the shrunk picture may differ. Full
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
    return decoded(dataset, description, _pixel_bytes(dataset), str(dataset["PixelData"].VR), target)


def decoded(
    dataset: Dataset,
    description: PixelDescription,
    data: bytes | memoryview,
    vr: str,
    target: tuple[int, int] | None = None,
) -> np.ndarray:
    """As `stored_values`, of the value of Pixel Data and its VR; a view of `data` where nothing has to be changed."""
    syntax = _transfer_syntax(dataset)
    if not len(data):
        raise UnreadablePixels(f"{name('PixelData')} is empty")
    if syntax in DECODERS:
        return _encapsulated(dataset, description, syntax, bytes(data), target)
    return _native(description, syntax, data, vr)


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


def _native(description: PixelDescription, syntax: UID, data: bytes | memoryview, vr: str) -> np.ndarray:
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
    elif description.bytes_allocated == 1 and vr == "OW":
        # The bytes of a word change places in Big Endian. Source: PS3.5 8.1.1, 7.3.
        words = np.frombuffer(data, "u2", count=len(data) // 2).byteswap()
        pixels = words.view(sample)[: description.rows * description.columns]
    else:
        pixels = np.frombuffer(data, sample.newbyteorder(">"), count=description.rows * description.columns)
    pixels = pixels.astype(sample, copy=not pixels.flags.aligned).reshape(description.rows, description.columns)
    return _within_bits_stored(pixels, description)


def _encapsulated(
    dataset: Dataset, description: PixelDescription, syntax: UID, data: bytes, target: tuple[int, int] | None
) -> np.ndarray:
    frame = _frame(data, description)
    codestream = read_codestream(frame) if syntax != RLELossless else None
    if codestream is not None:
        _check_codestream(codestream, description)
    low, high = description.extremes
    if codestream is not None and target is not None and "PixelPaddingValue" not in dataset:
        lower = reduced(frame, codestream, description, syntax, target)
        if lower is not None:
            return np.clip(lower, low, high)
    pixels = _full(_with_pixels(dataset, data), frame, codestream, description, syntax)
    return _within_bits_stored(pixels, description) if syntax in LOSSLESS else np.clip(pixels, low, high)


def _with_pixels(dataset: Dataset, data: bytes) -> Dataset:
    """Return a dataset as the library's decoders want it."""
    if "PixelData" in dataset:
        return dataset
    whole = Dataset()
    whole.update(dataset)
    whole.file_meta = dataset.file_meta
    whole.PixelData = data
    return whole


def _frame(data: bytes, description: PixelDescription) -> bytes:
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
    except (*UNDECODABLE, StopIteration) as error:
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
    except UNDECODABLE as error:
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


def _pixel_bytes(dataset: Dataset) -> bytes:
    try:
        data = dataset["PixelData"].value
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name('PixelData')} does not read") from error
    if not data:
        raise UnreadablePixels(f"{name('PixelData')} is empty")
    if not isinstance(data, bytes):
        raise UnreadablePixels(f"{name('PixelData')} holds no bytes, found VR {dataset['PixelData'].VR}")
    return data


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
