"""How a dataset describes its pixels, held to itself before anything is decoded."""

from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from cxr_node.errors import UnreadablePixels

# The largest chest detector has 43 cm at 0.1 mm, 18.5 million pixels; a decompression bomb has more.
MAXIMUM_PIXELS = 40_000_000

# What pydicom raises for a value that its VR does not allow.
UNCONVERTIBLE = (
    BytesLengthException,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    NotImplementedError,  # a value representation that there is not
)


@dataclass(frozen=True)
class PixelDescription:
    """A single-frame, single-sample image. Source: DICOM PS3.3 C.7.6.3 (Image Pixel Module)."""

    rows: int
    columns: int
    bits_allocated: int  # 8 or 16
    bits_stored: int  # 1 to bits_allocated
    high_bit: int  # bits_stored - 1 to bits_allocated - 1
    signed: bool
    photometric_interpretation: str  # MONOCHROME1 or MONOCHROME2

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise UnreadablePixels(f"{name('Rows')} x {name('Columns')} is {self.rows} x {self.columns}")
        if self.rows * self.columns > MAXIMUM_PIXELS:
            raise UnreadablePixels(
                f"{name('Rows')} x {name('Columns')} is {self.rows} x {self.columns}, more than {MAXIMUM_PIXELS} pixels"
            )
        if self.bits_allocated not in (8, 16):
            raise UnreadablePixels(f"{name('BitsAllocated')} is {self.bits_allocated}, expected 8 or 16")
        if self.bits_stored > self.bits_allocated:
            raise UnreadablePixels(
                f"{name('BitsStored')} is {self.bits_stored}, more than {name('BitsAllocated')} {self.bits_allocated}"
            )
        if self.bits_stored < 1:
            raise UnreadablePixels(f"{name('BitsStored')} is {self.bits_stored}, expected 1 or more")
        if not self.bits_stored <= self.high_bit + 1 <= self.bits_allocated:
            raise UnreadablePixels(
                f"{name('HighBit')} is {self.high_bit}, expected {self.bits_stored - 1} for {name('BitsStored')} "
                f"{self.bits_stored} of {name('BitsAllocated')} {self.bits_allocated}"
            )
        if self.photometric_interpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise UnreadablePixels(
                f"{name('PhotometricInterpretation')} is {self.photometric_interpretation!r}, "
                "expected MONOCHROME1 or MONOCHROME2"
            )

    @property
    def bytes_allocated(self) -> int:
        return self.bits_allocated // 8

    @property
    def extremes(self) -> tuple[int, int]:
        """The least and greatest stored value that Bits Stored can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def describe_pixels(dataset: Dataset) -> PixelDescription:
    """Read how the pixels are described, and hold it to itself; the pixels are not touched.

    High Bit is Bits Stored - 1, and Pixel Representation 0, where absent: nothing else is usual.

    Raises
    ------
    UnreadablePixels
        Pixel Data or an attribute of type 1 is absent, several frames or samples, too large, or contradictory; the
        attribute is named, with what was found and what was expected.
    """
    if "PixelData" not in dataset:
        other = next((keyword for keyword in ("FloatPixelData", "DoubleFloatPixelData") if keyword in dataset), "")
        raise UnreadablePixels(f"{name('PixelData')} is absent" + (f", found {name(other)}" if other else ""))
    return describe_module(dataset)


def describe_module(dataset: Dataset) -> PixelDescription:
    """As `describe_pixels`, of a dataset whose Pixel Data is elsewhere."""
    for keyword in ("SamplesPerPixel", "NumberOfFrames"):
        if (count := whole_number(dataset, keyword, absent=1)) != 1:
            raise UnreadablePixels(f"{name(keyword)} is {count}, expected 1")
    bits_stored = whole_number(dataset, "BitsStored")
    representation = whole_number(dataset, "PixelRepresentation", absent=0)
    if representation not in (0, 1):
        raise UnreadablePixels(f"{name('PixelRepresentation')} is {representation}, expected 0 or 1")
    return PixelDescription(
        rows=whole_number(dataset, "Rows"),
        columns=whole_number(dataset, "Columns"),
        bits_allocated=whole_number(dataset, "BitsAllocated"),
        bits_stored=bits_stored,
        high_bit=whole_number(dataset, "HighBit", absent=bits_stored - 1),
        signed=representation == 1,
        photometric_interpretation=str(dataset.get("PhotometricInterpretation") or "").strip(),
    )


def name(keyword: str) -> str:
    """Return the attribute as messages name it, e.g. ``(0028,0010) Rows``."""
    tag = tag_for_keyword(keyword) or 0
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def whole_number(dataset: Dataset, keyword: str, *, absent: int | None = None) -> int:
    """Return an attribute of one whole number; `absent` where it is absent or empty.

    Raises
    ------
    UnreadablePixels
        It is absent and must not be, or is no whole number.
    """
    value = _value(dataset, keyword)
    if value is None or value == "":
        if absent is None:
            raise UnreadablePixels(f"{name(keyword)} is absent")
        return absent
    try:
        return int(value)
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name(keyword)} is no whole number") from error


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return an attribute's numbers in order; empty where it is absent or empty.

    Raises
    ------
    UnreadablePixels
        A value is no finite number.
    """
    value = _value(dataset, keyword)
    if value is None or value == "":
        return ()
    try:
        items = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        found = tuple(float(item) for item in items)
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name(keyword)} is no number") from error
    if not all(abs(number) < float("inf") for number in found):
        raise UnreadablePixels(f"{name(keyword)} is no finite number")
    return found


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset[keyword].value if keyword in dataset else None
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name(keyword)} holds no value of its kind") from error
