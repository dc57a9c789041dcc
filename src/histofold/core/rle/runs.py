"""Run-length encoded masks: the `start length` texts of Kaggle, and masks held as runs.

A text lists 1-based `start length` pairs over the pixels numbered column by column (order "F", most competitions) or
row by row (order "C"). `Runs` is the same without the text, 0-based: what the package passes around instead of masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histofold.core.rle.checks import checked_mask, checked_mask_shape, require_rle_order, window_spans
from histofold.core.rle.paint import clip_lines, paint_runs
from histofold.core.rle.scan import AcrossScan, AlongScan, byte_bands, scan_lines
from histofold.core.rle.text import bounds_to_text, text_to_runs


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask as its runs.

    Raises:
        ValueError: If the parts do not fit together, or are not the runs of a mask of that shape.
    """

    starts: np.ndarray
    """Position of each run's first pixel, 0-based in `order`, int64, ascending."""
    lengths: np.ndarray
    """Pixels of each run, int64, at least 1; runs may touch but not overlap."""
    shape_hw: tuple[int, int]
    """Height and width of the mask in pixels."""
    order: str = "F"
    """How pixels are numbered: "F" column by column, "C" row by row."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape_hw", checked_mask_shape(self.shape_hw))
        require_rle_order(self.order)
        for name in ("starts", "lengths"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or values.dtype.kind not in "iu":
                raise ValueError(
                    f"{name} of runs: needs whole numbers in one dimension, got {values.dtype}{values.shape}"
                )
            object.__setattr__(self, name, np.ascontiguousarray(values, np.int64))
        if len(self.starts) != len(self.lengths):
            raise ValueError(f"{len(self.starts)} starts and {len(self.lengths)} lengths: every run needs both")
        # Compiled code trusts these positions with its memory, so they are looked at once, here.
        ends = self.starts + self.lengths
        within = len(ends) == 0 or (self.starts[0] >= 0 and ends[-1] <= self.shape_hw[0] * self.shape_hw[1])
        if not within or (ends <= self.starts).any() or (self.starts[1:] < ends[:-1]).any():
            raise ValueError(f"runs must ascend, be apart, at least 1 pixel long and inside {self.shape_hw} pixels")

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.starts)

    def __eq__(self, other: object) -> bool:
        """Same runs, not only the same mask: touching runs differ from their union."""
        if not isinstance(other, Runs):
            return NotImplemented
        same_frame = self.shape_hw == other.shape_hw and self.order == other.order
        return same_frame and np.array_equal(self.starts, other.starts) and np.array_equal(self.lengths, other.lengths)

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.lengths.sum())

    @property
    def line_length(self) -> int:
        """Pixels of a line in the runs' order: of a column for "F", of a row for "C"."""
        return self.shape_hw[0] if self.order == "F" else self.shape_hw[1]

    def to_mask(self) -> np.ndarray:
        """The whole mask, bool (H, W), C-contiguous."""
        return runs_to_mask(self)

    def to_window(self, *window: Any) -> np.ndarray:
        """One window of the mask, as `decode_rle_window` takes it or as its two slices: `to_window(*tile.read)`."""
        return runs_to_window(self, window[0] if len(window) == 1 else window)


