"""From stored values to what a reader sees.

Every step is a function of the stored value alone, and there are at most 65536 of those: the steps are worked out
once for each possible value, in double precision, and the image is looked up.
Sources: DICOM PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.7.5.1.1.2 (Pixel Padding), C.7.6.3.1.2 (Photometric
Interpretation).
"""

import cv2
import numpy as np
from pydicom.dataset import Dataset

from cxr_node.errors import UnreadablePixels
from cxr_node.imaging.description import UNCONVERTIBLE, name, numbers, whole_number

# An image of more than 8 bits without a VOI LUT spans the values between these percentiles: a marker or a dead pixel
# at either end does not press the lungs into a few gray values.
ROBUST_PERCENTILES = (0.1, 99.9)


def to_grayscale(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the gray values a reader would see.

    Parameters
    ----------
    stored : (rows, columns) uint8, int8, uint16 or int16
    dataset : read for the Modality LUT, the VOI LUT, Pixel Padding, Bits Stored and Photometric Interpretation

    Returns
    -------
    (rows, columns) float32 in [0, 1]
        Black is 0. The VOI LUT Sequence goes before a window, and the first of several is taken; a window whose width
        the standard forbids (0, say) counts as none. Without any, an image of up to 8 bits spans all that its bits can
        hold, so that a DICOM copy of a picture has the picture's values to the bit; a deeper one spans the values
        between its 0.1 and 99.9 percentile. MONOCHROME1 is inverted last, on the scaled values. Pixel padding moves no
        scale and comes out black.

    Raises
    ------
    UnreadablePixels
        The attributes contradict one another; the attribute is named.

    Source: DICOM PS3.3 C.11.1, C.11.2.1.2, C.11.2.1.3, C.7.5.1.1.2, C.7.6.3.1.2.
    """
    if stored.ndim != 2 or stored.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        raise UnreadablePixels(
            f"stored values are (rows, columns) of 8 or 16 bits, found {stored.shape} {stored.dtype}"
        )
    cell = np.dtype(f"u{stored.dtype.itemsize}")
    indices = np.ascontiguousarray(stored).view(cell)
    possible = np.arange(np.iinfo(cell).max + 1, dtype=cell).view(stored.dtype).astype(np.int64)
    padding = _padding(possible, dataset)
    modality = _modality_values(possible, dataset)
    gray = _voi(modality, possible, indices, dataset, padding)
    if str(dataset.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1":
        gray = 1 - gray
    gray[padding] = 0
    return np.asarray(cv2.LUT(indices, gray.astype(np.float32)), np.float32)


def _modality_values(possible: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the float64 modality value of each possible stored value. Source: PS3.3 C.11.1.1."""
    if dataset.get("ModalityLUTSequence"):
        table, _ = _looked_up(possible, dataset, "ModalityLUTSequence")
        return table
    slope, intercept = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if slope and slope[0] == 0:
        raise UnreadablePixels(f"{name('RescaleSlope')} is 0, which makes one value of all")
    return possible * (slope[0] if slope else 1.0) + (intercept[0] if intercept else 0.0)


def _voi(
    modality: np.ndarray, possible: np.ndarray, indices: np.ndarray, dataset: Dataset, padding: np.ndarray
) -> np.ndarray:
    """Return the float64 gray value in [0, 1] of each possible stored value, before any inversion."""
    if dataset.get("VOILUTSequence"):
        values, bits = _looked_up(np.floor(modality).astype(np.int64), dataset, "VOILUTSequence")
        return np.clip(values / (2**bits - 1), 0, 1)
    center, width = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if center and width:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function not in _WINDOWS:
            raise UnreadablePixels(f"{name('VOILUTFunction')} is none of {', '.join(_WINDOWS)}")
        if width[0] >= 1 or (width[0] > 0 and function != "LINEAR"):
            return _WINDOWS[function](modality, center[0], width[0])
    bits_stored = whole_number(dataset, "BitsStored", absent=8 * indices.dtype.itemsize)
    if bits_stored <= 8:
        seen = modality[_within(possible, bits_stored, signed=bool(possible.min() < 0))]
        return _scaled(modality, float(seen.min()), float(seen.max()))
    return _scaled(modality, *_robust_range(modality, indices, padding))


def _linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Source: PS3.3 C.11.2.1.2.1."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _linear_exact(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Source: PS3.3 C.11.2.1.3.2."""
    return np.clip((values - center) / width + 0.5, 0, 1)


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Source: PS3.3 C.11.2.1.3.1."""
    return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))


_WINDOWS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if not high > low:
        return np.zeros(values.shape)
    return np.clip((values - low) / (high - low), 0, 1)


def _robust_range(modality: np.ndarray, indices: np.ndarray, padding: np.ndarray) -> tuple[float, float]:
    """Return the percentiles of the modality values that occur, padding apart."""
    counts = np.bincount(indices.ravel(), minlength=modality.size)
    counts[padding] = 0
    if not counts.any():
        return 0.0, 0.0
    order = np.argsort(modality, kind="stable")
    below = np.cumsum(counts[order])
    least, most = np.array(ROBUST_PERCENTILES) / 100 * (below[-1] - 1)
    low, high = modality[order][np.searchsorted(below, (np.floor(least), np.ceil(most)), side="right")]
    return float(low), float(high)


def _looked_up(values: np.ndarray, dataset: Dataset, keyword: str) -> tuple[np.ndarray, int]:
    """Look whole values up in the first table of a LUT sequence.

    Returns
    -------
    float64 like `values`, and the bits of a table entry
        Values before the first mapped one get the first entry, values after the last the last.

    Source: PS3.3 C.11.1.1.1, C.11.2.1.1.
    """
    try:
        item = dataset[keyword].value[0]
        entries, first, bits = (int(number) for number in item["LUTDescriptor"].value)
        data = item["LUTData"].value
        table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(np.asarray(data, np.int64))
    except UNCONVERTIBLE as error:
        raise UnreadablePixels(f"{name(keyword)} has no item with {name('LUTDescriptor')} and data") from error
    entries = entries % 65536 or 65536  # 0 stands for 65536; a negative one was read as signed
    if first >= 32768 and values.min() < 0:
        first -= 65536  # an unsigned VR for a signed value
    if not 8 <= bits <= 16:
        raise UnreadablePixels(f"{name('LUTDescriptor')} of {name(keyword)} tells {bits} bits, expected 8 to 16")
    if bits == 8 and table.size == -(-entries // 2) and entries > 1:
        table = table.astype("<u2").view(np.uint8)  # two entries to a word
    if table.size < entries:
        raise UnreadablePixels(
            f"{name('LUTData')} of {name(keyword)} has {table.size} entries, expected {entries} by its descriptor"
        )
    return table[np.clip(values - first, 0, entries - 1)].astype(np.float64), bits


def _padding(possible: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return which possible stored values are padding. Source: PS3.3 C.7.5.1.1.2."""
    value = numbers(dataset, "PixelPaddingValue")
    if not value:
        return np.zeros(possible.shape, bool)
    limit = numbers(dataset, "PixelPaddingRangeLimit") or value
    low, high = (_as_stored(number, possible) for number in (min(value[0], limit[0]), max(value[0], limit[0])))
    low, high = min(low, high), max(low, high)
    return np.asarray((possible >= low) & (possible <= high))


def _as_stored(number: float, possible: np.ndarray) -> int:
    """A padding value of the wrong sign has the bits of the stored one: 63536 is -2000."""
    span = possible.size
    return (
        int(number) - span
        if number > possible.max()
        else int(number) + span
        if number < possible.min()
        else int(number)
    )


def _within(possible: np.ndarray, bits_stored: int, *, signed: bool) -> np.ndarray:
    low = -(1 << (bits_stored - 1)) if signed else 0
    return np.asarray((possible >= low) & (possible < low + (1 << bits_stored)))
