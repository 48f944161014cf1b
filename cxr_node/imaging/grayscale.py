"""From stored values to what a reader sees. Sources: DICOM PS3.3 C.7.6.3.1.2, C.7.5.1.1.2, C.11.1, C.11.2."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from cxr_node.errors import UnreadablePixels


def to_grayscale(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return the gray values a reader would see.

    Parameters
    ----------
    stored : (rows, columns) integer
    dataset : read for the Modality LUT, the VOI LUT, pixel padding and Photometric Interpretation

    Returns
    -------
    (rows, columns) float32 in [0, 1]
        Black is 0. MONOCHROME1 is inverted last, on the scaled values. Pixel padding is black. Without a VOI LUT an
        8-bit image spans its full range, so that a DICOM copy of a picture has the picture's values to the bit; a
        deeper one spans the values between its 0.1 and 99.9 percentile.

    Raises
    ------
    UnreadablePixels
        The attributes contradict one another.
    """
    padding = _padding(stored, dataset)
    try:
        modality = np.asarray(apply_modality_lut(stored, dataset), np.float32)
        low, high, values = _voi(modality, stored, dataset, padding)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        raise UnreadablePixels(f"Modality or VOI LUT cannot be applied ({type(error).__name__})") from error
    if not high > low:
        gray = np.zeros(stored.shape, np.float32)
    else:
        gray = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1).astype(np.float32, copy=False)
    if str(dataset.get("PhotometricInterpretation", "")).strip() == "MONOCHROME1":
        gray = np.float32(1) - gray
    if padding is not None:
        gray = np.where(padding, np.float32(0), gray)
    return np.ascontiguousarray(gray, dtype=np.float32)


def _voi(
    modality: np.ndarray, stored: np.ndarray, dataset: Dataset, padding: np.ndarray | None
) -> tuple[float, float, np.ndarray]:
    """Return the values that become black and white, and the values."""
    if dataset.get("VOILUTSequence"):
        out = np.asarray(apply_voi_lut(modality.astype(np.int64), dataset, index=0, prefer_lut=True), np.float32)
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return 0.0, float(2**bits - 1), out
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is not None and width is not None and width >= 1:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
        if function == "SIGMOID":
            return 0.0, 1.0, 1 / (1 + np.exp(-4 * (modality - center) / width))
        if function == "LINEAR_EXACT":
            return center - width / 2, center + width / 2, modality
        if width == 1:
            return 0.0, 1.0, (modality > center - 0.5).astype(np.float32)
        return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2, modality
    if int(dataset.BitsStored) <= 8 and stored.dtype.kind == "u" and np.array_equal(modality, stored):
        return 0.0, float(2 ** int(dataset.BitsStored) - 1), modality
    seen = modality if padding is None else modality[~padding]
    if not seen.size:
        return 0.0, 0.0, modality
    low, high = np.percentile(seen, (0.1, 99.9))
    return float(low), float(high), modality


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        items = list(value)
        return float(items[0]) if items else None
    return float(value)


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    try:
        value = int(dataset["PixelPaddingValue"].value)
        limit = int(dataset["PixelPaddingRangeLimit"].value) if "PixelPaddingRangeLimit" in dataset else value
    except (KeyError, TypeError, ValueError):
        return None
    mask = (stored >= min(value, limit)) & (stored <= max(value, limit))
    return mask if mask.any() else None