class RunEncoder:
    """Encodes a mask that comes in bands; memory grows with the runs, not with the mask.

    Args:
        shape_hw: Height and width of the whole mask.
        order: "F" or "C", of the text.
        axis: "rows" if the bands (h, W) come from top to bottom, "columns" if they (H, w) come from left to right.

    Raises:
        ValueError: For a shape, order or axis that is none.
    """

    def __init__(self, shape_hw: tuple[int, int], order: str = "F", axis: str = "rows") -> None:
        self._shape_hw = checked_mask_shape(shape_hw)
        require_rle_order(order)
        if axis not in ("rows", "columns"):
            raise ValueError(f'axis={axis!r}: bands of "rows" or of "columns"?')
        self._order, self._axis = order, axis
        self._total, self._breadth = self._shape_hw if axis == "rows" else self._shape_hw[::-1]
        self._along = (order == "C") == (axis == "rows")
        self._scan: AlongScan | AcrossScan = AlongScan() if self._along else AcrossScan(self._breadth)
        self._taken = 0
        self._bounds: np.ndarray | None = None

    def add(self, band: np.ndarray) -> None:
        """Take the next band, of any height (or width), dtype and strides; non-zero = mask.

        Raises:
            ValueError: If the band does not fit the mask, holds NaN, or comes after the end.
        """
        lines = self._lines_of(band)
        if len(lines) == 0:
            return
        for byte_lines in byte_bands(lines, contiguous=self._along):
            self._scan.add(byte_lines)
            self._taken += len(byte_lines)

    def _lines_of(self, band: np.ndarray) -> np.ndarray:
        """The band with its lines along axis 0, once it is known to fit."""
        band = checked_mask(band)
        lines = band if self._axis == "rows" else band.T
        if self._bounds is not None:
            raise ValueError("the mask is finished: make a new RunEncoder for the next one")
        if lines.shape[1] != self._breadth:
            side = "wide" if self._axis == "rows" else "high"
            raise ValueError(
                f"band of {band.shape} pixels in a mask of {self._shape_hw}: bands of {self._axis} must be "
                f"{self._breadth} pixels {side}"
            )
        if self._taken + len(lines) > self._total:
            raise ValueError(
                f"{len(lines)} {self._axis} after {self._taken}: the mask has only {self._total}; cut the last band"
            )
        return lines

    def _finished_bounds(self) -> np.ndarray:
        if self._taken < self._total:
            raise ValueError(
                f"only {self._taken} of the mask's {self._total} {self._axis} were added: add the rest first"
            )
        if self._bounds is None:
            self._bounds = self._scan.finish()
        return self._bounds

    def runs(self) -> Runs:
        """The runs of the whole mask.

        Raises:
            ValueError: If rows (or columns) are missing.
        """
        return runs_from_bounds(self._finished_bounds(), self._shape_hw, self._order)

    def finish(self) -> str:
        """The text of the whole mask.

        Raises:
            ValueError: If rows (or columns) are missing.
        """
        return bounds_to_text(self._finished_bounds())


def runs_from_bounds(bounds: np.ndarray, shape_hw: tuple[int, int], order: str) -> Runs:
    """Runs from their starts and ends, int64 (2n,): start, end, start, end..."""
    starts = bounds[::2].copy()
    return Runs(starts, bounds[1::2] - starts, shape_hw, order)


def mask_bounds(mask_HW: np.ndarray, order: str) -> np.ndarray:
    """Starts and ends of a mask's runs, int64 (2n,), scanned in the order in which the mask lies in memory."""
    require_rle_order(order)
    if mask_HW.size == 0:
        raise ValueError(f"mask of shape {mask_HW.shape} has no pixels: an empty mask is one of zeros")
    along_rows = abs(mask_HW.strides[0]) >= abs(mask_HW.strides[1])
    if 1 in mask_HW.shape:  # one line lies in memory as in either order
        along_rows = order == "C"
    return scan_lines(mask_HW if along_rows else mask_HW.T, along=(order == "C") == along_rows)


def encode_rle(mask_HW: np.ndarray, order: str = "F") -> str:
    """Encode a mask as 1-based `start length` pairs.

    Args:
        mask_HW: Mask (H, W) of any strides and of any boolean, integer, float or complex dtype; non-zero = mask.
        order: "F" numbers pixels column by column, "C" row by row.

    Returns:
        Pairs separated by single blanks, "" for an empty mask.

    Raises:
        ValueError: If the mask is not two-dimensional, has no pixels, or holds NaN.

    Example:
        >>> encode_rle(np.array([[1, 1, 0], [1, 0, 1]]))
        '1 3 6 1'
        >>> encode_rle(np.array([[1, 1, 0], [1, 0, 1]]), order="C")
        '1 2 4 1 6 1'
    """
    return bounds_to_text(mask_bounds(checked_mask(mask_HW), order))


