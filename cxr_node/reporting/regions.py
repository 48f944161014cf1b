"""Where a heat map is hot, as outlines in image coordinates."""

import cv2
import numpy as np

LEVEL = 0.5  # of the hottest place
SMALLEST_SHARE = 0.002  # of the image; what is smaller is noise of the interpolation
MOST_REGIONS = 3
_TOLERANCE_SHARE = 1 / 256  # of the longer side: an outline of a coarse map needs no thousand points


def outlines(heat_map: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of what is at least half as hot as the hottest place, the hottest first.

    Parameters
    ----------
    heat_map : (rows, columns) float32 in [0, 1], over the whole image

    Returns
    -------
    (points, 2) float32 each, column and row
        Closed: the last point is the first. The origin is the top left corner of the top left pixel, so that pixel's
        middle is (0.5, 0.5), in SCOORD and in a graphic annotation alike; every point lies inside the image. At most
        `MOST_REGIONS`, and none where the map is cold everywhere.

    Source: DICOM PS3.3 C.18.6.1.2 (SCOORD), C.10.5 (Graphic Annotation, PIXEL).
    """
    hottest = float(heat_map.max(initial=0.0))
    if hottest <= 0:
        return []
    rows, columns = heat_map.shape
    mask = (heat_map >= LEVEL * hottest).astype(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    ranked: list[tuple[float, np.ndarray]] = []
    for contour in found:
        if cv2.contourArea(contour) < SMALLEST_SHARE * rows * columns:
            continue
        inside = np.zeros_like(mask)
        cv2.drawContours(inside, [contour], -1, 1, cv2.FILLED)
        points = cv2.approxPolyDP(contour, max(rows, columns) * _TOLERANCE_SHARE, True).reshape(-1, 2)
        if len(points) < 3:
            continue
        ranked.append((float(heat_map[inside > 0].sum()), points))
    ranked.sort(key=lambda item: -item[0])
    return [np.vstack([points, points[:1]]).astype(np.float32) + np.float32(0.5) for _, points in ranked[:MOST_REGIONS]]
