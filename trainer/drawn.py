"""Drawn pictures that are no frontal chest, and distortions of real ones: what `trainer.plausibility` trains against.

Radiographs of other body parts are hardly at hand, so limbs, hands, skulls, teeth, pelves and spines are drawn from
bars and ellipses. They need not be good likenesses: the network learns what a chest is from real chests.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Drawing = Callable[[np.random.Generator], np.ndarray]
_SIDE = 128


def page_of_text(rng: np.random.Generator) -> np.ndarray:
    """Lines of random letters, light on dark or dark on light."""
    side = 256
    page = np.zeros((side, side), np.uint8)
    y, scale = int(rng.integers(5, 40)), rng.uniform(0.25, 0.9)
    step, left, end = int(scale * rng.uniform(22, 45)), int(rng.integers(2, 60)), side * rng.uniform(0.4, 1.3)
    while y < min(end, side):
        letters = [chr(rng.integers(33, 123)) if rng.random() < 0.85 else " " for _ in range(rng.integers(3, 40))]
        font, gray, thick = int(rng.integers(0, 7)), float(rng.uniform(127, 255)), int(rng.integers(1, 3))
        cv2.putText(page, "".join(letters), (left, y), font, scale, gray, thick, cv2.LINE_AA)
        y += step
    if rng.random() < 0.3:
        cv2.rectangle(page, _point(rng, side, 0), _point(rng, side, 0), 127, -1)
    gray_page = page.astype(np.float32) / 255
    return gray_page if rng.random() < 0.5 else 1 - gray_page


def noise(rng: np.random.Generator) -> np.ndarray:
    """Noise, fine to cloudy, or a ramp."""
    picture: np.ndarray = rng.random((64, 64)).astype(np.float32)
    if (blur := rng.uniform(0, 20)) > 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    if rng.random() < 0.3:
        picture = rng.uniform(0, 0.3) * picture + _ramp(rng, 64, 1.0)
    return picture.astype(np.float32)


def shapes(rng: np.random.Generator) -> np.ndarray:
    """Circles, rectangles, lines and ellipses, as on a test pattern."""
    picture = np.full((_SIDE, _SIDE), rng.uniform(0, 1) if rng.random() < 0.5 else 0, np.float32)
    for _ in range(rng.integers(1, 9)):
        gray, kind = float(rng.uniform(0, 1)), rng.integers(4)
        fill = -1 if rng.random() < 0.6 else int(rng.integers(1, 8))
        one, two = _point(rng, _SIDE, _SIDE // 4), _point(rng, _SIDE, _SIDE // 4)
        if kind == 0:
            cv2.circle(picture, one, int(rng.integers(4, _SIDE // 2)), gray, fill)
        elif kind == 1:
            cv2.rectangle(picture, one, two, gray, fill)
        elif kind == 2:
            cv2.line(picture, one, two, gray, int(rng.integers(1, 20)))
        else:
            axes = (int(rng.integers(4, _SIDE // 2)), int(rng.integers(4, _SIDE // 2)))
            cv2.ellipse(picture, one, axes, float(rng.uniform(0, 180)), 0, 360, gray, -1)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 5))


def limb(rng: np.random.Generator) -> np.ndarray:
    """One to three long bones side by side, at any angle, sometimes with a joint."""
    picture = np.zeros((_SIDE, _SIDE), np.float32)
    angle, count = rng.uniform(0, np.pi), int(rng.integers(1, 4))
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    middle = _SIDE / 2 + rng.normal(0, _SIDE * 0.08, 2)
    width = rng.uniform(_SIDE * 0.05, _SIDE * 0.22) / max(1, count * 0.7)
    tissue, bone = rng.uniform(0.2, 0.5, 2)
    for index in range(count):
        axis = middle + across * (index - (count - 1) / 2) * width * rng.uniform(1.2, 2)
        ends = axis - along * _SIDE * rng.uniform(0.3, 0.9), axis + along * _SIDE * rng.uniform(0.3, 0.9)
        _bone(rng, picture, *ends, width, tissue, bone)
    if rng.random() < 0.4:
        joint = middle + along * _SIDE * rng.normal(0, 0.15)
        cv2.circle(picture, _whole(joint), int(width * rng.uniform(0.8, 1.6)), float(min(1, tissue + bone)), -1)
    return _exposed(rng, picture)


def hand(rng: np.random.Generator) -> np.ndarray:
    """Three to five fingers of three bones, in any quarter turn."""
    picture = np.zeros((_SIDE, _SIDE), np.float32)
    wrist = _SIDE * np.array([rng.uniform(0.35, 0.65), rng.uniform(0.6, 0.9)])
    tissue, bone = rng.uniform(0.2, 0.5, 2)
    count, spread, width = int(rng.integers(3, 6)), rng.uniform(0.3, 1.3), _SIDE * rng.uniform(0.03, 0.07)
    for finger in range(count):
        angle = -np.pi / 2 + spread * (finger / (count - 1) - 0.5) + rng.normal(0, 0.05)
        step = np.array([np.cos(angle), np.sin(angle)]) * _SIDE * rng.uniform(0.4, 0.75) / 3
        for joint in range(3):
            _bone(rng, picture, wrist + joint * step, wrist + (joint + 1) * step, width, tissue, bone)
    _bone(rng, picture, wrist, np.array([wrist[0], _SIDE + 20]), width * 2.2, tissue, bone)
    return np.rot90(_exposed(rng, picture), int(rng.integers(4)))


def skull(rng: np.random.Generator) -> np.ndarray:
    """A head with its vault, sometimes orbits and teeth, over a neck."""
    picture = np.zeros((_SIDE, _SIDE), np.float32)
    x, y = _whole(_SIDE * np.array([rng.uniform(0.4, 0.6), rng.uniform(0.35, 0.6)]))
    wide, high = _whole(_SIDE * np.array([rng.uniform(0.25, 0.42), rng.uniform(0.3, 0.48)]))
    cv2.ellipse(picture, (x, y), (wide, high), rng.uniform(-20, 20), 0, 360, 0.45, -1)
    cv2.ellipse(picture, (x, y), (wide, high), 0, 0, 360, 0.8, int(rng.integers(2, 9)))
    if rng.random() < 0.6:
        for side in (-1, 1):
            cv2.circle(picture, (int(x + side * wide * 0.4), int(y + high * 0.2)), int(_SIDE * 0.07), 0.3, -1)
    _bone(rng, picture, np.array([x, y + high // 2]), np.array([x, _SIDE]), _SIDE * 0.08, 0.4, 0.3)
    if rng.random() < 0.5:
        row = int(y + high * 0.6)
        for tooth in np.linspace(x - wide * 0.6, x + wide * 0.6, rng.integers(6, 16)):
            cv2.rectangle(picture, (int(tooth), row), (int(tooth + 3), row + 10), 0.95, -1)
    return _exposed(rng, picture)


def teeth(rng: np.random.Generator) -> np.ndarray:
    """A dental panorama: two rows of teeth on a curve."""
    picture = np.full((_SIDE, _SIDE), rng.uniform(0.15, 0.4), np.float32)
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32) / _SIDE
    bend, level = rng.uniform(-0.3, 0.3), rng.uniform(0.4, 0.6)
    picture += 0.35 * np.exp(-(((y - level - bend * (x - 0.5) ** 2) / rng.uniform(0.1, 0.25)) ** 2))
    for at in np.linspace(0.1, 0.9, rng.integers(10, 18)):
        for side in (-1, 1):
            centre = _whole(_SIDE * np.array([at, level + bend * (at - 0.5) ** 2 + side * 0.09]))
            axes = (int(_SIDE * 0.025), int(_SIDE * 0.08))
            cv2.ellipse(picture, centre, axes, 0, 0, 360, float(rng.uniform(0.7, 1)), -1)
    picture[:, : int(_SIDE * rng.uniform(0, 0.08))] += 0.4
    picture[:, _SIDE - int(_SIDE * rng.uniform(0.01, 0.08)) :] += 0.4
    return _exposed(rng, picture)


def pelvis(rng: np.random.Generator) -> np.ndarray:
    """Two wings with femora, below a lumbar spine."""
    picture = np.full((_SIDE, _SIDE), rng.uniform(0.3, 0.5), np.float32)
    square = np.array([_SIDE, _SIDE])
    for side in (-1, 1):
        wing, hole = (0.5 + side * 0.25, 0.4), (0.5 + side * 0.2, 0.72)
        axes = (int(_SIDE * 0.2), int(_SIDE * 0.25))
        cv2.ellipse(picture, _whole(square * wing), axes, side * 30, 0, 360, 0.65, -1)
        cv2.circle(picture, _whole(square * hole), int(_SIDE * 0.07), 0.3, -1)
        head, knee = square * (0.5 + side * 0.32, 0.6), square * (0.5 + side * 0.36, 1.08)
        _bone(rng, picture, head, knee, _SIDE * 0.1, 0.4, 0.35)
    _bone(rng, picture, square * (0.5, -0.08), square * (0.5, 0.45), _SIDE * 0.12, 0.4, 0.4)
    return _exposed(rng, picture)


def spine(rng: np.random.Generator) -> np.ndarray:
    """A column of vertebral bodies, as in a lateral spine."""
    picture = np.full((_SIDE, _SIDE), rng.uniform(0.1, 0.5), np.float32)
    x, width = _SIDE * rng.uniform(0.35, 0.65), _SIDE * rng.uniform(0.1, 0.2)
    for y in np.linspace(0, _SIDE, rng.integers(4, 8)):
        left, right = int(x - width / 2 + rng.normal(0, 2)), int(x + width / 2)
        cv2.rectangle(picture, (left, int(y)), (right, int(y + _SIDE * 0.11)), float(rng.uniform(0.6, 1)), -1)
    return _exposed(rng, picture)


DRAWINGS: tuple[Drawing, ...] = (page_of_text, noise, shapes, limb, hand, skull, teeth, pelvis, spine)


def spoiled(rng: np.random.Generator, chests: Sequence[np.ndarray]) -> np.ndarray:
    """A real chest that is none any more: a small crop of it, two or four in one picture, or turned by an eighth."""
    chest, kind = chests[int(rng.integers(len(chests)))], rng.random()
    side = chest.shape[0]
    if kind < 0.6:
        part = int(side * rng.uniform(0.2, 0.42))
        y, x = rng.integers(0, side - part, 2)
        return np.rot90(chest[y : y + part, x : x + part], int(rng.integers(4)))
    if kind < 0.8:
        other = chests[int(rng.integers(len(chests)))]
        pair = np.hstack([chest, other])
        return np.vstack([pair, pair[:, ::-1]]) if rng.random() < 0.5 else pair
    angle = rng.choice([-1, 1]) * rng.uniform(35, 55) + 90 * rng.integers(4)
    return cv2.warpAffine(chest, cv2.getRotationMatrix2D((side / 2, side / 2), float(angle), 1), (side, side))


def varied(rng: np.random.Generator, chest: np.ndarray) -> np.ndarray:
    """A chest as another site, patient or disease may show it: moved, shaded, collimated, diseased, less sharp."""
    side = chest.shape[0]
    if rng.random() < 0.5:
        chest = chest[:, ::-1]
    zoom, aspect = np.exp(rng.normal(0, 0.10)), np.exp(rng.normal(0, 0.07))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.normal(0, 4), 1)[:, :2]
    matrix = turn @ np.diag([zoom * aspect, zoom / aspect])
    centre = np.array([side / 2, side / 2])
    move = centre + rng.normal(0, 0.05, 2) * side - matrix @ centre
    border = cv2.BORDER_REPLICATE if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    fill = 0 if rng.random() < 0.8 else 1
    chest = cv2.warpAffine(
        np.ascontiguousarray(chest),
        np.hstack([matrix, move[:, np.newaxis]]),
        (side, side),
        borderMode=border,
        borderValue=fill,
    )
    if rng.random() < 0.3:
        chest = chest + _ramp(rng, side, 0.2)
    if rng.random() < 0.3:
        for _ in range(rng.integers(1, 4)):
            quarter = int(rng.integers(4))
            chest = np.rot90(chest, quarter).copy()
            chest[: int(rng.integers(1, side // 7))] = 0 if rng.random() < 0.7 else 1
            chest = np.rot90(chest, -quarter)
    if rng.random() < 0.2:
        y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
        cx, cy, rx, ry = rng.uniform((0.15, 0.2, 0.08, 0.08), (0.85, 0.8, 0.25, 0.35))
        chest = chest + rng.uniform(0.1, 0.6) * np.exp(-(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2))
    if rng.random() < 0.3:
        chest = cv2.GaussianBlur(np.ascontiguousarray(chest, np.float32), (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.3:
        chest = chest + rng.normal(0, 0.03, chest.shape)
    return np.asarray(chest, np.float32)


def _bone(
    rng: np.random.Generator,
    picture: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    width: float,
    tissue: float,
    bone: float,
) -> None:
    one, two = _whole(start), _whole(end)
    soft, hard, marrow = (np.zeros_like(picture) for _ in range(3))
    cv2.line(soft, one, two, 1.0, int(width * rng.uniform(1.6, 3.2)))
    cv2.line(hard, one, two, 1.0, max(1, int(width)))
    cv2.line(marrow, one, two, 1.0, max(1, int(width * 0.5)))
    for place in (one, two):
        cv2.circle(hard, place, max(1, int(width * rng.uniform(0.6, 1.1))), 1.0, -1)
    edge = max(0.5, width * 0.1)
    soft = cv2.GaussianBlur(soft, (0, 0), width * 0.2 + 0.5)
    hard = cv2.GaussianBlur(hard, (0, 0), edge) - 0.4 * cv2.GaussianBlur(marrow, (0, 0), edge)
    np.maximum(picture, np.maximum(tissue * soft, np.minimum(1, tissue * soft + bone * hard)), out=picture)


def _exposed(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    grain = cv2.GaussianBlur(rng.normal(0, 1, picture.shape).astype(np.float32), (0, 0), 3)
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 2.5)) + grain * rng.uniform(0, 0.15)
    if rng.random() < 0.3:
        picture = picture + _ramp(rng, picture.shape[0], 0.2)
    return np.asarray(1 - picture if rng.random() < 0.15 else picture, np.float32)


def _ramp(rng: np.random.Generator, side: int, deviation: float) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    return np.asarray(rng.normal(0, deviation) * y + rng.normal(0, deviation) * x, np.float32)


def _point(rng: np.random.Generator, side: int, beyond: int) -> tuple[int, int]:
    return int(rng.integers(-beyond, side + beyond)), int(rng.integers(-beyond, side + beyond))


def _whole(point: np.ndarray | Sequence[float]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
