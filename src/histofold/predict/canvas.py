"""A canvas one tile row high: tiles are written in reading order, finished row bands leave; weights that blend tiles.

The weight of a pixel in a tile is the product of one for its row and one for its column, so that the sums over all
tiles are products too: tiles are multiplied by weights that already add up to 1, and nothing is divided afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histofold.core.jit import HAS_NUMBA, njit
from histofold.core.tiles import AxisSpan

BLENDING_FLOOR = 1e-3  # least weight of a pixel in a tile, at its corners


class Canvas:
    """The rows of an image that tiles are still written to, float32 (K, height, width), at the image's coordinates.

    Tiles come in reading order; rows that no later tile touches leave at the top, and the others move up.

    Args:
        height: Most rows that are held at once.
        width: Width of the image.
    """

    def __init__(self, height: int, width: int) -> None:
        self._shape_hw = height, width
        self._top = 0
        self._rows_KHW: np.ndarray | None = None

    def _rows(self, classes: int) -> np.ndarray:
        if self._rows_KHW is None:
            self._rows_KHW = np.zeros((classes, *self._shape_hw), np.float32)
        return self._rows_KHW

    def __setitem__(self, region: tuple[slice, slice], values_KHW: np.ndarray) -> None:
        """Write values to a region (y, x) of the image."""
        y, x = region
        self._rows(len(values_KHW))[:, y.start - self._top : y.stop - self._top, x] = values_KHW

    def add(self, region: tuple[slice, slice], values_KHW: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> None:
        """Add values, times the weights of their rows and of their columns, to a region of the image."""
        y, x = region
        add_weighted(self._rows(len(values_KHW)), values_KHW, *weights, (y.start - self._top, x.start))

    def rows_above(self, y: int) -> Iterator[tuple[int, np.ndarray]]:
        """Give the rows above y as a band (first row, values), if any are held; it is valid until the next one."""
        if y > self._top and self._rows_KHW is not None:
            yield self._top, self._rows_KHW[:, : y - self._top]
            _move_up(self._rows_KHW, y - self._top)
            self._top = y


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
    sum_KHW: np.ndarray,
    values_KHW: np.ndarray,
    row_weights: np.ndarray,
    column_weights: np.ndarray,
    corner: tuple[int, int],
) -> None:
    """sum[k, top + y, left + x] += values[k, y, x] * row_weights[y] * column_weights[x], in one pass with numba.

    Args:
        sum_KHW: float32, added to in place.
        values_KHW: float32, as high as the weights of the rows and as wide as those of the columns.
        row_weights: float32 (h,).
        column_weights: float32 (w,).
        corner: Row and column of the sum where the values begin.
    """
    top, left = corner
    if HAS_NUMBA:
        _add_weighted_jit(sum_KHW, values_KHW, row_weights, column_weights, top, left)
        return
    rows, columns = slice(top, top + len(row_weights)), slice(left, left + len(column_weights))
    sum_KHW[:, rows, columns] += values_KHW * (row_weights[:, None] * column_weights)


@njit
def _add_weighted_jit(
    sum_KHW: np.ndarray,
    values_KHW: np.ndarray,
    row_weights: np.ndarray,
    column_weights: np.ndarray,
    top: int,
    left: int,
) -> None:
    for k in range(values_KHW.shape[0]):
        for y in range(row_weights.size):
            weight = row_weights[y]
            target = sum_KHW[k, top + y, left : left + column_weights.size]
            source = values_KHW[k, y]
            for x in range(column_weights.size):
                target[x] += source[x] * (weight * column_weights[x])
