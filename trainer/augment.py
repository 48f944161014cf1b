"""Changes that an image may undergo in training, each one that another detector, exposure or export could make."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Augment:
    """How far an image may be changed. 0 turns a change off; there is no vertical flip, hearts do not point up.

    Sharpness (`blur`, `noise`, `jpeg`) is changed because in both cohorts it tells the class: what a network could read
    from it must not be there to learn.
    """

    rotate_degrees: float = 8.0
    scale: float = 0.12  # each axis by itself within 1 ± scale: the cohorts lost the aspect ratio
    shift: float = 0.06  # of the size
    flip: bool = False  # left to right, only where declared: it makes situs inversus of every heart
    gamma: float = 0.4  # exponent within exp(± gamma)
    contrast: float = 0.25
    brightness: float = 0.1
    equalize: float = 0.1  # probability of local histogram equalisation
    blur: float = 0.5  # probability of shrinking to 1/3 … 1 and back, or of Gaussian blur
    sharpen: float = 0.15  # probability of unsharp masking
    noise: float = 0.03  # largest standard deviation
    jpeg: float = 0.3  # probability of a JPEG round trip
    erase: float = 0.25  # probability of a gray rectangle, as a marker, lead or tube would cover


def augmented(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return a changed copy of an image (rows, columns) float32 in [0, 1]."""
    image = _moved(image, augment, rng)
    image = _toned(image, augment, rng)
    image = _resharpened(image, augment, rng)
    if rng.random() < augment.erase:
        rows, columns = image.shape
        height, width = (int(rng.uniform(0.05, 0.3) * side) for side in (rows, columns))
        top, left = int(rng.integers(0, rows - height)), int(rng.integers(0, columns - width))
        image[top : top + height, left : left + width] = rng.uniform(0, 1)
    return image


def _moved(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    if augment.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    rows, columns = image.shape
    angle = np.deg2rad(rng.uniform(-augment.rotate_degrees, augment.rotate_degrees))
    across, down = rng.uniform(1 - augment.scale, 1 + augment.scale, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([across, down])
    center = np.array([columns / 2, rows / 2])
    shift = rng.uniform(-augment.shift, augment.shift, 2) * (columns, rows)
    matrix = np.column_stack([turn, center - turn @ center + shift])
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, (columns, rows), flags=cv2.INTER_LINEAR)


def _toned(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < augment.equalize:
        clahe = cv2.createCLAHE(clipLimit=float(rng.uniform(1, 3)), tileGridSize=(4, 4))
        image = clahe.apply((image * 255).astype(np.uint8)).astype(np.float32) / 255
    image = np.power(np.clip(image, 0, 1), np.float32(np.exp(rng.uniform(-augment.gamma, augment.gamma))))
    gain = rng.uniform(1 - augment.contrast, 1 + augment.contrast)
    lift = rng.uniform(-augment.brightness, augment.brightness)
    return np.clip((image - 0.5) * np.float32(gain) + np.float32(0.5 + lift), 0, 1)


def _resharpened(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    rows, columns = image.shape
    if rng.random() < augment.blur:
        if rng.random() < 0.5:
            part = rng.uniform(0.33, 1.0)
            small = cv2.resize(
                image, (max(8, int(columns * part)), max(8, int(rows * part))), interpolation=cv2.INTER_AREA
            )
            image = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR)
        else:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.6)))
    elif rng.random() < augment.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), 1.0)
        image = image + np.float32(rng.uniform(0.2, 1.0)) * (image - soft)
    if augment.noise and rng.random() < 0.5:
        deviation = np.float32(rng.uniform(0, augment.noise))
        image = image + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image, 0, 1)
    if rng.random() < augment.jpeg:
        quality = int(rng.integers(30, 95))
        _, data = cv2.imencode(".jpg", (image * 255).round().astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / 255
    return image
