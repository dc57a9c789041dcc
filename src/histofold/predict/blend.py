"""Accumulators one tile row high: tiles go in in reading order, finished row bands come out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit
from histofold.core.tiles import AxisSpan, Tile, TileGrid

BLENDING_FLOOR = 1e-3  # least weight of a pixel in a tile, at its corners


class CutRows:
    """One row of tiles; each pixel is written by exactly one of them.

    Bands are given as views: one is valid until the next is asked for.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._row = 0
        self._begun = False
        self._memory_KHW: np.ndarray | None = None

    def add(self, tile: Tile, values_KHW: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the values of the next tile; gives the row before when a new one begins."""
        if tile.index[0] != self._row:
            yield from self.finish()
            self._row = tile.index[0]
        if self._memory_KHW is None:
            height = max(span.write.stop - span.write.start for span in self._grid.row_spans)
            self._memory_KHW = np.empty((len(values_KHW), height, self._grid.shape_hw[1]), np.float32)
        height = tile.write[0].stop - tile.write[0].start
        self._memory_KHW[:, :height, tile.write[1]] = values_KHW[(slice(None), *tile.crop)]
        self._begun = True

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give the row that is still held."""
        if self._begun and self._memory_KHW is not None:
            rows = self._grid.row_spans[self._row].write
            yield rows.start, self._memory_KHW[:, : rows.stop - rows.start]
        self._begun = False


class BlendedRows:
    """A weighted mean as high as one tile, shifted up as rows become final.

    The weight of a pixel is the product of one for its row and one for its column, so that the sums over all tiles are
    products too: tiles are multiplied by weights that already add up to 1, and nothing is divided afterwards. Bands
    are given as views: one is valid until the next is asked for.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._row = 0
        self._row_weights = normalised_weights(grid.row_spans, grid.size, grid.shape_hw[0])
        self._column_weights = normalised_weights(grid.column_spans, grid.size, grid.shape_hw[1])
        self._sum_KHW: np.ndarray | None = None

    def add(self, tile: Tile, values_KHW: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the values of the next tile; gives the rows that no later tile touches."""
        row, column = tile.index
        if self._sum_KHW is None:
            height = min(self._grid.size, self._grid.shape_hw[0])
            self._sum_KHW = np.zeros((len(values_KHW), height, self._grid.shape_hw[1]), np.float32)
        if row != self._row:
            spans = self._grid.row_spans
            rows = spans[row].read.start - spans[self._row].read.start
            yield spans[self._row].read.start, self._sum_KHW[:, :rows]
            _move_up(self._sum_KHW, rows)
            self._row = row
        inner_KHW = values_KHW[(slice(None), *tile.inner)]
        add_weighted(self._sum_KHW, inner_KHW, self._row_weights[row], self._column_weights[column], tile.read[1].start)

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give the rows that are still held."""
        if self._sum_KHW is not None:
            yield self._grid.row_spans[self._row].read.start, self._sum_KHW
        self._sum_KHW = None


def _move_up(sum_KHW: np.ndarray, rows: int) -> None:
    """Drop the first rows: the others move up, and zeros follow."""
    height = sum_KHW.shape[1]
    for start in range(0, height - rows, rows):  # pieces that do not overlap with where they go
        stop = min(start + rows, height - rows)
        sum_KHW[:, start:stop] = sum_KHW[:, start + rows : stop + rows]
    sum_KHW[:, height - rows :] = 0


def blending_profile(size: int) -> np.ndarray:
    """Weight of each place along a tile, float64 (size,): a Gaussian of sigma = size / 8 with a floor.

    The shape is the one that nnU-Net blends with (Isensee 2021, doi:10.1038/s41592-020-01008-z).
    """
    offsets = (np.arange(size) - (size - 1) / 2) / (size / 8)
    return np.maximum(np.exp(-0.5 * offsets**2), BLENDING_FLOOR**0.5)


def normalised_weights(spans: list[AxisSpan], size: int, length: int) -> list[np.ndarray]:
    """Weights of each tile along an axis, float32, such that those of all tiles add up to 1 at each pixel.

    Args:
        spans: The tiles of the axis.
        size: Extent of a tile.
        length: Extent of the image.
    """
    profile = blending_profile(size)
    total = np.zeros(length)
    for span in spans:
        total[span.read] += profile[span.inner]
    return [(profile[span.inner] / total[span.read]).astype(np.float32) for span in spans]


def add_weighted(
    sum_KHW: np.ndarray, values_KHW: np.ndarray, row_weights: np.ndarray, column_weights: np.ndarray, left: int
) -> None:
    """sum[k, y, left + x] += values[k, y, x] * row_weights[y] * column_weights[x], in one pass where numba is there.

    Args:
        sum_KHW: float32, added to in place.
        values_KHW: float32, as high as the weights of the rows and as wide as those of the columns.
        row_weights: float32 (h,).
        column_weights: float32 (w,).
        left: Column of the sum where the values begin.
    """
    if HAS_NUMBA:
        _add_weighted_jit(sum_KHW, values_KHW, row_weights, column_weights, left)
        return
    columns = slice(left, left + len(column_weights))
    sum_KHW[:, : len(row_weights), columns] += values_KHW * (row_weights[:, None] * column_weights)


@njit
def _add_weighted_jit(
    sum_KHW: np.ndarray, values_KHW: np.ndarray, row_weights: np.ndarray, column_weights: np.ndarray, left: int
) -> None:
    for k in range(values_KHW.shape[0]):
        for y in range(row_weights.size):
            weight = row_weights[y]
            target = sum_KHW[k, y, left : left + column_weights.size]
            source = values_KHW[k, y]
            for x in range(column_weights.size):
                target[x] += source[x] * (weight * column_weights[x])
