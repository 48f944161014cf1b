"""Grids of radiographs for quality assurance: failures, samples, saliency. They show cases and are not published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from trainer.report.style import look, save, several


def draw_grid(
    images: Sequence[np.ndarray], captions: Sequence[str], path: Path, columns: int = 4, title: str = ""
) -> Path:
    """Write images, each (rows, columns) float in [0, 1], as one PNG with a caption over each.

    Raises
    ------
    ValueError
        There is no image, or not a caption for each.
    """
    with look():
        return save(grid_figure(images, captions, columns, title), path)


def draw_overlays(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str], path: Path, pairs: int = 2
) -> Path:
    """Write each image beside itself with its map, (rows, columns) in [0, 1], laid over; `pairs` in a row.

    Raises
    ------
    ValueError
        There is no image, or not a caption and a map for each, or a map of another shape than its image.
    """
    if len(maps) != len(images):
        raise ValueError(f"expected a map for each of {len(images)} images, found {len(maps)}")
    for image, map_ in zip(images, maps, strict=True):
        if image.shape != map_.shape:
            raise ValueError(f"expected a map of the image's shape {image.shape}, found {map_.shape}")
    with look():
        shown = [image for image in images for _ in range(2)]
        texts = [text for caption in captions for text in (caption, "where the score is sensitive")]
        figure = grid_figure(shown, texts, 2 * pairs)
        for index, map_ in enumerate(maps):
            axis = figure.axes[2 * index + 1]
            # Transparent where the map is low: the anatomy stays readable.
            axis.imshow(map_, cmap="magma", vmin=0, vmax=1, alpha=np.clip(0.75 * map_, 0, 1))
        return save(figure, path)


def grid_figure(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4, title: str = "") -> Figure:
    """Return the grid as a figure; draw inside `look`."""
    if not len(images) or len(images) != len(captions):
        raise ValueError(f"expected images and a caption for each, found {len(images)} and {len(captions)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = several(rows, columns, 2.3 * columns, 2.62 * rows + (0.35 if title else 0))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis.set_title(_wrapped(caption), fontsize=7.5, fontweight="normal", loc="center", pad=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return figure


def _wrapped(caption: Any, width: int = 32) -> str:
    lines = str(caption).split("\n")
    # The end of a long name tells cases apart, not its folder.
    return "\n".join(line if len(line) <= width else f"…{line[-width + 1 :]}" for line in lines)
