"""Images, masks and probabilities at another size, region by region.

Everything here follows one geometry: both sizes begin at the same corner and end at the same corner, so the zoom of an
axis is exactly scaled length / original length. A region of the scaled image depends only on its place in the whole, so
that tiles cut from it agree with slices of it.

- Images: antialiased triangle filter, on a region read with the filter's support around it.
- Masks: exact area, at least half. Both in whole numbers, so that regions agree exactly.
- Probabilities back to the original size: bilinear, streamed in bands of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from histofold.core.rle.runs import Runs
from histofold.imaging.filters import area_sums, triangle_resize, triangle_span
from histofold.imaging.slide import Slide, slide_range

_IMAGE_BLOCK_PIXELS = 1 << 23  # source pixels of an image held at a time, about


def scaled_shape(shape_hw: tuple[int, int], zoom: float) -> tuple[int, int]:
    """The size of an image at a zoom: rounded, at least one pixel a side.

    Raises:
        ValueError: If the zoom is not a positive number.
    """
    if not (math.isfinite(zoom) and zoom > 0):
        raise ValueError(f"zoom={zoom}: give a positive number of scaled pixels per original pixel")
    return max(1, round(shape_hw[0] * zoom)), max(1, round(shape_hw[1] * zoom))


def check_scaled_hw(scaled_hw: tuple[int, int]) -> None:
    """Refuse a size without pixels.

    Raises:
        ValueError: If a side is below one pixel.
    """
    if min(scaled_hw) < 1:
        raise ValueError(f"scaled size {scaled_hw}: both sides must be at least 1 pixel")


class ScaledSlide:
    """A slide seen at another size; reads no more of the slide than a region needs, and that in blocks."""

    slide: Slide
    """The slide; the view does not close it."""
    shape_hw: tuple[int, int]
    """Height and width of the view in pixels."""
    channels: int
    """Planes of a volume that are seen; pictures have 3."""

    def __init__(self, slide: Slide, scaled_hw: tuple[int, int], channels: int = 3) -> None:
        check_scaled_hw(scaled_hw)
        self.slide, self.channels = slide, channels
        self.shape_hw = (int(scaled_hw[0]), int(scaled_hw[1]))

    def read(self, y: slice, x: slice) -> np.ndarray:
        """Read a region of the view.

        Args:
            y: Rows, inside the view; an open end means its border.
            x: Columns, likewise.

        Returns:
            A fresh C-contiguous uint8 array (h, w, channels), RGB.

        Raises:
            ImageError: If the slide's data cannot be decoded.
            ValueError: If the region is empty or leaves the view.
        """
        if self.shape_hw == self.slide.shape_hw:
            return self.slide.read(y, x, self.channels)
        rows = slide_range(y, self.shape_hw[0], "y")
        columns = slide_range(x, self.shape_hw[1], "x")
        canvas_HWC = np.empty((len(rows), len(columns), self.channels), np.uint8)
        source_width = max(1, len(columns) * self.slide.shape_hw[1] // self.shape_hw[1])
        for block in _row_blocks(rows, source_width, self.slide.shape_hw[0] / self.shape_hw[0]):
            top = block.start - rows.start
            canvas_HWC[top : top + len(block)] = self._read_block(block, columns)
        return canvas_HWC

    def source_rows(self, rows: range) -> slice:
        """The rows of the slide that some rows of the view are made of."""
        return triangle_span(rows, self.slide.shape_hw[0], self.shape_hw[0])

    def _read_block(self, rows: range, columns: range) -> np.ndarray:
        source_y = triangle_span(rows, self.slide.shape_hw[0], self.shape_hw[0])
        source_x = triangle_span(columns, self.slide.shape_hw[1], self.shape_hw[1])
        source_HWC = self.slide.read(source_y, source_x, self.channels)
        return triangle_resize(source_HWC, rows, columns, self.slide.shape_hw, self.shape_hw)


def _row_blocks(rows: range, source_width: int, step: float) -> Iterator[range]:
    """Cut scaled rows into blocks whose source (`step` source rows for each) stays near `_IMAGE_BLOCK_PIXELS`."""
    count = max(1, int(_IMAGE_BLOCK_PIXELS / (source_width * max(1.0, step))))
    for start in range(rows.start, rows.stop, count):
        yield range(start, min(start + count, rows.stop))


def resample_mask_region(runs: Runs, scaled_hw: tuple[int, int], y: slice, x: slice) -> np.ndarray:
    """A region of a resampled mask: a scaled pixel is mask if at least half of its area is.

    Args:
        runs: The source mask.
        scaled_hw: Height and width of the resampled mask.
        y: Rows of the resampled mask.
        x: Columns of the resampled mask.

    Returns:
        bool (h, w).

    Raises:
        ValueError: If a size has no pixels, or the region is empty or leaves the resampled mask.
    """
    check_scaled_hw(scaled_hw)
    rows, columns = slide_range(y, scaled_hw[0], "y"), slide_range(x, scaled_hw[1], "x")
    if tuple(runs.shape_hw) == tuple(scaled_hw):
        return runs.to_window(slice(rows.start, rows.stop), slice(columns.start, columns.stop))
    mask_HW: np.ndarray = area_sums(runs, rows, columns, scaled_hw) >= runs.shape_hw[0] * runs.shape_hw[1] / 2
    return mask_HW


class RowUpsampler:
    """Turn row bands of a scaled map into row bands at the original size, in the memory of a band.

    Bilinear with half-pixel centres and clamped edges, as `cv2.resize` with INTER_LINEAR does to the whole map. Where
    the original is the smaller one, it samples likewise, without antialiasing.

    Args:
        scaled_hw: Height and width of the map that is pushed.
        original_hw: Height and width that is wanted.
        max_rows: Most rows of a band that is given out.

    Raises:
        ValueError: If a size has no pixels.
    """

    def __init__(self, scaled_hw: tuple[int, int], original_hw: tuple[int, int], max_rows: int = 512) -> None:
        check_scaled_hw(scaled_hw)
        check_scaled_hw(original_hw)
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows}: give at least 1")
        self._scaled_hw, self._original_hw, self._max_rows = scaled_hw, original_hw, max_rows
        # OpenCV's rule, its single precision included: positions of the original rows among the scaled rows.
        rows = np.arange(original_hw[0])
        positions = ((rows + 0.5) * (scaled_hw[0] / original_hw[0]) - 0.5).astype(np.float32)
        upper = np.floor(positions).astype(np.int64)
        self._weights = np.where((upper < 0) | (upper >= scaled_hw[0] - 1), 0, positions - upper).astype(np.float32)
        self._upper = np.clip(upper, 0, scaled_hw[0] - 1)
        self._lower = self._upper + (self._weights > 0)
        self._kept: list[np.ndarray] = []
        self._kept_start = 0  # scaled row that the kept bands begin with
        self._pushed = 0  # scaled rows so far
        self._given = 0  # original rows so far

    def push(self, band_KHW: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Take the next rows of the scaled map.

        Args:
            band_KHW: float32 (K, h, W'), K the same for all bands. Its memory may be used again once the returned
                iterator is exhausted.

        Returns:
            The original rows that are now finished: (first row, float32 (K, h, W)). What is not taken of them is given
            by the next call.

        Raises:
            ValueError: If the band has another width, or more rows come than the scaled map has.
        """
        if band_KHW.ndim != 3 or band_KHW.shape[2] != self._scaled_hw[1]:
            raise ValueError(f"band of shape {band_KHW.shape}: give (K, h, {self._scaled_hw[1]})")
        if self._pushed + band_KHW.shape[1] > self._scaled_hw[0]:
            total = self._pushed + band_KHW.shape[1]
            raise ValueError(f"{total} rows were pushed and the scaled map has {self._scaled_hw[0]}")
        self._kept.append(band_KHW)
        self._pushed += band_KHW.shape[1]
        return self._finished()

    def finish(self) -> Iterator[tuple[int, np.ndarray]]:
        """Give what is left, after the last band.

        Raises:
            ValueError: If rows of the scaled map are missing.
        """
        if self._pushed != self._scaled_hw[0]:
            raise ValueError(f"{self._pushed} rows were pushed and the scaled map has {self._scaled_hw[0]}")
        return self._finished()

    def _finished(self) -> Iterator[tuple[int, np.ndarray]]:
        ready = int(np.searchsorted(self._lower, self._pushed))
        while self._given < ready:
            rows = range(self._given, min(self._given + self._max_rows, ready))
            band_KHW = self._interpolate(rows)
            self._given = rows.stop
            yield rows.start, band_KHW
        self._keep_rest()

    def _interpolate(self, rows: range) -> np.ndarray:
        """Original rows, as float32 (K, h, W)."""
        first = int(self._upper[rows.start])
        source_KHW = self._stretched(first, int(self._lower[rows.stop - 1]) + 1)
        if self._scaled_hw == self._original_hw:
            return source_KHW
        band_KHW = np.empty((len(source_KHW), len(rows), self._original_hw[1]), np.float32)
        for place, row in enumerate(rows):  # row by row: a row stays in the processor's cache
            upper_KW = source_KHW[:, self._upper[row] - first]
            lower_KW = source_KHW[:, self._lower[row] - first]
            target_KW = band_KHW[:, place]
            np.subtract(lower_KW, upper_KW, out=target_KW)
            target_KW *= self._weights[row]
            target_KW += upper_KW
        return band_KHW

    def _stretched(self, start: int, stop: int) -> np.ndarray:
        """Kept scaled rows [start, stop), brought to the original width."""
        source_KHW = self._kept_rows(start, stop)
        width = self._original_hw[1]
        if width == self._scaled_hw[1]:
            return source_KHW
        size = (width, source_KHW.shape[1])
        return np.stack([cv2.resize(plane_HW, size, interpolation=cv2.INTER_LINEAR) for plane_HW in source_KHW])

    def _keep_rest(self) -> None:
        """Keep, as a copy, only the scaled rows that the next original row needs; usually one."""
        if not self._kept:
            return
        needed = int(self._upper[self._given]) if self._given < len(self._upper) else self._pushed
        start = min(needed, self._pushed)
        rest = self._kept_rows(start, self._pushed)
        self._kept, self._kept_start = [rest] if rest.shape[1] else [], start

    def _kept_rows(self, start: int, stop: int) -> np.ndarray:
        """A copy of kept scaled rows [start, stop), float32 (K, h, W')."""
        parts, origin = [], self._kept_start
        for band_KHW in self._kept:
            parts.append(band_KHW[:, max(0, start - origin) : max(0, stop - origin)])
            origin += band_KHW.shape[1]
        return np.concatenate(parts, axis=1, dtype=np.float32)