def runs_from_mask(mask_HW: np.ndarray, order: str = "F") -> Runs:
    """The runs of a mask; arguments and errors are those of `encode_rle`."""
    mask_HW = checked_mask(mask_HW)
    return runs_from_bounds(mask_bounds(mask_HW, order), (mask_HW.shape[0], mask_HW.shape[1]), order)


def decode_rle(text: str | float | None, shape_hw: tuple[int, int], order: str = "F") -> np.ndarray:
    """Decode a text to a mask.

    Args:
        text: Pairs as `encode_rle` writes them, separated by any blanks; "", None and NaN mean no mask.
        shape_hw: Height and width of the mask.
        order: "F" or "C", of the text.

    Returns:
        bool (H, W), C-contiguous.

    Raises:
        ValueError: If a pair is malformed, unsorted, overlapping or outside the mask (the message names it), or if
            the shape or the text's type is none.

    Example:
        >>> decode_rle("1 3 6 1", (2, 3)).astype(int).tolist()
        [[1, 1, 0], [1, 0, 1]]
    """
    return runs_to_mask(parse_rle(text, shape_hw, order))


def decode_rle_window(
    text: str | float | None, shape_hw: tuple[int, int], window: Sequence[Any], order: str = "F"
) -> np.ndarray:
    """Decode one window of a mask without building the mask. For many windows, use `parse_rle` once.

    Args:
        text: See `decode_rle`.
        shape_hw: Height and width of the whole mask.
        window: Two slices (y, x), two pairs ((y0, y1), (x0, x1)), or (y0, x0, y1, x1); ends exclusive.
        order: "F" or "C", of the text.

    Returns:
        bool (y1 - y0, x1 - x0), C-contiguous.

    Raises:
        ValueError: As `decode_rle`, whether or not the fault lies in the window; or if the window is empty or not
            inside the mask.
    """
    return runs_to_window(parse_rle(text, shape_hw, order), window)


def parse_rle(text: str | float | None, shape_hw: tuple[int, int], order: str = "F") -> Runs:
    """Parse a text to runs; arguments and errors are those of `decode_rle`."""
    shape_hw = checked_mask_shape(shape_hw)
    require_rle_order(order)
    if text is None or (isinstance(text, (float, np.floating)) and math.isnan(text)):
        text = ""
    if not isinstance(text, str):
        raise ValueError(f"rle is {type(text).__name__} ({text!r:.40}), not text: read the table's column as strings")
    starts, lengths = text_to_runs(text, shape_hw)
    return Runs(starts, lengths, shape_hw, order)


def runs_to_text(runs: Runs) -> str:
    """Runs as 1-based `start length` pairs, "" for none."""
    bounds = np.empty(2 * len(runs), np.int64)
    bounds[::2] = runs.starts
    np.add(runs.starts, runs.lengths, out=bounds[1::2])
    return bounds_to_text(bounds)


def runs_to_mask(runs: Runs) -> np.ndarray:
    """Runs as a mask, bool (H, W), C-contiguous."""
    return paint_runs(runs.starts, runs.lengths, runs.shape_hw, runs.order)


def runs_to_window(runs: Runs, window: Sequence[Any]) -> np.ndarray:
    """One window of the mask; the window is given, and errors are raised, as in `decode_rle_window`."""
    y, x = window_spans(window, runs.shape_hw)
    lines, span = (x, y) if runs.order == "F" else (y, x)
    starts, lengths = clip_lines(runs.starts, runs.lengths, runs.line_length, lines, span)
    return paint_runs(starts, lengths, (y[1] - y[0], x[1] - x[0]), runs.order)


Masks = Runs | tuple[Runs, ...]
"""An image's mask: runs, or those of each class where there are several. Classes may overlap."""


def class_runs(masks: Masks) -> tuple[Runs, ...]:
    """The runs of each class."""
    return (masks,) if isinstance(masks, Runs) else masks


def join_classes(runs: Sequence[Runs]) -> Masks:
    """The runs of each class as one value: bare runs where there is a single class."""
    return runs[0] if len(runs) == 1 else tuple(runs)
