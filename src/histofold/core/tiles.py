"""Tiling as algebra: every tile has a read, a write and a crop region, and the write regions partition the image.

The one-dimensional rule stands once, in `axis_spans`; two dimensions are its product. A tile is used without any offset
arithmetic at the call::

    for tile in grid:
        canvas[tile.write] = predict(read_tile(image, tile))[tile.crop]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class AxisSpan:
    """One tile along one axis, in pixels."""

    read: slice
    """What is read of the image: `size` pixels, or all of an image that is shorter than a tile."""
    write: slice
    """What this tile is responsible for; the writes of one axis partition [0, length)."""
    crop: slice
    """The part of the tile that belongs to `write`."""
    inner: slice
    """The part of the tile that holds image pixels (all of it, unless the image is shorter than a tile)."""
    pad: tuple[int, int]
    """Pixels to reflect before and after the image where it is shorter than a tile."""


def axis_spans(length: int, size: int, stride: int, halo: int) -> list[AxisSpan]:
    """Spans of one axis: origins `stride` apart, the last one shifted inside, cuts in the middle of each overlap.

    Neighbours overlap by at least `size - stride >= 2 * halo`, so a cut in the middle of an overlap leaves each written
    pixel at least `halo` pixels of context on every side that is not the image's own border.

    Args:
        length: Extent of the image along the axis, in pixels, at least 1.
        size: Extent of a tile.
        stride: Distance of tile origins, in [1, size - 2 * halo].
        halo: Pixels that are read but not written.
    """
    if length <= size:
        before = (size - length) // 2
        inside = slice(before, before + length)
        return [AxisSpan(slice(0, length), slice(0, length), inside, inside, (before, size - length - before))]
    origins = [*range(0, length - size, stride), length - size]
    cuts = [(origin + size + following) // 2 for origin, following in pairwise(origins)]
    edges = [0, *cuts, length]
    return [
        AxisSpan(
            read=slice(origin, origin + size),
            write=slice(start, stop),
            crop=slice(start - origin, stop - origin),
            inner=slice(0, size),
            pad=(0, 0),
        )
        for origin, (start, stop) in zip(origins, pairwise(edges), strict=True)
    ]


@dataclass(frozen=True)
class Tile:
    """One tile of a grid; every region is a pair of slices (y, x)."""

    index: tuple[int, int]
    """Place in the grid, (row, column)."""
    read: tuple[slice, slice]
    """Region of the image that is read."""
    write: tuple[slice, slice]
    """Region of the image that the tile answers for."""
    crop: tuple[slice, slice]
    """The same region within the tile."""
    inner: tuple[slice, slice]
    """Region of the tile that holds image pixels."""
    pad: tuple[tuple[int, int], tuple[int, int]]
    """((top, bottom), (left, right)) pixels of reflection for images smaller than a tile."""


@dataclass(frozen=True)
class TileGrid:
    """The tiles of an image, row by row.

    Example:
        >>> import numpy as np
        >>> image_HW = np.arange(70 * 90).reshape(70, 90)
        >>> doubled_HW = np.empty_like(image_HW)
        >>> for tile in TileGrid(image_HW.shape, size=32, halo=4):
        ...     doubled_HW[tile.write] = (2 * image_HW[tile.read])[tile.crop]
        >>> bool((doubled_HW == 2 * image_HW).all())
        True

    Raises:
        ValueError: If the sizes do not fit together; the message names the remedy.
    """

    shape_hw: tuple[int, int]
    """Image height and width in pixels."""
    size: int
    """Tile side in pixels, at most."""
    stride: int = 0
    """Distance of tile origins in pixels; 0 means the largest that the halo allows."""
    halo: int = 0
    """Pixels on each side that are read but not written."""
    multiple: int = 0
    """An image that is shorter than a tile is reflected to the next multiple of this alone; 0: to the whole tile."""
    tile_hw: tuple[int, int] = field(init=False, repr=False, compare=False)
    """Height and width of the tiles: `size`, or less where the image is shorter."""
    row_spans: list[AxisSpan] = field(init=False, repr=False, compare=False)
    column_spans: list[AxisSpan] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.shape_hw) < 1:
            raise ValueError(f"image of {self.shape_hw} pixels: both sides must be at least 1")
        if self.halo < 0 or self.size <= 2 * self.halo:
            raise ValueError(
                f"tile={self.size} px must exceed twice the halo ({self.halo} px): raise tile or lower halo"
            )
        largest = self.size - 2 * self.halo
        if not 0 <= self.stride <= largest:
            raise ValueError(
                f"stride={self.stride} px must lie in [1, {largest}] (tile {self.size} px less twice the halo "
                f"{self.halo} px), or be 0 for the largest: lower the stride or the halo"
            )
        stride = self.stride or largest
        step = self.multiple or self.size
        sides = tuple(min(self.size, -(-length // step) * step) for length in self.shape_hw)
        rows, columns = (
            axis_spans(length, side, stride, self.halo) for length, side in zip(self.shape_hw, sides, strict=True)
        )
        for name, value in (("tile_hw", sides), ("row_spans", rows), ("column_spans", columns)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.row_spans) * len(self.column_spans)

    def __iter__(self) -> Iterator[Tile]:
        """Tiles in reading order: a whole row from left to right, then the next row."""
        for row in range(len(self.row_spans)):
            yield from self.row(row)

    def row(self, row: int) -> list[Tile]:
        """The tiles of one row, from left to right."""
        y = self.row_spans[row]
        return [
            Tile(
                index=(row, column),
                read=(y.read, x.read),
                write=(y.write, x.write),
                crop=(y.crop, x.crop),
                inner=(y.inner, x.inner),
                pad=(y.pad, x.pad),
            )
            for column, x in enumerate(self.column_spans)
        ]
