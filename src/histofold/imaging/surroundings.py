"""Tiles that were cut from a slide, seen with what lies around them: their neighbours, or else their own reflection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histofold.core.faults import ImageError, image_fault
from histofold.core.log import logger
from histofold.imaging.slide import Neighbour, Slide, open_slide
from histofold.schema.sample import Sample

MOST_TILE_PIXELS = 1 << 24
"""Largest image that is held as a whole for the sake of its surroundings."""


class CanvasReader:
    """The `SlideReader` of pixels that are held already, uint8 (H, W, 3)."""

    def __init__(self, canvas_HWC: np.ndarray) -> None:
        self._canvas_HWC = canvas_HWC
        self.shape_hw = (canvas_HWC.shape[0], canvas_HWC.shape[1])

    def read_into(self, canvas_HWC: np.ndarray, y: int, x: int) -> None:
        """Fill a canvas with the region whose first pixel is (y, x)."""
        height, width = canvas_HWC.shape[:2]
        canvas_HWC[...] = self._canvas_HWC[y : y + height, x : x + width]

    def close(self) -> None:
        """Nothing is open."""


def open_among(neighbours: tuple[Neighbour, ...], sample: Sample) -> Slide:
    """Open a tile that knows its neighbours: what `functools.partial` makes a sample's `opened_by` of."""
    slide = open_slide(sample.image_path)
    slide.neighbours = neighbours
    return slide


def with_surroundings(slide: Slide, context_px: int) -> Slide:
    """A slide and so many pixels on each side of it: of its neighbours, and its own reflection where there are none.

    A neighbour that cannot be read counts as none, with a warning.

    Args:
        slide: The opened tile.
        context_px: Pixels of the tile that are added on each side.

    Raises:
        ImageError: If the tile cannot be read, or is larger than `MOST_TILE_PIXELS`.
    """
    height, width = slide.shape_hw
    if height * width > MOST_TILE_PIXELS:
        rule = f"{height} x {width} pixels, and only tiles of up to {MOST_TILE_PIXELS} are read with their surroundings"
        raise image_fault(slide.path, rule, "set preprocessing.context_px to 0")
    sides = (context_px, context_px)
    canvas_HWC = np.pad(slide.read_all(), (sides, sides, (0, 0)), mode="reflect")
    own_HWC = canvas_HWC[context_px : context_px + height, context_px : context_px + width].copy()
    for y, x, path in slide.neighbours:
        try:
            with open_slide(path) as neighbour:
                _paste(canvas_HWC, neighbour.read_all(), y + context_px, x + context_px)
        except ImageError as error:
            logger.warning("%s: what lies beside it is reflected: %s", slide.path, error)
    _paste(canvas_HWC, own_HWC, context_px, context_px)
    return Slide(slide.path, CanvasReader(canvas_HWC))


def _paste(canvas_HWC: np.ndarray, image_HWC: np.ndarray, y: int, x: int) -> None:
    """Write an image whose first pixel comes to (y, x), as far as it lies on the canvas."""
    top, left = max(y, 0), max(x, 0)
    bottom = min(y + image_HWC.shape[0], canvas_HWC.shape[0])
    right = min(x + image_HWC.shape[1], canvas_HWC.shape[1])
    if bottom > top and right > left:
        canvas_HWC[top:bottom, left:right] = image_HWC[top - y : bottom - y, left - x : right - x]


def tile_neighbours(places: dict[tuple[str, int, int], Path], reach_px: int) -> dict[Path, tuple[Neighbour, ...]]:
    """Of each tile those of its slide whose first pixel is less than `reach_px` away from its own, both ways.

    Args:
        places: The tiles by slide, y and x of their first pixel.
        reach_px: Side of a tile and the largest context.
    """
    cells: dict[tuple[str, int, int], list[tuple[int, int, Path]]] = {}
    for (slide, y, x), path in places.items():
        cells.setdefault((slide, y // reach_px, x // reach_px), []).append((y, x, path))
    found = {}
    for (slide, y, x), path in places.items():
        around = [(y // reach_px + dy, x // reach_px + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        near = [tile for row, column in around for tile in cells.get((slide, row, column), ())]
        found[path] = tuple(
            (top - y, left - x, other)
            for top, left, other in near
            if other != path and max(abs(top - y), abs(left - x)) < reach_px
        )
    return found
